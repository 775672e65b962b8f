//! flanneld's command line and environment.
//!
//! Source: flannel `main.go`. Go's flag package takes `-x` for `--x`, wants `=` before the value of a boolean, and
//! takes an argument after any other flag as its value. The environment (`FLANNELD_ETCD_PREFIX`) counts where the
//! command line is silent.

mod go_flags;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use crate::{daemon, datapath::offload::Offload, registry::etcd::EtcdOptions, underlay::Selection};

/// An overlay daemon: flannel's UDP backend with etcd v3.
#[derive(Debug, Clone, Parser)]
#[command(name = "relay", disable_version_flag = true, max_term_width = 100)]
pub struct Options {
    /// URLs of the etcd members, separated by commas
    #[arg(
        long,
        env = "FLANNELD_ETCD_ENDPOINTS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    etcd_endpoints: Vec<String>,
    /// Prefix of the keys in etcd
    #[arg(long, env = "FLANNELD_ETCD_PREFIX", default_value = "/coreos.com/network")]
    etcd_prefix: String,
    /// Key file for TLS to etcd; ignored for http endpoints
    #[arg(long, env = "FLANNELD_ETCD_KEYFILE", default_value = "")]
    etcd_keyfile: String,
    /// Certificate file for TLS to etcd; ignored for http endpoints
    #[arg(long, env = "FLANNELD_ETCD_CERTFILE", default_value = "")]
    etcd_certfile: String,
    /// Certificate authority file for TLS to etcd; ignored for http endpoints
    #[arg(long, env = "FLANNELD_ETCD_CAFILE", default_value = "")]
    etcd_cafile: String,
    /// User name for etcd
    #[arg(long, env = "FLANNELD_ETCD_USERNAME", default_value = "")]
    etcd_username: String,
    /// Password for etcd
    #[arg(long, env = "FLANNELD_ETCD_PASSWORD", default_value = "", hide_env_values = true)]
    etcd_password: String,
    /// Interface for the tunnel, by name or address; several are tried in order
    #[arg(long, env = "FLANNELD_IFACE")]
    iface: Vec<String>,
    /// Pattern for the interface's address or name, tried after --iface
    #[arg(long, env = "FLANNELD_IFACE_REGEX")]
    iface_regex: Vec<String>,
    /// Use the interface that reaches this address, tried after --iface-regex
    #[arg(long, env = "FLANNELD_IFACE_CAN_REACH", value_parser = go_flags::optional::<Ipv4Addr>, default_value = "")]
    iface_can_reach: go_flags::Maybe<Ipv4Addr>,
    /// Address at which other nodes reach this one
    #[arg(long, env = "FLANNELD_PUBLIC_IP", value_parser = go_flags::optional::<Ipv4Addr>, default_value = "")]
    public_ip: go_flags::Maybe<Ipv4Addr>,
    /// File to write the subnet, the MTU and so on to
    #[arg(long, env = "FLANNELD_SUBNET_FILE", default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
    /// Minutes before its expiry that the lease is renewed
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_RENEW_MARGIN", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1439))]
    subnet_lease_renew_margin: u64,
    /// Address to serve /healthz, /readyz and /metrics on
    #[arg(long, env = "FLANNELD_HEALTHZ_IP", default_value = "0.0.0.0")]
    healthz_ip: IpAddr,
    /// Port to serve /healthz, /readyz and /metrics on; 0 for none
    #[arg(long, env = "FLANNELD_HEALTHZ_PORT", default_value_t = 0)]
    healthz_port: u16,
    /// What is handed to the kernel in bulk: auto, full, no-uso, tun-only, udp-only or none
    #[arg(long, env = "FLANNELD_OFFLOAD", default_value = "auto", value_name = "RUNG")]
    offload: Offload,
    /// Log verbosity: 0 informs, 1 and up for debugging
    #[arg(short = 'v', long = "v", env = "FLANNELD_V", default_value_t = 0, value_name = "LEVEL")]
    verbosity: u8,
    /// Print the version and exit
    #[arg(long, env = "FLANNELD_VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true)]
    version: bool,
}

impl Options {
    /// Parses a command line, the program's name first, and the environment.
    ///
    /// # Errors
    /// clap's, for usage; a flag of flanneld's that is not supported says so.
    pub fn parse_from_go(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let arguments = go_flags::normalize(&command, arguments);
        if let Some(message) = go_flags::unsupported(&arguments, |name| env::var(name).ok()) {
            return Err(command.error(ErrorKind::UnknownArgument, message));
        }
        let options = Self::from_arg_matches(&command.clone().try_get_matches_from(arguments)?)?;
        if let Some(endpoint) = options.etcd_endpoints.iter().find(|endpoint| !is_http(endpoint)) {
            let message =
                format!("--etcd-endpoints: {endpoint} is not supported, only http:// endpoints are");
            return Err(command.error(ErrorKind::InvalidValue, message));
        }
        Ok(options)
    }

    /// What the daemon is to do.
    #[must_use]
    pub fn into_config(self) -> daemon::Config {
        let user = (!self.etcd_username.is_empty()).then_some((self.etcd_username, self.etcd_password));
        daemon::Config {
            etcd: EtcdOptions { endpoints: self.etcd_endpoints, prefix: self.etcd_prefix, user },
            underlay: Selection {
                interfaces: self.iface,
                patterns: self.iface_regex,
                can_reach: self.iface_can_reach.0,
                public_ip: self.public_ip.0,
            },
            subnet_file: self.subnet_file,
            renew_margin: Duration::from_secs(self.subnet_lease_renew_margin * 60),
            healthz: (self.healthz_port != 0).then_some((self.healthz_ip, self.healthz_port)),
            offload: self.offload,
        }
    }
}

fn is_http(endpoint: &str) -> bool {
    endpoint.starts_with("http://") || !endpoint.contains("://")
}

/// Runs the daemon as the command line says. Exit codes: 0 after a signal, 2 for usage, else as
/// [`daemon::DaemonError::exit_code`].
#[must_use]
pub fn main() -> ExitCode {
    let options = match Options::parse_from_go(env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            // Nothing is left to tell when even that cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if options.version {
        eprintln!("{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    init_logging(options.verbosity);
    for (flag, value) in [
        ("--etcd-keyfile", &options.etcd_keyfile),
        ("--etcd-certfile", &options.etcd_certfile),
        ("--etcd-cafile", &options.etcd_cafile),
    ] {
        if !value.is_empty() {
            tracing::warn!(flag, value, "ignored: the etcd endpoints are http");
        }
    }
    match daemon::run(options.into_config()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "relay ends");
            error.exit_code()
        }
    }
}

fn init_logging(verbosity: u8) {
    let default = match verbosity {
        0 => "warn,relay=info",
        1..=3 => "warn,relay=debug",
        _ => "info,relay=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests;

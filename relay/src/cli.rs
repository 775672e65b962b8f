//! flanneld's command line and environment.
//!
//! Source: flannel `main.go`. Go's flag package takes `-x` for `--x`, wants `=` before the value of a boolean, and
//! takes an argument after any other flag as its value. The environment (`FLANNELD_ETCD_PREFIX`) counts where the
//! command line is silent.

mod check;
mod go_flags;
mod log;
mod query;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    net::{IpAddr, Ipv4Addr},
    num::NonZeroUsize,
    panic,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser, error::ErrorKind};
use log::Log;
use tracing_subscriber::EnvFilter;

use crate::{
    control,
    daemon::{self, RegistryOptions},
    datapath::{
        marking::{Marking, Outer},
        offload::Offload,
        tun::Queues,
    },
    host::{notify::Inherited, privileges},
    registry::{
        LEASE_TTL,
        etcd::{EtcdOptions, TlsFiles},
    },
    underlay::Selection,
};

/// An overlay daemon: flannel's UDP backend with etcd v3.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "relay",
    disable_version_flag = true,
    max_term_width = 100,
    // As with Go's flag package: of a flag given twice the last one counts.
    args_override_self = true,
    override_usage = "relay [OPTIONS]\n       relay status [--json]\n       relay routes [--json]\n       relay list-metrics\n       relay check-config [FILE]\n       relay check-registry FILE"
)]
pub struct Options {
    /// Where subnets are registered: `etcd`, or `file:PATH` for a static list in a TOML file
    #[arg(long, env = "RELAY_REGISTRY", default_value = "etcd", value_parser = parse_registry, value_name = "REGISTRY")]
    registry: RegistryChoice,
    /// URLs of the etcd members, separated by commas
    #[arg(
        long,
        env = "FLANNELD_ETCD_ENDPOINTS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        value_name = "URL,..."
    )]
    etcd_endpoints: String,
    /// Prefix of the keys in etcd
    #[arg(long, env = "FLANNELD_ETCD_PREFIX", default_value = "/coreos.com/network", value_name = "PREFIX")]
    etcd_prefix: String,
    /// Key file for TLS to etcd; ignored for http endpoints
    #[arg(long, env = "FLANNELD_ETCD_KEYFILE", default_value = "", value_name = "FILE")]
    etcd_keyfile: String,
    /// Certificate file for TLS to etcd; ignored for http endpoints
    #[arg(long, env = "FLANNELD_ETCD_CERTFILE", default_value = "", value_name = "FILE")]
    etcd_certfile: String,
    /// Certificate authorities for TLS to etcd, instead of the system's; ignored for http endpoints
    #[arg(long, env = "FLANNELD_ETCD_CAFILE", default_value = "", value_name = "FILE")]
    etcd_cafile: String,
    /// User name for etcd
    #[arg(long, env = "FLANNELD_ETCD_USERNAME", default_value = "", value_name = "NAME")]
    etcd_username: String,
    /// Password for etcd
    #[arg(
        long,
        env = "FLANNELD_ETCD_PASSWORD",
        default_value = "",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    etcd_password: String,
    /// Interface for the tunnel, by name or address; several are tried in order
    #[arg(long, env = "FLANNELD_IFACE", value_name = "INTERFACE")]
    iface: Vec<String>,
    /// Pattern for the interface's address or name, tried after --iface
    #[arg(long, env = "FLANNELD_IFACE_REGEX", value_name = "PATTERN")]
    iface_regex: Vec<String>,
    /// Use the interface that reaches this address, tried after --iface-regex
    #[arg(long, env = "FLANNELD_IFACE_CAN_REACH", value_parser = go_flags::optional::<Ipv4Addr>, default_value = "", value_name = "ADDRESS")]
    iface_can_reach: go_flags::Maybe<Ipv4Addr>,
    /// Address at which other nodes reach this one
    #[arg(long, env = "FLANNELD_PUBLIC_IP", value_parser = go_flags::optional::<Ipv4Addr>, default_value = "", value_name = "ADDRESS")]
    public_ip: go_flags::Maybe<Ipv4Addr>,
    /// Admit a node's packets from any outer address, not only from its lease's PublicIP
    #[arg(long, env = "RELAY_PEERS_BEHIND_NAT", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true, value_name = "BOOL")]
    peers_behind_nat: bool,
    /// File to write the subnet, the MTU and so on to
    #[arg(
        long,
        env = "FLANNELD_SUBNET_FILE",
        default_value = "/run/flannel/subnet.env",
        value_name = "FILE"
    )]
    subnet_file: PathBuf,
    /// Socket for `relay status` and `relay routes`; by default beside the subnet file, as subnet.sock
    #[arg(long, env = "RELAY_CONTROL_SOCKET", value_name = "SOCKET")]
    control_socket: Option<PathBuf>,
    /// Minutes before its expiry that the lease is renewed
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_RENEW_MARGIN", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1439), value_name = "MINUTES")]
    subnet_lease_renew_margin: u64,
    /// Seconds that a lease lives unless renewed; for tests of its end
    #[arg(long, env = "RELAY_SUBNET_LEASE_TTL", default_value_t = LEASE_TTL.as_secs(), value_parser = clap::value_parser!(u64).range(2..=86_400 * 365), hide = true)]
    subnet_lease_ttl: u64,
    /// Masquerade packets that leave the overlay network
    #[arg(long, env = "FLANNELD_IP_MASQ", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true, value_name = "BOOL")]
    ip_masq: bool,
    /// Masquerade without choosing ports at random
    #[arg(long, env = "FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true, value_name = "BOOL")]
    ip_masq_fully_random_disable: bool,
    /// Accept forwarded packets of the overlay network
    #[arg(long, env = "FLANNELD_IPTABLES_FORWARD_RULES", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true, value_name = "BOOL")]
    iptables_forward_rules: bool,
    /// Seconds between looks at the packet filter rules
    #[arg(long, env = "FLANNELD_IPTABLES_RESYNC", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "SECONDS")]
    iptables_resync: u32,
    /// Add a blackhole route for this node's subnet
    #[arg(long, env = "FLANNELD_IP_BLACKHOLE_ROUTE", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true, value_name = "BOOL")]
    ip_blackhole_route: bool,
    /// Address to serve /healthz, /readyz, /metrics, /status and /routes on
    #[arg(long, env = "FLANNELD_HEALTHZ_IP", default_value = "0.0.0.0", value_name = "ADDRESS")]
    healthz_ip: IpAddr,
    /// Port to serve them on; 0 for none
    #[arg(long, env = "FLANNELD_HEALTHZ_PORT", default_value_t = 0, value_name = "PORT")]
    healthz_port: u16,
    /// What is handed to the kernel in bulk: auto, full, no-uso, tun-only, udp-only or none
    #[arg(long, env = "FLANNELD_OFFLOAD", default_value = "auto", value_name = "RUNG")]
    offload: Offload,
    /// Queues of the TUN device, each with two threads; a flow stays with one of them
    #[arg(long, env = "RELAY_QUEUES", default_value = "1", value_parser = queues, value_name = "COUNT")]
    queues: NonZeroUsize,
    /// ECN field of the tunnel's datagrams: off, or copy to have the underlay mark congestion; every peer must be a relay then
    #[arg(
        long,
        env = "RELAY_ECN",
        value_enum,
        default_value = "off",
        hide_possible_values = true,
        value_name = "MODE"
    )]
    ecn: Outer,
    /// DSCP of the tunnel's datagrams: off, or copy for that of the packets inside
    #[arg(
        long,
        env = "RELAY_DSCP",
        value_enum,
        default_value = "off",
        hide_possible_values = true,
        value_name = "MODE"
    )]
    dscp: Outer,
    /// Log verbosity: 0 informs, 1 and up for debugging
    #[arg(short = 'v', long = "v", env = "FLANNELD_V", default_value_t = 0, value_name = "LEVEL")]
    verbosity: u8,
    /// Print the version and exit
    #[arg(long, env = "FLANNELD_VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_flags::boolean, action = ArgAction::Set, hide_possible_values = true, value_name = "BOOL")]
    version: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RegistryChoice {
    Etcd,
    File(PathBuf),
}

/// An empty variable counts as none, as with flanneld (coreos flagutil, `SetFlagsFromEnv`).
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &std::ffi::OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    let empty: Vec<clap::Id> = command
        .get_arguments()
        .filter(|argument| argument.get_env().is_some_and(is_empty))
        .map(|argument| argument.get_id().clone())
        .collect();
    empty.into_iter().fold(command, |command, id| {
        command.mut_arg(id, |argument| argument.env(clap::builder::Resettable::<clap::builder::OsStr>::Reset))
    })
}

fn parse_registry(text: &str) -> Result<RegistryChoice, String> {
    match text.strip_prefix("file:") {
        None if text == "etcd" => Ok(RegistryChoice::Etcd),
        Some(path) if !path.is_empty() => Ok(RegistryChoice::File(path.into())),
        _ => Err("use etcd or file:PATH".into()),
    }
}

impl Options {
    /// The command line with a help to be read by people: without values that are empty.
    fn help() -> Command {
        Self::command().mut_args(|argument| {
            let empty = argument.get_default_values().iter().all(|value| value.is_empty());
            argument.hide_env_values(true).hide_default_value(empty)
        })
    }

    /// Parses a command line, the program's name first, and the environment.
    ///
    /// # Errors
    /// clap's, for usage; a flag of flanneld's that is not supported says so.
    pub fn parse_from_go(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::help());
        let mut arguments = go_flags::normalize(&command, arguments);
        if let Some(message) = go_flags::unsupported(&arguments, |name| env::var(name).ok()) {
            return Err(command.error(ErrorKind::UnknownArgument, message));
        }
        go_flags::leave_out_unsupported(&mut arguments);
        let options = Self::from_arg_matches(&command.clone().try_get_matches_from(arguments)?)?;
        if let Some(endpoint) = options.endpoints().find(|endpoint| !is_url(endpoint)) {
            let message = format!("--etcd-endpoints: {endpoint} is no http:// or https:// URL");
            return Err(command.error(ErrorKind::InvalidValue, message));
        }
        Ok(options)
    }

    /// One flag with commas in its value, as in Go, and not one that may be given several times.
    fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.etcd_endpoints.split(',')
    }

    fn warn_of_unused_tls(&self) {
        let files = [&self.etcd_cafile, &self.etcd_certfile, &self.etcd_keyfile];
        let (given, plain) =
            (files.iter().any(|file| !file.is_empty()), |url: &str| url.starts_with("http://"));
        if given && self.endpoints().all(plain) {
            tracing::warn!("TLS files are ignored: all etcd endpoints are http://");
        } else if self.etcd_certfile.is_empty() != self.etcd_keyfile.is_empty() {
            tracing::warn!("no client certificate is used: it takes --etcd-certfile and --etcd-keyfile both");
        }
    }

    /// What the daemon is to do.
    #[must_use]
    pub fn into_config(self) -> daemon::Config {
        let endpoints = self.endpoints().map(str::to_owned).collect();
        let user = (!self.etcd_username.is_empty()).then_some((self.etcd_username, self.etcd_password));
        let registry = match self.registry {
            RegistryChoice::Etcd => RegistryOptions::Etcd(EtcdOptions {
                endpoints,
                prefix: self.etcd_prefix,
                user,
                ttl: Duration::from_secs(self.subnet_lease_ttl),
                tls: TlsFiles {
                    authority: named(self.etcd_cafile),
                    identity: named(self.etcd_certfile).zip(named(self.etcd_keyfile)),
                },
            }),
            RegistryChoice::File(path) => RegistryOptions::File(path),
        };
        daemon::Config {
            registry,
            underlay: Selection {
                interfaces: self.iface,
                patterns: self.iface_regex,
                can_reach: self.iface_can_reach.0,
                public_ip: self.public_ip.0,
            },
            peers_behind_nat: self.peers_behind_nat,
            control_socket: self.control_socket.unwrap_or_else(|| control::beside(&self.subnet_file)),
            subnet_file: self.subnet_file,
            renew_margin: Duration::from_secs(self.subnet_lease_renew_margin * 60),
            filter: daemon::FilterConfig {
                masquerade: self.ip_masq,
                fully_random: !self.ip_masq_fully_random_disable,
                forward: self.iptables_forward_rules,
                resync: Duration::from_secs(self.iptables_resync.into()),
            },
            blackhole_route: self.ip_blackhole_route,
            healthz: (self.healthz_port != 0).then_some((self.healthz_ip, self.healthz_port)),
            offload: self.offload,
            marking: Marking { ecn: self.ecn, dscp: self.dscp },
        }
    }
}

/// As many queues as a TUN device is ever given here; the kernel's own limit is 256 (`MAX_TAP_QUEUES`).
fn queues(text: &str) -> Result<NonZeroUsize, String> {
    const MOST: usize = 64;
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= MOST);
    count.ok_or_else(|| format!("it takes a number from 1 to {MOST}"))
}

fn is_url(endpoint: &str) -> bool {
    !endpoint.is_empty()
        && (["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
            || !endpoint.contains("://"))
}

fn named(path: String) -> Option<PathBuf> {
    (!path.is_empty()).then(|| path.into())
}

/// Runs the daemon as the command line says. Exit codes: 0 after a signal, 2 for usage, else as
/// [`daemon::DaemonError::exit_code`].
#[must_use]
pub fn main() -> ExitCode {
    if query::is_query(env::args_os().nth(1).as_ref()) {
        return query::run(env::args_os());
    }
    if check::is_check(env::args_os().nth(1).as_ref()) {
        return check::run(env::args_os());
    }
    let inherited = Inherited::take();
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
    let (log, waiting) = Log::new();
    init_logging(options.verbosity, &log);
    options.warn_of_unused_tls();
    // It takes a capability that nothing else needs.
    let queues = Queues::settle(options.queues);
    if let Err(error) = privileges::drop_unneeded() {
        tracing::warn!(%error, "capabilities not given up");
    }
    // The log's thread keeps what this one has at its start.
    waiting.start();
    let code = match daemon::run(options.into_config(), &queues, inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "relay ends");
            error.exit_code()
        }
    };
    log.flush();
    code
}

/// Has all that is logged put in `log`, and all of that written before the message of a panic, which may be the end.
fn init_logging(verbosity: u8, log: &Log) {
    let default = match verbosity {
        0 => "warn,relay=info",
        1..=3 => "warn,relay=debug",
        _ => "info,relay=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .with_ansi(io::stderr().is_terminal())
        .init();
    let (log, message) = (log.clone(), panic::take_hook());
    panic::set_hook(Box::new(move |panic| {
        log.flush();
        message(panic);
    }));
}

#[cfg(test)]
mod tests;

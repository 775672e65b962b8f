//! What relay knows without a daemon: `relay list-metrics`, `relay check-config`, `relay check-registry`.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};

use super::{Options, RegistryChoice, query};
use crate::{http::Sources, network::Network, registry::file};

/// What is said without asking a running relay.
#[derive(Debug, Parser)]
#[command(name = "relay", max_term_width = 100)]
enum Offline {
    /// Print the names of all metrics, with labels and what they are, as /metrics has them
    ListMetrics,
    /// Say what a network config means, or what is wrong with it
    CheckConfig {
        /// The JSON, as in etcd [default: standard input]
        file: Option<PathBuf>,
    },
    /// Say what the file of `--registry file:FILE` means, or what is wrong with it
    CheckRegistry {
        /// The file
        file: PathBuf,
    },
    /// Say whether the daemon takes these flags, and the registry in a file that they name
    #[command(hide = true, disable_help_flag = true)]
    CheckFlags {
        /// The daemon's command line
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        flags: Vec<OsString>,
    },
}

/// Whether the command line asks for a check instead of a daemon.
pub(super) fn is_check(first: Option<&OsString>) -> bool {
    first.is_some_and(|first| Offline::command().find_subcommand(first).is_some())
}

/// Prints the answer. Exit codes: 0, 1 for what the daemon would refuse, 2 for usage.
pub(super) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Offline::try_parse_from(arguments) {
        Ok(check) => query::print(check.answer()),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}

impl Offline {
    fn answer(self) -> Result<String, String> {
        match self {
            Self::ListMetrics => Ok(Sources::names()),
            Self::CheckConfig { file } => {
                let name = file.as_ref().map_or("standard input".into(), |file| file.display().to_string());
                let octets = file.map_or_else(read_standard_input, fs::read);
                let octets = octets.map_err(|error| format!("{name}: {error}"))?;
                let network = Network::parse(&octets).map_err(|error| error.to_string())?;
                Ok(meaning(&network))
            }
            Self::CheckRegistry { file } => {
                let (network, subnets) = registry(&file)?;
                Ok(format!("{}nodes     {subnets}\n", meaning(&network)))
            }
            Self::CheckFlags { flags } => {
                let arguments = std::iter::once("relay".into()).chain(flags);
                let options = Options::parse_from_go(arguments).map_err(|error| plain(&error))?;
                // One that is not there yet is waited for.
                if let RegistryChoice::File(path) = &options.registry
                    && path.try_exists().unwrap_or(true)
                {
                    registry(path)?;
                }
                Ok(String::new())
            }
        }
    }
}

fn read_standard_input() -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    io::stdin().read_to_end(&mut octets)?;
    Ok(octets)
}

fn registry(path: &Path) -> Result<(Network, usize), String> {
    file::check(path).map_err(|reason| format!("{}: {reason}", path.display()))
}

/// A network config in the words of `relay status`.
fn meaning(network: &Network) -> String {
    let Network { prefix, subnet_len, subnet_min, subnet_max, port, nftables } = network;
    let rules = if *nftables { "nftables" } else { "iptables" };
    format!(
        "network   {prefix}\nsubnets   {subnet_min}/{subnet_len} to {subnet_max}/{subnet_len}, {} of them\n\
         backend   udp, port {port}\nrules     {rules}\n",
        network.capacity()
    )
}

/// clap's complaint without the usage.
fn plain(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(words: &[&str]) -> Result<String, String> {
        Offline::try_parse_from(std::iter::once(&"relay").chain(words)).unwrap().answer()
    }

    #[test]
    fn a_network_config_is_told_as_it_will_be_used_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let told = |text: &str| {
            fs::write(&path, text).unwrap();
            answer(&["check-config", path.to_str().unwrap()])
        };
        assert_eq!(
            told(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.16.0","Backend":{"Type":"udp","Port":9}}"#)
                .unwrap(),
            "network   10.5.0.0/16\nsubnets   10.5.16.0/24 to 10.5.255.0/24, 240 of them\n\
             backend   udp, port 9\nrules     iptables\n"
        );
        let refused = told(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap_err();
        assert!(refused.starts_with("Backend.Type is \"vxlan\""), "{refused}");
        fs::remove_file(&path).unwrap();
        assert!(answer(&["check-config", path.to_str().unwrap()]).unwrap_err().contains("config.json: "));
    }

    #[test]
    fn a_registry_in_a_file_is_told_as_it_will_be_used_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.toml");
        let (path, registry) = (path.to_str().unwrap(), format!("--registry=file:{}", path.display()));
        let text = "[config]\nNetwork = '10.5.0.0/16'\n[subnets]\n'10.5.1.0/24' = '192.0.2.1'\n";
        fs::write(path, text).unwrap();
        assert!(answer(&["check-registry", path]).unwrap().ends_with("\nnodes     1\n"));
        assert_eq!(answer(&["check-flags", &registry]), Ok(String::new()));
        fs::write(path, text.replace("192.0.2.1", "nowhere")).unwrap();
        for words in [["check-registry", path], ["check-flags", &registry]] {
            let refused = answer(&words).unwrap_err();
            assert!(refused.contains("registry.toml: ") && refused.contains("nowhere"), "{refused}");
        }
        fs::remove_file(path).unwrap();
        assert!(answer(&["check-registry", path]).unwrap_err().contains("registry.toml: "));
        assert_eq!(answer(&["check-flags", &registry]), Ok(String::new()));
    }

    #[test]
    fn flags_are_checked_by_the_daemon_s_own_rules() {
        assert_eq!(answer(&["check-flags", "-ip-masq", "--offload", "none"]), Ok(String::new()));
        assert_eq!(answer(&["check-flags"]), Ok(String::new()));
        for (flag, named) in [
            ("--ofload=none", "'--ofload'"),
            ("--offload=most", "'most'"),
            ("--kube-subnet-mgr", "not supported"),
            ("status", "'status'"),
            ("--help", "An overlay daemon"),
        ] {
            let refused = answer(&["check-flags", flag]).unwrap_err();
            assert!(refused.contains(named) && !refused.contains("Usage"), "{refused}");
        }
    }

    #[test]
    fn only_the_first_word_asks_for_a_check() {
        let is_check = |word: &str| super::is_check(Some(&word.into()));
        assert!(is_check("list-metrics") && is_check("check-flags"));
        assert!(!is_check("--list-metrics") && !is_check("status") && !is_check(""));
        assert!(!super::is_check(None));
    }
}

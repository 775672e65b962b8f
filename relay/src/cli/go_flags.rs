//! Go's notation of flags, for clap.

use std::{ffi::OsString, str::FromStr};

use clap::Command;

/// A value that an empty string leaves unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Maybe<T>(pub(super) Option<T>);

/// Parses a value; an empty string is none.
///
/// # Errors
/// The value's own.
pub(super) fn optional<T: FromStr>(text: &str) -> Result<Maybe<T>, T::Err> {
    if text.is_empty() { Ok(Maybe(None)) } else { text.parse().map(|value| Maybe(Some(value))) }
}

/// Parses a boolean as Go's `strconv.ParseBool` does.
///
/// # Errors
/// It is none.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".into()),
    }
}

/// flanneld's flags that have no effect here: with a value that asks for nothing they are taken, else declined.
const UNSUPPORTED: &[(&str, &[&str], &str)] = &[
    ("public-ipv6", &[""], "relay carries IPv4 only"),
    ("kube-subnet-mgr", FALSE, "relay leases from etcd"),
    ("kube-api-url", &[""], "relay leases from etcd"),
    ("kube-annotation-prefix", &["flannel.alpha.coreos.com"], "relay leases from etcd"),
    ("kubeconfig-file", &[""], "relay leases from etcd"),
    ("net-config-path", &["/etc/kube-flannel/net-conf.json"], "relay leases from etcd"),
    ("set-node-network-unavailable", &["true"], "relay leases from etcd"),
    ("vmodule", &[""], "use -v"),
    ("log_backtrace_at", &[":0", ""], "use -v"),
];

const FALSE: &[&str] = &["0", "f", "F", "false", "FALSE", "False"];

const BOOLEANS: &[&str] = &[
    "version",
    "ip-masq",
    "ip-masq-fully-random-disable",
    "iptables-forward-rules",
    "ip-blackhole-route",
    "peers-behind-nat",
    "kube-subnet-mgr",
    "set-node-network-unavailable",
];

/// Rewrites Go's notation: `-x` as `--x`, and the value after a flag joined to it, so that it may start with a dash.
/// Flags of flanneld's that ask for nothing are left out.
pub(super) fn normalize(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let known: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let mut arguments = arguments.into_iter();
    let mut result: Vec<OsString> = arguments.next().into_iter().collect();
    while let Some(argument) = arguments.next() {
        let flag = argument.to_str().and_then(|text| {
            let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
            (!name.is_empty() && name != "h").then_some(name)
        });
        let Some(flag) = flag else {
            result.push(argument);
            continue;
        };
        let mut rewritten = format!("--{flag}");
        let (name, given) =
            flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
        let takes_value = (known.contains(&name) || is_unsupported(name)) && !BOOLEANS.contains(&name);
        let mut given = given;
        if given.is_none()
            && takes_value
            && let Some(value) = arguments.next()
        {
            match value.to_str() {
                Some(value) => given = Some(value.to_owned()),
                None => {
                    result.extend([rewritten.into(), value]);
                    continue;
                }
            }
            rewritten = format!("--{name}={}", given.as_deref().unwrap_or_default());
        }
        if asks_for_nothing(name, given.as_deref()) {
            continue;
        }
        result.push(rewritten.into());
    }
    result
}

fn is_unsupported(name: &str) -> bool {
    UNSUPPORTED.iter().any(|(flag, ..)| *flag == name)
}

fn asks_for_nothing(name: &str, value: Option<&str>) -> bool {
    UNSUPPORTED
        .iter()
        .any(|(flag, idle, _)| *flag == name && value.is_some_and(|value| idle.contains(&value)))
}

/// The complaint about the first flag, or variable of the environment, that asks for what is not supported.
pub(super) fn unsupported(
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let flags = arguments.iter().filter_map(|argument| argument.to_str()?.strip_prefix("--"));
    let given: Vec<&str> = flags.map(|flag| flag.split_once('=').map_or(flag, |(name, _)| name)).collect();
    UNSUPPORTED.iter().find_map(|(flag, idle, why)| {
        let name = format!("FLANNELD_{}", flag.replace('-', "_").to_uppercase());
        let from_environment =
            || variable(&name).is_some_and(|value| !value.is_empty() && !idle.contains(&value.as_str()));
        if given.contains(flag) {
            Some(format!("--{flag} is not supported: {why}"))
        } else {
            from_environment().then(|| format!("{name} is not supported: {why}"))
        }
    })
}

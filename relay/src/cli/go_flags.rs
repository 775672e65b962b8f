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
        let (name, has_value) = flag.split_once('=').map_or((flag, false), |(name, _)| (name, true));
        let takes_value = (known.contains(&name) || is_unsupported(name)) && !BOOLEANS.contains(&name);
        if !has_value
            && takes_value
            && let Some(value) = arguments.next()
        {
            let Some(value) = value.to_str() else {
                result.extend([rewritten.into(), value]);
                continue;
            };
            rewritten = format!("--{name}={value}");
        }
        result.push(rewritten.into());
    }
    result
}

fn is_unsupported(name: &str) -> bool {
    UNSUPPORTED.iter().any(|(flag, ..)| *flag == name)
}

/// The flag's name, and its value if it has one.
fn flag_of(argument: &OsString) -> Option<(&str, Option<&str>)> {
    let flag = argument.to_str()?.strip_prefix("--")?;
    Some(flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value))))
}

/// The complaint about the first flag, or variable of the environment, that asks for what is not supported. Of a flag
/// given twice the last one counts, and a variable where the flag is not given.
pub(super) fn unsupported(
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    UNSUPPORTED.iter().find_map(|(flag, idle, why)| {
        let given = arguments.iter().rev().filter_map(flag_of).find(|(name, _)| name == flag);
        let (name, asks) = match given {
            Some((_, value)) => (format!("--{flag}"), value.is_none_or(|value| !idle.contains(&value))),
            None => {
                let name = format!("FLANNELD_{}", flag.replace('-', "_").to_uppercase());
                let value = variable(&name).unwrap_or_default();
                (name, !value.is_empty() && !idle.contains(&value.as_str()))
            }
        };
        asks.then(|| format!("{name} is not supported: {why}"))
    })
}

/// Takes out flags of flanneld's that relay has not: those left by [`unsupported`] ask for nothing.
pub(super) fn leave_out_unsupported(arguments: &mut Vec<OsString>) {
    arguments.retain(|argument| !flag_of(argument).is_some_and(|(name, _)| is_unsupported(name)));
}

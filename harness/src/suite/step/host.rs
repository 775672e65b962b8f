//! Steps that change a host, or look at it with its own tools.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::suite::text::Text;

/// Keys of `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Exec {
    /// The host that it runs in.
    pub host: Text,
    /// The program and its arguments, quoted as in a shell; no shell is asked: `ip route show`.
    pub command: Text,
    /// The exit status that it is to end with.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    pub exit: u8,
    /// Whether the snapshot shows what it prints.
    #[serde(default)]
    pub show: bool,
    /// Runs it again and again until what it prints has this in it.
    pub until: Option<Text>,
    /// Runs it again and again until what it prints no longer has this in it.
    pub until_gone: Option<Text>,
    /// Milliseconds after which it is ended, and the case fails.
    #[serde(default = "Exec::within_ms")]
    #[schemars(range(min = 1, max = 60000))]
    pub within_ms: u16,
}

impl Exec {
    pub(in crate::suite) fn within_ms() -> u16 {
        30_000
    }
}

/// Keys of `listen`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Listen {
    /// The host.
    pub host: Text,
    /// The port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// Keys of `readdress`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Readdress {
    /// The node.
    pub node: Text,
    /// Its new address on the underlay.
    pub address: Text,
}

/// Keys of `link`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// The host whose `eth0` it is.
    pub host: Text,
    /// What becomes of it.
    pub state: LinkState,
}

/// Whether an interface is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It is set up.
    Up,
    /// It is set down.
    Down,
}

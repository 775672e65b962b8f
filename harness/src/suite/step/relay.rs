//! Steps that are about a node's relay.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::suite::text::Text;

/// Keys of `start-relay`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StartRelay {
    /// The node whose relay it is.
    pub node: Text,
    /// Flags beside those of the lab: `["--public-ip=172.20.0.200"]`.
    #[serde(default)]
    pub flags: Vec<Text>,
    /// What comes of it.
    #[serde(default)]
    pub outcome: Outcome,
}

/// What comes of starting a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It becomes ready, and all running relays know of its lease.
    #[default]
    Ready,
    /// It runs, and need not become ready before a later step, `wait-ready`.
    Running,
    /// It ends by itself, and has failed.
    Fails,
}

/// Keys of steps that have a node's relay only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Relay {
    /// The node whose relay it is.
    pub node: Text,
}

/// Keys of `wait-route`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WaitRoute {
    /// The node whose relay is asked.
    pub node: Text,
    /// The subnet: a node's name for its own, or a prefix such as `10.5.99.0/24`.
    pub to: Text,
    /// The node, or its address, that it is to be sent to. Left out: until there is no route to it.
    pub via: Option<Text>,
    /// Milliseconds after which the case fails.
    #[serde(default = "WaitRoute::within_ms")]
    #[schemars(range(min = 1, max = 60000))]
    pub within_ms: u16,
}

impl WaitRoute {
    pub(in crate::suite) fn within_ms() -> u16 {
        5000
    }
}

/// Keys of `expect-log`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExpectLog {
    /// The node whose relay's log it is.
    pub node: Text,
    /// What the lines have in them.
    pub contains: Text,
    /// How many lines there are. Left out: one or more.
    #[schemars(range(min = 0, max = 65535))]
    pub lines: Option<u16>,
}

/// Keys of `expect-metric`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExpectMetric {
    /// The node whose relay is asked.
    pub node: Text,
    /// The metric as `/metrics` writes it, labels included: `relay_drops_total{direction="outbound",reason="no-route"}`.
    pub metric: Text,
    /// The least value that it may have.
    #[schemars(range(min = 0, max = 4294967295_u32))]
    pub at_least: Option<u32>,
    /// The highest value that it may have.
    #[schemars(range(min = 0, max = 4294967295_u32))]
    pub at_most: Option<u32>,
}

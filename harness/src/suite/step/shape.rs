//! Bad links.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Text;

/// Frames that wait for their turn where a case says nothing of it.
const QUEUE: u16 = 100;

/// Keys of `shape`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Shaping {
    /// The node, machine or etcd member whose link to the switch it is.
    pub host: Text,
    /// The direction that it is about. Left out: both, each by itself, so that a round trip has twice the delay.
    pub one_way: Option<Toward>,
    /// Milliseconds that each packet is held.
    #[schemars(range(min = 1, max = 10000))]
    pub delay_ms: Option<u16>,
    /// Milliseconds, at most, that a packet is held beyond that. The order is kept.
    #[schemars(range(min = 1, max = 10000))]
    pub jitter_ms: Option<u16>,
    /// How many of a hundred packets are dropped. Every hundred of a protocol has as many, at places that are the same
    /// in every run.
    #[schemars(range(min = 1, max = 100))]
    pub loss_percent: Option<u8>,
    /// How many of a hundred packets arrive twice.
    #[schemars(range(min = 1, max = 100))]
    pub duplicate_percent: Option<u8>,
    /// How many of a hundred packets are not delayed, and so overtake those that are.
    #[schemars(range(min = 1, max = 100))]
    pub reorder_percent: Option<u8>,
    /// Kilobits per second that pass, Ethernet headers counted.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub rate_kbit: Option<u32>,
    /// How many packets wait for their turn at that rate; 100 if nothing is said. One more is dropped.
    #[schemars(range(min = 0, max = 10000))]
    pub queue: Option<u16>,
}

/// One direction of a host's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Toward {
    /// To the host.
    In,
    /// From the host.
    Out,
}

/// Keys of `unshape`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Unshaping {
    /// The host whose link it is.
    pub host: Text,
}

impl Shaping {
    /// How many packets wait for their turn at the rate.
    pub fn queue(&self) -> u16 {
        self.queue.unwrap_or(QUEUE)
    }

    /// What is done, as a title has it.
    pub(in crate::suite) fn knobs(&self) -> Vec<String> {
        let knob =
            |name: &str, value: Option<u32>, unit: &str| value.map(|value| format!("{name} {value}{unit}"));
        let toward = self.one_way.map(|toward| match toward {
            Toward::In => "inwards".to_owned(),
            Toward::Out => "outwards".to_owned(),
        });
        let knobs = [
            toward,
            knob("delay", self.delay_ms.map(u32::from), " ms"),
            knob("jitter", self.jitter_ms.map(u32::from), " ms"),
            knob("loss", self.loss_percent.map(u32::from), " %"),
            knob("duplicate", self.duplicate_percent.map(u32::from), " %"),
            knob("reorder", self.reorder_percent.map(u32::from), " %"),
            knob("rate", self.rate_kbit, " kbit/s"),
            knob("queue", self.queue.map(u32::from), ""),
        ];
        knobs.into_iter().flatten().collect()
    }
}

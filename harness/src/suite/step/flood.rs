//! `flood`: more packets than anybody would look at one by one.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::suite::text::Text;

/// The longest flood, in seconds.
pub(in crate::suite) const MAX_SECONDS: u32 = 60;
/// Octets of payload of a UDP datagram over IPv4 in the smallest Ethernet frame, of 64 octets.
const SMALLEST: u16 = 18;
/// The discard service (RFC 863).
const DISCARD: u16 = 9;

/// Keys of `flood`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Flood {
    /// The container, node or machine that sends.
    pub from: Text,
    /// The container, node or address that is sent to.
    pub to: Text,
    /// The port that is sent to. What goes to the tunnel's own, 8285, is garbage.
    #[serde(default = "Flood::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Octets of payload. By default a frame has 64.
    #[serde(default = "Flood::size")]
    #[schemars(range(min = 10, max = 65507))]
    pub size: u16,
    /// How many datagrams are sent.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub packets: u32,
    /// How many are sent in a second, at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub rate: u32,
    /// How many may be lost on the way to `to`, a host of the lab, before the case fails. Left out: all.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_lost: Option<u32>,
}

impl Flood {
    pub(in crate::suite) fn port() -> u16 {
        DISCARD
    }

    pub(in crate::suite) fn size() -> u16 {
        SMALLEST
    }

    /// The parts of its title.
    pub(in crate::suite) fn title(&self) -> (String, Vec<String>) {
        let mut parts = vec![format!("{} packets", self.packets), format!("{} a second", self.rate)];
        parts.extend((self.port != DISCARD).then(|| format!("port {}", self.port)));
        parts.extend((self.size != SMALLEST).then(|| format!("size {}", self.size)));
        parts.extend(self.max_lost.map(|most| format!("max-lost {most}")));
        (format!("flood {} > {}", self.from, self.to), parts)
    }
}

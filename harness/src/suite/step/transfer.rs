//! `transfer`: bulk data between two sockets.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::suite::text::Text;

/// Keys of `transfer`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Transfer {
    /// The host that sends.
    pub from: Text,
    /// The host that receives, or an address of it.
    pub to: Text,
    /// What carries the data. UDP's datagrams are of all sizes that cross the tunnel in one piece, and may be fragmented;
    /// no more are under way at a time than a socket has room for.
    #[serde(default)]
    #[schemars(extend("default" = "tcp"))]
    pub by: Transport,
    /// Octets of data in each stream.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub octets: u32,
    /// How many streams there are at once, each from a port of its own.
    #[schemars(range(min = 1, max = 900), extend("default" = 1))]
    pub streams: Option<u16>,
    /// Whether packets may be dropped, damaged or overtaken on the way, so that TCP has to send some again. The data has
    /// to arrive all the same.
    #[serde(default)]
    pub lossy: bool,
    /// Whether more and more is sent after `octets`, until the other branches of a `parallel` have ended.
    #[serde(default)]
    pub throughout: bool,
}

/// What carries data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A TCP connection a stream.
    #[default]
    Tcp,
    /// A UDP flow a stream.
    Udp,
}

impl Transfer {
    /// How many streams there are.
    pub fn streams(&self) -> u16 {
        self.streams.unwrap_or(1)
    }

    /// The parts of its title.
    pub(in crate::suite) fn title(&self) -> (String, Vec<String>) {
        let by = match self.by {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let mut parts = vec![format!("by {by}"), format!("octets {}", self.octets)];
        parts.extend(self.streams.map(|streams| format!("streams {streams}")));
        parts.extend(self.lossy.then(|| "lossy".to_owned()));
        parts.extend(self.throughout.then(|| "throughout".to_owned()));
        (format!("transfer {} > {}", self.from, self.to), parts)
    }
}

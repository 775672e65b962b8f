//! One packet as one interface saw it: the unit of a recording.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Octets of an Ethernet header.
const ETHERNET_LEN: usize = 14;

/// Where packets are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// The node, container or etcd member whose interface it is.
    pub host: String,
    /// The interface's name there: `eth0`, `cni0`, `flannel0`.
    pub interface: String,
    /// What the interface is to the overlay.
    pub role: Role,
}

/// What an interface is to the overlay, which tells what can come before and after it on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A container's own interface.
    Container,
    /// A node's bridge (only what the node's own IP stack receives or sends by it passes here).
    Bridge,
    /// The overlay's device on a node.
    Tunnel,
    /// An interface on the underlay.
    Underlay,
}

/// Which way a packet passed an interface, seen from the host that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Received by the host from the interface: `<`.
    In,
    /// Sent by the host through the interface: `>`.
    Out,
}

/// Whom a frame was for, by its link header, as the kernel of the host that received it sees it (packet(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cast {
    /// This host, or it was sent by it.
    #[default]
    Host,
    /// Many.
    Many,
    /// Another host.
    Other,
}

/// How a frame's octets begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// An IP header (a TUN device).
    Ip,
}

/// One packet as one interface saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where.
    pub point: Arc<Point>,
    /// Which way.
    pub direction: Direction,
    /// Whom it was for.
    pub cast: Cast,
    /// When, by the kernel's clock, since the Unix epoch. One clock serves every namespace of the machine.
    pub at: Duration,
    /// How the octets begin.
    pub link: Link,
    /// The octets, from the link header on.
    pub octets: Vec<u8>,
    /// Length on the wire, at least `octets.len()`.
    pub wire_len: u32,
    /// Whether the transport checksum was still to be completed by the (virtual) hardware, and so is not wrong
    /// when it does not match: `TP_STATUS_CSUMNOTREADY`.
    pub checksum_pending: bool,
}

impl Frame {
    /// The octets after the link header.
    pub fn network_octets(&self) -> &[u8] {
        let link_len = if self.link == Link::Ethernet { ETHERNET_LEN } else { 0 };
        self.octets.get(link_len..).unwrap_or_default()
    }
}

/// Now, by the clock that packets are stamped with: since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "the kernel stamps packets by the wall clock")]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

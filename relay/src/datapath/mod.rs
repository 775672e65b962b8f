//! The data path: two blocking threads for each queue of the TUN device, which carry packets between it and the UDP
//! sockets.
//!
//! [`outbound`] and [`inbound`] decide about one packet at a time, from bytes to a [`Verdict`]. On the way out
//! [`segment`] cuts large packets into datagrams and [`runs`] packs them; on the way in [`coalesce`] merges packets
//! for the TUN. All of these are pure; the threads in [`threads`] own the file descriptors.

pub mod admission;
#[cfg(test)]
mod chain;
pub mod coalesce;
pub mod counters;
pub mod icmp;
pub mod inbound;
#[cfg(test)]
mod kit;
pub mod limits;
pub mod marking;
pub mod offload;
pub mod outbound;
pub mod quirks;
pub mod rate;
mod report;
pub mod routes;
pub mod runs;
pub mod segment;
pub mod steering;
pub mod threads;
pub mod tun;
pub mod udp;

use crate::wire::{icmpv4, ipv4::Malformed};
use counters::DropReason;

/// Room for the largest IPv4 packet.
pub const MAX_PACKET: usize = 65_535;

/// Octets that the tunnel adds to a packet: an IPv4 and a UDP header.
pub const ENCAPSULATION: u32 = 28;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<Forward> {
    /// It goes on.
    Forward(Forward),
    /// It ends here, counted under this reason.
    Drop(DropReason),
    /// It ends here, counted, and its source is told.
    Reject(DropReason, icmpv4::Error),
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Short => Self::Short,
            Malformed::Version => Self::NotIpv4,
            Malformed::HeaderLength => Self::BadHeaderLength,
            Malformed::TotalLength => Self::BadTotalLength,
            Malformed::Checksum => Self::BadHeaderChecksum,
        }
    }
}

//! What a captured frame carries, typed, with what varies from run to run told apart from what matters.
//!
//! Parsing never fails: octets that make no packet are a [`Packet::Malformed`], and a header that claims more than
//! the frame holds is read as far as it goes.

use std::net::Ipv4Addr;

use etherparse::{EtherType, Ethernet2HeaderSlice};

use crate::capture::frame::{Frame, Link};

#[cfg(test)]
pub(crate) mod build;
pub mod craft;
pub mod icmp;
mod ipv4;
pub mod marker;
mod neighbour;
#[cfg(test)]
mod tests;
mod transport;

pub use icmp::Icmp;
pub use ipv4::{Fragment, Ipv4, Payload};
pub use neighbour::{Arp, Ipv6};
pub use transport::{Tcp, TcpFlags, Tunnelled, Udp, VXLAN_PORT};

/// Tunnels inside tunnels that are opened; the rest is junk. A lab nests two, an attacker thousands.
const MAX_DEPTH: u8 = 4;

/// IEEE 802.1Q tag, which etherparse's Ethernet header stops before.
const VLAN: u16 = 0x8100;

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// An IPv4 packet.
    Ipv4(Ipv4),
    /// An IPv6 packet, summarised.
    Ipv6(Ipv6),
    /// An address resolution message, summarised.
    Arp(Arp),
    /// A frame of another protocol.
    Other {
        /// Its EtherType.
        ether_type: u16,
    },
    /// Octets that are not what they claim to be.
    Malformed(&'static str),
}

impl Packet {
    /// Reads a frame. UDP datagrams from or to `port` are taken for tunnel datagrams if their payload is IPv4,
    /// and those to [`VXLAN_PORT`] if they carry an IPv4 packet in a VXLAN frame.
    #[must_use]
    pub fn parse(frame: &Frame, port: u16) -> Self {
        let reading = Reading {
            port,
            pending: frame.checksum_pending,
            quoted: false,
            tight: frame.link == Link::Ip,
            depth: 0,
        };
        match frame.link {
            Link::Ip => Self::parse_ip(&frame.octets, reading),
            Link::Ethernet => Self::parse_ethernet(&frame.octets, reading),
        }
    }

    /// The IPv4 packet, if it is one.
    #[must_use]
    pub fn ipv4(&self) -> Option<&Ipv4> {
        match self {
            Self::Ipv4(packet) => Some(packet),
            _ => None,
        }
    }

    fn parse_ethernet(octets: &[u8], reading: Reading) -> Self {
        let Ok(header) = Ethernet2HeaderSlice::from_slice(octets) else {
            return Self::Malformed("shorter than an Ethernet header");
        };
        let mut ether_type = header.ether_type();
        let mut rest = octets.get(header.slice().len()..).unwrap_or_default();
        if ether_type.0 == VLAN
            && let [_, _, high, low, inner @ ..] = rest
        {
            ether_type = EtherType(u16::from_be_bytes([*high, *low]));
            rest = inner;
        }
        match ether_type {
            EtherType::IPV4 | EtherType::IPV6 => Self::parse_ip(rest, reading),
            EtherType::ARP => {
                Arp::parse(rest).map_or(Self::Malformed("not an ARP message for IPv4"), Self::Arp)
            }
            other => Self::Other { ether_type: other.0 },
        }
    }

    fn parse_ip(octets: &[u8], reading: Reading) -> Self {
        match octets.first().map(|first| first >> 4) {
            None => Self::Malformed("empty"),
            Some(4) => {
                Ipv4::parse(octets, reading).map_or(Self::Malformed("not a whole IPv4 header"), Self::Ipv4)
            }
            Some(6) => Ipv6::parse(octets).map_or(Self::Malformed("not a whole IPv6 header"), Self::Ipv6),
            Some(_) => Self::Malformed("neither IPv4 nor IPv6"),
        }
    }
}

/// What a checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Checksum {
    /// It matches.
    Good,
    /// It does not match.
    Bad,
    /// The sender left it out, as UDP may (RFC 768): nobody notices damage.
    Absent,
    /// It cannot be told: not all octets are there, or the hardware was to fill it in.
    #[default]
    Unverified,
}

impl Checksum {
    /// Whether it is known not to match.
    #[must_use]
    pub fn is_bad(self) -> bool {
        self == Self::Bad
    }

    /// RFC 1071 over all `parts`, the checksum field included. Every part but the last has an even length.
    fn over(parts: &[&[u8]]) -> Self {
        let sum =
            parts.iter().fold(etherparse::checksum::Sum16BitWords::new(), |sum, part| sum.add_slice(part));
        if sum.ones_complement() == 0 { Self::Good } else { Self::Bad }
    }
}

/// How octets are to be read: what is known of them from outside.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// The tunnel's UDP port.
    port: u16,
    /// The outermost transport checksum is not filled in yet.
    pending: bool,
    /// The octets are quoted by an ICMP error: lengths exceed what is there, checksums are of the past.
    quoted: bool,
    /// What follows the packet is junk and not Ethernet padding.
    tight: bool,
    /// How many tunnels it is inside of.
    depth: u8,
}

impl Reading {
    fn inside_datagram(self) -> Self {
        Self { pending: false, tight: true, depth: self.depth.saturating_add(1), ..self }
    }

    fn inside_quote(self) -> Self {
        Self { pending: false, quoted: true, tight: false, ..self }
    }
}

/// The pseudo header of RFC 768 and RFC 9293.
fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> [u8; 12] {
    let ([a, b, c, d], [e, f, g, h]) = (source.octets(), destination.octets());
    let [high, low] = len.to_be_bytes();
    [a, b, c, d, e, f, g, h, 0, protocol, high, low]
}

/// A big-endian 16-bit field, or none when the octets end before it.
fn be16(octets: &[u8], at: usize) -> Option<u16> {
    let field = octets.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(field.try_into().ok()?))
}

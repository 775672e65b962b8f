//! What shares the wire with the probes: ARP (RFC 826) and IPv6 (RFC 8200), summarised.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{ArpPacketSlice, Ipv6HeaderSlice};

use super::marker;

/// An ARP message for IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arp {
    /// Whether it is a reply.
    pub reply: bool,
    /// The address that the sender says is its own.
    pub sender: Ipv4Addr,
    /// The address asked for.
    pub target: Ipv4Addr,
}

impl Arp {
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let message = ArpPacketSlice::from_slice(octets).ok()?.to_packet();
        let address = |octets: &[u8]| <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from);
        Some(Self {
            reply: message.operation.0 == 2,
            sender: address(message.sender_protocol_addr())?,
            target: address(message.target_protocol_addr())?,
        })
    }
}

/// An IPv6 packet's summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6 {
    /// Who sent it, by its header.
    pub source: Ipv6Addr,
    /// Whom it is for, by its header.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// IANA's protocol number of what follows the fixed header.
    pub next_header: u8,
    /// Length of what follows the fixed header, in octets, as the header says.
    pub payload_len: u16,
    /// The probe whose marker is anywhere in it.
    pub marker: Option<u32>,
}

impl Ipv6 {
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let header = Ipv6HeaderSlice::from_slice(octets).ok()?;
        let payload = octets.get(header.slice().len()..).unwrap_or_default();
        Some(Self {
            source: header.source_addr(),
            destination: header.destination_addr(),
            hop_limit: header.hop_limit(),
            next_header: header.next_header().0,
            payload_len: header.payload_length(),
            marker: marker::find(payload).map(|marked| marked.number),
        })
    }
}

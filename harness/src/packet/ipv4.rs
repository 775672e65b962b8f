//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use etherparse::{IpNumber, Ipv4HeaderSlice};

use super::{Checksum, Icmp, Reading, Tcp, Tunnelled, Udp, marker::Marked, transport};

/// An IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4 {
    /// Who sent it, by its header.
    pub source: Ipv4Addr,
    /// Whom it is for, by its header.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Total length in octets, as the header says.
    pub len: u16,
    /// The whole traffic class octet: DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// Identification: tells which fragments belong together. Volatile.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// Which part of its datagram it is, unless it is all of it.
    pub fragment: Option<Fragment>,
    /// The header checksum.
    pub checksum: Checksum,
    /// The options, 0 to 40 octets.
    pub options: Vec<u8>,
    /// Octets after the end that the header declares; Ethernet padding is not counted.
    pub trailing: usize,
    /// Octets before that end that are not there.
    pub missing: usize,
    /// IANA's protocol number.
    pub protocol: u8,
    /// The transport's checksum field as it stands, if that is there: in host byte order.
    pub transport_sum: Option<u16>,
    /// What it carries.
    pub payload: Payload,
}

/// Which part of its datagram a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fragment {
    /// Offset of its payload in the datagram's payload, in octets.
    pub offset: u16,
    /// Whether more follows.
    pub more: bool,
}

/// What an IPv4 packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// ICMP.
    Icmp(Icmp),
    /// UDP, maybe with a tunnelled packet.
    Udp(Udp),
    /// TCP.
    Tcp(Tcp),
    /// A later fragment: no transport header.
    Continuation,
    /// Another protocol.
    Other,
    /// Too few octets for the transport's header.
    Short,
    /// It is no IPv4 packet to begin with ([`Ipv4::salvage`]).
    Malformed,
}

impl Ipv4 {
    pub(super) fn parse(octets: &[u8], reading: Reading) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(octets).ok()?;
        let header_len = header.slice().len();
        let len = header.total_len();
        let declared = usize::from(len).max(header_len);
        let body = octets.get(header_len..declared.min(octets.len()))?;
        let offset = header.fragments_offset().value() << 3;
        let fragment =
            header.is_fragmenting_payload().then_some(Fragment { offset, more: header.more_fragments() });
        let whole = fragment.is_none() && declared <= octets.len() && usize::from(len) >= header_len;
        let mut packet = Self {
            source: header.source_addr(),
            destination: header.destination_addr(),
            ttl: header.ttl(),
            len,
            tos: octets.get(1).copied().unwrap_or_default(),
            id: header.identification(),
            df: header.dont_fragment(),
            fragment,
            checksum: Checksum::over(&[header.slice()]),
            options: header.options().to_vec(),
            trailing: if reading.tight { octets.len().saturating_sub(declared) } else { 0 },
            missing: if reading.quoted { 0 } else { declared.saturating_sub(octets.len()) },
            protocol: header.protocol().0,
            transport_sum: if offset > 0 { None } else { transport::sum(header.protocol(), body) },
            payload: Payload::Other,
        };
        packet.payload = if offset > 0 {
            Payload::Continuation
        } else {
            let segment = transport::Segment { body, verify: whole && !reading.pending && !reading.quoted };
            packet.transport(segment, reading)
        };
        Some(packet)
    }

    /// Reads octets that are no IPv4 packet as if they were, as far as they go.
    #[must_use]
    pub fn salvage(octets: &[u8]) -> Self {
        let octet = |at: usize| octets.get(at).copied().unwrap_or_default();
        let address = |at: usize| Ipv4Addr::new(octet(at), octet(at + 1), octet(at + 2), octet(at + 3));
        Self {
            source: address(12),
            destination: address(16),
            ttl: octet(8),
            len: u16::try_from(octets.len()).unwrap_or(u16::MAX),
            tos: octet(1),
            id: u16::from_be_bytes([octet(4), octet(5)]),
            df: false,
            fragment: None,
            checksum: Checksum::Unverified,
            options: Vec::new(),
            trailing: 0,
            missing: 0,
            protocol: octet(9),
            transport_sum: None,
            payload: Payload::Malformed,
        }
    }

    fn transport(&self, segment: transport::Segment<'_>, reading: Reading) -> Payload {
        let parsed = match IpNumber(self.protocol) {
            IpNumber::ICMP => Icmp::parse(segment, reading).map(Payload::Icmp),
            IpNumber::UDP => Udp::parse(self, segment, reading).map(Payload::Udp),
            IpNumber::TCP => Tcp::parse(self, segment).map(Payload::Tcp),
            _ => return Payload::Other,
        };
        parsed.unwrap_or(Payload::Short)
    }

    /// The packet that it carries through the tunnel, if it is a tunnel datagram.
    #[must_use]
    pub fn tunnelled(&self) -> Option<&Self> {
        match &self.payload {
            Payload::Udp(Udp { tunnelled: Tunnelled::Packet(inner), .. }) => Some(inner),
            _ => None,
        }
    }

    /// Whether it is a datagram from or to the tunnel's port, or the first fragment of one, whatever it carries.
    #[must_use]
    pub fn is_tunnel_datagram(&self) -> bool {
        matches!(&self.payload, Payload::Udp(udp) if udp.tunnelled != Tunnelled::No)
    }

    /// The innermost packet: itself unless it is a tunnel datagram.
    #[must_use]
    pub fn innermost(&self) -> &Self {
        self.tunnelled().map_or(self, Self::innermost)
    }

    /// The probe whose marker it carries, by whatever nesting.
    #[must_use]
    pub fn marker(&self) -> Option<u32> {
        let innermost = self.innermost();
        match &innermost.payload {
            Payload::Icmp(Icmp::Error { quote, .. }) => quote.as_ref().and_then(|quote| quote.marker()),
            _ => innermost.marked().map(|marked| marked.number),
        }
    }

    /// The marker right behind its transport header.
    #[must_use]
    pub fn marked(&self) -> Option<Marked> {
        match &self.payload {
            Payload::Icmp(Icmp::Echo { marked, .. }) => *marked,
            Payload::Udp(udp) => udp.marked,
            Payload::Tcp(tcp) => tcp.marked,
            _ => None,
        }
    }

    /// The transport's checksum; unverified if there is none to verify.
    #[must_use]
    pub fn transport_checksum(&self) -> Checksum {
        match &self.payload {
            Payload::Icmp(icmp) => icmp.checksum(),
            Payload::Udp(udp) => udp.checksum,
            Payload::Tcp(tcp) => tcp.checksum,
            _ => Checksum::Unverified,
        }
    }

    /// Length of the payload in octets, as the header says.
    #[must_use]
    pub fn payload_len(&self) -> u16 {
        self.len.saturating_sub(20 + u16::try_from(self.options.len()).unwrap_or_default())
    }
}

//! UDP (RFC 768), with what it tunnels, and TCP (RFC 9293).

use etherparse::{EtherType, Ethernet2HeaderSlice, IpNumber, TcpHeaderSlice, UdpHeaderSlice};

use super::{Checksum, Ipv4, Reading, be16, marker, marker::Marked, pseudo_header};

/// The port of the kernel's and flannel's VXLAN, which is not IANA's.
pub const VXLAN_PORT: u16 = 8472;
/// Octets of a VXLAN header (RFC 7348 section 5).
const VXLAN_LEN: usize = 8;
/// Of its first octet, the only flag: there is a network identifier.
const VXLAN_FLAG: u8 = 0x08;

/// A transport's octets, as far as they are there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) body: &'a [u8],
    /// Its checksum can be verified.
    pub(super) verify: bool,
}

/// The checksum field of a transport's header, wherever the protocol has it.
pub(super) fn sum(protocol: IpNumber, body: &[u8]) -> Option<u16> {
    match protocol {
        IpNumber::ICMP => be16(body, 2),
        IpNumber::UDP => be16(body, 6),
        IpNumber::TCP => be16(body, 16),
        _ => None,
    }
}

/// A UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Length of header and payload in octets, as the header says.
    pub len: u16,
    /// The checksum.
    pub checksum: Checksum,
    /// The marker in its payload.
    pub marked: Option<Marked>,
    /// What it carries, if it is from or to the tunnel's port, or VXLAN.
    pub tunnelled: Tunnelled,
}

/// What a tunnel datagram carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tunnelled {
    /// It is none.
    No,
    /// An IPv4 packet.
    Packet(Box<Ipv4>),
    /// Something that is no IPv4 packet.
    Junk,
}

impl Udp {
    pub(super) fn parse(ip: &Ipv4, segment: Segment<'_>, reading: Reading) -> Option<Self> {
        let header = UdpHeaderSlice::from_slice(segment.body).ok()?;
        let len = header.length();
        let checksum = match (header.checksum(), segment.body.get(..usize::from(len))) {
            (0, _) => Checksum::Absent,
            (1.., Some(datagram)) if segment.verify && len >= 8 => {
                Checksum::over(&[&pseudo_header(ip.source, ip.destination, ip.protocol, len), datagram])
            }
            _ => Checksum::Unverified,
        };
        let end = usize::from(len).clamp(8, segment.body.len());
        let payload = segment.body.get(8..end).unwrap_or_default();
        let to_tunnel = header.source_port() == reading.port || header.destination_port() == reading.port;
        let inside = reading.inside_datagram();
        let carried = match header.destination_port() {
            _ if to_tunnel => Some((payload, inside)),
            // A device that takes whole frames leaves the checksums in them to the one below it.
            VXLAN_PORT => {
                vxlan(payload).map(|packet| (packet, Reading { pending: reading.pending, ..inside }))
            }
            _ => None,
        };
        let tunnelled = match carried {
            None => Tunnelled::No,
            Some(_) if reading.depth >= super::MAX_DEPTH => Tunnelled::Junk,
            Some((octets, reading)) => Ipv4::parse(octets, reading)
                .map_or(Tunnelled::Junk, |inner| Tunnelled::Packet(Box::new(inner))),
        };
        let marked = match tunnelled {
            Tunnelled::No => marker::read(payload),
            Tunnelled::Packet(_) => None,
            Tunnelled::Junk => marker::find(payload),
        };
        Some(Self {
            source: header.source_port(),
            destination: header.destination_port(),
            len,
            checksum,
            marked,
            tunnelled,
        })
    }
}

/// The IPv4 packet in a VXLAN frame.
fn vxlan(payload: &[u8]) -> Option<&[u8]> {
    let (header, frame) = payload.split_at_checked(VXLAN_LEN)?;
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let is_vxlan = header.first() == Some(&VXLAN_FLAG) && ethernet.ether_type() == EtherType::IPV4;
    frame.get(ethernet.slice().len()..).filter(|_| is_vxlan)
}

/// A TCP segment, summarised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Flags; all unset if the octets end before them.
    pub flags: TcpFlags,
    /// The checksum.
    pub checksum: Checksum,
    /// The marker in its payload.
    pub marked: Option<Marked>,
}

/// TCP's flags, as the octet on the wire. Displayed in tcpdump's letters: `S`, `S.`, `P.`, `R`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl std::fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letters = [
            (0x01, 'F'),
            (0x02, 'S'),
            (0x04, 'R'),
            (0x08, 'P'),
            (0x20, 'U'),
            (0x40, 'E'),
            (0x80, 'W'),
            (0x10, '.'),
        ];
        let shown: String =
            letters.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, letter)| *letter).collect();
        f.pad(if shown.is_empty() { "none" } else { &shown })
    }
}

impl Tcp {
    pub(super) fn parse(ip: &Ipv4, segment: Segment<'_>) -> Option<Self> {
        let body = segment.body;
        let len = u16::try_from(body.len()).ok()?;
        let payload =
            TcpHeaderSlice::from_slice(body).ok().and_then(|header| body.get(header.slice().len()..));
        Some(Self {
            source: be16(body, 0)?,
            destination: be16(body, 2)?,
            flags: TcpFlags(body.get(13).copied().unwrap_or_default()),
            checksum: match segment.verify && body.len() >= 20 {
                true => Checksum::over(&[&pseudo_header(ip.source, ip.destination, ip.protocol, len), body]),
                false => Checksum::Unverified,
            },
            marked: payload.and_then(marker::read),
        })
    }
}

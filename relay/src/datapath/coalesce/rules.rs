//! Which packet may join which: the conditions, each with a name.

use crate::wire::{
    ipv4::{self, MIN_HEADER},
    tcp, udp,
};

/// Ports whose payload the kernel may take apart itself (VXLAN, its old port in Linux, GENEVE): merged, the inner
/// packets have come out corrupt (tailscale issue 11026).
const TUNNEL_PORTS: [u16; 3] = [4789, 8472, 6081];

const DONT_FRAGMENT: u8 = 0x40;

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flow {
    pub(super) protocol: u8,
    addresses: [u8; 8],
    ports: [u8; 4],
}

/// A packet as far as merging is concerned.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape {
    pub(super) flow: Flow,
    /// Octets of the IP and the transport's header.
    pub(super) header: usize,
    /// Nothing may follow it in a large packet: PSH.
    pub(super) last: bool,
}

/// Why a packet goes alone, whatever came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// The TUN does not take large packets of this kind.
    NotOffered,
    /// Neither TCP nor UDP.
    Protocol,
    /// The IP header has options.
    IpOptions,
    /// It is a fragment.
    Fragment,
    /// The transport's header does not fit the packet.
    Truncated,
    /// A TCP packet with other flags than ACK, PSH and ECE, or without ACK.
    TcpFlags,
    /// There is no payload: an acknowledgement, or an empty datagram.
    NoPayload,
    /// A UDP datagram without a checksum, which the kernel would add to it.
    NoChecksum,
    /// A tunnel's datagram, which the kernel may look into.
    Tunnel,
    /// A checksum that does not verify: the receiver is to see that.
    Checksum,
    /// PSH on what would be a first packet.
    Push,
}

/// Why a packet cannot join the large packet of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// Another type of service (DSCP and ECN).
    TypeOfService,
    /// Another TTL.
    Ttl,
    /// One may be fragmented and the other not.
    DontFragment,
    /// It may be fragmented and its identification is not the next.
    Identification,
    /// The sequence number is not the next.
    Sequence,
    /// Another acknowledgement number.
    Acknowledgement,
    /// Another receive window.
    Window,
    /// Another urgent pointer.
    Urgent,
    /// Another header length or other options (timestamps).
    Options,
    /// Other flags, PSH aside.
    Flags,
    /// More payload than the first packet has.
    Longer,
}

pub(super) enum Class {
    /// It may join, or be joined.
    Fit(Shape),
    /// It goes alone and nothing of its flow may be merged across it.
    OfFlow(Shape, Unfit),
    /// It goes alone and belongs to no flow that is merged.
    Other(Unfit),
    /// It goes alone, and what flow it belongs to cannot be told.
    OfAnyFlow(Unfit),
}

/// Sorts an IPv4 packet by what may be done with it.
pub(super) fn classify(packet: &[u8]) -> Class {
    let Some((ip, transport)) = packet.split_at_checked(MIN_HEADER) else {
        return Class::OfAnyFlow(Unfit::Truncated);
    };
    let protocol = ip[ipv4::PROTOCOL];
    if protocol != tcp::PROTOCOL && protocol != udp::PROTOCOL {
        return Class::Other(Unfit::Protocol);
    }
    if ip[0] != 0x45 {
        return Class::OfAnyFlow(Unfit::IpOptions);
    }
    // More fragments, the offset, and the bit that RFC 791 reserves.
    if ip[6] & !DONT_FRAGMENT != 0 || ip[7] != 0 {
        return Class::OfAnyFlow(Unfit::Fragment);
    }
    if transport.len() < udp::HEADER || usize::from(word(ip, 2)) != packet.len() {
        return Class::OfAnyFlow(Unfit::Truncated);
    }
    let mut flow = Flow { protocol, ..Flow::default() };
    flow.addresses.copy_from_slice(&ip[12..20]);
    flow.ports.copy_from_slice(&transport[..4]);
    let shape = Shape { flow, header: MIN_HEADER + udp::HEADER, last: false };
    if protocol == tcp::PROTOCOL { classify_tcp(transport, shape) } else { classify_udp(transport, shape) }
}

fn classify_tcp(transport: &[u8], mut shape: Shape) -> Class {
    let Some(offset) = transport.get(tcp::DATA_OFFSET).filter(|_| transport.len() >= tcp::MIN_HEADER) else {
        return Class::OfFlow(shape, Unfit::Truncated);
    };
    let header = usize::from(offset >> 4) * 4;
    if header < tcp::MIN_HEADER || header > transport.len() {
        return Class::OfFlow(shape, Unfit::Truncated);
    }
    let flags = transport[tcp::FLAGS];
    if flags & !(tcp::PSH | tcp::ECE) != tcp::ACK || offset & 0x0f != 0 {
        return Class::OfFlow(shape, Unfit::TcpFlags);
    }
    if header == transport.len() {
        return Class::OfFlow(shape, Unfit::NoPayload);
    }
    shape.header = MIN_HEADER + header;
    shape.last = flags & tcp::PSH != 0;
    Class::Fit(shape)
}

fn classify_udp(transport: &[u8], shape: Shape) -> Class {
    let unfit = if usize::from(word(transport, udp::LENGTH.start)) != transport.len() {
        Unfit::Truncated
    } else if transport.len() == udp::HEADER {
        Unfit::NoPayload
    } else if word(transport, udp::CHECKSUM.start) == 0 {
        Unfit::NoChecksum
    } else if TUNNEL_PORTS.contains(&word(transport, 2)) {
        Unfit::Tunnel
    } else {
        return Class::Fit(shape);
    };
    Class::OfFlow(shape, unfit)
}

/// A large packet under way.
pub(super) struct Large<'a> {
    /// The headers of its first packet, PSH aside.
    pub(super) header: &'a [u8],
    /// Octets of payload so far.
    pub(super) payload: usize,
    /// Octets of payload in the first packet.
    pub(super) segment: usize,
    /// Packets so far.
    pub(super) count: usize,
}

/// Why `packet`, fit and of the same flow, cannot follow what is in `large`; none when it can.
pub(super) fn mismatch(large: Large<'_>, shape: &Shape, packet: &[u8]) -> Option<Mismatch> {
    if shape.header != large.header.len() {
        return Some(Mismatch::Options);
    }
    let (ip, transport) = packet[..shape.header].split_at(MIN_HEADER);
    let (first_ip, first) = large.header.split_at(MIN_HEADER);
    let payload = packet.len() - shape.header;
    let wrong_identification =
        ip[6] & DONT_FRAGMENT == 0 && word(ip, 4) != word(first_ip, 4).wrapping_add(large.count as u16);
    if ip[1] != first_ip[1] {
        Some(Mismatch::TypeOfService)
    } else if ip[8] != first_ip[8] {
        Some(Mismatch::Ttl)
    } else if ip[6] != first_ip[6] {
        Some(Mismatch::DontFragment)
    } else if wrong_identification {
        Some(Mismatch::Identification)
    } else if shape.flow.protocol == tcp::PROTOCOL
        && let Some(difference) = tcp_mismatch(first, transport, large.payload)
    {
        Some(difference)
    } else {
        (payload > large.segment).then_some(Mismatch::Longer)
    }
}

fn tcp_mismatch(first: &[u8], transport: &[u8], payload: usize) -> Option<Mismatch> {
    let next = long(first, tcp::SEQUENCE.start).wrapping_add(payload as u32);
    if long(transport, tcp::SEQUENCE.start) != next {
        Some(Mismatch::Sequence)
    } else if transport[tcp::ACKNOWLEDGEMENT] != first[tcp::ACKNOWLEDGEMENT] {
        Some(Mismatch::Acknowledgement)
    } else if (transport[tcp::FLAGS] ^ first[tcp::FLAGS]) & !tcp::PSH != 0 {
        Some(Mismatch::Flags)
    } else if transport[tcp::WINDOW] != first[tcp::WINDOW] {
        Some(Mismatch::Window)
    } else if transport[tcp::URGENT] != first[tcp::URGENT] {
        Some(Mismatch::Urgent)
    } else if transport[tcp::MIN_HEADER..] != first[tcp::MIN_HEADER..] {
        Some(Mismatch::Options)
    } else {
        None
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

//! One packet from the TUN cut into what goes on the wire: large TCP and UDP packets into segments, a checksum left
//! open completed, anything else as it is. Copied in one pass, the checksum summed with the copy.

use thiserror::Error;

use crate::wire::{
    checksum::{self, copy_and_sum, fold},
    ipv4::{self, Packet},
    tcp, udp,
    virtio::{self, Gso},
};

/// The offload header and the packet do not agree, or ask for what was never offered to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the offload header does not fit the packet")]
pub struct BadOffload;

/// How a packet is to be cut: without the packet's bytes, so that they may change (the TTL) before the cutting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    work: Work,
    /// Octets that each segment repeats.
    header: usize,
    /// Octets of the packet.
    total: usize,
    /// Octets of payload in each segment but the last; not zero.
    step: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Copy,
    Checksum { start: usize, field: usize },
    Tcp { ip_header: usize },
    Udp { ip_header: usize },
}

impl Plan {
    /// The plan for a packet of `total` octets that goes on as it is.
    #[must_use]
    pub const fn whole(total: usize) -> Self {
        Self { work: Work::Copy, header: 0, total, step: if total == 0 { 1 } else { total } }
    }

    /// The plan for `packet` as its offload header asks.
    ///
    /// # Errors
    /// The offload header is at odds with the packet.
    pub fn new<B: AsRef<[u8]>>(packet: &Packet<B>, offload: &virtio::Header) -> Result<Self, BadOffload> {
        let total = packet.total_length();
        let ip_header = packet.header_length();
        let (protocol, field, ours) = match offload.gso {
            Gso::None if !offload.needs_checksum => return Ok(Self::whole(total)),
            Gso::None => return Self::with_checksum(packet, offload),
            Gso::Tcp4 => (tcp::PROTOCOL, tcp::CHECKSUM.start, Work::Tcp { ip_header }),
            Gso::Udp => (udp::PROTOCOL, udp::CHECKSUM.start, Work::Udp { ip_header }),
            Gso::Tcp6 | Gso::Other(_) => return Err(BadOffload),
        };
        let agrees = offload.needs_checksum
            && offload.segment > 0
            && usize::from(offload.checksum_start) == ip_header
            && usize::from(offload.checksum_offset) == field
            && packet.protocol() == protocol
            && !packet.is_fragment();
        if !agrees {
            return Err(BadOffload);
        }
        let transport = match ours {
            Work::Tcp { .. } => {
                let offset = packet.payload().get(tcp::DATA_OFFSET).ok_or(BadOffload)?;
                Some(usize::from(offset >> 4) * 4).filter(|length| *length >= tcp::MIN_HEADER)
            }
            _ => Some(udp::HEADER),
        };
        let header = ip_header + transport.ok_or(BadOffload)?;
        if header > total {
            return Err(BadOffload);
        }
        Ok(Self { work: ours, header, total, step: usize::from(offload.segment) })
    }

    fn with_checksum<B: AsRef<[u8]>>(
        packet: &Packet<B>,
        offload: &virtio::Header,
    ) -> Result<Self, BadOffload> {
        let (start, total) = (usize::from(offload.checksum_start), packet.total_length());
        let field = start + usize::from(offload.checksum_offset);
        if start < packet.header_length() || field + 2 > total {
            return Err(BadOffload);
        }
        Ok(Self { work: Work::Checksum { start, field }, ..Self::whole(total) })
    }

    /// Packets on the wire.
    #[must_use]
    pub const fn count(&self) -> usize {
        let payload = self.total - self.header;
        if payload == 0 { 1 } else { payload.div_ceil(self.step) }
    }

    /// Octets of all of them together.
    #[must_use]
    pub const fn octets(&self) -> usize {
        self.total + (self.count() - 1) * self.header
    }

    /// The segments of `packet`, which must be the one that was planned for; only its TTL and header checksum may
    /// have changed.
    ///
    /// # Panics
    /// `packet` is shorter than the one that was planned for.
    #[must_use]
    pub fn segments(self, packet: &[u8]) -> Segments<'_> {
        let packet = &packet[..self.total];
        let (header, payload) = packet.split_at(self.header);
        let (ip_sum, transport_sum) = match self.work {
            Work::Copy | Work::Checksum { .. } => (0, 0),
            Work::Tcp { ip_header } => {
                let (ip, transport) = header.split_at(ip_header);
                // Sequence, flags (with the offset in the same word) and checksum differ by segment.
                let same =
                    word_sum(&transport[..4]) + word_sum(&transport[8..12]) + word_sum(&transport[14..16]);
                (ip_base(ip), same + word_sum(&transport[18..]) + ipv4::pseudo_header(ip))
            }
            Work::Udp { ip_header } => {
                let (ip, transport) = header.split_at(ip_header);
                (ip_base(ip), word_sum(&transport[..4]) + ipv4::pseudo_header(ip))
            }
        };
        Segments { plan: self, header, payload, cursor: 0, index: 0, done: false, ip_sum, transport_sum }
    }
}

fn word_sum(bytes: &[u8]) -> u32 {
    u32::from(checksum::sum(bytes))
}

/// The sum of the header without length, identification and checksum.
fn ip_base(ip: &[u8]) -> u32 {
    word_sum(&ip[..2]) + word_sum(&ip[6..10]) + word_sum(&ip[12..])
}

/// Packets for the wire, written one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    plan: Plan,
    header: &'a [u8],
    payload: &'a [u8],
    cursor: usize,
    index: u16,
    done: bool,
    ip_sum: u32,
    transport_sum: u32,
}

impl Segments<'_> {
    /// Octets of the next packet, none after the last.
    #[must_use]
    pub fn next_length(&self) -> Option<usize> {
        (!self.done).then(|| self.header.len() + self.plan.step.min(self.payload.len() - self.cursor))
    }

    /// Writes the next packet to the start of `out` and returns its length, none after the last.
    ///
    /// # Panics
    /// `out` is shorter than [`Segments::next_length`].
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let length = self.next_length()?;
        let out = &mut out[..length];
        let (first, from) = (self.cursor == 0, self.cursor);
        let to = from + length - self.header.len();
        let payload = &self.payload[from..to];
        let last = to == self.payload.len();
        match self.plan.work {
            Work::Copy => out.copy_from_slice(payload),
            Work::Checksum { start, field } => complete_checksum(payload, out, start, field),
            Work::Tcp { ip_header } => {
                let sum = self.write_common(payload, out, ip_header);
                let transport = &mut out[ip_header..];
                let sequence = read_u32(&transport[tcp::SEQUENCE]).wrapping_add(from as u32);
                transport[tcp::SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
                if !first {
                    transport[tcp::FLAGS] &= !tcp::CWR;
                }
                if !last {
                    transport[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
                }
                let differs = word_sum(&transport[tcp::SEQUENCE]) + word_sum(&transport[12..14]);
                let sum = !fold(sum + differs);
                transport[tcp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
            }
            Work::Udp { ip_header } => {
                let sum = self.write_common(payload, out, ip_header);
                let transport = &mut out[ip_header..];
                let length = transport.len() as u16;
                transport[udp::LENGTH].copy_from_slice(&length.to_be_bytes());
                let sum = nonzero(!fold(sum + u32::from(length)));
                transport[udp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
            }
        }
        self.cursor = to;
        self.index = self.index.wrapping_add(1);
        self.done = last;
        Some(length)
    }

    /// Copies headers and payload and completes the IP header. Returns the sum of the transport's checksum but for
    /// the fields that differ by protocol.
    fn write_common(&self, payload: &[u8], out: &mut [u8], ip_header: usize) -> u32 {
        let length = out.len() as u16;
        let (header, room) = out.split_at_mut(self.header.len());
        header.copy_from_slice(self.header);
        let payload_sum = copy_and_sum(payload, room);
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(self.index);
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = !fold(self.ip_sum + u32::from(length) + u32::from(id));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        self.transport_sum + u32::from(payload_sum) + u32::from(length) - ip_header as u32
    }
}

fn complete_checksum(packet: &[u8], out: &mut [u8], start: usize, field: usize) {
    out[..start].copy_from_slice(&packet[..start]);
    // The field holds the pseudo header's sum, so it seeds the sum by being part of it.
    let sum = !copy_and_sum(&packet[start..], &mut out[start..]);
    // Told by the place and not by the packet's protocol: the datagram may be within another encapsulation. Linux's
    // skb_checksum_help does so whatever the protocol, since to all others both forms of zero are one.
    let sum = if field - start == udp::CHECKSUM.start { nonzero(sum) } else { sum };
    out[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A UDP checksum of zero would say that there is none (RFC 768).
const fn nonzero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests;

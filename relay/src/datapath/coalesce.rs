//! Packets of one flow merged into one large packet for the TUN, which the kernel cuts or takes whole.
//!
//! The conditions are those of Linux's own receive offload (`tcp_gro_receive`, `udp_gro_receive`), narrower where
//! the kernel has to be able to restore each packet from the large one. Packets are appended only, never put in
//! front; a packet that cannot join closes its flow's large packet, so nothing is reordered within a flow. The
//! transport's checksum is verified while the payload is copied: the kernel believes what a large packet claims,
//! so merging unverified packets would make corrupt ones look whole.

mod rules;

use std::collections::VecDeque;

use super::{MAX_PACKET, offload::TunOffload};
use crate::wire::{
    checksum::{self, copy_and_sum, fold},
    ipv4, tcp, udp,
    virtio::{Gso, Header},
};
use rules::{Class, Shape, classify, mismatch};
pub use rules::{Mismatch, Unfit};

/// Large packets under way at once.
const SLOTS: usize = 16;

/// Packets in a large UDP packet (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MAX_UDP: usize = 64;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was appended to a large packet.
    Joined,
    /// It is the first of one; if its flow had another before, this is why it could not join that.
    Opened(Option<Mismatch>),
    /// It goes to the TUN as it came.
    Apart(Unfit),
}

/// Something to write to the TUN.
#[derive(Debug, Clone, Copy)]
pub struct Emission<'a> {
    /// The header to put before it.
    pub offload: Header,
    /// The packet.
    pub packet: &'a [u8],
    /// How many packets are in it.
    pub count: usize,
    /// Their octets together.
    pub octets: usize,
}

/// Merges packets. Holds nothing back past [`Coalescer::finish`].
#[derive(Debug)]
pub struct Coalescer {
    slots: Box<[Slot]>,
    /// Slots not in use, the warmest in the cache last.
    free: Vec<usize>,
    /// Slots in use in the order they were opened, which is the order they are emitted in.
    order: VecDeque<usize>,
    tcp: bool,
    udp: bool,
}

#[derive(Debug)]
struct Slot {
    buffer: Box<[u8]>,
    /// Octets used of the buffer.
    length: usize,
    shape: Shape,
    /// Octets of payload in the first packet.
    segment: usize,
    count: usize,
    /// Whether more may join.
    open: bool,
}

impl Coalescer {
    /// Merges what `offload` lets the TUN take.
    #[must_use]
    pub fn new(offload: TunOffload) -> Self {
        let slots = if offload == TunOffload::None { 0 } else { SLOTS };
        let slot = || Slot {
            buffer: vec![0; MAX_PACKET].into(),
            length: 0,
            shape: Shape::default(),
            segment: 0,
            count: 0,
            open: false,
        };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            free: (0..slots).collect(),
            order: VecDeque::with_capacity(slots),
            tcp: offload >= TunOffload::Tcp,
            udp: offload >= TunOffload::TcpAndUdp,
        }
    }

    /// Merges no more packets of this kind. What is under way is still emitted.
    pub fn give_up(&mut self, kind: Gso) {
        match kind {
            Gso::Tcp4 => self.tcp = false,
            Gso::Udp => self.udp = false,
            _ => {}
        }
    }

    /// Takes one packet: a whole IPv4 packet with a valid header and nothing after its end. What is complete goes
    /// to `emit`, in order; the packet itself may be among it.
    pub fn push(&mut self, packet: &[u8], emit: &mut impl FnMut(Emission<'_>)) -> Outcome {
        let outcome = self.place(packet, emit);
        self.emit_closed(emit);
        outcome
    }

    /// Emits all that is left.
    pub fn finish(&mut self, emit: &mut impl FnMut(Emission<'_>)) {
        self.close_all();
        self.emit_closed(emit);
    }

    fn place(&mut self, packet: &[u8], emit: &mut impl FnMut(Emission<'_>)) -> Outcome {
        let (shape, closes) = match classify(packet) {
            Class::Fit(shape) => (shape, None),
            Class::OfFlow(shape, unfit) => (shape, Some(unfit)),
            Class::Other(unfit) => {
                self.put_apart(packet, emit);
                return Outcome::Apart(unfit);
            }
            Class::OfAnyFlow(unfit) => {
                self.close_all();
                self.put_apart(packet, emit);
                return Outcome::Apart(unfit);
            }
        };
        let wanted = if shape.flow.protocol == tcp::PROTOCOL { self.tcp } else { self.udp };
        let unfit = if wanted { closes } else { Some(Unfit::NotOffered) };
        let slot = self.find(&shape);
        if let Some(unfit) = unfit {
            slot.inspect(|index| self.slots[*index].open = false);
            self.put_apart(packet, emit);
            return Outcome::Apart(unfit);
        }
        let mut reason = None;
        if let Some(index) = slot {
            let slot = &mut self.slots[index];
            match mismatch(slot.view(), &shape, packet) {
                None => {
                    if slot.append(packet, &shape) {
                        return Outcome::Joined;
                    }
                    slot.open = false;
                    self.put_apart(packet, emit);
                    return Outcome::Apart(Unfit::Checksum);
                }
                Some(difference) => {
                    slot.open = false;
                    reason = Some(difference);
                }
            }
        }
        if shape.last {
            self.put_apart(packet, emit);
            return Outcome::Apart(Unfit::Push);
        }
        let index = self.take_slot(emit);
        if self.slots[index].start(packet, shape) {
            self.order.push_back(index);
            Outcome::Opened(reason)
        } else {
            self.free.push(index);
            self.put_apart(packet, emit);
            Outcome::Apart(Unfit::Checksum)
        }
    }

    /// The slot that packets of this flow join, the latest first: that is where the next packet mostly belongs.
    fn find(&self, shape: &Shape) -> Option<usize> {
        self.order.iter().rev().copied().find(|index| {
            let slot = &self.slots[*index];
            slot.open && slot.shape.flow == shape.flow
        })
    }

    /// Emits the packet as it is: at once when nothing is before it, else in its turn.
    fn put_apart(&mut self, packet: &[u8], emit: &mut impl FnMut(Emission<'_>)) {
        self.emit_closed(emit);
        if self.order.is_empty() {
            emit(Emission { offload: Header::PLAIN, packet, count: 1, octets: packet.len() });
            return;
        }
        let index = self.take_slot(emit);
        self.slots[index].hold(packet);
        self.order.push_back(index);
    }

    fn take_slot(&mut self, emit: &mut impl FnMut(Emission<'_>)) -> usize {
        if self.free.is_empty()
            && let Some(oldest) = self.order.front()
        {
            self.slots[*oldest].open = false;
            self.emit_closed(emit);
        }
        // Every slot is either free or in order, so after the emission one is free.
        self.free.pop().unwrap_or(0)
    }

    fn close_all(&mut self) {
        for index in &self.order {
            self.slots[*index].open = false;
        }
    }

    /// Emits from the oldest on what nothing can join any more.
    fn emit_closed(&mut self, emit: &mut impl FnMut(Emission<'_>)) {
        while let Some(index) = self.order.front().copied().filter(|index| !self.slots[*index].open) {
            self.order.pop_front();
            emit(self.slots[index].complete());
            self.free.push(index);
        }
    }
}

impl Slot {
    /// Copies the first packet. False when its checksum is wrong.
    fn start(&mut self, packet: &[u8], shape: Shape) -> bool {
        self.buffer[..shape.header].copy_from_slice(&packet[..shape.header]);
        self.length = shape.header;
        self.segment = packet.len() - shape.header;
        self.count = 0;
        self.open = true;
        self.shape = shape;
        self.append(packet, &shape)
    }

    /// Copies the payload behind what is there and verifies the checksum with it. False when it is wrong: the
    /// packet has not joined then.
    fn append(&mut self, packet: &[u8], shape: &Shape) -> bool {
        let (header, payload) = packet.split_at(shape.header);
        let room = &mut self.buffer[self.length..];
        let sum = u32::from(copy_and_sum(payload, room))
            + u32::from(checksum::sum(&header[ipv4::MIN_HEADER..]))
            + ipv4::pseudo_header(header)
            + (packet.len() - ipv4::MIN_HEADER) as u32;
        if fold(sum) != 0xffff {
            return false;
        }
        self.length += payload.len();
        self.count += 1;
        self.open = !shape.last
            && payload.len() == self.segment
            && self.length + self.segment <= MAX_PACKET
            && (shape.flow.protocol == tcp::PROTOCOL || self.count < MAX_UDP);
        if shape.last {
            self.buffer[ipv4::MIN_HEADER + tcp::FLAGS] |= tcp::PSH;
        }
        true
    }

    /// Copies a packet that is to be emitted as it came.
    fn hold(&mut self, packet: &[u8]) {
        self.buffer[..packet.len()].copy_from_slice(packet);
        self.length = packet.len();
        self.count = 1;
        self.open = false;
    }

    fn view(&self) -> rules::Large<'_> {
        rules::Large {
            header: &self.buffer[..self.shape.header],
            payload: self.length - self.shape.header,
            segment: self.segment,
            count: self.count,
        }
    }

    /// Rewrites the headers for the packet as large as it has become.
    fn complete(&mut self) -> Emission<'_> {
        if self.count == 1 {
            let packet = &self.buffer[..self.length];
            return Emission { offload: Header::PLAIN, packet, count: 1, octets: packet.len() };
        }
        let total = self.length as u16;
        let transport_length = total - ipv4::MIN_HEADER as u16;
        let (ip, transport) = self.buffer[..self.shape.header].split_at_mut(ipv4::MIN_HEADER);
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::checksum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let (gso, field) = if self.shape.flow.protocol == tcp::PROTOCOL {
            (Gso::Tcp4, tcp::CHECKSUM)
        } else {
            transport[udp::LENGTH].copy_from_slice(&transport_length.to_be_bytes());
            (Gso::Udp, udp::CHECKSUM)
        };
        let partial = fold(ipv4::pseudo_header(ip) + u32::from(transport_length));
        let checksum_offset = field.start as u16;
        transport[field].copy_from_slice(&partial.to_be_bytes());
        let offload = Header {
            needs_checksum: true,
            gso,
            header_length: self.shape.header as u16,
            segment: self.segment as u16,
            checksum_start: ipv4::MIN_HEADER as u16,
            checksum_offset,
        };
        let octets = self.length + (self.count - 1) * self.shape.header;
        Emission { offload, packet: &self.buffer[..self.length], count: self.count, octets }
    }
}

#[cfg(test)]
mod tests;

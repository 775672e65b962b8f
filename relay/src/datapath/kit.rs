//! Packets for tests, and a judge of packets that shares no code with what it judges.

use std::net::Ipv4Addr;

use crate::wire::{
    tcp, udp,
    virtio::{Gso, Header},
};

pub(super) const FROM: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);
pub(super) const TO: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 2);

/// RFC 1071 word by word.
pub(super) fn reference_sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
    }
    total as u16
}

fn transport_sum(packet: &[u8]) -> u16 {
    let transport = &packet[20..];
    let length = (transport.len() as u16).to_be_bytes();
    reference_sum(&[&packet[12..20], &[0, packet[9]], &length, transport])
}

/// What is wrong with a TCP or UDP packet without IP options as it should be on the wire.
pub(super) fn defect(packet: &[u8]) -> Option<String> {
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if total != packet.len() {
        return Some(format!("total length {total} of {}", packet.len()));
    }
    if reference_sum(&[&packet[..20]]) != 0xffff {
        return Some("header checksum".into());
    }
    if packet[9] == udp::PROTOCOL {
        let length = usize::from(u16::from_be_bytes([packet[24], packet[25]]));
        if length != packet.len() - 20 {
            return Some(format!("UDP length {length}"));
        }
        if packet[26..28] == [0, 0] {
            return None;
        }
    }
    (transport_sum(packet) != 0xffff).then(|| "transport checksum".into())
}

/// Puts the right checksums and lengths into a packet.
pub(super) fn seal(packet: &mut [u8]) {
    let total = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    packet[10..12].fill(0);
    let sum = !reference_sum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let field = if packet[9] == udp::PROTOCOL {
        let length = (packet.len() as u16 - 20).to_be_bytes();
        packet[24..26].copy_from_slice(&length);
        26
    } else {
        36
    };
    packet[field..field + 2].fill(0);
    let sum = !transport_sum(packet);
    let sum = if field == 26 && sum == 0 { 0xffff } else { sum };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// As [`seal`], but leaves the transport's checksum to the reader as the kernel does, and tells so.
pub(super) fn seal_partly(packet: &mut [u8], gso: Gso, segment: usize) -> Header {
    seal(packet);
    let field = if packet[9] == udp::PROTOCOL { 26 } else { 36 };
    let length = (packet.len() as u16 - 20).to_be_bytes();
    let partial = reference_sum(&[&packet[12..20], &[0, packet[9]], &length]);
    packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
    Header {
        needs_checksum: true,
        gso,
        // As wrong as the kernel's may be.
        header_length: 7,
        segment: segment as u16,
        checksum_start: 20,
        checksum_offset: field as u16 - 20,
    }
}

fn ip(protocol: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 62, protocol, 0, 0];
    packet.extend(FROM.octets());
    packet.extend(TO.octets());
    packet
}

/// A TCP packet with timestamps: ports 5001 and 80, ACK set, DF set, TTL 62.
pub(super) fn tcp_packet(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ip(tcp::PROTOCOL);
    packet.extend(5001u16.to_be_bytes());
    packet.extend(80u16.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(0x0102_0304u32.to_be_bytes());
    packet.extend([0x80, flags, 0x20, 0x00, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
    packet.extend(payload);
    seal(&mut packet);
    packet
}

/// A UDP packet: ports 6001 and 53, DF set, TTL 62.
pub(super) fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let mut packet = ip(udp::PROTOCOL);
    packet.extend(6001u16.to_be_bytes());
    packet.extend(53u16.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(payload);
    seal(&mut packet);
    packet
}

/// Octets that are the same nowhere near each other.
pub(super) fn octets(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| ((index + seed) * 31 + (index + seed) / 251) as u8).collect()
}

use proptest::prelude::*;

use super::*;
use crate::{
    datapath::kit::{FROM, TO, defect, octets, reference_sum, seal, seal_partly, tcp_packet, udp_packet},
    wire::{ipv4::test_packet, virtio::Header},
};

fn cut(packet: &[u8], offload: &Header) -> Result<Vec<Vec<u8>>, BadOffload> {
    let plan = Plan::new(&Packet::new_checked(packet).unwrap(), offload)?;
    let mut segments = plan.segments(packet);
    let mut out = Vec::new();
    let mut room = vec![0; 65_535];
    while let Some(length) = segments.next_length() {
        assert_eq!(segments.write_next(&mut room), Some(length));
        out.push(room[..length].to_vec());
    }
    assert_eq!(segments.write_next(&mut room), None);
    assert_eq!(out.len(), plan.count());
    assert_eq!(out.iter().map(Vec::len).sum::<usize>(), plan.octets());
    Ok(out)
}

fn sequence(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[24..28].try_into().unwrap())
}

#[test]
fn a_complete_packet_passes_untouched() {
    for packet in [tcp_packet(1, 0x18, b"data"), udp_packet(b"data")] {
        assert_eq!(cut(&packet, &Header::PLAIN).unwrap(), [packet]);
    }
}

#[test]
fn an_open_checksum_is_completed_to_the_one_the_sender_would_have_put() {
    for whole in [tcp_packet(1, 0x18, b"odd"), tcp_packet(1, 0x02, b""), udp_packet(b"even")] {
        let mut open = whole.clone();
        let offload = seal_partly(&mut open, Gso::None, 0);
        assert_eq!(cut(&open, &offload).unwrap(), [whole]);
    }
}

#[test]
fn tcp_segments_advance_in_sequence_and_identification() {
    let payload = octets(3 * 1420 + 7, 1);
    let mut packet = tcp_packet(u32::MAX - 1000, 0x10, &payload);
    packet[4..6].copy_from_slice(&0xfffeu16.to_be_bytes());
    let offload = seal_partly(&mut packet, Gso::Tcp4, 1420);
    let segments = cut(&packet, &offload).unwrap();
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1472, 1472, 1472, 59]);
    for (index, segment) in segments.iter().enumerate() {
        assert_eq!(defect(segment), None);
        assert_eq!(sequence(segment), (u32::MAX - 1000).wrapping_add(index as u32 * 1420));
        assert_eq!(segment[4..6], 0xfffeu16.wrapping_add(index as u16).to_be_bytes());
        assert_eq!(segment[40..52], packet[40..52], "options");
    }
    assert_eq!(segments.iter().flat_map(|segment| segment[52..].to_vec()).collect::<Vec<_>>(), payload);
}

#[test]
fn fin_and_psh_are_on_the_last_segment_only_and_cwr_on_the_first() {
    let mut packet = tcp_packet(1, tcp::CWR | tcp::ECE | tcp::ACK | tcp::PSH | tcp::FIN, &octets(300, 2));
    let offload = seal_partly(&mut packet, Gso::Tcp4, 100);
    let flags: Vec<u8> = cut(&packet, &offload).unwrap().iter().map(|segment| segment[33]).collect();
    let common = tcp::ECE | tcp::ACK;
    assert_eq!(flags, [common | tcp::CWR, common, common | tcp::PSH | tcp::FIN]);
}

#[test]
fn udp_datagrams_have_their_own_lengths_and_checksums() {
    let payload = octets(1000, 3);
    let mut packet = udp_packet(&payload);
    let offload = seal_partly(&mut packet, Gso::Udp, 300);
    let datagrams = cut(&packet, &offload).unwrap();
    assert_eq!(datagrams.iter().map(Vec::len).collect::<Vec<_>>(), [328, 328, 328, 128]);
    for (index, datagram) in datagrams.iter().enumerate() {
        assert_eq!(defect(datagram), None);
        assert_ne!(datagram[26..28], [0, 0]);
        assert_eq!(datagram[4..6], (0x1234 + index as u16).to_be_bytes());
    }
    assert_eq!(datagrams.iter().flat_map(|datagram| datagram[28..].to_vec()).collect::<Vec<_>>(), payload);
}

/// A payload of two octets that makes the UDP checksum come out as zero.
fn payload_with_zero_checksum() -> Vec<u8> {
    let mut packet = udp_packet(&[0, 0]);
    packet[26..28].fill(0);
    let sum = reference_sum(&[&packet[12..20], &[0, 17, 0, 10], &packet[20..]]);
    (!sum).to_be_bytes().to_vec()
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let half = payload_with_zero_checksum();
    let mut single = udp_packet(&half);
    let offload = seal_partly(&mut single, Gso::None, 0);
    assert_eq!(cut(&single, &offload).unwrap()[0][26..28], [0xff, 0xff]);

    let mut large = udp_packet(&[half.clone(), half].concat());
    let offload = seal_partly(&mut large, Gso::Udp, 2);
    for datagram in cut(&large, &offload).unwrap() {
        assert_eq!(datagram[26..28], [0xff, 0xff]);
    }
}

#[test]
fn so_is_one_within_another_encapsulation() {
    let mut inner = udp_packet(&payload_with_zero_checksum());
    let mut offload = seal_partly(&mut inner, Gso::None, 0);
    offload.checksum_start += 20;
    let outer = test_packet(FROM, TO, 64, 4, &inner);
    assert_eq!(cut(&outer, &offload).unwrap()[0][46..48], [0xff, 0xff]);
}

#[test]
fn a_udp_datagram_without_a_checksum_stays_without() {
    let mut packet = udp_packet(b"data");
    packet[26..28].fill(0);
    assert_eq!(cut(&packet, &Header::PLAIN).unwrap()[0][26..28], [0, 0]);
}

#[test]
fn a_large_packet_of_one_segment_or_of_none_is_one_packet() {
    for length in [0, 1, 99, 100] {
        let mut packet = tcp_packet(1, tcp::CWR | tcp::PSH | tcp::ACK, &octets(length, 4));
        let whole = packet.clone();
        let offload = seal_partly(&mut packet, Gso::Tcp4, 100);
        assert_eq!(cut(&packet, &offload).unwrap(), [whole]);
    }
}

#[test]
fn an_offload_header_at_odds_with_its_packet_is_refused() {
    let mut tcp = tcp_packet(1, 0x10, &octets(300, 5));
    let mut udp = udp_packet(&octets(300, 5));
    let good_tcp = seal_partly(&mut tcp, Gso::Tcp4, 100);
    let good_udp = seal_partly(&mut udp, Gso::Udp, 100);
    let mut fragment = tcp.clone();
    fragment[6] = 0x20;
    seal(&mut fragment);
    let mut short_offset = tcp.clone();
    short_offset[32] = 0x40;
    let mut long_offset = tcp_packet(1, 0x10, b"");
    long_offset[32] = 0xf0;
    for (what, packet, offload) in [
        ("no segment size", &tcp, Header { segment: 0, ..good_tcp }),
        ("complete checksum", &tcp, Header { needs_checksum: false, ..good_tcp }),
        ("wrong start", &tcp, Header { checksum_start: 24, ..good_tcp }),
        ("wrong field", &tcp, Header { checksum_offset: 6, ..good_tcp }),
        ("version 6", &tcp, Header { gso: Gso::Tcp6, ..good_tcp }),
        ("UFO", &udp, Header { gso: Gso::Other(3), ..good_udp }),
        ("UDP as TCP", &udp, Header { gso: Gso::Tcp4, checksum_offset: 16, ..good_udp }),
        ("TCP as UDP", &tcp, Header { gso: Gso::Udp, checksum_offset: 6, ..good_tcp }),
        ("fragment", &fragment, good_tcp),
        ("offset too small", &short_offset, good_tcp),
        ("offset past the end", &long_offset, good_tcp),
        ("start in the header", &tcp, Header { gso: Gso::None, checksum_start: 19, ..good_tcp }),
        ("field past the end", &tcp, Header { gso: Gso::None, checksum_offset: 331, ..good_tcp }),
        ("start past the end", &tcp, Header { gso: Gso::None, checksum_start: u16::MAX, ..good_tcp }),
    ] {
        assert_eq!(cut(packet, &offload), Err(BadOffload), "{what}");
    }
    assert!(cut(&tcp, &good_tcp).is_ok() && cut(&udp, &good_udp).is_ok());
}

#[test]
fn a_lowered_ttl_is_in_every_segment() {
    let mut packet = tcp_packet(1, 0x10, &octets(300, 6));
    let offload = seal_partly(&mut packet, Gso::Tcp4, 100);
    let plan = Plan::new(&Packet::new_checked(&packet[..]).unwrap(), &offload).unwrap();
    Packet::new_checked(&mut packet[..]).unwrap().decrement_ttl();
    let mut segments = plan.segments(&packet);
    let mut room = [0; 200];
    while let Some(length) = segments.write_next(&mut room) {
        assert_eq!((room[8], defect(&room[..length])), (61, None));
    }
}

proptest! {
    #[test]
    fn every_segment_is_whole_and_the_payload_is_kept(
        length in 0usize..20_000, step in 1usize..3000, tcp in any::<bool>(), seed in 0usize..1000, flags: u8
    ) {
        let payload = octets(length, seed);
        let (mut packet, gso, header) = if tcp {
            (tcp_packet(seed as u32, flags, &payload), Gso::Tcp4, 52)
        } else {
            (udp_packet(&payload), Gso::Udp, 28)
        };
        let offload = seal_partly(&mut packet, gso, step);
        let segments = cut(&packet, &offload).unwrap();
        let mut joined = Vec::new();
        for segment in &segments {
            prop_assert_eq!(defect(segment), None);
            prop_assert!(segment.len() <= header + step);
            joined.extend_from_slice(&segment[header..]);
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn arbitrary_packets_under_arbitrary_headers_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 20..300), header: [u8; 12], sane in any::<bool>(), options in 5u8..16
    ) {
        bytes[0] = 0x40 | options;
        let total = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&total);
        if sane {
            bytes[6..8].fill(0);
            bytes[9] = if header[1] == 1 { 6 } else { 17 };
        }
        let length = usize::from(options) * 4;
        if length <= bytes.len() {
            bytes[10..12].fill(0);
            let sum = !reference_sum(&[&bytes[..length]]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut offload = Header::from_bytes(header);
            if sane {
                offload.checksum_start = length as u16;
                offload.checksum_offset = if bytes[9] == 6 { 16 } else { 6 };
                offload.segment %= 100;
            }
            if let Ok(packets) = cut(&bytes, &offload) {
                prop_assert!(packets.iter().all(|packet| packet.len() <= bytes.len()));
            }
        }
    }
}

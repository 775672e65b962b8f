use proptest::prelude::*;

use super::*;
use crate::{
    datapath::{
        kit::{defect, octets, seal, tcp_packet, udp_packet},
        segment::Plan,
    },
    wire::ipv4::Packet,
};

/// What the TUN was given: offload header, packet, packets in it.
type Written = (Header, Vec<u8>, usize);

fn merge(packets: &[Vec<u8>]) -> (Vec<Outcome>, Vec<Written>) {
    let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
    let mut written = Vec::new();
    let mut emit = |large: Emission<'_>| {
        let cut = cut(&large.offload, large.packet);
        assert_eq!(large.count, cut.len());
        assert_eq!(large.octets, cut.iter().map(Vec::len).sum::<usize>());
        written.push((large.offload, large.packet.to_vec(), large.count));
    };
    let outcomes = packets.iter().map(|packet| coalescer.push(packet, &mut emit)).collect();
    coalescer.finish(&mut emit);
    (outcomes, written)
}

/// What the kernel makes of a large packet.
fn cut(offload: &Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let Ok(checked) = Packet::new_checked(packet) else { return vec![packet.to_vec()] };
    let plan = Plan::new(&checked, offload).expect("the coalescer writes what can be cut");
    let mut segments = plan.segments(packet);
    let mut room = vec![0; 65_535];
    std::iter::from_fn(|| segments.write_next(&mut room).map(|length| room[..length].to_vec())).collect()
}

fn uncut(written: &[Written]) -> Vec<Vec<u8>> {
    written.iter().flat_map(|(offload, packet, _)| cut(offload, packet)).collect()
}

const SEGMENT: usize = 100;

fn nth_tcp(index: u32) -> Vec<u8> {
    let mut packet = tcp_packet(index * SEGMENT as u32, 0x10, &octets(SEGMENT, index as usize));
    packet[4..6].copy_from_slice(&(0x1234 + index as u16).to_be_bytes());
    seal(&mut packet);
    packet
}

fn nth_udp(index: u32) -> Vec<u8> {
    let mut packet = udp_packet(&octets(SEGMENT, index as usize));
    packet[4..6].copy_from_slice(&(0x1234 + index as u16).to_be_bytes());
    seal(&mut packet);
    packet
}

/// The packet with one change, its checksums right again.
fn with(mut packet: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut packet);
    seal(&mut packet);
    packet
}

fn spoil(mut packet: Vec<u8>) -> Vec<u8> {
    let last = packet.len() - 1;
    packet[last] ^= 0x40;
    packet
}

#[test]
fn packets_in_sequence_become_one_and_come_apart_as_they_were() {
    for packets in [(0..5).map(nth_tcp).collect::<Vec<_>>(), (0..5).map(nth_udp).collect()] {
        let (outcomes, written) = merge(&packets);
        assert_eq!(outcomes[0], Outcome::Opened(None));
        assert!(outcomes[1..].iter().all(|outcome| *outcome == Outcome::Joined));
        assert_eq!(written.len(), 1);
        assert_eq!(uncut(&written), packets);
        let (offload, large, count) = &written[0];
        assert_eq!((*count, usize::from(offload.segment)), (5, SEGMENT));
        assert_eq!(usize::from(offload.header_length) + 5 * SEGMENT, large.len());
    }
}

#[test]
fn a_packet_alone_is_written_as_it_came() {
    for packet in [nth_tcp(0), nth_udp(0)] {
        let (_, written) = merge(std::slice::from_ref(&packet));
        assert_eq!(written, [(Header::PLAIN, packet, 1)]);
    }
}

/// The cases of the kernel's selftest `tools/testing/selftests/net/gro.c`, and the ones that a tunnel adds: what a
/// packet that follows `nth_tcp(0)` must look like to be kept apart from it, and why.
#[test]
fn what_does_not_follow_a_tcp_packet_exactly_does_not_join_it() {
    use Mismatch as M;
    let next = || nth_tcp(1);
    for (packet, reason) in [
        (with(next(), |p| p[1] = 0x02), M::TypeOfService),
        (with(next(), |p| p[1] = 0xb8), M::TypeOfService),
        (with(next(), |p| p[8] -= 1), M::Ttl),
        (with(next(), |p| p[6] = 0), M::DontFragment),
        (with(next(), |p| p[27] += 1), M::Sequence),
        (with(next(), |p| p[27] -= 1), M::Sequence),
        (nth_tcp(2), M::Sequence),
        (nth_tcp(0), M::Sequence),
        (with(next(), |p| p[31] += 1), M::Acknowledgement),
        (with(next(), |p| p[34] += 1), M::Window),
        (with(next(), |p| p[39] = 1), M::Urgent),
        (with(next(), |p| p[33] |= tcp::ECE), M::Flags),
        (with(next(), |p| p[47] += 1), M::Options),
        (with(next(), |p| p[40] = 0), M::Options),
        (tcp_packet(SEGMENT as u32, 0x10, &octets(SEGMENT + 1, 0)), M::Longer),
        (
            with(next(), |p| {
                p[32] = 0x50;
                p.drain(40..52);
            }),
            M::Options,
        ),
    ] {
        let packets = [nth_tcp(0), packet];
        let (outcomes, written) = merge(&packets);
        assert_eq!(outcomes[1], Outcome::Opened(Some(reason)));
        assert_eq!(uncut(&written), packets);
    }
}

#[test]
fn what_is_no_plain_data_goes_apart_and_nothing_is_merged_across_it() {
    use Unfit as U;
    let alone = |flags| with(nth_tcp(1), |p| p[33] = flags);
    for (packet, unfit) in [
        (alone(0x12), U::TcpFlags),
        (alone(0x11), U::TcpFlags),
        (alone(0x14), U::TcpFlags),
        (alone(0x30), U::TcpFlags),
        (alone(0x90), U::TcpFlags),
        (alone(0x00), U::TcpFlags),
        (with(nth_tcp(1), |p| p[32] |= 1), U::TcpFlags),
        (tcp_packet(SEGMENT as u32, 0x10, b""), U::NoPayload),
        (with(nth_tcp(1), |p| p[32] = 0x40), U::Truncated),
        (with(nth_tcp(1), |p| p[32] = 0xf0).split_at(60).0.to_vec(), U::Truncated),
        (spoil(nth_tcp(1)), U::Checksum),
        (with(nth_tcp(1), |p| p[6] = 0x20), U::Fragment),
        (with(nth_tcp(1), |p| p[7] = 1), U::Fragment),
    ] {
        let packets = [nth_tcp(0), packet, nth_tcp(1), nth_tcp(2)];
        let (outcomes, written) = merge(&packets);
        assert_eq!(outcomes[1], Outcome::Apart(unfit), "{unfit:?}");
        assert_eq!(outcomes[2..], [Outcome::Opened(None), Outcome::Joined], "{unfit:?}");
        assert_eq!(written.iter().map(|(_, _, count)| *count).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(written[1].1, packets[1], "{unfit:?} is written as it came");
    }
}

#[test]
fn an_ip_header_with_options_goes_apart() {
    let mut packet = nth_tcp(1);
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    let packets = [nth_tcp(0), packet, nth_tcp(1)];
    let (outcomes, written) = merge(&packets);
    assert_eq!(outcomes[1], Outcome::Apart(Unfit::IpOptions));
    assert_eq!(written.len(), 3);
}

#[test]
fn psh_ends_a_large_packet_and_stays_on_its_last_segment() {
    let pushed = with(nth_tcp(1), |p| p[33] |= tcp::PSH);
    let packets = [nth_tcp(0), pushed, nth_tcp(2), nth_tcp(3)];
    let (outcomes, written) = merge(&packets);
    assert_eq!(outcomes, [Outcome::Opened(None), Outcome::Joined, Outcome::Opened(None), Outcome::Joined]);
    assert_eq!(uncut(&written), packets);
    let first = with(nth_tcp(0), |p| p[33] |= tcp::PSH);
    assert_eq!(merge(&[first]).0, [Outcome::Apart(Unfit::Push)]);
}

#[test]
fn a_shorter_packet_ends_a_large_packet() {
    let mut short = nth_tcp(1);
    short.truncate(52 + 1);
    seal(&mut short);
    let packets = [nth_tcp(0), short, with(nth_tcp(1), |p| p[27] = SEGMENT as u8 + 1)];
    let (outcomes, written) = merge(&packets);
    assert_eq!(outcomes, [Outcome::Opened(None), Outcome::Joined, Outcome::Opened(None)]);
    assert_eq!(uncut(&written), packets);
}

#[test]
fn identifications_must_count_up_where_the_packet_may_be_fragmented() {
    let may = |packet: Vec<u8>, id: u16| {
        with(packet, |p| {
            p[6] = 0;
            p[4..6].copy_from_slice(&id.to_be_bytes());
        })
    };
    for (second, third) in [(nth_tcp(1), nth_tcp(2)), (nth_udp(1), nth_udp(2))] {
        let first = if second[9] == tcp::PROTOCOL { nth_tcp(0) } else { nth_udp(0) };
        let packets = [may(first, 0xffff), may(second, 0), may(third, 7)];
        let (outcomes, written) = merge(&packets);
        assert_eq!(outcomes[1..], [Outcome::Joined, Outcome::Opened(Some(Mismatch::Identification))]);
        assert_eq!(uncut(&written), packets);
    }
}

#[test]
fn udp_datagrams_that_the_kernel_could_not_restore_go_apart() {
    let port = |port: u16| with(nth_udp(1), |p| p[22..24].copy_from_slice(&port.to_be_bytes()));
    let mut unsummed = nth_udp(1);
    unsummed[26..28].fill(0);
    let mut lying = nth_udp(1);
    lying[25] -= 1;
    for (packet, unfit) in [
        (unsummed, Unfit::NoChecksum),
        (lying, Unfit::Truncated),
        (udp_packet(b""), Unfit::NoPayload),
        (port(4789), Unfit::Tunnel),
        (port(8472), Unfit::Tunnel),
        (port(6081), Unfit::Tunnel),
        (spoil(nth_udp(1)), Unfit::Checksum),
    ] {
        let packets = [packet.clone(), packet];
        let (outcomes, written) = merge(&packets);
        assert_eq!(outcomes, [Outcome::Apart(unfit); 2]);
        assert_eq!(uncut(&written), packets);
    }
    let (outcomes, _) = merge(&[nth_udp(0), udp_packet(&octets(SEGMENT + 1, 0))]);
    assert_eq!(outcomes[1], Outcome::Opened(Some(Mismatch::Longer)));
}

#[test]
fn a_large_udp_packet_holds_64_datagrams_and_any_packet_65535_octets() {
    let (_, written) = merge(&(0..65).map(nth_udp).collect::<Vec<_>>());
    assert_eq!(written.iter().map(|(_, _, count)| *count).collect::<Vec<_>>(), [64, 1]);
    let packets: Vec<_> = (0..50).map(|n| tcp_packet(n * 1420, 0x10, &octets(1420, n as usize))).collect();
    let (_, written) = merge(&packets);
    assert_eq!(written.iter().map(|(_, _, count)| *count).collect::<Vec<_>>(), [46, 4]);
    assert!(written[0].1.len() > 65_000);
}

#[test]
fn flows_between_one_another_are_merged_each_by_itself() {
    let flow = |index: u32, port: u8| with(nth_tcp(index), |p| p[23] = port);
    let packets: Vec<_> = (0..4).flat_map(|index| (0..5).map(move |port| flow(index, port))).collect();
    let (_, written) = merge(&packets);
    assert_eq!(written.iter().map(|(_, _, count)| *count).collect::<Vec<_>>(), [4; 5]);
}

#[test]
fn more_flows_than_slots_lose_nothing() {
    let packets: Vec<_> =
        (0..200u32).map(|index| with(nth_tcp(index / 50), |p| p[23] = (index % 50) as u8)).collect();
    let (_, written) = merge(&packets);
    assert_eq!(
        uncut(&written),
        packets,
        "with a new flow every time, packets come out in the order they came"
    );
}

#[test]
fn a_kind_that_was_given_up_goes_apart_and_keeps_its_order() {
    let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
    let mut counts = Vec::new();
    let mut emit = |large: Emission<'_>| counts.push(large.count);
    coalescer.push(&nth_tcp(0), &mut emit);
    coalescer.push(&nth_tcp(1), &mut emit);
    coalescer.give_up(Gso::Tcp4);
    assert_eq!(coalescer.push(&nth_tcp(2), &mut emit), Outcome::Apart(Unfit::NotOffered));
    assert_eq!(coalescer.push(&nth_udp(0), &mut emit), Outcome::Opened(None));
    coalescer.finish(&mut emit);
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn without_offloads_each_packet_is_written_at_once() {
    let mut coalescer = Coalescer::new(TunOffload::None);
    for packet in [nth_tcp(0), nth_tcp(1), nth_udp(0)] {
        let mut out = Vec::new();
        let outcome = coalescer.push(&packet, &mut |large| out.push(large.packet.to_vec()));
        assert_eq!(outcome, Outcome::Apart(Unfit::NotOffered));
        assert_eq!(out, [packet]);
    }
}

/// A packet as a stream of several flows might bring it, with something odd now and then.
fn any_packet() -> impl Strategy<Value = (u8, bool, u8, Vec<u8>)> {
    (0u8..4, any::<bool>(), 0u8..24, prop::collection::vec(any::<u8>(), 0..40))
}

proptest! {
    #[test]
    fn merged_packets_come_apart_whole_in_order_and_with_their_payload(
        steps in prop::collection::vec(any_packet(), 1..300)
    ) {
        let mut sequences = [0u32; 4];
        let mut packets: Vec<Vec<u8>> = Vec::new();
        for (flow, is_tcp, oddity, noise) in steps {
            let length = match oddity { 0 => 0, 1 => 60, 2..=4 => 20, _ => 40 };
            let payload = octets(length, packets.len());
            let mut packet = if is_tcp {
                let sequence = &mut sequences[usize::from(flow)];
                let packet = tcp_packet(*sequence, 0x10, &payload);
                *sequence = sequence.wrapping_add(length as u32);
                packet
            } else {
                udp_packet(&payload)
            };
            packet[23] = flow;
            match oddity {
                5 => packet[33 % length.max(20)] ^= 0x08,
                6 => packet[8] -= 1,
                7 => packet[6] = 0,
                8 => packet[6] = 0x20,
                9 => packet[1] = 2,
                _ => {}
            }
            seal(&mut packet);
            match oddity {
                10 => packet = spoil(packet),
                11 => {
                    for (place, octet) in packet[20..].iter_mut().zip(&noise) {
                        *place = *octet;
                    }
                }
                12 if !is_tcp => packet[26..28].fill(0),
                _ => {}
            }
            packets.push(packet);
        }
        let (outcomes, written) = merge(&packets);
        let restored = uncut(&written);

        // The identification of a packet that may not be fragmented has no meaning (RFC 6864 section 4.1), and the
        // checksum of the header follows it.
        let meaning = |packet: &Vec<u8>| {
            let mut packet = packet.clone();
            if packet[6] & 0x40 != 0 {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
            packet
        };
        let flow = |packet: &Vec<u8>| (packet[9], packet[12..24].to_vec());
        let mut flows: Vec<_> = packets.iter().map(flow).collect();
        flows.sort();
        flows.dedup();
        for one in flows {
            let of_flow = |all: &[Vec<u8>]| {
                all.iter().filter(|packet| flow(packet) == one).map(meaning).collect::<Vec<_>>()
            };
            prop_assert_eq!(of_flow(&restored), of_flow(&packets));
        }
        prop_assert_eq!(restored.len(), packets.len());
        for (packet, outcome) in packets.iter().zip(&outcomes) {
            if defect(packet).is_some() {
                prop_assert!(matches!(outcome, Outcome::Apart(_)), "{outcome:?}");
                prop_assert!(restored.contains(packet), "a corrupt packet is passed on as it came");
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_passed_on_in_order(
        soup in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..60), shaped in any::<bool>()
    ) {
        let mut soup = soup;
        if shaped {
            for bytes in soup.iter_mut().filter(|bytes| bytes.len() > 20) {
                let total = (bytes.len() as u16).to_be_bytes();
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&total);
                bytes[6..8].fill(0);
                bytes[9] = if bytes[9] < 128 { 6 } else { 17 };
            }
        }
        let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
        let (mut count, mut octets) = (0, 0);
        let mut emit = |large: Emission<'_>| { count += large.count; octets += large.octets; };
        for bytes in &soup {
            coalescer.push(bytes, &mut emit);
        }
        coalescer.finish(&mut emit);
        prop_assert_eq!((count, octets), (soup.len(), soup.iter().map(Vec::len).sum()));
    }
}

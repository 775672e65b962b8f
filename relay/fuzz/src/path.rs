//! What comes from the network and from the kernel.

use std::net::Ipv4Addr;

use relay::{
    datapath::{
        Verdict,
        admission::Admission,
        coalesce::{Coalescer, Emission},
        icmp::{self, Audience},
        inbound::{self, Deliver},
        offload::TunOffload,
        outbound,
        routes::Routes,
        runs::Runs,
        segment::Plan,
        udp::batch,
    },
    wire::{
        icmpv4::Error,
        ipv4::{Malformed, Packet},
        virtio::{Gso, Header},
    },
};

use crate::{
    Input,
    judge::{header, is_fragment, malformed, seal, seal_transport, sum, transport_sum},
};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);
const HERE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

/// Octets of a run of datagrams, and how many there may be in one.
const RUN: (usize, usize) = (65_507, 64);

fn routes() -> Routes {
    let routes = Routes::new("10.5.0.0/16".parse().expect("a network"), 24);
    let lease = |subnet: &str, node| (subnet.parse().expect("a subnet"), Some(node));
    routes.apply(&[lease("10.5.17.0/24", NODE), lease("10.5.18.0/24", THIRD)], 1);
    routes
}

/// Which node leases this address in [`routes`].
fn leased(address: [u8; 4]) -> Option<Ipv4Addr> {
    match address {
        [10, 5, 17, _] => Some(NODE),
        [10, 5, 18, _] => Some(THIRD),
        _ => None,
    }
}

fn address(packet: &[u8], at: usize) -> [u8; 4] {
    [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]
}

fn total(packet: &[u8]) -> usize {
    usize::from(packet[2]) << 8 | usize::from(packet[3])
}

/// A packet is taken or refused for the reason that another reader of the header finds; the parts shown are those of
/// the packet; a lower TTL leaves a right checksum and all else alone.
pub fn ipv4_header(input: &[u8]) {
    let mut bytes = input.to_vec();
    let expected = malformed(&bytes);
    let named = |malformed| match malformed {
        Malformed::Short => "short",
        Malformed::Version => "version",
        Malformed::HeaderLength => "header length",
        Malformed::TotalLength => "total length",
        Malformed::Checksum => "header checksum",
    };
    let mut packet = match Packet::new_checked(&mut bytes[..]) {
        Ok(packet) => packet,
        Err(malformed) => return assert_eq!(expected, Some(named(malformed))),
    };
    assert_eq!(expected, None);
    assert_eq!(packet.as_bytes(), &input[..total(input)]);
    assert_eq!([packet.header(), packet.payload()].concat(), packet.as_bytes());
    assert_eq!(packet.header_length(), header(input));
    assert_eq!(packet.source().octets(), address(input, 12));
    assert_eq!(packet.destination().octets(), address(input, 16));
    assert_eq!(packet.is_fragment(), is_fragment(input));
    if packet.ttl() > 0 {
        packet.decrement_ttl();
        assert_lowered(input, &bytes);
    }
}

/// The same packet with its TTL lower by one.
fn assert_lowered(before: &[u8], after: &[u8]) {
    assert_eq!(after[8], before[8] - 1);
    assert_eq!(sum(&[&after[..header(after)]]), 0xffff);
    assert_eq!((&after[..8], after[9], &after[12..]), (&before[..8], before[9], &before[12..]));
}

/// Input: an octet of switches, the offload header, two octets of least length, the packet. A packet goes on when
/// there is nothing wrong with it and a route, as what its offload header asks for, whole and with right checksums.
pub fn outbound(input: &[u8]) {
    let mut input = Input(input);
    let switches = input.byte();
    let mut offload = Header::from_bytes(input.array());
    let least = usize::from(u16::from_be_bytes(input.array()));
    let mut packet = input.0.to_vec();
    // A long payload from a short input; seldom the longest, which takes long.
    let least = if switches & 8 != 0 { least } else { least % 4096 };
    let given = packet.len();
    packet.extend((given..least).map(|index| (index * 31 + index / 251) as u8));
    packet.truncate(0xffff);
    if switches & 1 != 0 && packet.len() >= 20 {
        packet[16..19].copy_from_slice(&[10, 5, 17]);
        seal(&mut packet);
    }
    if switches & 2 != 0 && malformed(&packet).is_none() {
        offload.needs_checksum = true;
        offload.checksum_start = header(&packet) as u16;
        offload.checksum_offset = if packet[9] == 6 { 16 } else { 6 };
    }

    let before = packet.clone();
    let (plan, verdict) = outbound::decide(&mut packet, &offload, &routes());
    assert!(plan.count() > 0);
    let node = match verdict {
        Verdict::Forward(node) => node,
        Verdict::Drop(_) => return assert_eq!(packet, before),
        Verdict::Reject(..) => {
            assert_eq!((malformed(&before), &packet), (None, &before));
            assert!(leased(address(&before, 16)).is_none() || before[8] <= 1);
            return;
        }
    };
    assert_eq!(malformed(&before), None);
    assert_eq!(Some(node), leased(address(&before, 16)));
    assert!(before[8] > 1);
    assert_lowered(&before, &packet);

    let mut runs = Runs::new(switches & 4 != 0);
    let mut segments = plan.segments(&packet);
    let mut written: Vec<Vec<u8>> = Vec::new();
    let mut waiting = 0;
    while let Some(length) = segments.write_next(runs.room()) {
        written.push(runs.room()[..length].to_vec());
        runs.push(node, length);
        if runs.is_full() {
            assert_carried(&runs, &written[waiting..], node);
            waiting = written.len();
            runs.clear();
        }
    }
    assert_carried(&runs, &written[waiting..], node);
    assert_eq!(plan.count(), written.len());
    assert_eq!(plan.octets(), written.iter().map(Vec::len).sum::<usize>());
    assert_cut(&packet[..total(&packet)], &offload, &written);
}

/// The runs have these datagrams, in order, and are of a kind that the kernel takes.
fn assert_carried(runs: &Runs, datagrams: &[Vec<u8>], node: Ipv4Addr) {
    let (buffer, runs) = runs.waiting();
    let mut rest = datagrams.iter();
    for run in runs {
        assert_eq!(run.to.node, node);
        assert!(run.count == 1 || (run.length <= RUN.0 && run.count <= RUN.1 && run.stride > 0));
        for place in run.datagrams() {
            assert_eq!(Some(&buffer[place]), rest.next().map(Vec::as_slice));
        }
    }
    assert_eq!(rest.next(), None);
}

/// `segments` are what the offload header asks to make of `packet`.
fn assert_cut(packet: &[u8], offload: &Header, segments: &[Vec<u8>]) {
    let field = usize::from(offload.checksum_start) + usize::from(offload.checksum_offset);
    let start = header(packet);
    if offload.gso == Gso::None {
        let [only] = segments else { panic!("{} packets", segments.len()) };
        let mut expected = packet.to_vec();
        if offload.needs_checksum {
            let sum = !sum(&[&packet[usize::from(offload.checksum_start)..]]);
            let udp = offload.checksum_offset == 6;
            let sum = if udp && sum == 0 { 0xffff } else { sum };
            expected[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(*only, expected);
        return;
    }
    let headers = start + if packet[9] == 6 { usize::from(packet[start + 12] >> 4) * 4 } else { 8 };
    let step = usize::from(offload.segment);
    let mut payload = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        assert_eq!((malformed(segment), total(segment)), (None, segment.len()));
        assert_eq!(transport_sum(segment), 0xffff);
        let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert_eq!(word(segment, 4), word(packet, 4).wrapping_add(index as u16));
        if packet[9] == 6 {
            let sequence = |packet: &[u8]| u32::from_be_bytes(address(packet, start + 4));
            assert_eq!(sequence(segment), sequence(packet).wrapping_add(payload.len() as u32));
            let (fin_psh, cwr) = (if last { 0x09 } else { 0 }, if index == 0 { 0x80 } else { 0 });
            assert_eq!(segment[start + 13], packet[start + 13] & (0x76 | fin_psh | cwr));
        } else {
            assert_ne!(word(segment, start + 6), 0, "it has a checksum");
            assert_eq!(usize::from(word(segment, start + 4)), segment.len() - start);
        }
        let carried = &segment[headers..];
        assert!(carried.len() == step || (last && carried.len() <= step));
        payload.extend_from_slice(carried);
    }
    assert_eq!(payload, packet[headers..]);
}

/// Input: an octet of switches, then packets: an octet of what to make, one of length, and its octets. A packet goes
/// on when there is nothing wrong with it and its addresses may; what is merged comes apart as it was, each flow in
/// order.
pub fn inbound(input: &[u8]) {
    let mut input = Input(input);
    let switches = input.byte();
    let offload = match switches & 3 {
        0 => TunOffload::None,
        1 => TunOffload::Tcp,
        _ => TunOffload::TcpAndUdp,
    };
    let peers_behind_nat = switches & 4 != 0;
    let own_subnet = "10.5.56.0/24".parse().expect("a subnet");
    let (routes, admission) = (routes(), Admission { own_subnet, peers_behind_nat });

    let mut sequences = [0xffff_ff00u32; 4];
    let mut arriving = Vec::new();
    while !input.is_empty() && arriving.len() < 300 {
        arriving.push(next_packet(&mut input, &mut sequences));
    }
    // As one run: of equal lengths, by padding that is to be cut off.
    let (mut octets, stride) = if switches & 8 != 0 {
        let stride = arriving.iter().map(Vec::len).max().unwrap_or(0);
        arriving.iter_mut().for_each(|packet| packet.resize(stride, 0xee));
        (arriving.concat(), stride)
    } else {
        (Vec::new(), 0)
    };
    let datagrams: Vec<&mut [u8]> = if octets.is_empty() {
        arriving.iter_mut().map(Vec::as_mut_slice).collect()
    } else {
        assert_eq!(batch::datagrams(&mut octets, stride).count(), arriving.len());
        batch::datagrams(&mut octets, stride).collect()
    };

    let (mut coalescer, mut admitted, mut restored) = (Coalescer::new(offload), Vec::new(), Vec::new());
    let mut emit = |large: Emission<'_>| {
        let cut = cut(large.packet, &large.offload);
        assert_eq!(large.count, cut.len());
        assert_eq!(large.octets, cut.iter().map(Vec::len).sum::<usize>());
        assert!(large.count == 1 || offload != TunOffload::None);
        restored.extend(cut);
    };
    for datagram in datagrams {
        let before = datagram.to_vec();
        match inbound::decide(datagram, NODE, &routes, &admission) {
            Verdict::Forward(Deliver { length }) => {
                assert_eq!((malformed(&before), total(&before)), (None, length));
                assert_let_in(&before, peers_behind_nat);
                assert_lowered(&before, datagram);
                admitted.push(datagram[..length].to_vec());
                coalescer.push(&datagram[..length], &mut emit);
            }
            Verdict::Drop(_) => assert_eq!(datagram, before),
            Verdict::Reject(..) => {
                assert_eq!(datagram, before);
                assert_let_in(&before, peers_behind_nat);
            }
        }
    }
    coalescer.finish(&mut emit);
    assert_restored(&admitted, &restored);
}

fn next_packet(input: &mut Input<'_>, sequences: &mut [u32; 4]) -> Vec<u8> {
    let (kind, length) = (input.byte(), usize::from(input.byte()));
    if kind & 3 == 0 {
        let mut packet = input.bytes(length).to_vec();
        if kind & 4 != 0 {
            seal(&mut packet);
        }
        return packet;
    }
    // One of four flows of TCP or UDP, its payload a pattern, and a change by two octets of input.
    let (flow, protocol) = (kind >> 2 & 3, if kind & 1 != 0 { 6 } else { 17 });
    let mut packet =
        vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 5, 17, 2, 10, 5, 56, flow, 1, 2, 3, 4];
    if protocol == 6 {
        let sequence = &mut sequences[usize::from(flow)];
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        *sequence = sequence.wrapping_add(length as u32);
    } else {
        packet.extend([0; 4]);
    }
    packet.extend((0..length).map(|index| (index * 7) as u8 ^ kind));
    let change = |packet: &mut Vec<u8>, by: [u8; 2]| {
        let at = usize::from(by[0]) % packet.len();
        packet[at] ^= by[1];
    };
    if kind & 0x10 != 0 {
        change(&mut packet, input.array());
    }
    seal(&mut packet);
    seal_transport(&mut packet);
    if kind & 0x20 != 0 {
        change(&mut packet, input.array());
    }
    packet
}

fn assert_let_in(packet: &[u8], peers_behind_nat: bool) {
    let (source, destination) = (address(packet, 12), address(packet, 16));
    match leased(source) {
        Some(owner) => assert!(peers_behind_nat || owner == NODE),
        None => assert_eq!(source, NODE.octets()),
    }
    assert_eq!(destination[..3], [10, 5, 56]);
}

fn cut(packet: &[u8], offload: &Header) -> Vec<Vec<u8>> {
    let checked = Packet::new_checked(packet).expect("what is written has a right header");
    let plan = Plan::new(&checked, offload).expect("what is written can be cut");
    let mut segments = plan.segments(packet);
    let mut room = vec![0; 0xffff];
    std::iter::from_fn(|| segments.write_next(&mut room).map(|length| room[..length].to_vec())).collect()
}

/// The same packets: those of one flow, and all fragments among them, in the same order.
fn assert_restored(packets: &[Vec<u8>], restored: &[Vec<u8>]) {
    assert_eq!(packets.len(), restored.len());
    let flow = |packet: &[u8]| {
        let start = header(packet);
        let ports = packet.get(start..start + 4).filter(|_| matches!(packet[9], 6 | 17));
        (packet[9], packet[12..20].to_vec(), ports.map(<[u8]>::to_vec))
    };
    let mut flows: Vec<_> = packets.iter().map(|packet| flow(packet)).collect();
    flows.sort();
    flows.dedup();
    for one in flows {
        let of_flow = |all: &[Vec<u8>]| -> Vec<_> {
            all.iter()
                .filter(|packet| is_fragment(packet) || flow(packet) == one)
                .map(|packet| meaning(packet))
                .collect()
        };
        assert_eq!(of_flow(packets), of_flow(restored));
    }
}

/// The packet without what may change: the identification where it has no meaning (RFC 6864 section 4.1), with the
/// header's checksum; which of its two forms a TCP checksum of zero has.
fn meaning(packet: &[u8]) -> Vec<u8> {
    let start = header(packet);
    let mut meaning = packet.to_vec();
    if packet[6] & 0x40 != 0 {
        meaning[4..6].fill(0);
        meaning[10..12].fill(0);
    }
    let field = start + 16..start + 18;
    if packet[9] == 6 && !is_fragment(packet) && packet.get(field.clone()) == Some(&[0xff, 0xff]) {
        meaning[field].fill(0);
    }
    meaning
}

/// Input: an octet of switches, then the packet. An error is a right datagram to the packet's source that quotes it;
/// there is none about an error, a fragment, or to one who may have nothing to do with it.
pub fn icmp_error(input: &[u8]) {
    let mut input = Input(input);
    let switches = input.byte();
    let mut packet = input.0.to_vec();
    if switches & 1 != 0 {
        seal(&mut packet);
    }
    let (error, first) = match switches >> 1 & 3 {
        0 => (Error::NetUnreachable, [3, 0, 0, 0]),
        1 => (Error::TimeExceeded, [11, 0, 0, 0]),
        _ => (Error::FragmentationNeeded { mtu: 1372 }, [3, 4, 0x05, 0x5c]),
    };
    let (own, routes) = (switches & 8 != 0, routes());
    let subnet = "10.5.56.0/24".parse().expect("a subnet");
    let audience = if own {
        Audience::Own { subnet, address: HERE, routes: &routes }
    } else {
        Audience::Admitted { subnet, routes: &routes }
    };
    let Ok(answer) = icmp::error_about(&packet, error, audience) else { return };
    assert_eq!(malformed(&packet), None);
    let (source, destination) = (address(&packet, 12), address(&packet, 16));
    assert_eq!(answer.destination().octets(), source);
    assert!(!matches!(source[0], 0 | 127 | 224..) && !matches!(destination[0], 224..=239 | 255));
    assert!(!own || source[..3] == [10, 5, 56] || source == HERE.octets());
    let leased = if own { [56].as_slice() } else { &[17, 18] };
    assert!(!leased.iter().any(|third| source == [10, 5, *third, 255]), "a broadcast source");
    let (start, end) = (header(&packet), total(&packet));
    assert!((u16::from(packet[6]) << 8 | u16::from(packet[7])) & 0x1fff == 0, "no later fragment");
    assert!(packet[9] != 1 || (end > start && !matches!(packet[start], 3 | 4 | 5 | 11 | 12)));

    let bytes = answer.as_bytes();
    assert!(bytes.len() <= 576 && bytes.len() == total(bytes));
    let (ip, message) = bytes.split_at(20);
    assert_eq!((ip[0], ip[1], ip[9], address(ip, 16)), (0x45, 0xc0, 1, source));
    assert_eq!(sum(&[message]), 0xffff);
    assert_eq!([message[0], message[1], message[6], message[7]], first);
    let quote = &message[8..];
    assert_eq!(quote, &packet[..end.min(548)]);
}

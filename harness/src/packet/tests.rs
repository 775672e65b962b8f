use std::sync::Arc;
use std::time::Duration;

use etherparse::icmpv4::DestUnreachableHeader;
use proptest::prelude::*;

use super::build::Build;
use super::*;
use crate::capture::frame::{Cast, Direction, Point, Role};

const C1: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);
const C2: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 2);
const A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const PORT: u16 = 8285;

fn frame(link: Link, octets: Vec<u8>) -> Frame {
    let point = Point { host: "a".into(), interface: "eth0".into(), role: Role::Underlay };
    Frame {
        point: Arc::new(point),
        direction: Direction::Out,
        cast: Cast::Host,
        at: Duration::ZERO,
        link,
        wire_len: u32::try_from(octets.len()).unwrap(),
        octets,
        checksum_pending: false,
    }
}

fn parse(octets: Vec<u8>) -> Ipv4 {
    match Packet::parse(&frame(Link::Ip, octets), PORT) {
        Packet::Ipv4(packet) => packet,
        other => panic!("{other:?}"),
    }
}

fn ping(len: usize) -> Build {
    Build::echo(C1, C2, false, 77, 1, &marker::encode(9, len))
}

#[test]
fn a_tunnelled_ping_is_typed_at_both_levels() {
    let outer = Build::udp((A, PORT), (B, PORT), &ping(56).ttl(62).octets());
    let outer = parse(outer.octets());
    assert_eq!(outer.transport_checksum(), Checksum::Good);
    let inner = outer.tunnelled().unwrap();
    assert_eq!((inner.source, inner.destination, inner.ttl, inner.len), (C1, C2, 62, 84));
    assert_eq!((inner.checksum, inner.transport_checksum()), (Checksum::Good, Checksum::Good));
    assert_eq!(outer.marker(), Some(9));
}

#[test]
fn a_quote_of_eight_octets_still_tells_id_and_seq() {
    let error = Build::time_exceeded(A, &ping(56), 28);
    let Payload::Icmp(Icmp::Error { kind, quote: Some(quote), checksum, .. }) = parse(error.octets()).payload
    else {
        panic!("not an error");
    };
    assert_eq!((kind, checksum), (icmp::Kind::TIME_EXCEEDED, Checksum::Good));
    assert_eq!((quote.source, quote.destination, quote.len), (C1, C2, 84));
    assert!(matches!(quote.payload, Payload::Icmp(Icmp::Echo { id: 77, seq: 1, marked: None, .. })));
    assert_eq!(quote.transport_checksum(), Checksum::Unverified);
}

#[test]
fn a_longer_quote_tells_the_marker_and_fragmentation_needed_the_mtu() {
    let why = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1472 };
    let error = parse(Build::unreachable(A, why, &ping(1473), 576).octets());
    assert_eq!(error.marker(), Some(9));
    assert!(matches!(error.payload, Payload::Icmp(Icmp::Error { mtu: Some(1472), .. })));
}

#[test]
fn bad_sums_are_found_at_both_levels_and_pending_ones_are_not_judged() {
    let inner = parse(Build::udp((A, PORT), (B, PORT), &ping(56).spoilt().octets()).octets());
    assert!(inner.innermost().transport_checksum().is_bad());
    let outer = Build::udp((A, 5000), (B, 5001), &[1, 2, 3, 4]).spoilt().octets();
    assert!(parse(outer.clone()).transport_checksum().is_bad());
    let pending = Frame { checksum_pending: true, ..frame(Link::Ip, outer) };
    let packet = Packet::parse(&pending, PORT);
    assert_eq!(packet.ipv4().unwrap().transport_checksum(), Checksum::Unverified);
    let mut header = ping(56).octets();
    header[10] ^= 1;
    assert!(parse(header).checksum.is_bad());
}

#[test]
fn fragments_tell_their_place_and_only_the_first_its_transport() {
    let parts: Vec<Ipv4> = ping(1972).fragments(1480).iter().map(|part| parse(part.octets())).collect();
    assert_eq!(parts[0].fragment, Some(Fragment { offset: 0, more: true }));
    assert_eq!(parts[1].fragment, Some(Fragment { offset: 1480, more: false }));
    assert_eq!((parts[0].marker(), parts[1].marker()), (Some(9), None));
    assert_eq!(parts[0].transport_checksum(), Checksum::Unverified);
    assert_eq!(parts[1].payload, Payload::Continuation);
}

#[test]
fn junk_after_a_tunnelled_packet_is_counted_but_ethernet_padding_is_not() {
    let inner = [ping(10).octets(), vec![0; 3]].concat();
    let outer = parse(Build::udp((A, PORT), (B, PORT), &inner).octets());
    assert_eq!((outer.trailing, outer.tunnelled().unwrap().trailing), (0, 3));
    let mut padded = vec![0; 12];
    padded.extend([8, 0]);
    padded.extend(ping(0).octets());
    padded.resize(60, 0);
    let packet = Packet::parse(&frame(Link::Ethernet, padded), PORT);
    assert_eq!(packet.ipv4().unwrap().trailing, 0);
}

#[test]
fn a_packet_in_a_vxlan_frame_is_opened_and_another_frame_is_none() {
    let vxlan = |flags: u8, ether_type: u16| {
        let header = [&[flags, 0, 0, 0, 0, 0, 1, 0][..], &[0; 12], &ether_type.to_be_bytes()].concat();
        parse(Build::udp((A, 50_000), (B, VXLAN_PORT), &[header, ping(56).octets()].concat()).octets())
    };
    let outer = vxlan(0x08, 0x0800);
    assert_eq!(outer.tunnelled().map(|inner| (inner.destination, inner.len)), Some((C2, 84)));
    assert_eq!(outer.marker(), Some(9));
    assert!(vxlan(0, 0x0800).tunnelled().is_none());
    assert!(vxlan(0x08, 0x0806).tunnelled().is_none());
}

#[test]
fn a_probe_in_junk_to_the_tunnel_port_is_known() {
    let junk = [&[0x41, 0, 0, 0][..], &marker::encode(5, 20)].concat();
    assert_eq!(parse(Build::udp((A, 999), (B, PORT), &junk).octets()).marker(), Some(5));
}

#[test]
fn tunnels_in_tunnels_are_opened_four_deep_and_no_deeper() {
    let nested =
        |levels| (0..levels).fold(ping(56), |inner, _| Build::udp((A, PORT), (B, PORT), &inner.octets()));
    assert_eq!(parse(nested(4).octets()).innermost().destination, C2);
    let deeper = parse(nested(5).octets());
    assert!(matches!(&deeper.innermost().payload, Payload::Udp(Udp { tunnelled: Tunnelled::Junk, .. })));
    assert_eq!(deeper.marker(), Some(9));
}

fn mutated_packet() -> impl Strategy<Value = Vec<u8>> {
    let seeds = vec![
        ping(56).octets(),
        Build::udp((A, PORT), (B, PORT), &ping(56).octets()).octets(),
        Build::time_exceeded(A, &ping(56), 60).octets(),
        Build::udp((A, PORT), (B, PORT), &Build::time_exceeded(A, &ping(56), 28).octets()).octets(),
    ];
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (proptest::sample::select(seeds), edits, any::<prop::sample::Index>()).prop_map(
        |(mut octets, edits, cut)| {
            for (at, octet) in edits {
                let at = at.index(octets.len());
                octets[at] = octet;
            }
            octets.truncate(cut.index(octets.len() + 1));
            octets
        },
    )
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(octets: Vec<u8>, ethernet: bool, pending: bool) {
        let link = if ethernet { Link::Ethernet } else { Link::Ip };
        let _ = Packet::parse(&Frame { checksum_pending: pending, ..frame(link, octets) }, PORT);
    }

    #[test]
    fn no_damage_makes_it_panic(octets in mutated_packet()) {
        let packet = Packet::parse(&frame(Link::Ip, octets), PORT);
        let _ = packet.ipv4().map(|packet| (packet.marker(), packet.payload_len()));
    }
}

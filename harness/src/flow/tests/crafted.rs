//! Packets that were built field by field, of which no socket of their sender's knows.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::icmpv4::DestUnreachableHeader;

use super::kit::*;
use crate::capture::frame::Cast;
use crate::flow::*;
use crate::packet::build::Build;
use crate::packet::craft::{self, Carries, Craft, Defects};

const OUTER_PORT: u16 = 50_001;
const ID: u16 = 9;

fn built(carries: Carries) -> Craft {
    Craft {
        source: C2,
        destination: C1,
        carries,
        size: 56,
        ttl: 64,
        tos: 0,
        id: ID,
        options: Vec::new(),
        fragment: None,
        defects: Defects::default(),
    }
}

fn echo() -> Craft {
    built(Carries::Echo { id: ID, seq: 1 })
}

/// The probe of a packet that b sends a in a datagram of its own.
fn from_b(craft: &Craft) -> Probe {
    let crafted = Crafted {
        marker: 1,
        id: craft.id,
        protocol: craft.carries.protocol(),
        outer: Some(OUTER_PORT),
        fingerprint: fingerprint(&craft.octets(1)),
        answerable: *craft == echo(),
    };
    Probe {
        from: "b".to_owned(),
        source: C2,
        to: C1,
        key: Key::Crafted(crafted),
        ..probe(craft.ttl, craft.size)
    }
}

fn in_datagram(inner: &[u8]) -> Vec<u8> {
    craft::datagram(SocketAddrV4::new(B, OUTER_PORT), SocketAddrV4::new(A, PORT), ID, 0, inner)
}

/// What a sees of a packet until its relay has it.
fn arrived(craft: &Craft) -> Recording {
    let datagram = in_datagram(&craft.octets(1));
    Recording::of(from_b(craft)).octets("b eth0 >", &datagram).octets("a eth0 <", &datagram)
}

fn delivered(craft: &Craft) -> Recording {
    let at = |ttl| Craft { ttl, ..craft.clone() }.octets(1);
    arrived(craft).octets("a flannel0 <", &at(63)).octets("a cni0 >", &at(62)).octets("c1 eth0 <", &at(62))
}

#[test]
fn an_answer_from_the_port_that_the_packet_came_from_is_none_of_its_ways() {
    let pong = Build::echo(C1, C2, true, 0, 1, &crate::packet::marker::encode(1, 56)).ttl(61);
    let datagram = Build::udp((A, PORT), (B, PORT), &pong.octets());
    let mut recording = delivered(&echo()).seen("a eth0 >", &datagram).seen("b eth0 <", &datagram);
    if let Key::Crafted(crafted) = &mut recording.observation.probe.key {
        crafted.outer = Some(PORT);
    }
    let journey = recording.journey();
    assert_eq!(Vec::from_iter(journey.flows.iter().map(|flow| flow.part)), [Part::Request, Part::Reply]);
    assert!(!journey.is_from_nowhere(), "{}", journey.ladder(&map()));
}

#[test]
fn the_answer_goes_to_whom_the_packet_named_and_that_is_enough() {
    let pong = Build::echo(C1, C2, true, ID, 1, &crate::packet::marker::encode(1, 56)).ttl(61);
    let datagram = Build::udp((A, PORT), (B, PORT), &pong.octets());
    let recording = delivered(&echo())
        .seen("a eth0 >", &datagram)
        .seen("b eth0 <", &datagram)
        .seen("b flannel0 <", &pong.clone().ttl(60))
        .seen("b cni0 >", &pong.clone().ttl(59))
        .seen("c2 eth0 <", &pong.clone().ttl(59));
    assert_text(
        &recording.ladder(),
        r"
[1] c2 > c1  icmp echo-request seq 1  ttl 64  len 84
    b   eth0      >          in udp b:other > a:8285 (ttl 64, len 112)
    a   eth0      <
    a   flannel0  <  ttl 63  out of udp
    a   cni0      >  ttl 62
    c1  eth0      <
    => delivered, answered by [2]

[2] c1 > c2  icmp echo-reply seq 1  ttl 61  len 84
    a   eth0      >          in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 60  out of udp
    b   cni0      >  ttl 59
    c2  eth0      <
    => received by c2
",
    );
    assert!(!recording.journey().is_unexplained());
}

#[test]
fn an_echo_request_that_its_kernel_does_not_answer_is_lost() {
    assert!(delivered(&echo()).journey().is_unexplained());
    let timestamp = built(Carries::Icmp { kind: 13 });
    let ladder = delivered(&timestamp).ladder();
    assert!(ladder.ends_with("=> received by c1\n"), "{ladder}");
}

#[test]
fn what_its_kernel_counts_explains_why_it_is_not_answered() {
    let bad = Craft { defects: Defects { inner_checksum: true, ..Defects::default() }, ..echo() };
    let recording = delivered(&bad).dropped("c1", Place::Kernel, "InCsumErrors");
    let ladder = recording.ladder();
    assert!(ladder.contains("len 84  BAD checksum\n"), "{ladder}");
    assert!(
        ladder.ends_with("    c1  kernel    x  InCsumErrors\n    => dropped in c1's kernel: InCsumErrors\n"),
        "{ladder}"
    );
}

#[test]
fn a_datagram_without_a_packet_is_known_by_its_port() {
    let short = Craft { defects: Defects { truncate_to: Some(19), ..Defects::default() }, ..echo() };
    assert_text(
        &arrived(&short).dropped("a", Place::RelayInbound, "short").ladder(),
        r"
[1] b > a  udp to port 8285 with no packet in it  ttl 64  len 47
    b   eth0      >
    a   eth0      <
    a   relay     x  short
    => dropped in a's relay: short
",
    );
}

#[test]
fn what_is_no_packet_is_seen_all_the_same_where_it_should_never_be() {
    let short = Craft { defects: Defects { header_length: Some(4), ..Defects::default() }, ..echo() };
    let recording = arrived(&short).octets("a flannel0 <", &short.octets(1));
    assert_text(
        &recording.ladder(),
        r"
[1] b > a  udp to port 8285 with no packet in it  ttl 64  len 112
    b   eth0      >
    a   eth0      <
    a   flannel0  <          NO IPv4 packet
    => lost after a flannel0 <: unexplained
",
    );
    assert!(arrived(&short).journey().is_unexplained());
}

#[test]
fn an_error_that_was_sent_is_not_taken_for_one_about_it() {
    let sent = built(Carries::Icmp { kind: 3 });
    let journey = delivered(&sent).journey();
    let parts: Vec<Part> = journey.flows.iter().map(|flow| flow.part).collect();
    assert_eq!(parts, [Part::Request]);

    let offender = Build::new(C2, C1, etherparse::IpNumber::ICMP, sent.octets(1)[20..].to_vec()).id(ID);
    let about = Build::unreachable(A_BRIDGE, DestUnreachableHeader::Network, &offender, 548);
    let ladder = delivered(&sent).seen("a cni0 >", &about).seen("c1 eth0 <", &about).ladder();
    assert!(ladder.contains("icmp net-unreachable  ttl 64  len 140  quotes [1] at ttl 64"), "{ladder}");
}

#[test]
fn a_matrix_tells_octets_and_what_the_packet_caused() {
    let mut matrix = Matrix::new(Cell::Octets);
    let junk = Craft {
        defects: Defects { trailing: 16, ..Defects::default() },
        ..built(Carries::Icmp { kind: 13 })
    };
    let at = |ttl| Craft { ttl, defects: Defects::default(), ..junk.clone() }.octets(1);
    let trimmed = arrived(&junk)
        .octets("a flannel0 <", &at(63))
        .octets("a cni0 >", &at(62))
        .octets("c1 eth0 <", &at(62));
    matrix.push(&map(), "junk", &trimmed.journey());
    let sent = Build::new(C2, C1, etherparse::IpNumber::ICMP, echo().octets(1).split_off(20)).id(ID);
    let error = Build::time_exceeded(A_TUNNEL, &sent, 28);
    let expired = arrived(&echo()).dropped("a", Place::RelayInbound, "ttl-expired").seen("a cni0 >", &error);
    matrix.push(&map(), "old", &expired.journey());
    assert_text(
        &matrix.to_string(),
        r"
probe  b       a       a           a       c1      answer                                                 ended
       eth0 >  eth0 <  flannel0 <  cni0 >  eth0 <
junk   100     100     84          84      84      nothing                                                received by c1
old    84      84      ·           ·       ·       time-exceeded to c2, lost after a cni0 >: unexplained  a relay: ttl-expired
",
    );
}

/// How an echo request of c1's to c2 ends that was last seen at a's bridge, in a frame for these.
fn end_at_bridge(craft: &Craft, cast: Cast) -> String {
    let octets = craft.octets(1);
    let probe = Probe { from: "c1".into(), source: craft.source, to: craft.destination, ..from_b(craft) };
    let recording = Recording::of(probe).octets("c1 eth0 >", &octets).octets("a cni0 <", &octets).cast(cast);
    recording.journey().request().unwrap().verdict.to_string()
}

#[test]
fn what_a_kernel_passes_over_uncounted_is_told_by_what_it_was() {
    let from = |source: [u8; 4]| Craft { source: source.into(), destination: C2, ..echo() };
    let own = from(C1.octets());
    assert_eq!(end_at_bridge(&own, Cast::Host), "lost after a cni0 <: unexplained");
    assert_eq!(end_at_bridge(&own, Cast::Many), "dropped in a's kernel: frame for many, not forwarded");
    for martian in [[127, 0, 0, 1], [0, 0, 0, 1], [224, 0, 0, 1], [255; 4], A.octets()] {
        assert_eq!(
            end_at_bridge(&from(martian), Cast::Host),
            "dropped in a's kernel: martian source",
            "{martian:?}"
        );
    }
    assert_eq!(end_at_bridge(&from([240, 0, 0, 1]), Cast::Host), "lost after a cni0 <: unexplained");
    // To itself from itself, and to nobody.
    let to = |source: Ipv4Addr, destination: Ipv4Addr| Craft { source, destination, ..echo() };
    let own_twice = end_at_bridge(&to(A_BRIDGE, A_TUNNEL), Cast::Host);
    assert_eq!(own_twice, "dropped in a's kernel: martian source");
    for nobody in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        assert_eq!(end_at_bridge(&to(C1, nobody), Cast::Host), "dropped in a's kernel: martian destination");
    }
    let group = Craft { destination: [224, 0, 0, 251].into(), ..own };
    assert_eq!(end_at_bridge(&group, Cast::Many), "dropped in a's kernel: group not joined");
}

#[test]
fn a_datagram_in_a_frame_for_another_host_is_not_its_relays() {
    let recording = arrived(&echo()).cast(Cast::Other).dropped("a", Place::RelayInbound, "bad-length");
    let journey = recording.journey();
    let verdict = &journey.request().unwrap().verdict;
    assert_eq!(verdict.to_string(), "dropped in a's kernel: frame for another host");
    assert_eq!(journey.unattributed.len(), 1);
}

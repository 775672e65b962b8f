use etherparse::icmpv4::DestUnreachableHeader;
use proptest::prelude::*;

use super::kit::*;
use crate::capture::frame::Frame;
use crate::flow::{Key, first_difference};
use crate::packet::build::Build;
use crate::packet::icmp::Kind;
use crate::packet::marker;

#[test]
fn a_ping_across_two_nodes_is_two_ladders() {
    let recording = Recording::of(probe(64, 56)).there(&ping(64, 56)).back(&pong(64, 56)).replied(60);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
    => delivered, answered by [2]

[2] c2 > c1  icmp echo-reply seq 1  ttl 64  len 84
    c2  eth0      >
    b   cni0      <
    b   flannel0  >  ttl 63
    b   eth0      >  ttl 62  in udp b:8285 > a:8285 (ttl 64, len 112)
    a   eth0      <
    a   flannel0  <  ttl 61  out of udp
    a   cni0      >  ttl 60
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn a_ping_on_one_node_passes_no_relay() {
    let mut probe = probe(64, 56);
    probe.to = C3;
    let there = ping(64, 56).destination(C3);
    let back = Build::echo(C3, C1, true, 77, 1, &marker::encode(1, 56));
    let recording = Recording::of(probe)
        .seen("c1 eth0 >", &there)
        .seen("c3 eth0 <", &there)
        .seen("c3 eth0 >", &back)
        .seen("c1 eth0 <", &back)
        .replied(64);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c3  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    c3  eth0      <
    => delivered, answered by [2]

[2] c3 > c1  icmp echo-reply seq 1  ttl 64  len 84
    c3  eth0      >
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn masquerading_shows_where_the_source_changes_and_where_the_reply_is_turned_back() {
    let (there, back) = (ping(64, 56).df(), pong(64, 56));
    let masked = |ttl: u8| there.clone().ttl(ttl).source(A_TUNNEL);
    let to_mask = |ttl: u8| back.clone().ttl(ttl).destination(A_TUNNEL);
    let recording = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &there)
        .seen("a cni0 <", &there)
        .seen("a flannel0 >", &masked(63))
        .tunnelled("a eth0 >", A, B, &masked(62))
        .tunnelled("b eth0 <", A, B, &masked(62))
        .seen("b flannel0 <", &masked(61))
        .seen("b cni0 >", &masked(60))
        .seen("c2 eth0 <", &masked(60))
        .seen("c2 eth0 >", &to_mask(64))
        .seen("b cni0 <", &to_mask(64))
        .seen("b flannel0 >", &to_mask(63))
        .tunnelled("b eth0 >", B, A, &to_mask(62))
        .tunnelled("a eth0 <", B, A, &to_mask(62))
        .seen("a flannel0 <", &to_mask(61))
        .seen("a cni0 >", &back.clone().ttl(60))
        .seen("c1 eth0 <", &back.clone().ttl(60))
        .replied(60);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84  df
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63  src c1 -> a/flannel0
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
    => delivered, answered by [2]

[2] c2 > a/flannel0  icmp echo-reply seq 1  ttl 64  len 84
    c2  eth0      >
    b   cni0      <
    b   flannel0  >  ttl 63
    b   eth0      >  ttl 62  in udp b:8285 > a:8285 (ttl 64, len 112)
    a   eth0      <
    a   flannel0  <  ttl 61  out of udp
    a   cni0      >  ttl 60  dst a/flannel0 -> c1
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn a_udp_probe_without_room_for_a_marker_is_known_by_its_ports() {
    let key = Key::Udp { source: 40_000, destination: 9000 };
    let there = Build::udp((C1, 40_000), (C2, 9000), &marker::encode(1, 4));
    let mut recording = Recording::of(crate::flow::Probe { key, ..probe(64, 4) }).there(&there);
    recording.observation.received = Some(1);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  udp to port 9000  ttl 64  len 32
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 60)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
    => delivered
",
    );
}

#[test]
fn timestamps_out_of_order_do_not_change_the_way() {
    let recording = Recording::of(probe(64, 56)).there(&ping(64, 56)).back(&pong(64, 56)).replied(60);
    let mut shuffled = recording.clone();
    for (at, frame) in shuffled.observation.frames.iter_mut().enumerate() {
        frame.at = std::time::Duration::from_micros((at as u64 * 7) % 16);
    }
    shuffled.observation.frames.reverse();
    assert_text(&shuffled.ladder(), &recording.ladder());
}

#[test]
fn fragments_are_one_hop_each_time_and_come_together_again() {
    let whole = ping(64, 2000).id(9);
    let at = |ttl: u8| whole.clone().ttl(ttl).fragments(1448);
    let mut recording = Recording::of(probe(64, 2000));
    for (place, ttl) in [("c1 eth0 >", 64), ("a cni0 <", 64), ("a flannel0 >", 63)] {
        for part in at(ttl) {
            recording = recording.seen(place, &part);
        }
    }
    for place in ["a eth0 >", "b eth0 <"] {
        for part in at(62) {
            recording = recording.tunnelled(place, A, B, &part);
        }
    }
    for part in at(61) {
        recording = recording.seen("b flannel0 <", &part);
    }
    let whole = whole.ttl(60);
    recording.observation.received = Some(1);
    assert_text(
        &recording.seen("b cni0 >", &whole).seen("c2 eth0 <", &whole).ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  fragments 1468+580
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 1496+608)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60  len 2028 reassembled
    c2  eth0      <
    => delivered
",
    );
}

#[test]
fn a_tunnel_datagram_in_fragments_is_one_hop() {
    let ping = ping(64, 1472);
    let outer = Build::udp((A, PORT), (B, PORT), &ping.clone().ttl(62).octets()).id(4);
    let mut recording = Recording::of(probe(64, 1472))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(63));
    for place in ["a eth0 >", "b eth0 <"] {
        for part in outer.fragments(1480) {
            recording = recording.seen(place, &part);
        }
    }
    recording.observation.received = Some(1);
    let recording = recording
        .seen("b flannel0 <", &ping.clone().ttl(61))
        .seen("b cni0 >", &ping.clone().ttl(60))
        .seen("c2 eth0 <", &ping.ttl(60));
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 1500
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, fragments 1500+48)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
    => delivered
",
    );
}

#[test]
fn a_bad_checksum_is_shown_where_it_appears() {
    let (good, bad) = (ping(64, 56), ping(64, 56).spoilt());
    let mut recording = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &good)
        .seen("a cni0 <", &good)
        .seen("a flannel0 >", &good.clone().ttl(63))
        .tunnelled("a eth0 >", A, B, &good.clone().ttl(62))
        .tunnelled("b eth0 <", A, B, &good.clone().ttl(62))
        .seen("b flannel0 <", &bad.clone().ttl(61))
        .seen("b cni0 >", &bad.clone().ttl(60))
        .seen("c2 eth0 <", &bad.clone().ttl(60));
    recording.observation.received = Some(0);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 61  BAD checksum  payload ALTERED from octet 55  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
    => lost after c2 eth0 <: unexplained
",
    );
}

#[test]
fn a_packet_sent_twice_shows_its_copy_as_a_branch() {
    let ping = ping(64, 56);
    let mut recording = Recording::of(probe(64, 56))
        .there(&ping)
        .tunnelled("a eth0 >", A, B, &ping.clone().ttl(62))
        .tunnelled("b eth0 <", A, B, &ping.clone().ttl(62))
        .seen("b flannel0 <", &ping.clone().ttl(61))
        .seen("b cni0 >", &ping.clone().ttl(60))
        .seen("c2 eth0 <", &ping.clone().ttl(60));
    recording.observation.received = Some(2);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
  + again, from a flannel0 >
  | a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
  | b   eth0      <
  | b   flannel0  <  ttl 61  out of udp
  | b   cni0      >  ttl 60
  | c2  eth0      <
  | => reached c2
    => delivered 2 times
",
    );
}

#[test]
fn a_flooded_copy_is_shown_to_be_for_another() {
    let there = ping(64, 56).destination(C3);
    let mut recording = Recording::of(crate::flow::Probe { to: C3, ..probe(64, 56) })
        .seen("c1 eth0 >", &there)
        .seen("a cni0 <", &there)
        .seen("c3 eth0 <", &there);
    recording.observation.received = Some(1);
    recording.observation.dropped.clear();
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c3  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    c3  eth0      <
  + also, from c1 eth0 >
  | a   cni0      <
  | => not for a
    => delivered
",
    );
}

#[test]
fn a_packet_too_big_for_the_next_hop_is_rejected_with_its_mtu() {
    let ping = ping(64, 1445).df();
    let why = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1472 };
    let error = Build::unreachable(A_BRIDGE, why, &ping, 548);
    let recording = Recording::of(probe(64, 1445))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a cni0 >", &error)
        .seen("c1 eth0 <", &error)
        .refused(Kind::FRAGMENTATION_NEEDED, A_BRIDGE);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 1473  df
    c1  eth0      >
    a   cni0      <
    a   kernel    x  fragmentation-needed
    => rejected by [2]

[2] a/cni0 > c1  icmp fragmentation-needed mtu 1472  ttl 64  len 576  quotes [1] at ttl 64
    a   kernel    !
    a   cni0      >
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn a_stranger_sends_into_the_tunnel_twice() {
    let stranger = std::net::Ipv4Addr::new(192, 168, 0, 99);
    let ping = ping(64, 56);
    let recording = Recording::of(probe(64, 56))
        .there(&ping)
        .tunnelled("b eth0 <", stranger, B, &ping)
        .dropped("b", crate::flow::Place::RelayInbound, "unknown-sender")
        .back(&pong(64, 56))
        .replied(60);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
  + again, from nowhere
  | b   eth0      <          in udp 192.168.0.99:8285 > b:8285 (ttl 64, len 112)
  | b   relay     x  unknown-sender
  | => dropped in b's relay: unknown-sender
    => delivered, answered by [2]

[2] c2 > c1  icmp echo-reply seq 1  ttl 64  len 84
    c2  eth0      >
    b   cni0      <
    b   flannel0  >  ttl 63
    b   eth0      >  ttl 62  in udp b:8285 > a:8285 (ttl 64, len 112)
    a   eth0      <
    a   flannel0  <  ttl 61  out of udp
    a   cni0      >  ttl 60
    c1  eth0      <
    => delivered
",
    );
}

proptest! {
    #[test]
    fn no_frame_of_a_probe_is_swallowed_whatever_was_missed_or_reordered(
        times in proptest::collection::vec(0u64..40, 21),
        kept in proptest::collection::vec(0usize..3, 21),
    ) {
        let ping = ping(64, 56);
        let stranger = std::net::Ipv4Addr::new(192, 168, 0, 99);
        let error = Build::time_exceeded(A_BRIDGE, &ping, 84);
        let mut recording = Recording::of(probe(64, 56))
            .there(&ping)
            .back(&pong(64, 56))
            .tunnelled("b eth0 <", stranger, B, &ping)
            .seen("a flannel0 <", &error)
            .seen("a cni0 >", &error)
            .seen("c1 eth0 <", &error)
            .seen("c3 eth0 <", &ping);
        let frames = std::mem::take(&mut recording.observation.frames);
        for ((frame, at), copies) in frames.into_iter().zip(times).zip(kept) {
            for copy in 0..copies as u64 {
                let at = std::time::Duration::from_micros(at + copy);
                recording.observation.frames.push(Frame { at, ..frame.clone() });
            }
        }
        let journey = recording.journey();
        let shown: usize = journey
            .flows
            .iter()
            .map(|flow| flow.hops.len() + flow.branches.iter().map(|branch| branch.hops.len()).sum::<usize>())
            .sum();
        prop_assert_eq!(shown, recording.observation.frames.len());
        let printed = journey.ladder(&map());
        let hops = printed.lines().filter(|line| line.contains("  <") || line.contains("  >")).count();
        prop_assert_eq!(hops, shown);
        prop_assert_eq!(first_difference(&printed, &printed), None);
    }
}

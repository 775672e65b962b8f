use etherparse::icmpv4::DestUnreachableHeader;

use super::kit::*;
use crate::flow::{Fault, FaultPlace, IcmpSent, Place};
use crate::packet::build::Build;
use crate::packet::icmp::Kind;

#[test]
fn a_ttl_that_ends_in_the_sending_relay_is_answered_by_it() {
    let ping = ping(2, 56);
    let error = Build::time_exceeded(A_BRIDGE, &ping.clone().ttl(1), 84);
    let mut recording = Recording::of(probe(2, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(1))
        .seen("a flannel0 <", &error)
        .seen("a cni0 >", &error.clone().ttl(63))
        .seen("c1 eth0 <", &error.clone().ttl(63))
        .dropped("a", Place::RelayOutbound, "ttl-expired")
        .refused(Kind::TIME_EXCEEDED, A_BRIDGE);
    recording.observation.icmp_sent =
        vec![IcmpSent { host: "a".to_owned(), name: "time-exceeded".to_owned(), count: 1 }];
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 2  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 1
    a   relay     x  ttl-expired
    => rejected by [2]

[2] a/cni0 > c1  icmp time-exceeded  ttl 64  len 112  quotes [1] at ttl 1
    a   relay     !
    a   flannel0  <
    a   cni0      >  ttl 63
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn a_quote_is_compared_with_the_packet_wherever_that_was() {
    let ping = ping(2, 56);
    let quoting = |quoted: &Build| {
        Recording::of(probe(2, 56))
            .seen("c1 eth0 >", &ping)
            .seen("a flannel0 >", &ping.clone().ttl(1))
            .seen("a flannel0 <", &Build::time_exceeded(A_BRIDGE, quoted, 84))
            .ladder()
    };
    assert!(quoting(&ping.clone().ttl(1)).contains("quotes [1] at ttl 1\n"));
    assert!(quoting(&ping.clone().ttl(0)).contains("quotes [1] at ttl 0\n"));
    assert!(quoting(&ping.clone().ttl(3)).contains("quotes [1] at ttl 3  with ANOTHER ttl\n"));
    let other = quoting(&ping.clone().ttl(1).tos(4));
    assert!(other.contains("quotes [1] at ttl 1  with ANOTHER tos\n"), "{other}");
}

#[test]
fn a_host_that_cannot_answer_yet_explains_why_it_does_not() {
    let ping = ping(64, 56);
    let mut recording = Recording::of(probe(64, 56)).there(&ping);
    assert!(recording.journey().is_unexplained());
    let fault = Fault { host: "c2".to_owned(), place: FaultPlace::Host, what: "no address yet".to_owned() };
    recording.observation.faults = vec![fault];
    let ladder = recording.ladder();
    assert!(ladder.contains("=> lost after c2 eth0 <: no address yet"), "{ladder}");
}

#[test]
fn a_device_that_goes_away_explains_what_its_kernel_was_about_to_give_it() {
    let mut recording =
        Recording::of(probe(64, 56)).seen("c1 eth0 >", &ping(64, 56)).seen("a cni0 <", &ping(64, 56));
    let what = "overlay's device going away".to_owned();
    recording.observation.faults = vec![Fault { host: "b".to_owned(), place: FaultPlace::Device, what }];
    assert!(recording.journey().is_unexplained());
    recording.observation.faults[0].host = "a".to_owned();
    let ladder = recording.ladder();
    assert!(ladder.contains("=> lost after a cni0 <: overlay's device going away"), "{ladder}");
}

#[test]
fn each_packet_of_a_recording_is_noted_with_its_flow_and_hop() {
    let ping = ping(2, 56);
    let recording = Recording::of(probe(2, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(1))
        .dropped("a", Place::RelayOutbound, "ttl-expired");
    let notes = recording.journey().notes();
    let notes: Vec<String> =
        notes.iter().map(|note| format!("{} {}", note.point.interface, note.text)).collect();
    let last = "flannel0 [1] hop 3: dropped in a's relay: ttl-expired";
    assert_eq!(notes, ["eth0 [1] hop 1", "cni0 [1] hop 2", last]);
}

#[test]
fn a_ttl_that_ends_in_the_receiving_relay_is_answered_through_the_tunnel() {
    let ping = ping(3, 56);
    let error = Build::time_exceeded(B_TUNNEL, &ping.clone().ttl(1), 28);
    let recording = Recording::of(probe(3, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(2))
        .tunnelled("a eth0 >", A, B, &ping.clone().ttl(1))
        .tunnelled("b eth0 <", A, B, &ping.clone().ttl(1))
        .tunnelled("b eth0 >", B, A, &error)
        .tunnelled("a eth0 <", B, A, &error)
        .seen("a flannel0 <", &error.clone().ttl(63))
        .seen("a cni0 >", &error.clone().ttl(62))
        .seen("c1 eth0 <", &error.clone().ttl(62))
        .dropped("b", Place::RelayInbound, "ttl-expired")
        .refused(Kind::TIME_EXCEEDED, B_TUNNEL);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 3  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 2
    a   eth0      >  ttl 1   in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   relay     x  ttl-expired
    => rejected by [2]

[2] b/flannel0 > c1  icmp time-exceeded  ttl 64  len 56  quotes [1] at ttl 1
    b   relay     !
    b   eth0      >          in udp b:8285 > a:8285 (ttl 64, len 84)
    a   eth0      <
    a   flannel0  <  ttl 63  out of udp
    a   cni0      >  ttl 62
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn a_ttl_that_ends_in_the_kernel_is_answered_by_the_kernel() {
    let ping = ping(1, 56);
    let error = Build::time_exceeded(A_BRIDGE, &ping, 84);
    let recording = Recording::of(probe(1, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a cni0 >", &error)
        .seen("c1 eth0 <", &error)
        .refused(Kind::TIME_EXCEEDED, A_BRIDGE);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 1  len 84
    c1  eth0      >
    a   cni0      <
    a   kernel    x  time-exceeded
    => rejected by [2]

[2] a/cni0 > c1  icmp time-exceeded  ttl 64  len 112  quotes [1] at ttl 1
    a   kernel    !
    a   cni0      >
    c1  eth0      <
    => delivered
",
    );
}

#[test]
fn an_error_that_never_arrives_is_told_as_such() {
    let ping = ping(64, 56);
    let error = Build::unreachable(A_TUNNEL, DestUnreachableHeader::Network, &ping.clone().ttl(63), 28);
    let recording = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(63))
        .seen("a flannel0 <", &error)
        .dropped("a", Place::RelayOutbound, "no-route")
        .dropped("a", Place::Kernel, "martian-source");
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   relay     x  no-route
    => rejected by [2], which never arrived

[2] a/flannel0 > c1  icmp net-unreachable  ttl 64  len 56  quotes [1] at ttl 63
    a   relay     !
    a   flannel0  <
    a   kernel    x  martian-source
    => dropped in a's kernel: martian-source
",
    );
}

#[test]
fn a_drop_in_the_relay_names_its_reason_and_what_is_left_over_is_told() {
    let ping = ping(64, 56);
    let recording = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(63))
        .dropped("a", Place::RelayOutbound, "no-route")
        .dropped("b", Place::RelayInbound, "unknown-sender");
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   relay     x  no-route
    => dropped in a's relay: no-route

unattributed: 1 dropped in b's relay: unknown-sender
",
    );
    assert!(!recording.journey().is_unexplained());
}

#[test]
fn a_loss_without_a_cause_is_unexplained() {
    let ping = ping(64, 56);
    let mut recording = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(63))
        .tunnelled("a eth0 >", A, B, &ping.clone().ttl(62));
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    => lost after a eth0 >: unexplained
",
    );
    assert!(recording.journey().is_unexplained());

    let fault =
        Fault { host: "b".to_owned(), place: FaultPlace::Underlay, what: "b's link is down".to_owned() };
    recording.observation.faults.push(fault);
    assert!(recording.ladder().ends_with("=> lost after a eth0 >: b's link is down\n"));
    assert!(!recording.journey().is_unexplained());
}

#[test]
fn a_daemon_that_counts_nothing_is_to_blame_for_what_it_had_last_and_for_nothing_else() {
    let ping = ping(64, 56);
    let sent = Recording::of(probe(64, 56)).seen("c1 eth0 >", &ping).seen("a cni0 <", &ping);
    let read = sent.clone().seen("a flannel0 >", &ping.clone().ttl(63));
    let on_underlay = read.clone().tunnelled("a eth0 >", A, B, &ping.clone().ttl(62));
    let received = on_underlay.clone().tunnelled("b eth0 <", A, B, &ping.clone().ttl(62));
    let verdict = |recording: &Recording| {
        let mut journey = recording.journey();
        journey.blame_daemons("it counts no losses");
        (journey.request().unwrap().verdict.to_string(), journey.is_open())
    };
    let blamed = |after: &str| (format!("lost after {after}: it counts no losses"), false);
    let unexplained = |after: &str| (format!("lost after {after}: unexplained"), true);
    assert_eq!(verdict(&sent), unexplained("a cni0 <"));
    assert_eq!(verdict(&read), blamed("a flannel0 >"));
    assert_eq!(verdict(&on_underlay), unexplained("a eth0 >"));
    assert_eq!(verdict(&received), blamed("b eth0 <"));

    let part = &ping.clone().id(9).fragments(40)[0];
    assert_eq!(verdict(&sent.clone().seen("a flannel0 >", part)), blamed("a flannel0 >"));
    let datagram = Build::udp((A, PORT), (B, PORT), &ping.octets()).id(4);
    let first = &datagram.fragments(64)[0];
    assert_eq!(verdict(&on_underlay.seen("b eth0 <", first)), unexplained("b eth0 <"));
}

#[test]
fn a_cut_explains_what_is_lost_between_the_hosts_that_it_parts_and_nothing_else() {
    let cut = |from: &str, to: &str| Fault {
        host: from.to_owned(),
        place: FaultPlace::Toward(to.to_owned()),
        what: format!("cut from {to}"),
    };
    let ladder = |fault: Fault, last: &str| {
        let mut recording = Recording::of(probe(64, 56)).seen("c1 eth0 >", &ping(64, 56));
        if last == "a eth0 >" {
            recording = recording
                .seen("a cni0 <", &ping(64, 56))
                .seen("a flannel0 >", &ping(63, 56))
                .tunnelled("a eth0 >", A, B, &ping(62, 56));
        }
        recording.observation.faults.push(fault);
        recording.ladder().lines().last().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(ladder(cut("a", "b"), "a eth0 >"), "=> lost after a eth0 >: cut from b");
    assert_eq!(ladder(cut("b", "a"), "a eth0 >"), "=> lost after a eth0 >: unexplained");
    assert_eq!(ladder(cut("a", "etcd"), "a eth0 >"), "=> lost after a eth0 >: unexplained");
    assert_eq!(ladder(cut("a", "b"), "c1 eth0 >"), "=> lost after c1 eth0 >: unexplained");

    let mut unseen = Recording::of(probe(64, 56));
    unseen.observation.faults.push(cut("a", "b"));
    assert!(unseen.ladder().ends_with("=> lost before it was seen: unexplained\n"));
}

#[test]
fn a_probe_that_nobody_saw_is_told_by_what_it_was() {
    let recording = Recording::of(probe(64, 56));
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    => lost before it was seen: unexplained
",
    );
}

#[test]
fn what_never_left_its_sender_is_lost_by_a_fault_of_the_senders_own() {
    let mut recording = Recording::of(probe(64, 56));
    for (host, told) in [("b", "unexplained"), ("a", "unexplained"), ("c1", "broken")] {
        let fault = Fault { host: host.to_owned(), place: FaultPlace::Host, what: "broken".to_owned() };
        recording.observation.faults.push(fault);
        let ladder = recording.ladder();
        assert!(ladder.ends_with(&format!("=> lost before it was seen: {told}\n")), "{host}: {ladder}");
    }
}

#[test]
fn of_a_packet_in_fragments_as_many_are_dropped_as_there_are() {
    let parts = ping(2, 2000).id(9).fragments(1448);
    let sent = parts.iter().fold(Recording::of(probe(2, 2000)), |recording, part| {
        let recording = recording.seen("c1 eth0 >", part).seen("a cni0 <", part);
        recording.seen("a flannel0 >", &part.clone().ttl(1))
    });
    let dropped = |times: usize| {
        (0..times)
            .fold(sent.clone(), |recording, _| recording.dropped("a", Place::RelayOutbound, "ttl-expired"))
    };
    assert!(!dropped(2).journey().is_open());
    assert_eq!(dropped(3).journey().unattributed.len(), 1, "no fragment is left for the third");
}

#[test]
fn a_reply_that_does_not_come_back_leaves_the_request_delivered() {
    let pong = pong(64, 56);
    let recording = Recording::of(probe(64, 56))
        .there(&ping(64, 56))
        .seen("c2 eth0 >", &pong)
        .seen("b cni0 <", &pong)
        .seen("b flannel0 >", &pong.clone().ttl(63))
        .dropped("b", Place::RelayOutbound, "no-route");
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
    b   relay     x  no-route
    => dropped in b's relay: no-route
",
    );
}

#[test]
fn a_loop_is_followed_to_its_end() {
    let ping = ping(8, 56);
    let mut recording = Recording::of(probe(8, 56)).seen("c1 eth0 >", &ping).seen("a cni0 <", &ping);
    let mut ttl = 7;
    for (near, far, from, to) in [("a", "b", A, B), ("b", "a", B, A)] {
        recording = recording
            .seen(&format!("{near} flannel0 >"), &ping.clone().ttl(ttl))
            .tunnelled(&format!("{near} eth0 >"), from, to, &ping.clone().ttl(ttl - 1))
            .tunnelled(&format!("{far} eth0 <"), from, to, &ping.clone().ttl(ttl - 1))
            .seen(&format!("{far} flannel0 <"), &ping.clone().ttl(ttl - 2));
        ttl -= 3;
    }
    let recording = recording.seen("a flannel0 >", &ping.clone().ttl(1)).dropped(
        "a",
        Place::RelayOutbound,
        "ttl-expired",
    );
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 8  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 7
    a   eth0      >  ttl 6   in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 5   out of udp
    b   flannel0  >  ttl 4
    b   eth0      >  ttl 3   in udp b:8285 > a:8285 (ttl 64, len 112)
    a   eth0      <
    a   flannel0  <  ttl 2   out of udp
    a   flannel0  >  ttl 1
    a   relay     x  ttl-expired
    => dropped in a's relay: ttl-expired
",
    );
}

#[test]
fn a_peer_without_a_relay_tells_the_node_and_not_the_sender() {
    let ping = ping(64, 56);
    let outer = Build::udp((A, PORT), (B, PORT), &ping.clone().ttl(62).octets());
    let error = Build::unreachable(B, DestUnreachableHeader::Port, &outer, 548);
    let recording = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &ping)
        .seen("a cni0 <", &ping)
        .seen("a flannel0 >", &ping.clone().ttl(63))
        .seen("a eth0 >", &outer)
        .seen("b eth0 <", &outer)
        .seen("b eth0 >", &error)
        .seen("a eth0 <", &error);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   kernel    x  port-unreachable
    => dropped in b's kernel: port-unreachable

[2] b > a  icmp port-unreachable  ttl 64  len 140  quotes [1] in udp at ttl 62
    b   kernel    !
    b   eth0      >
    a   eth0      <
    => received by a
",
    );
}

#[test]
fn an_error_that_only_the_socket_knows_is_the_senders_own() {
    let recording = Recording::of(probe(64, 56)).refused(Kind { kind: 3, code: 1 }, C1);
    assert_text(
        &recording.ladder(),
        r"
[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    => rejected at the sender itself: host-unreachable from c1
",
    );
}

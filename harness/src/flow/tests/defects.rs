use super::kit::*;
use crate::flow::*;
use crate::packet::build::Build;
use crate::packet::marker;

/// A ping in two fragments, of which b's relay makes the second by `spoil`, and its tunnel datagram by `wrap`.
fn in_fragments(spoil: fn(Build) -> Build, wrap: fn(Build) -> Build) -> Journey {
    let at = |ttl: u8| ping(64, 2000).id(9).ttl(ttl).fragments(1448);
    let mut recording = Recording::of(probe(64, 2000));
    for part in at(63) {
        recording = recording.seen("a flannel0 >", &part);
    }
    for place in ["a eth0 >", "b eth0 <"] {
        for (part, wrap) in at(62).into_iter().zip([|whole| whole, wrap]) {
            let outer = wrap(Build::udp((A, PORT), (B, PORT), &part.octets()));
            recording = recording.seen(place, &outer);
        }
    }
    for (part, spoil) in at(61).into_iter().zip([|whole| whole, spoil]) {
        recording = recording.seen("b flannel0 <", &spoil(part));
    }
    recording.observation.received = Some(1);
    recording.journey()
}

#[test]
fn later_fragments_are_compared_with_the_first() {
    let told = |spoil: fn(Build) -> Build, wrap: fn(Build) -> Build| {
        let journey = in_fragments(spoil, wrap);
        let ladder = journey.ladder(&map());
        let lines: Vec<&str> = ladder.lines().filter(|line| line.contains("from octet")).collect();
        (lines.join("\n"), journey.damage().join("\n"))
    };
    let same: fn(Build) -> Build = |part| part;
    assert_eq!(told(same, same), (String::new(), String::new()));
    let (line, damage) = told(|part| part.ttl(60).tos(0xb8), same);
    assert_eq!(line, "    b   flannel0  <  ttl 61  out of udp  from octet 1448 ttl -1, dscp ef");
    assert_eq!(damage, "from octet 1448 ttl -1, dscp ef at b flannel0 <");
    let (line, _) = told(same, |outer| outer.ttl(65));
    assert!(line.ends_with("(ttl 64, len 1496+608)  from octet 1448 in udp ttl +1"), "{line}");
}

#[test]
fn what_nobody_has_a_reason_to_rewrite_is_compared() {
    let ladder = |was: &Build, is: &Build| {
        let mut recording = Recording::of(probe(64, 56)).seen("a cni0 <", was).seen("a flannel0 >", is);
        recording.observation.received = Some(1);
        recording.ladder()
    };
    let ping = ping(64, 56).id(7);
    assert!(!ladder(&ping, &ping).contains("ANOTHER"));
    let text = ladder(&ping, &ping.clone().id(8));
    assert!(text.contains("a   flannel0  >          ANOTHER id\n"), "{text}");
    let translated = Build::echo(A_BRIDGE, C2, false, 78, 1, &marker::encode(1, 56)).id(7);
    assert!(!ladder(&ping, &translated).contains("ANOTHER"));
}

#[test]
fn a_checksum_that_is_taken_off_is_told() {
    let good = Build::udp((C1, 40_000), (C2, 9000), &marker::encode(1, 56));
    let mut bare = good.clone();
    bare.body[6..8].fill(0);
    let probe = Probe { key: Key::Udp { source: 40_000, destination: 9000 }, ..probe(64, 56) };
    let ladder = |first: &Build, second: &Build| {
        let recording = Recording::of(probe.clone());
        recording.seen("c1 eth0 >", first).seen("a cni0 <", second).ladder()
    };
    assert!(!ladder(&good, &good).contains("NO checksum"));
    assert!(ladder(&good, &bare).contains("a   cni0      <          NO checksum\n"));
    assert!(ladder(&bare, &bare).contains("len 84  NO checksum\n"));
}

#[test]
fn a_quoted_checksum_is_compared_once_it_was_filled_in() {
    let ping = ping(64, 56);
    let mut bare = ping.clone();
    bare.body[2..4].fill(0);
    let ladder = |quoted: &Build, pending: bool| {
        let mut recording = Recording::of(probe(64, 56)).seen("c1 eth0 >", &ping);
        recording.observation.frames[0].checksum_pending = pending;
        recording.seen("a cni0 >", &Build::time_exceeded(A_BRIDGE, quoted, 84)).ladder()
    };
    assert!(!ladder(&ping, false).contains("ANOTHER"));
    assert!(ladder(&bare, false).contains("quotes [1] at ttl 64  with ANOTHER transport checksum\n"));
    assert!(!ladder(&bare, true).contains("ANOTHER"));
}

#[test]
fn what_arrived_and_was_recorded_nowhere_proves_nothing() {
    let journey = |recording: Recording| {
        let mut recording = recording;
        recording.observation.received = Some(1);
        recording.journey()
    };
    assert!(journey(Recording::of(probe(64, 56))).is_unrecorded(&map()));
    assert!(!journey(Recording::of(probe(64, 56)).there(&ping(64, 56))).is_unrecorded(&map()));
    assert!(!journey(Recording::of(Probe { to: C1, ..probe(64, 56) })).is_unrecorded(&map()));
}

#[test]
fn damage_of_errors_about_lost_pings_of_a_stream_is_told() {
    let ping = ping(2, 56);
    let summary = |quoted: &Build| {
        let recording = Recording::of(probe(2, 56))
            .seen("c1 eth0 >", &ping)
            .seen("a flannel0 >", &ping.clone().ttl(1))
            .dropped("a", Place::RelayOutbound, "ttl-expired")
            .seen("a flannel0 <", &Build::time_exceeded(A_BRIDGE, quoted, 84));
        Summary::new(&map(), &[recording.journey()]).text(false)
    };
    assert!(!summary(&ping.clone().ttl(1)).contains("wrong"));
    let text = summary(&ping.clone().ttl(1).tos(4));
    let told = "wrong with packets of no path: time-exceeded from a: quotes with ANOTHER tos\n";
    assert!(text.contains(told), "{text}");
}

use etherparse::icmpv4::DestUnreachableHeader;

use super::kit::*;
use crate::flow::*;
use crate::packet::build::Build;
use crate::packet::icmp::Kind;

/// A ping with too small a TTL, as far as it gets, answered from where it ends; compatible with two relays that
/// decrement.
fn expiring(ttl: u8) -> Recording {
    let ping = ping(ttl, 56);
    let at = |ttl: u8| ping.clone().ttl(ttl);
    let recording = Recording::of(probe(ttl, 56)).seen("c1 eth0 >", &ping).seen("a cni0 <", &ping);
    let recording = match ttl {
        1 => recording,
        2 => recording.seen("a flannel0 >", &at(1)).dropped("a", Place::RelayOutbound, "ttl-expired"),
        _ => recording
            .seen("a flannel0 >", &at(2))
            .tunnelled("a eth0 >", A, B, &at(1))
            .tunnelled("b eth0 <", A, B, &at(1))
            .dropped("b", Place::RelayInbound, "ttl-expired"),
    };
    let from = if ttl < 3 { A_BRIDGE } else { B_TUNNEL };
    let error = Build::time_exceeded(from, &at(1), 84);
    recording.seen("a cni0 >", &error).seen("c1 eth0 <", &error).refused(Kind::TIME_EXCEEDED, from)
}

/// Pings of which each leaves a at the first time, arrives at b at the second, and is handed on at the third.
fn passing(times: &[[u64; 3]]) -> Vec<Journey> {
    let ping = ping(62, 56);
    let recording = |[left, arrived, handed_on]: &[u64; 3]| {
        Recording::of(probe(64, 56))
            .at(*left)
            .tunnelled("a eth0 >", A, B, &ping)
            .at(*arrived)
            .tunnelled("b eth0 <", A, B, &ping)
            .at(*handed_on)
            .seen("b flannel0 <", &ping.clone().ttl(61))
    };
    times.iter().map(|times| recording(times).journey()).collect()
}

#[test]
fn a_stream_whose_packets_keep_their_order_has_no_disorder() {
    assert_eq!(disorders(&passing(&[[10, 20, 40], [11, 22, 41], [13, 24, 42]]), Part::Request), []);
    assert_eq!(disorders(&[], Part::Request), []);
    // What passed at one moment has no order that could change.
    assert_eq!(disorders(&passing(&[[10, 20, 41], [10, 20, 40], [12, 22, 42]]), Part::Request), []);
}

#[test]
fn disorder_between_hosts_is_told_from_disorder_that_a_host_makes() {
    let told = |times: &[[u64; 3]]| {
        let disorders = disorders(&passing(times), Part::Request).into_iter();
        disorders.map(|Disorder { from, to, by }| (from, to, by)).collect::<Vec<_>>()
    };
    let between = ("a eth0 >".to_owned(), "b eth0 <".to_owned(), None);
    assert_eq!(told(&[[10, 30, 40], [11, 20, 21]]), [between]);
    let within = ("b eth0 <".to_owned(), "b flannel0 <".to_owned(), Some("b".to_owned()));
    assert_eq!(told(&[[10, 20, 40], [11, 30, 31]]), [within]);
}

#[test]
fn each_of_the_ways_that_a_stream_took_is_judged() {
    let ping = ping(62, 56);
    let by_kernel = |[left, arrived]: [u64; 2]| {
        let recording = Recording::of(probe(64, 56)).at(left).seen("a cni0 <", &ping);
        recording.at(arrived).seen("a flannel0 >", &ping.clone().ttl(61)).journey()
    };
    let mut journeys = passing(&[[10, 20, 40], [11, 22, 41]]);
    journeys.extend([by_kernel([50, 60]), by_kernel([51, 55])]);
    let by = disorders(&journeys, Part::Request).into_iter().map(|disorder| disorder.by);
    assert_eq!(Vec::from_iter(by), [Some("a".to_owned())]);
}

#[test]
fn what_became_wrong_on_the_way_stands_in_a_table_too() {
    let (good, spoilt, shorter) = (ping(64, 56), ping(64, 56).spoilt(), ping(64, 55));
    let mut matrix = Matrix::new(Cell::Pieces);
    let mut mesh = Mesh::new();
    for (label, after) in [("whole", &good), ("spoilt", &spoilt), ("shorter", &shorter)] {
        let mut recording = Recording::of(probe(64, 56))
            .seen("a flannel0 >", &good.clone().ttl(63))
            .tunnelled("a eth0 >", A, B, &good.clone().ttl(62))
            .seen("b flannel0 <", &after.clone().ttl(61));
        recording.observation.received = Some(1);
        matrix.push(&map(), label, &recording.journey());
        mesh.push(&map(), label, &recording.journey());
    }
    for text in [matrix.to_string(), mesh.to_string()] {
        let line = |label: &str| text.lines().find(|line| line.starts_with(label)).unwrap_or_default();
        assert!(!line("whole").contains(';'), "{text}");
        assert!(line("spoilt").ends_with("; payload ALTERED from octet 55 at b flannel0 <"), "{text}");
        assert!(line("shorter").ends_with("; len 84 -> 83 at b flannel0 <"), "{text}");
    }
}

fn ttl_sweep() -> Matrix {
    let mut matrix = Matrix::new(Cell::Ttl);
    for ttl in 1..=3 {
        matrix.push(&map(), &format!("ttl {ttl}"), &expiring(ttl).journey());
    }
    let whole = Recording::of(probe(5, 56)).there(&ping(5, 56)).back(&pong(64, 56)).replied(60);
    matrix.push(&map(), "ttl 5", &whole.journey());
    matrix
}

#[test]
fn a_ttl_sweep_shows_how_far_each_probe_got() {
    assert_text(
        &ttl_sweep().to_string(),
        r"
probe  c1      a       a           a       b       b           b       c2      answer                         ended
       eth0 >  cni0 <  flannel0 >  eth0 >  eth0 <  flannel0 <  cni0 >  eth0 <
ttl 1  1       1       ·           ·       ·       ·           ·       ·       time-exceeded from a/cni0      a kernel: time-exceeded
ttl 2  2       2       1           ·       ·       ·           ·       ·       time-exceeded from a/cni0      a relay: ttl-expired
ttl 3  3       3       2           1       1       ·           ·       ·       time-exceeded from b/flannel0  b relay: ttl-expired
ttl 5  5       5       4           3       3       2           1       1       reply ttl 60                   delivered
",
    );
}

#[test]
fn a_tos_sweep_shows_the_packets_octet_and_the_datagrams_if_it_has_one() {
    let of = |tos: u8, ttl: u8| ping(ttl, 56).tos(tos);
    let mut matrix = Matrix::new(Cell::Tos);
    for (label, outer) in [("bare", 0), ("copied", 0xb8)] {
        let mut recording = Recording::of(probe(64, 56))
            .seen("a flannel0 >", &of(0xb8, 63))
            .seen("a eth0 >", &Build::udp((A, PORT), (B, PORT), &of(0xb8, 62).octets()).tos(outer))
            .seen("b flannel0 <", &of(0xb9, 61));
        recording.observation.received = Some(1);
        matrix.push(&map(), label, &recording.journey());
    }
    let text = matrix.to_string();
    let row = |label: &str| text.lines().find(|line| line.starts_with(label)).unwrap_or_default().to_owned();
    assert!(row("bare").starts_with("bare    0xb8        0xb8          0xb9  "), "{text}");
    assert!(row("copied").starts_with("copied  0xb8        0xb8 in 0xb8  0xb9  "), "{text}");
}

#[test]
fn a_size_sweep_shows_where_a_probe_goes_in_fragments_or_not_at_all() {
    let mut matrix = Matrix::new(Cell::Pieces);
    let small = Recording::of(probe(64, 1444)).there(&ping(64, 1444)).back(&pong(64, 1444)).replied(60);
    matrix.push(&map(), "size 1444", &small.journey());

    let big = ping(64, 1445).id(3);
    let mut recording = Recording::of(probe(64, 1445)).seen("c1 eth0 >", &big).seen("a cni0 <", &big);
    for part in big.ttl(63).fragments(1448) {
        recording = recording.seen("a flannel0 >", &part).tunnelled("a eth0 >", A, B, &part);
    }
    recording.observation.faults.push(Fault {
        host: "b".to_owned(),
        place: FaultPlace::Underlay,
        what: "b's link is down".to_owned(),
    });
    matrix.push(&map(), "size 1445", &recording.journey());

    let refused = ping(64, 1445).df();
    let why = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1472 };
    let error = Build::unreachable(A_BRIDGE, why, &refused, 548);
    let recording = Recording::of(probe(64, 1445))
        .seen("c1 eth0 >", &refused)
        .seen("a cni0 <", &refused)
        .seen("a cni0 >", &error)
        .seen("c1 eth0 <", &error)
        .refused(Kind::FRAGMENTATION_NEEDED, A_BRIDGE);
    matrix.push(&map(), "size 1445 df", &recording.journey());
    let mut unsent = Recording::of(probe(64, 1473));
    unsent.observation.answers.push(Answer::NotSent { why: "message too long".to_owned() });
    matrix.push(&map(), "size 1473 df", &unsent.journey());
    assert_text(
        &matrix.to_string(),
        r"
probe         c1      a       a           a        b       b           b       c2      answer                                     ended
              eth0 >  cni0 <  flannel0 >  eth0 >   eth0 <  flannel0 <  cni0 >  eth0 <
size 1444     =       =       =           =        =       =           =       =       reply ttl 60                               delivered
size 1445     =       =       2 frags     2 frags  ·       ·           ·       ·       nothing                                    lost after a eth0 >: b's link is down
size 1445 df  =       =       ·           ·        ·       ·           ·       ·       fragmentation-needed mtu 1472 from a/cni0  a kernel: fragmentation-needed
size 1473 df  ·       ·       ·           ·        ·       ·           ·       ·       message too long                           not sent: message too long
",
    );
}

#[test]
fn a_stream_shows_each_path_once_and_a_return_to_an_earlier_one() {
    let direct = Recording::of(probe(64, 56)).there(&ping(64, 56)).back(&pong(64, 56)).replied(60).journey();
    let lost = Recording::of(probe(64, 56)).seen("c1 eth0 >", &ping(64, 56)).journey();
    let masked = ping(64, 56).source(A_TUNNEL);
    let other = Recording::of(probe(64, 56))
        .seen("c1 eth0 >", &ping(64, 56))
        .seen("a cni0 <", &ping(64, 56))
        .seen("a eth0 >", &masked.clone().ttl(63))
        .seen("b eth0 <", &masked.clone().ttl(63))
        .seen("b cni0 >", &masked.clone().ttl(62))
        .seen("c2 eth0 <", &masked.ttl(62))
        .back(&pong(64, 56))
        .replied(60)
        .journey();
    let journeys = [direct.clone(), direct.clone(), lost, other.clone(), other, direct];
    let summary = Summary::new(&map(), &journeys);
    assert_eq!(
        (summary.sent, summary.lost, summary.requests.switches(), summary.replies.switches()),
        (6, 1, 2, 0)
    );
    assert_text(
        &summary.text(true),
        r"
requests: path 1, then path 2, then path 1 again (2 switches)

path 1 of requests: c1 > c2  icmp echo-request  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   flannel0  >  ttl 63
    a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
    b   eth0      <
    b   flannel0  <  ttl 61  out of udp
    b   cni0      >  ttl 60
    c2  eth0      <
    => delivered

path 2 of requests: c1 > c2  icmp echo-request  ttl 64  len 84
    c1  eth0      >
    a   cni0      <
    a   eth0      >  ttl 63  src c1 -> a/flannel0
    b   eth0      <
    b   cni0      >  ttl 62
    c2  eth0      <
    => delivered

replies: path 1 (no switch)

path 1 of replies: c2 > c1  icmp echo-reply  ttl 64  len 84
    c2  eth0      >
    b   cni0      <
    b   flannel0  >  ttl 63
    b   eth0      >  ttl 62  in udp b:8285 > a:8285 (ttl 64, len 112)
    a   eth0      <
    a   flannel0  <  ttl 61  out of udp
    a   cni0      >  ttl 60
    c1  eth0      <
    => delivered

lost: 1 of 6
    1 lost after c1 eth0 >: unexplained
",
    );
    assert!(!summary.text(false).contains("lost"));
}

#[test]
fn the_first_hop_that_differs_is_named() {
    let expected = Recording::of(probe(64, 56)).there(&ping(64, 56)).back(&pong(64, 56)).replied(60).ladder();
    let actual = expected.replacen("ttl 62", "ttl 63", 1);
    let difference = first_difference(&expected, &actual).unwrap();
    assert_text(
        &difference.to_string(),
        r"
[1] hop 4, at a eth0 >: expected ttl 62, got ttl 63
                a   cni0      <
                a   flannel0  >  ttl 63
  expected      a   eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)
  actual        a   eth0      >  ttl 63  in udp a:8285 > b:8285 (ttl 64, len 112)
                                      ^
",
    );
}

#[test]
fn another_reason_of_a_drop_is_told_as_such() {
    let text = |reason: &str| format!("[1] c1 > c2  udp\n    a   relay     x  {reason}\n");
    let difference = first_difference(&text("no-route"), &text("ttl-expired")).unwrap();
    assert_eq!(
        difference.to_string().lines().next().unwrap(),
        "[1] hop 1, at a relay x: expected no-route, got ttl-expired"
    );
}

#[test]
fn every_kind_of_line_that_differs_is_told_in_its_own_words() {
    let expected = Recording::of(probe(64, 56)).there(&ping(64, 56)).back(&pong(64, 56)).replied(60).ladder();
    let headline = |actual: &str| {
        let difference = first_difference(&expected, actual).unwrap().to_string();
        difference.lines().next().unwrap().to_owned()
    };
    let edited = |from: &str, to: &str| headline(&expected.replacen(from, to, 1));
    assert_eq!(first_difference(&expected, &expected), None);
    assert_eq!(first_difference(&expected, &expected.replace("flannel0  ", "flannel0    ")), None);
    assert_eq!(edited("len 84", "len 85"), "[1] as first seen: expected len 84, got len 85");
    assert_eq!(
        edited("  out of udp", ""),
        "[1] hop 6, at b flannel0 <: expected out of udp, which is not there"
    );
    assert_eq!(
        edited("ttl 61  out", "out"),
        "[1] hop 6, at b flannel0 <: expected ttl 61, but the TTL did not change"
    );
    assert_eq!(
        edited("a   cni0      <", "a   cni0      <  ttl 63"),
        "[1] hop 2, at a cni0 <: the TTL was not to change, but became ttl 63"
    );
    assert_eq!(edited("len 84", "len 84  df"), "[1] as first seen: got df, which is not expected");
    assert_eq!(edited("    b   eth0      <\n", ""), "[1] hop 5: expected b eth0 <, got b flannel0 <");
    let cut =
        expected.lines().take(4).collect::<Vec<_>>().join("\n") + "\n    => dropped in a's relay: no-route\n";
    assert_eq!(headline(&cut), "[1] hop 4: expected a eth0 >, got dropped in a's relay: no-route");
    assert_eq!(
        edited("delivered, answered by [2]", "delivered"),
        "[1] verdict: expected delivered, answered by [2], got delivered"
    );
    let request_only = expected.split("\n[2]").next().unwrap();
    assert_eq!(headline(request_only), "after [1]: expected [2] c2 > c1, got nothing");
}

#[test]
fn a_line_of_no_packet_is_told_by_its_step() {
    let headline = |expected: &str, actual: &str| {
        let difference = first_difference(expected, actual).unwrap().to_string();
        difference.lines().next().unwrap().to_owned()
    };
    let text = "$ subnet-file a\n\n  FLANNEL_MTU=1472\n\n$ leases\n";
    assert_eq!(
        headline(text, &text.replace("1472", "1500")),
        "below `subnet-file a`: expected FLANNEL_MTU=1472, got FLANNEL_MTU=1500"
    );
    assert_eq!(
        headline(text, &text.replace("$ leases", "$ ping c1 > c2")),
        "the step after `subnet-file a`: expected leases, got ping c1 > c2"
    );
    assert_eq!(headline("$ leases\n", "$ ping-all\n"), "the first step: expected leases, got ping-all");
    assert_eq!(headline("One.\n", "Two.\n"), "at the beginning: expected One., got Two.");
}

#[test]
fn a_hop_of_a_path_is_told_by_the_path() {
    let text = "$ stream c1 > c2\n\n  $ link a down\n\npath 1 of requests: c1 > c2\n    a  cni0  <\n\n\
                path 1 of replies: c2 > c1\n    b  eth0  >  ttl 63\n";
    let difference = first_difference(text, &text.replace("ttl 63", "ttl 62")).unwrap().to_string();
    let headline = difference.lines().next().unwrap();
    assert_eq!(headline, "path 1 of replies hop 1, at b eth0 >: expected ttl 63, got ttl 62");
}

#[test]
fn a_mesh_has_its_columns_in_one_line() {
    let mut mesh = Mesh::new();
    for label in ["c1 > c2", "c2 > c1"] {
        let whole = Recording::of(probe(5, 56)).there(&ping(5, 56)).back(&pong(64, 56)).replied(60);
        mesh.push(&map(), label, &whole.journey());
    }
    let expected = mesh.to_string();
    let difference = first_difference(&expected, &expected.replacen("c1 a b c2", "c1 a c2", 1)).unwrap();
    assert_eq!(
        difference.to_string().lines().next().unwrap(),
        "row c1 > c2, column request by: expected c1 a b c2, got c1 a c2"
    );
}

#[test]
fn the_first_cell_that_differs_is_named_by_row_and_column() {
    let expected = ttl_sweep().to_string();
    let actual = expected.replacen("2           1       1", "2           ·       1", 1);
    assert_text(
        &first_difference(&expected, &actual).unwrap().to_string(),
        r"
row ttl 3, column a eth0 >: expected 1, got ·
            ttl 1  1       1       ·           ·       ·       ·           ·       ·       time-exceeded from a/cni0      a kernel: time-exceeded
            ttl 2  2       2       1           ·       ·       ·           ·       ·       time-exceeded from a/cni0      a relay: ttl-expired
  expected  ttl 3  3       3       2           1       1       ·           ·       ·       time-exceeded from b/flannel0  b relay: ttl-expired
  actual    ttl 3  3       3       2           ·       1       ·           ·       ·       time-exceeded from b/flannel0  b relay: ttl-expired
                                               ^
",
    );
}

#[test]
fn colours_are_put_on_the_text_and_change_nothing_in_it() {
    let ladder =
        Recording::of(probe(64, 56)).there(&ping(64, 56).df()).back(&pong(64, 56)).replied(60).ladder();
    let table = ttl_sweep().to_string();
    for text in [&ladder, &table] {
        let joined: String = spans(text).into_iter().map(|(_, piece)| piece).collect();
        assert_eq!(joined, *text);
    }
    let inks = |ink: Ink| spans(&ladder).into_iter().filter(|(seen, _)| *seen == ink).count();
    assert_eq!((inks(Ink::Header), inks(Ink::Place), inks(Ink::Envelope), inks(Ink::Good)), (2, 16, 4, 2));
    assert!(paint(&ladder).contains("\u{1b}["));
}

//! What people read who described a lab that cannot be, or a step that cannot be done in it.

use std::path::Path;

use crate::suite::mistake::tests::told;
use crate::suite::{Case, Error};

/// The messages alone about a file with these lines in its `[lab]`, and this step.
pub(super) fn messages(lab: &str, step: &str) -> Vec<String> {
    let text = format!("about = 'x'\nsteps = [{{ {step} }}]\n[lab]\n{lab}");
    match Case::from_octets(Path::new("case.toml"), text.into()) {
        Ok(_) => vec![],
        Err(Error::Mistakes { mistakes, .. }) => mistakes.iter().map(ToString::to_string).collect(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_host_that_the_lab_has_not_is_answered_with_the_nearest() {
    let text = r#"about = "A ping."

[lab]
nodes = ["left", "right"]
containers = { web = "left", db = "rihgt" }

[[steps]]
ping = { from = "wbe", to = "10.5.1" }

[[steps]]
stop-relay = { node = "web" }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 4 mistakes in the suite file suites/case.toml

    Error:
      x container db is on a node `rihgt`, which the lab has not
       ,-[suites/case.toml:5:35]
     4 | nodes = ["left", "right"]
     5 | containers = { web = "left", db = "rihgt" }
       :                                   ^^^|^^^
       :                                      `-- no such node
     6 |
       `----
      help: did you mean `right`? (nodes: left, right)

    Error:
      x the lab has no container or node `wbe`
       ,-[suites/case.toml:8:17]
     7 | [[steps]]
     8 | ping = { from = "wbe", to = "10.5.1" }
       :                 ^^|^^
       :                   `-- no such host
     9 |
       `----
      help: did you mean `web`? (containers and nodes: left, right, web, db)

    Error:
      x the lab has no host `10.5.1`, and it is no address
       ,-[suites/case.toml:8:29]
     7 | [[steps]]
     8 | ping = { from = "wbe", to = "10.5.1" }
       :                             ^^^^|^^^
       :                                 `-- no such host
     9 |
       `----
      help: an IPv4 address, or a host: left, right, web, db, etcd

    Error:
      x `web` is a container, not a node
        ,-[suites/case.toml:11:23]
     10 | [[steps]]
     11 | stop-relay = { node = "web" }
        :                       ^^|^^
        :                         `-- a container
        `----
      help: did you mean `left`, the node that it is on?
    "#);
}

#[test]
fn a_name_that_no_host_can_have_is_told_why() {
    let text = r#"about = "Names."

[lab]
nodes = ["a", "A", "a-node-with-a-long-name", "a", "etcd"]
bridge = "eth0"

[[steps]]
leases = {}
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 5 mistakes in the suite file suites/case.toml

    Error:
      x a host cannot be called "A"
       ,-[suites/case.toml:4:15]
     3 | [lab]
     4 | nodes = ["a", "A", "a-node-with-a-long-name", "a", "etcd"]
       :               ^|^
       :                `-- not a name
     5 | bridge = "eth0"
       `----
      help: a host's name is made of a-z, 0-9 and -, begins with a letter and does not end with -

    Error:
      x a host cannot be called "a-node-with-a-long-name"
       ,-[suites/case.toml:4:20]
     3 | [lab]
     4 | nodes = ["a", "A", "a-node-with-a-long-name", "a", "etcd"]
       :                    ^^^^^^^^^^^^|^^^^^^^^^^^^
       :                                `-- not a name
     5 | bridge = "eth0"
       `----
      help: it has 23 octets, and the kernel allows an interface 15

    Error:
      x there are two hosts called `a`
       ,-[suites/case.toml:4:47]
     3 | [lab]
     4 | nodes = ["a", "A", "a-node-with-a-long-name", "a", "etcd"]
       :                                               ^|^
       :                                                `-- called so as well
     5 | bridge = "eth0"
       `----
      help: hosts are told apart by their names: give each its own

    Error:
      x a host cannot be called "etcd"
       ,-[suites/case.toml:4:52]
     3 | [lab]
     4 | nodes = ["a", "A", "a-node-with-a-long-name", "a", "etcd"]
       :                                                    ^^^|^^
       :                                                       `-- not a name
     5 | bridge = "eth0"
       `----
      help: `etcd` means something else in a lab

    Error:
      x the bridge cannot be called "eth0"
       ,-[suites/case.toml:5:10]
     4 | nodes = ["a", "A", "a-node-with-a-long-name", "a", "etcd"]
     5 | bridge = "eth0"
       :          ^^^|^^
       :             `-- not a name
     6 |
       `----
      help: `eth0` is another interface of a node
    "#);
}

#[test]
fn a_subnet_that_cannot_be_leased_is_told_why() {
    let text = r#"about = "Subnets."

[lab]
nodes = ["a", "b", "c", "d"]

[lab.subnets]
a = "10.6.1.0/24"
b = "10.5.3.0/24"
d = "10.5.9.1/24"

[[steps]]
leases = {}
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 3 mistakes in the suite file suites/case.toml

    Error:
      x the subnet 10.6.1.0/24 is outside of the overlay's network 10.5.0.0/16
       ,-[suites/case.toml:7:5]
     6 | [lab.subnets]
     7 | a = "10.6.1.0/24"
       :     ^^^^^^|^^^^^^
       :           `-- outside
     8 | b = "10.5.3.0/24"
       `----
      help: take one within it, such as "10.5.1.0/24"

    Error:
      x b and c both have the subnet 10.5.3.0/24
       ,-[suites/case.toml:8:5]
     7 | a = "10.6.1.0/24"
     8 | b = "10.5.3.0/24"
       :     ^^^^^^|^^^^^^
       :           `-- taken
     9 | d = "10.5.9.1/24"
       `----
      help: only a node that is not in `started` can share one, to take it over in a later step

    Error:
      x the subnet 10.5.9.1/24 has bits set after its first 24
        ,-[suites/case.toml:9:5]
      8 | b = "10.5.3.0/24"
      9 | d = "10.5.9.1/24"
        :     ^^^^^^|^^^^^^
        :           `-- an address, not a network
     10 |
        `----
      help: did you mean "10.5.9.0/24"?
    "#);
}

#[test]
fn networks_that_overlap_are_named() {
    let text = r#"about = "Networks."

[lab]
network = "10.0.0.0/8"
underlay = "10.1.0.0/24"

[[steps]]
leases = {}
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x the underlay 10.1.0.0/24 and the overlay's network 10.0.0.0/8 overlap
       ,-[suites/case.toml:5:12]
     4 | network = "10.0.0.0/8"
     5 | underlay = "10.1.0.0/24"
       :            ^^^^^^|^^^^^^
       :                  `-- overlaps
     6 |
       `----
      help: take a network for each, of which neither contains the other
    "#);
}

#[test]
fn a_stream_in_a_stream_is_refused() {
    let text = r#"about = "Streams."

[[steps]]
stream = { from = "c1", to = "c2", during = [{ stream = { from = "c2", to = "c1", during = [{ leases = {} }] } }] }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x a stream stands within a stream
       ,-[suites/case.toml:4:48]
     3 | [[steps]]
     4 | stream = { from = "c1", to = "c2", during = [{ stream = { from = "c2", to = "c1", during = [{ leases = {} }] } }] }
       :                                                ^^^|^^
       :                                                   `-- the inner one
       `----
      help: let one of the two go, or give it a step of its own before or after
    "#);
}

#[test]
fn steps_stand_in_steps_to_some_depth() {
    let within = |depth| {
        (0..depth).fold("leases = {}".to_owned(), |inner, _| {
            format!("repeat = {{ times = 2, steps = [{{ {inner} }}] }}")
        })
    };
    assert_eq!(messages("", &within(5)), Vec::<String>::new());
    assert_eq!(messages("", &within(6)), ["steps stand within steps more than 6 deep"]);
    assert_eq!(messages("", &within(20)), ["steps stand within steps more than 6 deep"]);
}

#[test]
fn a_sweep_of_both_kinds_is_refused() {
    let text = r#"about = "Sweeps."

[[steps]]
ping = { from = "c1", to = "c2", ttl = 3, ttls = ["0-3"] }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 2 mistakes in the suite file suites/case.toml

    Error:
      x a step has `ttl` or `ttls`, not both
       ,-[suites/case.toml:4:1]
     3 | [[steps]]
     4 | ping = { from = "c1", to = "c2", ttl = 3, ttls = ["0-3"] }
       : ^^|^
       :   `-- has both
       `----
      help: take out `ttl` or `ttls`

    Error:
      x `ttls` goes from 1 to 255
       ,-[suites/case.toml:4:51]
     3 | [[steps]]
     4 | ping = { from = "c1", to = "c2", ttl = 3, ttls = ["0-3"] }
       :                                                   ^^|^^
       :                                                     `-- beyond
       `----
      help: write a run within them, as in "1-255"
    "#);
}

#[test]
fn a_relay_that_does_not_run_cannot_be_stopped() {
    let text = r#"about = "A relay."
lab = { started = ["a"] }

[[steps]]
stop-relay = { node = "b" }

[[steps]]
kill-relay = { node = "a" }

[[steps]]
wait-route = { node = "a", to = "b", via = "b" }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 2 mistakes in the suite file suites/case.toml

    Error:
      x no relay runs on b at this step
       ,-[suites/case.toml:5:23]
     4 | [[steps]]
     5 | stop-relay = { node = "b" }
       :                       ^|^
       :                        `-- not running
     6 |
       `----
      help: the lab's `started` leaves it out: put a `start-relay` before this step

    Error:
      x no relay runs on a at this step
        ,-[suites/case.toml:11:23]
     10 | [[steps]]
     11 | wait-route = { node = "a", to = "b", via = "b" }
        :                       ^|^
        :                        `-- not running
        `----
      help: a step before this one stopped it: put a `start-relay` between them
    "#);
}

#[test]
fn one_of_several_etcd_members_is_named() {
    let text = r#"about = "Members."
lab = { etcd = 3 }

[[steps]]
stop-etcd = {}
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x which etcd member?
       ,-[suites/case.toml:5:1]
     4 | [[steps]]
     5 | stop-etcd = {}
       : ^^^^|^^^^
       :     `-- needs `member`
       `----
      help: members: etcd1, etcd2, etcd3
    "#);
}

#[test]
fn a_step_that_cannot_be_done_is_refused_and_its_like_that_can_be_is_not() {
    let ping = |rest: &str| format!("ping = {{ from = 'c1', {rest} }}");
    let inject = |step: &str, packet: &str| {
        let rest = if packet.is_empty() || packet.starts_with("hex") {
            packet.to_owned()
        } else {
            format!(", {packet}")
        };
        let ends = if packet.starts_with("hex") { "" } else { "from = 'c1', to = 'c2'" };
        format!("inject = {{ {step}, packet = {{ {ends}{rest} }} }}")
    };
    let refused = [
        ("", ping("to = 'c1'"), "c1 is to send to itself"),
        (
            "",
            "ping = { from = 'etcd', to = 'c1' }".to_owned(),
            "`etcd` is an etcd member, and sends no probes",
        ),
        ("", ping("to = 'c2', ttls = ['1-255', 1, 2]"), "257 values are more than a sweep has, which is 256"),
        ("", ping("to = 'c2', sizes = ['65507-65508']"), "`sizes` goes from 0 to 65507"),
        ("", ping("to = 'c2', count = 2, sizes = [0]"), "a step has `count` or `sizes`, not both"),
        ("", ping("to = 'c2', ttls = [1], sizes = [0]"), "a step has `ttls` or `sizes`, not both"),
        ("", ping("to = 'c2', toses = [1], sizes = [0]"), "a step has `sizes` or `toses`, not both"),
        ("", ping("to = 'c2', tos = 1, toses = [1]"), "a step has `tos` or `toses`, not both"),
        ("", ping("to = 'c2', toses = [256]"), "an item of `toses` is too high"),
        (
            "containers = { c1 = 'a' }",
            "ping-all = {}".to_owned(),
            "`ping-all` takes 2 to 16 containers, and the lab has 1",
        ),
        ("", "put-lease = { subnet = 'd', owner = 'b' }".to_owned(), "`d` is no node's name and no prefix"),
        (
            "",
            "put-lease = { subnet = 'b', owner = '10.5' }".to_owned(),
            "`10.5` is no node's name and no address",
        ),
        (
            "",
            "delete-lease = { subnet = '10.5.9.1/24' }".to_owned(),
            "10.5.9.1/24 has bits set after its first 24",
        ),
        ("", "start-etcd = {}".to_owned(), "etcd runs already at this step"),
        ("", "stop-etcd = { member = 'etcd1' }".to_owned(), "the lab has no etcd member `etcd1`"),
        ("", "save-etcd = { member = 'etcd1' }".to_owned(), "the lab has no etcd member `etcd1`"),
        ("", "save-etcd = {}".to_owned(), "etcd runs at this step"),
        (
            "",
            "repeat = { times = 2, steps = [{ stop-etcd = {} }, { restore-etcd = {} }, { start-etcd = {} }] }".to_owned(),
            "no step has saved etcd",
        ),
        ("", "link = { host = 'd', state = 'up' }".to_owned(), "the lab has no host `d`"),
        ("", "subnet-file = { node = 'c1' }".to_owned(), "`c1` is a container, not a node"),
        (
            "",
            "wait-route = { node = 'a', to = 'b', via = 'd' }".to_owned(),
            "`d` is no node's name and no address",
        ),
        (
            "",
            "flood = { from = 'c1', to = 'c2', packets = 61, rate = 1 }".to_owned(),
            "61 packets take more than 60 s at that rate",
        ),
        (
            "",
            "flood = { from = 'c1', to = '10.5.99.1', packets = 1, rate = 1, max-lost = 0 }".to_owned(),
            "nobody counts what arrives there",
        ),
        (
            "",
            "transfer = { from = 'c1', to = '10.5.99.1', octets = 1 }".to_owned(),
            "nobody receives what is sent there",
        ),
        ("", inject("from = 'etcd'", ""), "`etcd` is no container, node or machine of the lab"),
        ("", inject("from = 'c1', into = 'flannel0'", ""), "c1 has no interface `flannel0`"),
        ("", inject("from = 'a', into = 'eth1'", ""), "a has no interface `eth1`"),
        ("", inject("from = 'a', lladdr = 'b'", ""), "a packet in no frame has no `lladdr`"),
        (
            "",
            inject("from = 'c1', into = 'eth0', lladdr = 'b'", ""),
            "`b` is no MAC address, and no other host on the link of eth0",
        ),
        (
            "",
            inject("from = 'c1', into = 'eth0', lladdr = '02:00:00:00:00:0'", ""),
            "`02:00:00:00:00:0` is no MAC address, and no other host on the link of eth0",
        ),
        ("", inject("from = 'a', into = 'eth0'", ""), "a knows nobody else to send to 10.5.2.2 by eth0"),
        (
            "",
            inject("from = 'a', into = 'eth0', lladdr = 'a'", ""),
            "`a` is no MAC address, and no other host on the link of eth0",
        ),
        (
            "",
            inject("from = 'a', into = 'flannel0', datagram = { to = 'b' }", ""),
            "a packet goes `into` the tunnel or in a `datagram`",
        ),
        ("", inject("from = 'a', datagram = { source = 'b' }", ""), "the datagram has no `to`"),
        (
            "",
            inject("from = 'a', datagram = { to = 'd' }", ""),
            "the lab has no host `d`, and it is no address",
        ),
        ("", inject("from = 'a'", "port = 1, icmp-type = 8"), "a packet has one protocol"),
        ("", inject("from = 'a'", "fragment-offset = 9"), "a fragment begins at a multiple of 8"),
        ("", inject("from = 'a'", "options = '0102'"), "options have a multiple of four octets"),
        ("", inject("from = 'a'", "options = '010'"), "these are no octets"),
        ("", inject("from = 'a'", "bad-checksum = true"), "the sender's kernel would mend `bad-checksum`"),
        ("", inject("from = 'c1'", "total-length = 9"), "the sender's kernel would mend `total-length`"),
        (
            "",
            inject("from = 'a', datagram = { to = 'b' }", "hex = '45', ttl = 1"),
            "`hex` is all of the packet",
        ),
        (
            "",
            "inject = { from = 'a', packet = { from = 'c1' }, datagram = { to = 'b' } }".to_owned(),
            "the packet has no `to`",
        ),
        (
            "",
            "inject = { from = 'a', packet = { hex = '45' } }".to_owned(),
            "these octets are no IPv4 packet",
        ),
        ("", "readdress = { node = 'a', address = '172.20.0.2' }".to_owned(), "b has the address 172.20.0.2"),
        ("", "say = ' '".to_owned(), "`say` says nothing"),
        (
            "subnets = { a = '10.5.0.0/24' }",
            "leases = {}".to_owned(),
            "the subnet 10.5.0.0/24 is the first of 10.5.0.0/16, which flannel never leases",
        ),
        (
            "subnets = { a = '10.5.0.0/17' }",
            "leases = {}".to_owned(),
            "flannel leases no /17 out of 10.5.0.0/16",
        ),
        (
            "subnets = { a = '10.5.9.0/31' }",
            "leases = {}".to_owned(),
            "flannel leases no /31 out of 10.5.0.0/16",
        ),
        (
            "subnets = { d = '10.5.9.0/24' }",
            "leases = {}".to_owned(),
            "`subnets` names a node `d`, which the lab has not",
        ),
        (
            "nodes = ['a']\nnetwork = '10.5.0.0/29'\nsubnets = { a = '10.6.1.0/24' }",
            "leases = {}".to_owned(),
            "the subnet 10.6.1.0/24 is outside of the overlay's network 10.5.0.0/29",
        ),
        (
            "config = '{\"Network\":\"10.9.0.0/16\"}'",
            "leases = {}".to_owned(),
            "its Network is 10.9.0.0/16, and the lab's is 10.5.0.0/16",
        ),
        (
            "config = '{\"Network\":\"10.5.0.0/16\",\"Backend\":{\"Type\":\"udp\",\"Port\":9000}}'",
            "leases = {}".to_owned(),
            "its Port is 9000, and the lab knows tunnels by 8285",
        ),
        (
            "flags = ['--ip-masq', '--healthz-port=1']",
            "leases = {}".to_owned(),
            "`--healthz-port` is for the lab to set",
        ),
        ("started = ['a', 'a']", "leases = {}".to_owned(), "`started` names a twice"),
        (
            "underlay = '224.0.0.0/24'",
            "leases = {}".to_owned(),
            "the underlay 224.0.0.0/24 is not one that hosts can have addresses of",
        ),
        (
            "nodes = ['a', 'c2']",
            "leases = {}".to_owned(),
            "`c2` has the name of a container: left out, they are c1, c2, …",
        ),
        ("bridge = 'a'", "leases = {}".to_owned(), "the bridge has the name of a host, `a`"),
    ];
    for (lab, step, message) in refused {
        assert_eq!(messages(lab, &step), [message], "{lab} {step}");
    }
    let allowed = [
        ("", ping("to = '10.5.99.1'")),
        ("", ping("to = 'etcd'")),
        ("", ping("to = 'c2', ttls = ['1-255', 64]")),
        ("", ping("to = 'c2', sizes = [0, 65507]")),
        ("", "put-lease = { subnet = '10.5.0.0/16', owner = '192.0.2.1' }".to_owned()),
        ("", "stop-etcd = { member = 'etcd' }".to_owned()),
        ("started = []", "start-relay = { node = 'a' }".to_owned()),
        ("", "link = { host = 'etcd', state = 'down' }".to_owned()),
        ("", "ping-all = {}".to_owned()),
        ("", inject("from = 'a', into = 'flannel0'", "ttl = 0, options = '01 01 01 00'")),
        ("", inject("from = 'c1', into = 'eth0'", "bad-checksum = true")),
        ("", inject("from = 'a', into = 'cni0', lladdr = 'c1'", "")),
        ("", inject("from = 'a', into = 'eth0', datagram = { to = 'b' }, lladdr = 'broadcast'", "")),
        ("", "inject = { from = 'a', datagram = { to = 'b' }, packet = { hex = '' } }".to_owned()),
        ("", format!("inject = {{ from = 'c1', packet = {{ hex = '45{}' }} }}", "00".repeat(19))),
        ("", "flood = { from = 'c1', to = 'c2', packets = 60, rate = 1, max-lost = 0 }".to_owned()),
        ("", "transfer = { from = 'a', to = '10.5.2.1', by = 'udp', octets = 1 }".to_owned()),
        ("", "inject = { from = 'a', packet = { from = 'a' }, variants = [{ name = 'x', packet = { to = 'b' } }] }".to_owned()),
    ];
    for (lab, step) in allowed {
        assert_eq!(messages(lab, &step), [""; 0], "{lab} {step}");
    }
}

#[test]
fn what_is_paused_or_taken_already_is_told() {
    let steps = |steps: &str| messages("", &steps.replace("; ", " }, { "));
    let pause = "pause-relay.node = 'a'";
    assert_eq!(steps(&format!("{pause}; resume-relay.node = 'a'; {pause}")), [""; 0]);
    assert_eq!(steps(&format!("{pause}; {pause}")), ["the relay on a is paused at this step"]);
    assert_eq!(steps("resume-relay.node = 'a'"), ["the relay on a is not paused at this step"]);
    let ended = format!("{pause}; kill-relay.node = 'a'; start-relay.node = 'a'; resume-relay.node = 'a'");
    assert_eq!(steps(&ended), ["the relay on a is not paused at this step"]);
    for step in [
        "stop-relay.node = 'a'",
        "wait-end.node = 'a'",
        "wait-route = { node = 'a', to = 'b' }",
        "expect-metric = { node = 'a', metric = 'x', at-least = 1 }",
    ] {
        let told = steps(&format!("{pause}; {step}"));
        assert!(
            told[0].starts_with("the relay on a is paused at this step, and does not"),
            "{step}: {told:?}"
        );
    }
    assert_eq!(steps("udp = { from = 'c1', to = 'c2', port = 8285 }"), ["8285 is the tunnel's port"]);
    assert_eq!(steps("listen = { host = 'b', port = 8285 }"), ["8285 is the tunnel's port"]);
    let listen = |host: &str, port: u16| format!("listen = {{ host = '{host}', port = {port} }}");
    let both = |one: String, other: String| steps(&format!("{one}; {other}"));
    assert_eq!(both(listen("c1", 7), listen("c1", 7)), ["c1 listens on port 7 already at this step"]);
    assert_eq!(both(listen("c1", 7), listen("c1", 8)), [""; 0]);
    assert_eq!(both(listen("c1", 7), listen("c2", 7)), [""; 0]);
}

#[test]
fn what_asks_etcd_needs_most_of_its_members() {
    let put = "put-lease = { subnet = '10.5.99.0/24', owner = 'b' }";
    let after = |lab: &str, stopped: &str, step: &str| messages(lab, &format!("{stopped} }}, {{ {step}"));
    let silent = "of 1 etcd members 0 run at this step: they answer nothing";
    for step in [put, "delete-lease = { subnet = 'b' }", "leases = {}", "compact-etcd = {}"] {
        assert_eq!(after("", "stop-etcd = {}", step), [silent]);
        assert_eq!(after("", "stop-etcd = {} }, { start-etcd = {}", step), [""; 0]);
    }
    let one = "stop-etcd = { member = 'etcd1' }";
    let leader = "stop-etcd = { member = 'leader' }";
    assert_eq!(after("etcd = 3", one, put), [""; 0]);
    assert_eq!(after("etcd = 3", leader, put), [""; 0]);
    let silent = "of 3 etcd members 1 run at this step: they answer nothing";
    assert_eq!(after("etcd = 3", &format!("{one} }}, {{ {leader}"), put), [silent]);
    assert_eq!(after("etcd = 3", &format!("{leader} }}, {{ {one}"), put), [silent]);
}

#[test]
fn a_relay_that_is_to_fail_is_no_second_one() {
    let start = "start-relay = { node = 'a', outcome = 'fails' }";
    let runs = "a relay runs on a already at this step";
    assert_eq!(messages("", start), [runs]);
    assert_eq!(messages("", &format!("stop-relay = {{ node = 'a' }} }}, {{ {start}")), [""; 0]);
}

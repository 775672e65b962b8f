//! A step as one line of text.

use std::fmt::Display;

use super::step::{
    By, Exec, Heal, LinkState, Outcome, Parallel, PutLease, Repeat, Step, Stream, SubnetFile, Traceroute,
    Udp, WaitRoute,
};
use super::text::Text;

impl Step {
    /// The step in one line, as a snapshot's heading shows it: what was written in the suite file, defaults left out.
    ///
    /// Parts are set apart by two spaces: `ping c1 > c2  count 2  ttl 3`. A stream's inner steps are not part of it.
    pub fn title(&self) -> String {
        let (step, knobs) = match self {
            Self::Say(prose) => (prose.split_whitespace().collect::<Vec<_>>().join(" "), vec![]),
            Self::Ping(ping) => {
                let mut knobs = Vec::from_iter(unless(ping.count(), 1, "count"));
                knobs.extend(ping.probe().knobs());
                knobs.extend(ping.id.map(|id| format!("id {id}")));
                (format!("ping {} > {}", ping.from, ping.to), knobs)
            }
            Self::PingAll(_) => ("ping-all".to_owned(), vec![]),
            Self::Udp(udp) => {
                let mut knobs = Vec::from_iter(unless(udp.port, Udp::port(), "port"));
                knobs.extend(udp.source_port.map(|port| format!("source-port {port}")));
                knobs.extend(udp.probe().knobs());
                (format!("udp {} > {}", udp.from, udp.to), knobs)
            }
            Self::Expect(expect) => expect.title(),
            Self::Flood(flood) => flood.title(),
            Self::Transfer(transfer) => transfer.title(),
            Self::Inject(inject) => inject.title(),
            Self::Traceroute(Traceroute { from, to, by, max }) => {
                let mut knobs = Vec::from_iter((*by == By::Icmp).then(|| "by icmp".to_owned()));
                knobs.extend(unless(*max, Traceroute::max(), "max"));
                (format!("traceroute {from} > {to}"), knobs)
            }
            Self::PutLease(PutLease { subnet, owner, expires_s, seen_by }) => {
                let mut knobs = vec![format!("owner {owner}")];
                knobs.extend(expires_s.map(|seconds| format!("expires after {seconds} s")));
                knobs.extend(waited(seen_by.as_deref()));
                (format!("put-lease {subnet}"), knobs)
            }
            Self::DeleteLease(lease) => {
                let knobs = Vec::from_iter(waited(lease.seen_by.as_deref()));
                (format!("delete-lease {}", lease.subnet), knobs)
            }
            Self::PutKey(put) => (format!("put-key {} = {}", put.key, put.value.escape_debug()), vec![]),
            Self::StartRelay(relay) => {
                let mut knobs: Vec<String> = relay.flags.iter().map(ToString::to_string).collect();
                knobs.extend(match relay.outcome {
                    Outcome::Ready => None,
                    Outcome::Running => Some("need not be ready".to_owned()),
                    Outcome::Fails => Some("fails".to_owned()),
                });
                (format!("start-relay {}", relay.node), knobs)
            }
            Self::WaitEnd(relay) => (format!("wait-end {}", relay.node), vec![]),
            Self::WaitReady(relay) => (format!("wait-ready {}", relay.node), vec![]),
            Self::PauseRelay(relay) => (format!("pause-relay {}", relay.node), vec![]),
            Self::ResumeRelay(relay) => (format!("resume-relay {}", relay.node), vec![]),
            Self::StopRelay(relay) => (format!("stop-relay {}", relay.node), vec![]),
            Self::KillRelay(relay) => (format!("kill-relay {}", relay.node), vec![]),
            Self::StartEtcd(etcd) => (format!("start-etcd {}", etcd.member()), vec![]),
            Self::StopEtcd(etcd) => (format!("stop-etcd {}", etcd.member()), vec![]),
            Self::SaveEtcd(etcd) => (format!("save-etcd {}", etcd.member()), vec![]),
            Self::RestoreEtcd(etcd) => (format!("restore-etcd {}", etcd.member()), vec![]),
            Self::CompactEtcd(_) => ("compact-etcd".to_owned(), vec![]),
            Self::Link(link) => {
                let state = match link.state {
                    LinkState::Up => "up",
                    LinkState::Down => "down",
                };
                (format!("link {} {state}", link.host), vec![])
            }
            Self::Readdress(readdress) => {
                (format!("readdress {} {}", readdress.node, readdress.address), vec![])
            }
            Self::Exec(Exec { host, command, exit, until, until_gone, .. }) => {
                let mut knobs = Vec::from_iter(unless(*exit, 0, "exit"));
                knobs.extend(until.as_ref().map(|text| format!("until {:?}", text.as_str())));
                knobs.extend(until_gone.as_ref().map(|text| format!("until gone {:?}", text.as_str())));
                (format!("exec {host}: {command}"), knobs)
            }
            Self::Listen(listen) => (format!("listen {}:{}", listen.host, listen.port), vec![]),
            Self::Repeat(Repeat { times, .. }) => (format!("repeat {times} times"), vec![]),
            Self::Parallel(Parallel { branches }) => {
                ("parallel".to_owned(), vec![format!("branches {}", branches.len())])
            }
            Self::Cut(cut) => {
                let (from, to) = (list(&cut.from), list(&cut.to));
                (format!("cut {from} from {to}"), Vec::from_iter(cut.one_way.then(|| "one-way".to_owned())))
            }
            Self::Heal(Heal { from: Some(from), to: Some(to) }) => {
                (format!("heal {} and {}", list(from), list(to)), vec![])
            }
            Self::Heal(_) => ("heal".to_owned(), vec![]),
            Self::Shape(shaping) => (format!("shape {}", shaping.host), shaping.knobs()),
            Self::Unshape(unshaping) => (format!("unshape {}", unshaping.host), vec![]),
            Self::Stream(stream) => {
                let every = unless(stream.every_ms, Stream::every_ms(), "every").map(|every| every + " ms");
                let mut knobs = Vec::from_iter(every);
                knobs.extend(stream.size_knob());
                knobs.extend(unless(stream.max_lost, 0, "max-lost"));
                knobs.extend(stream.max_unanswered.map(|most| format!("max-unanswered {most}")));
                knobs.extend(stream.count.map(|count| format!("count {count}")));
                knobs.extend(stream.lasts_ms.map(|lasts| format!("lasts {lasts} ms")));
                (format!("stream {} > {}", stream.from, stream.to), knobs)
            }
            Self::WaitRoute(WaitRoute { node, to, via, within_ms }) => {
                let mut knobs = vec![via.as_ref().map_or("gone".to_owned(), |via| format!("via {via}"))];
                knobs.extend(
                    unless(*within_ms, WaitRoute::within_ms(), "within").map(|within| within + " ms"),
                );
                (format!("wait-route {node} > {to}"), knobs)
            }
            Self::ExpectLog(expect) => {
                let lines = expect.lines.map(|lines| format!("lines {lines}"));
                (format!("expect-log {} {:?}", expect.node, expect.contains.as_str()), Vec::from_iter(lines))
            }
            Self::ExpectMetric(expect) => {
                let least = expect.at_least.map(|least| format!("at least {least}"));
                let most = expect.at_most.map(|most| format!("at most {most}"));
                let knobs = least.into_iter().chain(most).collect();
                (format!("expect-metric {} {}", expect.node, expect.metric), knobs)
            }
            Self::Leases(_) => ("leases".to_owned(), vec![]),
            Self::SubnetFile(SubnetFile { node, until }) => {
                let knobs = until.as_ref().map(|text| format!("until {:?}", text.as_str()));
                (format!("subnet-file {node}"), knobs.into_iter().collect())
            }
        };
        std::iter::once(step).chain(knobs).collect::<Vec<_>>().join("  ")
    }
}

/// Hosts as they are told in one breath.
fn list(hosts: &[Text]) -> String {
    hosts.iter().map(Text::as_str).collect::<Vec<_>>().join(", ")
}

/// Whose relays are waited for.
fn waited(nodes: Option<&[Text]>) -> Option<String> {
    nodes.map(|nodes| format!("seen by {}", if nodes.is_empty() { "nobody".to_owned() } else { list(nodes) }))
}

/// A knob's text, unless it has the value that it has anyway.
fn unless<T: PartialEq + Display>(value: T, default: T, name: &str) -> Option<String> {
    (value != default).then(|| format!("{name} {value}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn title(step: &str) -> String {
        Step::deserialize(toml::Deserializer::parse(step).unwrap()).unwrap().title()
    }

    #[test]
    fn a_title_has_what_was_written_without_defaults() {
        let titles = [
            ("say = 'One\\n two.'", "One\\n two."),
            ("ping = { from = 'c1', to = 'c2', count = 1, ttl = 64, size = 56, df = false }", "ping c1 > c2"),
            ("ping = { from = 'c1', to = 'c2', count = 2, ttl = 3 }", "ping c1 > c2  count 2  ttl 3"),
            ("ping = { from = 'a', to = '10.5.9.9', size = 0, df = true }", "ping a > 10.5.9.9  size 0  df"),
            ("ping = { from = 'c1', to = 'c2', ttls = ['1-3', 64] }", "ping c1 > c2  ttls 1-3,64"),
            ("ping = { from = 'c1', to = 'c2', tos = 184 }", "ping c1 > c2  tos 0xb8"),
            ("udp = { from = 'c1', to = 'c2', toses = ['0-255'] }", "udp c1 > c2  toses 0-255"),
            ("ping-all = {}", "ping-all"),
            ("udp = { from = 'c1', to = 'c2', port = 53, sizes = [0] }", "udp c1 > c2  port 53  sizes 0"),
            (
                "traceroute = { from = 'c1', to = 'c2', by = 'icmp', max = 8 }",
                "traceroute c1 > c2  by icmp  max 8",
            ),
            ("traceroute = { from = 'c1', to = 'c2' }", "traceroute c1 > c2"),
            ("put-lease = { subnet = 'b', owner = 'c' }", "put-lease b  owner c"),
            (
                "put-lease = { subnet = 'b', owner = 'c', seen-by = ['a', 'b'] }",
                "put-lease b  owner c  seen by a, b",
            ),
            ("delete-lease = { subnet = '10.5.9.0/24' }", "delete-lease 10.5.9.0/24"),
            ("delete-lease = { subnet = 'b', seen-by = [] }", "delete-lease b  seen by nobody"),
            ("compact-etcd = {}", "compact-etcd"),
            ("stop-etcd = { member = 'leader' }", "stop-etcd leader"),
            ("kill-relay = { node = 'a' }", "kill-relay a"),
            ("stop-etcd = {}", "stop-etcd etcd"),
            ("link = { host = 'b', state = 'down' }", "link b down"),
            ("cut = { from = ['a', 'b'], to = ['etcd'] }", "cut a, b from etcd"),
            ("cut = { from = ['etcd'], to = ['a'], one-way = true }", "cut etcd from a  one-way"),
            ("heal = {}", "heal"),
            ("shape = { host = 'b', one-way = 'in', loss-percent = 5 }", "shape b  inwards  loss 5 %"),
            (
                "shape = { host = 'b', delay-ms = 20, reorder-percent = 1, rate-kbit = 64, queue = 9 }",
                "shape b  delay 20 ms  reorder 1 %  rate 64 kbit/s  queue 9",
            ),
            ("unshape = { host = 'b' }", "unshape b"),
            ("heal = { from = ['a'], to = ['b'] }", "heal a and b"),
            ("stream = { from = 'c1', to = 'c2', during = [] }", "stream c1 > c2"),
            (
                "stream = { from = 'c1', to = 'c2', every-ms = 5, max-lost = 9, max-unanswered = 1, during = [] }",
                "stream c1 > c2  every 5 ms  max-lost 9  max-unanswered 1",
            ),
            ("stream = { from = 'c1', to = 'c2', lasts-ms = 900 }", "stream c1 > c2  lasts 900 ms"),
            ("stream = { from = 'c1', to = 'c2', count = 50 }", "stream c1 > c2  count 50"),
            ("wait-route = { node = 'a', to = 'b', via = 'c' }", "wait-route a > b  via c"),
            ("wait-route = { node = 'a', to = 'b', within-ms = 9 }", "wait-route a > b  gone  within 9 ms"),
            (
                "inject = { from = 'c', datagram = { to = 'a', source = 'b' }, packet = { from = 'c2', to = 'c1', ttl = 0 } }",
                "inject from c  c2 > c1  ttl 0  in udp b > a",
            ),
            (
                "inject = { from = 'a', into = 'flannel0', packet = { from = 'c1', to = 'c2' }, variants = [{ name = 'x' }] }",
                "inject from a  c1 > c2  into flannel0  variants 1",
            ),
            (
                "inject = { from = 'c1', into = 'eth0', lladdr = 'broadcast', packet = { from = 'c1', to = 'c2' } }",
                "inject from c1  c1 > c2  into eth0  lladdr broadcast",
            ),
            (
                "inject = { from = 'c', datagram = { to = 'a' }, packet = { hex = '45' } }",
                "inject from c  hex 45  in udp c > a",
            ),
            (
                "flood = { from = 'c1', to = 'c2', packets = 10, rate = 1000, max-lost = 0 }",
                "flood c1 > c2  10 packets  1000 a second  max-lost 0",
            ),
            (
                "flood = { from = 'a', to = 'b', packets = 10, rate = 5, port = 8285, size = 1400 }",
                "flood a > b  10 packets  5 a second  port 8285  size 1400",
            ),
            (
                "transfer = { from = 'c1', to = 'c2', octets = 1000, streams = 2, lossy = true, throughout = true }",
                "transfer c1 > c2  by tcp  octets 1000  streams 2  lossy  throughout",
            ),
            (
                "inject = { from = 'a', datagram = { to = 'b', tos = 3 }, packet = { hex = '45' } }",
                "inject from a  hex 45  in udp a > b  outer tos 3",
            ),
            (
                "expect = { within-ms = 900, growth = [{ host = 'a', kernel = 'X', at-most = 0 }], steps = [] }",
                "expect  within 900 ms  a X grows not at all",
            ),
            (
                "expect = { growth = [{ host = 'a', metric = 'm', at-least = 1, at-most = 1 }], steps = [] }",
                "expect  a m grows by 1",
            ),
            ("parallel = { branches = [[{ leases = {} }], []] }", "parallel  branches 2"),
            ("leases = {}", "leases"),
            ("subnet-file = { node = 'a' }", "subnet-file a"),
            ("subnet-file = { node = 'a', until = 'MTU=9' }", "subnet-file a  until \"MTU=9\""),
        ];
        for (step, expected) in titles {
            assert_eq!(title(step), expected, "{step}");
        }
    }

    #[test]
    fn prose_is_one_line() {
        assert_eq!(title("say = \"\"\"\nOne\n two.\n\"\"\""), "One two.");
    }
}

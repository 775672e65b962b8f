//! A step as one line of text.

use std::fmt::Display;

use super::step::{By, LinkState, Step, Stream, Traceroute, Udp, WaitRoute};

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
                (format!("ping {} > {}", ping.from, ping.to), knobs)
            }
            Self::PingAll(_) => ("ping-all".to_owned(), vec![]),
            Self::Udp(udp) => {
                let mut knobs = Vec::from_iter(unless(udp.port, Udp::port(), "port"));
                knobs.extend(udp.probe().knobs());
                (format!("udp {} > {}", udp.from, udp.to), knobs)
            }
            Self::Traceroute(Traceroute { from, to, by, max }) => {
                let mut knobs = Vec::from_iter((*by == By::Icmp).then(|| "by icmp".to_owned()));
                knobs.extend(unless(*max, Traceroute::max(), "max"));
                (format!("traceroute {from} > {to}"), knobs)
            }
            Self::PutLease(lease) => {
                (format!("put-lease {}", lease.subnet), vec![format!("owner {}", lease.owner)])
            }
            Self::DeleteLease(lease) => (format!("delete-lease {}", lease.subnet), vec![]),
            Self::StartRelay(relay) => (format!("start-relay {}", relay.node), vec![]),
            Self::StopRelay(relay) => (format!("stop-relay {}", relay.node), vec![]),
            Self::KillRelay(relay) => (format!("kill-relay {}", relay.node), vec![]),
            Self::StartEtcd(etcd) => (format!("start-etcd {}", etcd.member()), vec![]),
            Self::StopEtcd(etcd) => (format!("stop-etcd {}", etcd.member()), vec![]),
            Self::Link(link) => {
                let state = match link.state {
                    LinkState::Up => "up",
                    LinkState::Down => "down",
                };
                (format!("link {} {state}", link.host), vec![])
            }
            Self::Stream(stream) => {
                let every = unless(stream.every_ms, Stream::every_ms(), "every").map(|every| every + " ms");
                let mut knobs = Vec::from_iter(every);
                knobs.extend(unless(stream.max_lost, 0, "max-lost"));
                (format!("stream {} > {}", stream.from, stream.to), knobs)
            }
            Self::WaitRoute(WaitRoute { node, to, via, within_ms }) => {
                let mut knobs = vec![via.as_ref().map_or("gone".to_owned(), |via| format!("via {via}"))];
                knobs.extend(
                    unless(*within_ms, WaitRoute::within_ms(), "within").map(|within| within + " ms"),
                );
                (format!("wait-route {node} > {to}"), knobs)
            }
            Self::Leases(_) => ("leases".to_owned(), vec![]),
            Self::SubnetFile(file) => (format!("subnet-file {}", file.node), vec![]),
        };
        std::iter::once(step).chain(knobs).collect::<Vec<_>>().join("  ")
    }
}

/// A knob's text, unless it has the value that it has anyway.
fn unless<T: PartialEq + Display>(value: T, default: T, name: &str) -> Option<String> {
    (value != default).then(|| format!("{name} {value}"))
}

//! Whether branches can be done at once, and what comes of each be told from the others.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::Check;
use crate::capture::FLOOD_PORTS;
use crate::packet::marker;
use crate::suite::mistake::Mistake;
use crate::suite::step::{Parallel, Shape, Step, Transfer, Transport};

/// Octets of the headers of a datagram in the tunnel, and of the tunnel's own.
const HEADERS: u32 = 28;

/// What a step is to the others of a block.
enum Kind {
    Says,
    /// It sends, and needs nothing else.
    Sends,
    /// It changes the lab, or asks it.
    Lab,
    /// It cannot be done beside others, and what would do instead.
    Alone(&'static str),
}

fn kind(step: &Step) -> Kind {
    match step {
        Step::Say(_) => Kind::Says,
        Step::Stream(stream) if !stream.during.is_empty() => {
            Kind::Alone("take `during` out, and put its steps in a branch of their own")
        }
        Step::Ping(_) | Step::Udp(_) | Step::Flood(_) | Step::Transfer(_) | Step::Stream(_) => Kind::Sends,
        Step::Parallel(_) => Kind::Alone("put its branches beside the others"),
        Step::Inject(_) | Step::Traceroute(_) | Step::PingAll(_) => {
            Kind::Alone("put it before or after; `ping`, `udp`, `stream`, `flood` and `transfer` go together")
        }
        _ => Kind::Lab,
    }
}

/// A step of a branch, and where its name stands.
struct Placed<'a> {
    branch: usize,
    step: &'a Step,
    name: String,
    at: Range<usize>,
}

impl Check<'_> {
    /// Checks a `parallel` whose name stands at `at`, and whose table is `written`.
    pub(super) fn parallel(
        &mut self,
        parallel: &Parallel,
        written: Option<&Spanned<DeValue<'_>>>,
        at: Range<usize>,
        in_stream: bool,
    ) {
        if parallel.branches.len() < 2 {
            let mistake = Mistake::new(at.clone(), "one branch has nothing beside it", "fewer than two");
            self.mistakes.push(mistake.help("add another, or put its steps in the place of the `parallel`"));
        }
        if in_stream {
            let mistake =
                Mistake::new(at.clone(), "a `parallel` stands within a stream", "not beside a stream");
            self.mistakes.push(mistake.help("put the stream in a branch of it"));
        }
        let goes_on = |step: &Step| matches!(step, Step::Transfer(transfer) if transfer.throughout);
        if parallel.branches.len() > 1 && parallel.branches.iter().all(|steps| steps.iter().any(goes_on)) {
            let mistake =
                Mistake::new(at.clone(), "every branch goes on until the others have ended", "no end");
            self.mistakes.push(mistake.help("take `throughout` out of one of them"));
        }
        let branches = written.and_then(|table| table.get_ref().get("branches"));
        let mut all = Vec::new();
        for (number, steps) in parallel.branches.iter().enumerate() {
            let written = branches.and_then(|branches| branches.get_ref().get(number));
            self.in_branch = true;
            self.steps(steps, written, false);
            self.in_branch = false;
            for (n, step) in steps.iter().enumerate() {
                let entry = super::entry(written, n);
                let (name, at) =
                    entry.map_or((String::new(), 0..0), |(key, _)| (key.get_ref().to_string(), key.span()));
                all.push(Placed { branch: number + 1, step, name, at });
            }
        }
        self.of_their_kind(&all);
        self.told_apart(&all);
        self.undisturbed(&all);
    }

    /// Checks that each step can be done beside others.
    fn of_their_kind(&mut self, all: &[Placed<'_>]) {
        let mut lab: Option<&Placed<'_>> = None;
        for placed in all {
            let Placed { branch, name, at, .. } = placed;
            let (message, label, help) = match (kind(placed.step), lab) {
                (Kind::Says | Kind::Sends, _) => continue,
                (Kind::Alone(help), _) => {
                    (format!("`{name}` cannot be done beside others"), "in a branch", help.to_owned())
                }
                (Kind::Lab, Some(first)) if first.branch != *branch => {
                    let message = format!("`{name}` is in a second branch that changes or asks the lab");
                    let help = format!(
                        "which comes first, this or `{}` of branch {}, would be chance: put both in one branch",
                        first.name, first.branch
                    );
                    (message, "races", help)
                }
                (Kind::Lab, _) => {
                    lab = lab.or(Some(placed));
                    match sender_within(placed.step) {
                        Some(inner) => (
                            format!("a `{name}` with `{inner}` in it cannot be done beside others"),
                            "sends",
                            "give what sends a branch of its own, or a `count`".to_owned(),
                        ),
                        None => continue,
                    }
                }
            };
            self.mistakes.push(Mistake::new(at.clone(), message, label).help(help));
        }
    }

    /// Checks that no packet can be taken for that of another branch.
    fn told_apart(&mut self, all: &[Placed<'_>]) {
        let bulk = |step: &Step| matches!(step, Step::Transfer(_) | Step::Flood(_));
        let unrecorded = all.iter().any(|placed| bulk(placed.step));
        let whole = self.topology.mtu.saturating_sub(2 * HEADERS);
        for Placed { step, at, .. } in all {
            let short = |shapes: Vec<Shape>| shapes.iter().any(|shape| usize::from(shape.size) < marker::LEN);
            let (message, help) = match step {
                Step::Udp(udp) if short(udp.shapes()) => (
                    "a datagram so short could be another branch's".to_owned(),
                    format!("give it {} octets or more, which have room for a marker", marker::LEN),
                ),
                Step::Ping(ping) if ping.id.is_some() && short(ping.shapes()) => (
                    "a ping so short could be another's with the same `id`".to_owned(),
                    format!(
                        "give it {} octets or more, which have room for a marker, or take `id` out",
                        marker::LEN
                    ),
                ),
                Step::Udp(udp)
                    if unrecorded && udp.shapes().iter().any(|shape| u32::from(shape.size) > whole) =>
                {
                    (
                        "beside a `transfer` or `flood` fragments of UDP are not recorded".to_owned(),
                        format!("give it {whole} octets at most, or send it before or after"),
                    )
                }
                Step::Udp(udp)
                    if unrecorded && udp.source_port.is_some_and(|port| FLOOD_PORTS.contains(&port)) =>
                {
                    (
                        "beside a `transfer` or `flood` what is from such a `source-port` is not recorded"
                            .to_owned(),
                        format!(
                            "ports {} to {} are theirs: take another",
                            FLOOD_PORTS.start(),
                            FLOOD_PORTS.end()
                        ),
                    )
                }
                _ => continue,
            };
            self.mistakes.push(Mistake::new(at.clone(), message, "in a branch").help(help));
        }
        // A transfer's streams are known by the ports that they are from.
        for (n, Placed { branch, step, at, .. }) in all.iter().enumerate() {
            let others = || all.iter().take(n).chain(all.iter().skip(n + 1));
            let from = |step: &Step| match step {
                Step::Transfer(transfer) => Some((transfer.from.to_string(), true)),
                Step::Flood(flood) => Some((flood.from.to_string(), false)),
                _ => None,
            };
            let Some((host, true)) = from(step) else { continue };
            let clash = others().find(|other| {
                other.branch != *branch
                    && from(other.step).is_some_and(|(other_host, is_transfer)| {
                        other_host == host && (!is_transfer || other.branch < *branch)
                    })
            });
            if let Some(clash) = clash {
                let message = format!("{host} is to send a `{}` at the same time", clash.name);
                let help = "both would be from the same ports: let another host send one of them, \
                            or give one transfer more `streams`";
                self.mistakes.push(Mistake::new(at.clone(), message, "from the same host").help(help));
            }
        }
    }

    /// Checks that nothing that is followed may be lost because TCP fills a queue: it goes faster until it does.
    fn undisturbed(&mut self, all: &[Placed<'_>]) {
        for Placed { branch, step, name, at } in all {
            let (from, to) = match step {
                Step::Ping(ping) => (&ping.from, &ping.to),
                Step::Udp(udp) => (&udp.from, &udp.to),
                Step::Stream(stream) if stream.max_lost == 0 => (&stream.from, &stream.to),
                _ => continue,
            };
            let own = self.nodes_between(from, to);
            let disturbs = |other: &&Placed<'_>| match other.step {
                Step::Transfer(Transfer { from, to, by: Transport::Tcp, .. }) if other.branch != *branch => {
                    let others = self.nodes_between(from, to);
                    others.len() > 1 && others.intersection(&own).next().is_some()
                }
                _ => false,
            };
            if let Some(other) = all.iter().find(disturbs) {
                let message = format!(
                    "the `transfer` of branch {} may fill a queue that this `{name}` has to pass",
                    other.branch
                );
                let help = "TCP goes faster until something is dropped: use a `stream` with `max-lost`, or other nodes";
                self.mistakes.push(Mistake::new(at.clone(), message, "may be lost").help(help));
            }
        }
    }

    /// The nodes at the ends of a way.
    fn nodes_between(&self, from: &str, to: &str) -> BTreeSet<&str> {
        let hosts = || self.topology.hosts();
        let to = self.topology.address_of(to);
        let name = hosts().find(|host| Some(host.address()) == to).map_or("", |host| host.name());
        let subnets = self.topology.nodes.iter();
        let by_subnet = subnets.filter(|node| to.is_some_and(|to| node.subnet.contains(&to)));
        let ends = [from, name].into_iter().filter_map(|name| self.topology.node_of(name));
        ends.chain(by_subnet).map(|node| node.name.as_str()).collect()
    }
}

/// The name of the first step that is no matter of the lab's alone, in a step that has others in it.
fn sender_within(step: &Step) -> Option<String> {
    let inner = match step {
        Step::Repeat(repeat) => &repeat.steps,
        Step::Expect(expect) => &expect.steps,
        _ => return None,
    };
    inner.iter().find_map(|step| match kind(step) {
        Kind::Says => None,
        Kind::Lab => sender_within(step),
        Kind::Sends | Kind::Alone(_) => step.title().split(' ').next().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;

    /// What is said of branches with these steps, in a lab of three nodes with a container each.
    fn told(branches: &[&str]) -> Vec<String> {
        let branches = branches.iter().map(|steps| format!("[{steps}]")).collect::<Vec<_>>().join(", ");
        let lab = "nodes = ['a', 'b', 'c', 'd']\nstarted = ['a', 'b', 'd']";
        messages(lab, &format!("parallel = {{ branches = [{branches}] }}"))
    }

    const PING: &str = "{ ping = { from = 'c1', to = 'c2' } }";
    const START: &str = "{ start-relay = { node = 'c' } }";
    const TRANSFER: &str = "{ transfer = { from = 'c1', to = 'c2', octets = 1 } }";

    #[test]
    fn what_sends_goes_together_with_one_branch_that_has_the_lab() {
        let back = "{ transfer = { from = 'c2', to = 'c1', octets = 1 } }";
        let repeat = "{ repeat = { times = 2, steps = [{ leases = {} }] } }";
        let stream = "{ stream = { from = 'c1', to = 'c2', count = 5, max-lost = 5 } }";
        let elsewhere = "{ ping = { from = 'c3', to = 'c4' } }";
        assert_eq!(told(&[PING, PING, "{ say = 'x' }"]), [""; 0]);
        assert_eq!(told(&[TRANSFER, back, stream, elsewhere, &format!("{START}, {repeat}")]), [""; 0]);
    }

    #[test]
    fn what_cannot_be_done_at_once_is_told() {
        assert_eq!(told(&[PING]), ["one branch has nothing beside it"]);
        assert_eq!(
            told(&[START, "{ kill-relay = { node = 'a' } }"]),
            ["`kill-relay` is in a second branch that changes or asks the lab"]
        );
        assert_eq!(told(&[PING, "{ ping-all = {} }"]), ["`ping-all` cannot be done beside others"]);
        let nested = format!("{{ parallel = {{ branches = [[{PING}], [{PING}]] }} }}");
        assert_eq!(told(&[PING, &nested]), ["`parallel` cannot be done beside others"]);
        let stream = format!("{{ stream = {{ from = 'c1', to = 'c2', during = [{PING}] }} }}");
        assert_eq!(told(&[PING, &stream]), ["`stream` cannot be done beside others"]);
        let repeat = format!("{{ repeat = {{ times = 2, steps = [{PING}] }} }}");
        assert_eq!(told(&[PING, &repeat]), ["a `repeat` with `ping` in it cannot be done beside others"]);
    }

    #[test]
    fn packets_that_could_be_mistaken_for_others_are_told() {
        let short = "{ udp = { from = 'c1', to = 'c2', size = 9 } }";
        assert_eq!(told(&[PING, short]), ["a datagram so short could be another branch's"]);
        let same = "{ ping = { from = 'c1', to = 'c2', id = 7, sizes = [0, 56] } }";
        assert_eq!(told(&[PING, same]), ["a ping so short could be another's with the same `id`"]);
        let long = "{ udp = { from = 'c3', to = 'c4', size = 2000 } }";
        assert_eq!(told(&[PING, long]), [""; 0]);
        let fragments = "beside a `transfer` or `flood` fragments of UDP are not recorded";
        assert_eq!(told(&[TRANSFER, long]), [fragments]);
        let port = |from: &str| format!("{{ udp = {{ from = '{from}', to = 'c4', source-port = 29500 }} }}");
        let unrecorded = "beside a `transfer` or `flood` what is from such a `source-port` is not recorded";
        assert_eq!(told(&[PING, &port("c3")]), [""; 0]);
        assert_eq!(told(&[TRANSFER, &port("c3")]), [unrecorded]);
        assert_eq!(told(&[TRANSFER, TRANSFER]), ["c1 is to send a `transfer` at the same time"]);
    }

    #[test]
    fn what_tcp_may_push_out_of_a_queue_is_told() {
        let may = |what: &str| {
            format!("the `transfer` of branch 1 may fill a queue that this `{what}` has to pass")
        };
        let stream = "{ stream = { from = 'c2', to = 'c4', count = 5 } }";
        assert_eq!(told(&[TRANSFER, PING]), [may("ping")]);
        assert_eq!(told(&[TRANSFER, stream]), [may("stream")]);
        assert_eq!(told(&[TRANSFER, "{ udp = { from = 'c4', to = '10.5.1.1' } }"]), [may("udp")]);
    }

    #[test]
    fn what_goes_on_throughout_has_others_to_end_it() {
        let throughout = |more: &str| {
            format!("{{ transfer = {{ from = 'c1', to = 'c2', octets = 1, throughout = true{more} }} }}")
        };
        let (on, back) =
            (throughout(""), "{ transfer = { from = 'c2', to = 'c1', octets = 1, throughout = true } }");
        assert_eq!(told(&[&on, START]), [""; 0]);
        assert_eq!(told(&[&on, back]), ["every branch goes on until the others have ended"]);
        assert_eq!(told(&[&throughout(", by = 'udp'"), START]), ["only TCP goes on `throughout`"]);
        let alone = "transfer = { from = 'c1', to = 'c2', octets = 1, throughout = true }";
        assert_eq!(messages("", alone), ["no other branch is there to end it"]);
    }

    #[test]
    fn steps_of_branches_are_checked_as_well() {
        assert_eq!(told(&[PING, "{ stop-relay = { node = 'z' } }"]), ["the lab has no node `z`"]);
        let in_stream = format!("{{ parallel = {{ branches = [[{PING}], [{PING}]] }} }}");
        let step = format!("stream = {{ from = 'c1', to = 'c2', during = [{in_stream}] }}");
        assert_eq!(messages("", &step), ["a `parallel` stands within a stream"]);
    }
}

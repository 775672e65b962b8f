//! Whether the steps can be done in their lab.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::Range;

use ipnet::Ipv4Net;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::File;
use super::mistake::{Mistake, suggest};
use super::step::{Exec, MAX_SIZE, Outcome, Probe, StartRelay, Step};
use super::text::{Text, Values};
use crate::topology::{Host, Topology};

mod config;
mod cut;
mod expect;
mod flood;
mod inject;
mod parallel;
mod registry;
mod shape;
mod stream;

/// How every line begins, after the time, that a relay logs as an error.
const EVERY_ERROR: &str = "ERROR relay::";
/// A matrix of more rows is read by nobody.
const MAX_SWEEP: usize = 256;
/// How deep steps may stand within steps: each takes a good part of the stack.
const MAX_DEPTH: u8 = 6;
/// Every container to every other is the square of this many flows in a snapshot.
const MAX_PING_ALL: usize = 16;

/// The name of a flag by which a lab reaches its relays, so that nobody else may set it.
pub fn own_flag(flag: &str) -> Option<&str> {
    let name = flag.strip_prefix('-')?.trim_start_matches('-').split('=').next()?;
    ["subnet-file", "healthz-ip", "healthz-port"].contains(&name).then_some(name)
}

/// Every mistake in what a file says besides its lab.
pub(super) fn check(file: &File, document: &Spanned<DeTable<'_>>, topology: &Topology) -> Vec<Mistake> {
    let relays = topology.nodes.iter().filter(|node| node.starts).map(|node| node.name.clone()).collect();
    let members = topology.members.iter().map(|member| member.name.clone()).collect();
    let mut check = Check {
        topology,
        relays,
        members,
        paused: BTreeSet::new(),
        listened: BTreeSet::new(),
        leader_stopped: false,
        saved: BTreeSet::new(),
        cuts: BTreeSet::new(),
        shaped: BTreeSet::new(),
        moved: BTreeSet::new(),
        depth: 0,
        in_branch: false,
        mistakes: Vec::new(),
    };
    if file.about.trim().is_empty() {
        check.mistake(
            &file.about,
            "`about` says nothing".to_owned(),
            "empty",
            "say in a sentence what the case shows",
        );
    }
    for part in file.provokes.iter().filter(|part| EVERY_ERROR.contains(part.trim())) {
        check.mistake(
            part,
            "every error has this in it".to_owned(),
            "excuses all",
            "write what the error says",
        );
    }
    check.flags(&file.lab.flags);
    if let Some(config) = &file.lab.config {
        check.config(config);
    }
    check.steps(&file.steps, document.get_ref().get("steps"), false);
    check.mistakes
}

struct Check<'a> {
    topology: &'a Topology,
    /// The nodes whose relay runs before the step that is checked, as far as the steps before it tell.
    relays: BTreeSet<String>,
    /// The nodes whose relay is paused before it.
    paused: BTreeSet<String>,
    /// The hosts and ports that something listens on before it.
    listened: BTreeSet<(String, u16)>,
    /// The etcd members that run before it.
    members: BTreeSet<String>,
    /// Whether the member that led was stopped before it.
    leader_stopped: bool,
    /// Etcd members whose data were saved.
    saved: BTreeSet<String>,
    /// The directed pairs of hosts that are cut before it.
    cuts: BTreeSet<(String, String)>,
    /// The hosts whose links are shaped before it.
    shaped: BTreeSet<String>,
    /// The nodes that were given another address before it.
    moved: BTreeSet<String>,
    /// Lists of steps that the present one stands in.
    depth: u8,
    /// Whether it stands in a branch.
    in_branch: bool,
    mistakes: Vec<Mistake>,
}

impl Check<'_> {
    fn mistake(&mut self, at: &Text, message: String, label: &str, help: impl Into<String>) {
        self.mistakes.push(Mistake::new(at.span(), message, label).help(help));
    }

    /// Checks steps, of which `written` is the list that they were read from.
    fn steps(&mut self, steps: &[Step], written: Option<&Spanned<DeValue<'_>>>, in_stream: bool) {
        self.depth += 1;
        for (n, step) in steps.iter().enumerate() {
            let written = entry(written, n);
            let at = written.map_or(0..0, |(key, _)| key.span());
            if self.depth > MAX_DEPTH {
                let message = format!("steps stand within steps more than {MAX_DEPTH} deep");
                let help = "let the outermost ones be steps of their own, one after the other";
                self.mistakes.push(Mistake::new(at, message, "the innermost").help(help));
                break;
            }
            if let Step::Repeat(repeat) = step {
                let inner = written.and_then(|(_, repeat)| repeat.get_ref().get("steps"));
                self.steps(&repeat.steps, inner, in_stream);
            }
            if let Step::Parallel(parallel) = step {
                self.parallel(parallel, written.map(|(_, table)| table), at.clone(), in_stream);
            }
            if let Step::Expect(expect) = step {
                let inner = written.and_then(|(_, expect)| expect.get_ref().get("steps"));
                // Whose relay is asked is asked before the steps.
                self.expect(expect, at.clone());
                self.steps(&expect.steps, inner, in_stream);
            }
            if let Step::Stream(stream) = step {
                if in_stream {
                    let mistake =
                        Mistake::new(at.clone(), "a stream stands within a stream", "the inner one");
                    let help = "let one of the two go, or give it a step of its own before or after";
                    self.mistakes.push(mistake.help(help));
                }
                self.way(&stream.from, &stream.to);
                self.steps(
                    &stream.during,
                    written.and_then(|(_, stream)| stream.get_ref().get("during")),
                    true,
                );
            }
            self.step(step, at);
        }
        self.depth -= 1;
    }

    fn step(&mut self, step: &Step, at: Range<usize>) {
        match step {
            Step::Say(prose) if prose.trim().is_empty() => {
                self.mistake(
                    prose,
                    "`say` says nothing".to_owned(),
                    "empty",
                    "write a sentence, or take the step out",
                );
            }
            Step::Say(_) | Step::Repeat(_) | Step::Parallel(_) | Step::Expect(_) => {}
            Step::Leases(_) | Step::CompactEtcd(_) | Step::PutKey(_) => self.quorum(at),
            Step::Stream(stream) => self.stream(stream, at),
            Step::Ping(ping) => {
                self.way(&ping.from, &ping.to);
                self.probe(ping.probe(), at, ping.count.is_some());
            }
            Step::PingAll(_) => self.ping_all(at),
            Step::Udp(udp) => {
                self.way(&udp.from, &udp.to);
                self.tunnel_port(udp.port, &udp.to);
                self.tunnel_port(udp.source_port.unwrap_or(0), &udp.from);
                self.probe(udp.probe(), at, false);
            }
            Step::Flood(flood) => self.flood(flood, at),
            Step::Transfer(transfer) => self.transfer(transfer, at),
            Step::Inject(inject) => self.inject(inject, at),
            Step::Traceroute(traceroute) => self.way(&traceroute.from, &traceroute.to),
            Step::PutLease(lease) => {
                self.quorum(at);
                self.subnet(&lease.subnet);
                self.owner(&lease.owner);
                self.seen_by(lease.seen_by.as_deref());
            }
            Step::DeleteLease(lease) => {
                self.quorum(at);
                self.subnet(&lease.subnet);
                self.seen_by(lease.seen_by.as_deref());
            }
            Step::StartRelay(relay) => self.start_relay(relay),
            Step::StopRelay(relay) | Step::KillRelay(relay) | Step::WaitEnd(relay) => {
                self.running(&relay.node);
                if !matches!(step, Step::KillRelay(_)) {
                    self.answering(&relay.node, "does not end");
                }
                self.relays.remove(relay.node.as_str());
                self.paused.remove(relay.node.as_str());
            }
            Step::WaitReady(relay) => {
                self.running(&relay.node);
                self.answering(&relay.node, "does not answer");
            }
            Step::PauseRelay(relay) => self.pause(&relay.node, true),
            Step::ResumeRelay(relay) => self.pause(&relay.node, false),
            Step::ExpectMetric(expect) => {
                self.running(&expect.node);
                self.answering(&expect.node, "does not answer");
                if expect.at_least.is_none() && expect.at_most.is_none() {
                    let message = "`expect-metric` expects nothing".to_owned();
                    self.mistake(
                        &expect.metric,
                        message,
                        "no bound",
                        "give it `at-least`, `at-most` or both",
                    );
                }
                if let (Some(least), Some(most)) = (expect.at_least, expect.at_most)
                    && least > most
                {
                    let message = "`expect-metric` has bounds that say nothing".to_owned();
                    self.mistake(&expect.metric, message, "no number is both", "give the lower one first");
                }
            }
            Step::StartEtcd(etcd) => self.etcd(etcd, at, true),
            Step::StopEtcd(etcd) => self.etcd(etcd, at, false),
            Step::SaveEtcd(etcd) => self.etcd_data(etcd, at, true),
            Step::RestoreEtcd(etcd) => self.etcd_data(etcd, at, false),
            Step::Link(link) => {
                self.host(&link.host);
            }
            Step::Cut(cut) => self.cut(cut, at),
            Step::Heal(heal) => self.heal(heal, at),
            Step::Shape(shaping) => self.shape(shaping, at),
            Step::Unshape(unshaping) => self.unshape(unshaping),
            Step::Readdress(readdress) => {
                self.node(&readdress.node);
                let within = |address: Ipv4Addr| self.topology.underlay.contains(&address);
                if !readdress.address.parse().is_ok_and(within) {
                    let message = format!("`{}` is no address on the underlay", readdress.address);
                    let help = format!("take one of {} that no host has", self.topology.underlay);
                    self.mistake(&readdress.address, message, "not on the underlay", help);
                } else if let Some(other) = self.other_with(&readdress.node, &readdress.address) {
                    let message = format!("{other} has the address {}", readdress.address);
                    let help = format!("take one of {} that no host has", self.topology.underlay);
                    self.mistake(&readdress.address, message, "taken", help);
                }
                self.moved.insert(readdress.node.to_string());
            }
            Step::Exec(exec) => self.exec(exec),
            Step::Listen(listen) => {
                if self.relays.contains(listen.host.as_str()) {
                    self.tunnel_port(listen.port, &listen.host);
                }
                if self.host(&listen.host) && !self.listened.insert((listen.host.to_string(), listen.port)) {
                    let message =
                        format!("{} listens on port {} already at this step", listen.host, listen.port);
                    self.mistake(&listen.host, message, "taken", "take the step out, or another port");
                }
            }
            Step::ExpectLog(expect) => {
                self.node(&expect.node);
                self.says_something(&expect.contains, "contains");
            }
            Step::WaitRoute(wait) => {
                self.subnet(&wait.to);
                if let Some(via) = &wait.via {
                    self.owner(via);
                }
                self.running(&wait.node);
                self.answering(&wait.node, "does not answer");
            }
            Step::SubnetFile(file) => {
                self.node(&file.node);
            }
        }
    }

    /// The host that has this address, besides one.
    fn other_with(&self, host: &Text, address: &Text) -> Option<String> {
        let address: Ipv4Addr = address.parse().ok()?;
        let mut others = self.topology.hosts().filter(|other| other.name() != host.as_str());
        let taken = others.find(|other| other.address() == address && !self.moved.contains(other.name()));
        taken.map(|other| other.name().to_owned())
    }

    /// Checks that flags leave the lab those by which it reaches a relay.
    fn flags(&mut self, flags: &[Text]) {
        for flag in flags {
            if let Some(name) = own_flag(flag) {
                let message = format!("`--{name}` is for the lab to set");
                let help = "take it out: by what the lab has there it asks the relay";
                self.mistake(flag, message, "set already", help);
            }
        }
    }

    fn start_relay(&mut self, relay: &StartRelay) {
        // One that is to fail is asked for nothing.
        if relay.outcome != Outcome::Fails {
            self.flags(&relay.flags);
        }
        if !self.node(&relay.node) {
            return;
        }
        let runs = if relay.outcome == Outcome::Fails {
            self.relays.contains(relay.node.as_str())
        } else {
            !self.relays.insert(relay.node.to_string())
        };
        if runs {
            let message = format!("a relay runs on {} already at this step", relay.node);
            self.mistake(&relay.node, message, "running", "stop it in a step before this one");
        }
    }

    fn exec(&mut self, exec: &Exec) {
        self.host(&exec.host);
        match shell_words::split(&exec.command) {
            Ok(words) if words.is_empty() => {
                let help = "write a program's name and its arguments";
                self.mistake(&exec.command, "`command` names no program".to_owned(), "empty", help);
            }
            Ok(_) => {}
            Err(error) => {
                let message = format!("`command` cannot be taken apart: {error}");
                self.mistake(&exec.command, message, "not words", "close its quotes");
            }
        }
        for (text, key) in [(&exec.until, "until"), (&exec.until_gone, "until-gone")] {
            if let Some(text) = text {
                self.says_something(text, key);
            }
        }
        if let (Some(until), Some(_)) = (&exec.until, &exec.until_gone) {
            let message = "a step has `until` or `until-gone`, not both".to_owned();
            self.mistake(until, message, "has both", "take one of them out");
        }
    }

    /// Checks a text that is to be found in another.
    fn says_something(&mut self, text: &Text, key: &str) {
        if text.is_empty() {
            let message = format!("`{key}` is empty, which every text has in it");
            self.mistake(text, message, "empty", "write what is looked for");
        }
    }

    /// Checks that a node's relay runs at this step.
    fn running(&mut self, node: &Text) {
        if self.node(node) && !self.relays.contains(node.as_str()) {
            self.not_running(node);
        }
    }

    /// Checks that a relay runs that is to be paused, or is paused that is to go on.
    fn pause(&mut self, node: &Text, pause: bool) {
        self.running(node);
        let changed =
            if pause { self.paused.insert(node.to_string()) } else { self.paused.remove(node.as_str()) };
        if !changed && self.relays.contains(node.as_str()) {
            let message = format!(
                "the relay on {node} {} at this step",
                if pause { "is paused" } else { "is not paused" }
            );
            let help = "take the step out, or put its opposite before it";
            self.mistake(node, message, "changes nothing", help);
        }
    }

    /// Checks that a relay is not paused that is to do something.
    fn answering(&mut self, node: &Text, what: &str) {
        if self.paused.contains(node.as_str()) {
            let message = format!("the relay on {node} is paused at this step, and {what}");
            self.mistake(node, message, "paused", "put a `resume-relay` before this step");
        }
    }

    fn not_running(&mut self, node: &Text) {
        let message = format!("no relay runs on {node} at this step");
        let help = if self.topology.node(node).is_some_and(|node| node.starts) {
            "a step before this one stopped it: put a `start-relay` between them"
        } else {
            "the lab's `started` leaves it out: put a `start-relay` before this step"
        };
        self.mistake(node, message, "not running", help);
    }

    /// Checks that a probe or a listener keeps clear of the tunnel's port, by which datagrams are known for packets in the
    /// tunnel.
    fn tunnel_port(&mut self, port: u16, host: &Text) {
        if port == self.topology.port {
            let help = "take another; `inject` sends datagrams to the tunnel";
            self.mistake(host, format!("{port} is the tunnel's port"), "the tunnel's own", help);
        }
    }

    /// Checks where a probe comes from and goes to.
    fn way(&mut self, from: &Text, to: &Text) {
        match self.topology.host(from) {
            Some(Host::Node(_) | Host::Container(_) | Host::Machine(_)) => {}
            Some(Host::Member(_)) => {
                let help = suggest(from, self.senders(), "containers and nodes");
                self.mistake(
                    from,
                    format!("`{from}` is an etcd member, and sends no probes"),
                    "cannot send",
                    help,
                );
            }
            None => {
                let help = suggest(from, self.senders(), "containers and nodes");
                self.mistake(
                    from,
                    format!("the lab has no container or node `{from}`"),
                    "no such host",
                    help,
                );
            }
        }
        if self.topology.host(to).is_none() && !is_address(to) {
            let help = suggest(to, self.hosts(), "an IPv4 address, or a host");
            self.mistake(
                to,
                format!("the lab has no host `{to}`, and it is no address"),
                "no such host",
                help,
            );
        }
        if from == to {
            self.mistake(to, format!("{from} is to send to itself"), "the sender", "take another host");
        }
    }

    fn senders(&self) -> Vec<&str> {
        self.hosts().into_iter().filter(|name| self.topology.member(name).is_none()).collect()
    }

    fn hosts(&self) -> Vec<&str> {
        self.topology.hosts().map(Host::name).collect()
    }

    fn host(&mut self, name: &Text) -> bool {
        let there = self.topology.host(name).is_some();
        if !there {
            let help = suggest(name, self.hosts(), "hosts");
            self.mistake(name, format!("the lab has no host `{name}`"), "no such host", help);
        }
        there
    }

    fn node(&mut self, name: &Text) -> bool {
        if self.topology.node(name).is_some() {
            return true;
        }
        match self.topology.host(name) {
            Some(Host::Container(container)) => {
                let (message, node) = (format!("`{name}` is a container, not a node"), &container.node);
                self.mistake(
                    name,
                    message,
                    "a container",
                    format!("did you mean `{node}`, the node that it is on?"),
                );
            }
            _ => {
                let help = suggest(name, self.nodes(), "nodes");
                self.mistake(name, format!("the lab has no node `{name}`"), "no such node", help);
            }
        }
        false
    }

    fn nodes(&self) -> Vec<&str> {
        self.topology.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    fn subnet(&mut self, text: &Text) {
        match text.parse::<Ipv4Net>() {
            _ if self.topology.node(text).is_some() => {}
            Ok(prefix) if prefix == prefix.trunc() => {}
            Ok(prefix) => {
                let message = format!("{text} has bits set after its first {}", prefix.prefix_len());
                let help = format!("did you mean \"{}\"?", prefix.trunc());
                self.mistake(text, message, "an address, not a subnet", help);
            }
            Err(_) => {
                let help = suggest(
                    text,
                    self.nodes(),
                    "a prefix such as \"10.5.99.0/24\", or a node for its subnet",
                );
                self.mistake(
                    text,
                    format!("`{text}` is no node's name and no prefix"),
                    "no such subnet",
                    help,
                );
            }
        }
    }

    fn owner(&mut self, text: &Text) {
        if self.topology.node(text).is_none() && !is_address(text) {
            let help = suggest(text, self.nodes(), "an IPv4 address, or a node for its own");
            self.mistake(
                text,
                format!("`{text}` is no node's name and no address"),
                "cannot own a lease",
                help,
            );
        }
    }

    fn ping_all(&mut self, at: Range<usize>) {
        let containers = self.topology.containers.len();
        if !(2..=MAX_PING_ALL).contains(&containers) {
            let message =
                format!("`ping-all` takes 2 to {MAX_PING_ALL} containers, and the lab has {containers}");
            self.mistakes.push(
                Mistake::new(at, message, "too few or too many").help("ping those that the case is about"),
            );
        }
    }

    /// Checks the shape of the probes of the step whose name stands at `at`.
    fn probe(&mut self, probe: Probe<'_>, at: Range<usize>, counted: bool) {
        let Probe { ttl, size, tos, ttls, sizes, toses, .. } = probe;
        for (both, one, other) in [
            (ttl.is_some() && ttls.is_some(), "ttl", "ttls"),
            (size.is_some() && sizes.is_some(), "size", "sizes"),
            (tos.is_some() && toses.is_some(), "tos", "toses"),
            (ttls.is_some() && sizes.is_some(), "ttls", "sizes"),
            (ttls.is_some() && toses.is_some(), "ttls", "toses"),
            (sizes.is_some() && toses.is_some(), "sizes", "toses"),
            (counted && ttls.is_some(), "count", "ttls"),
            (counted && sizes.is_some(), "count", "sizes"),
            (counted && toses.is_some(), "count", "toses"),
        ] {
            if both {
                let mistake = Mistake::new(
                    at.clone(),
                    format!("a step has `{one}` or `{other}`, not both"),
                    "has both",
                );
                self.mistakes.push(mistake.help(format!("take out `{one}` or `{other}`")));
            }
        }
        if let Some(ttls) = ttls {
            self.sweep(ttls, 1, u8::MAX.into(), "ttls");
        }
        if let Some(sizes) = sizes {
            self.sweep(sizes, 0, MAX_SIZE, "sizes");
        }
        if let Some(toses) = toses {
            self.sweep(toses, 0, u8::MAX.into(), "toses");
        }
    }

    fn sweep(&mut self, values: &Values, low: u16, high: u16, name: &str) {
        for run in values.0.iter().filter(|run| run.first < low || run.last > high) {
            let message = format!("`{name}` goes from {low} to {high}");
            let help = format!("write a run within them, as in \"{low}-{high}\"");
            self.mistakes.push(Mistake::new(run.span.clone(), message, "beyond").help(help));
        }
        let mut room = MAX_SWEEP;
        for run in &values.0 {
            let length = usize::from(run.last - run.first) + 1;
            if length > room {
                let message =
                    format!("{} values are more than a sweep has, which is {MAX_SWEEP}", values.count());
                let mistake = Mistake::new(run.span.clone(), message, "the first too many");
                return self
                    .mistakes
                    .push(mistake.help("take the values where something changes, and their neighbours"));
            }
            room -= length;
        }
    }
}

/// The only key of the `n`-th of a list of steps, and what stands there.
fn entry<'w, 'd>(
    steps: Option<&'w Spanned<DeValue<'d>>>,
    n: usize,
) -> Option<(&'w Spanned<Cow<'d, str>>, &'w Spanned<DeValue<'d>>)> {
    steps?.get_ref().get(n)?.get_ref().as_table()?.iter().next()
}

fn is_address(text: &Text) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests;

//! All that one probe set off, put together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::defect::misquoted;
use super::hop::{Located, group};
use super::judge::{judge, refusal};
use super::sort::{DatagramId, claim, claim_malformed};
use super::verdict::{Ledger, relay_after};
use super::walk::{departure, walks};
use super::{
    Answer, Dropped, End, Hop, IcmpSent, Map, Observation, Part, Place, Probe, Quoted, Sighting, Verdict,
};
use crate::capture::frame::{Direction, Role};
use crate::packet::icmp::Kind;
use crate::packet::{Ipv4, Packet, Payload};

/// Numbers flows through a case, in the order of cause and effect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbering {
    given: u32,
}

impl Numbering {
    /// The next flow's number: 1 first.
    pub fn give(&mut self) -> u32 {
        self.given = self.given.saturating_add(1);
        self.given
    }
}

/// One packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its number in the case.
    pub number: u32,
    /// What it is to the probe.
    pub part: Part,
    /// The flow that it is about, if it is an error.
    pub about: Option<u32>,
    /// What it quotes of that otherwise than it was seen.
    pub misquoted: Vec<String>,
    /// Who made it, if it is an error and that can be told.
    pub origin: Option<Origin>,
    /// Where it passed, in path order.
    pub hops: Vec<Hop>,
    /// How its way ends.
    pub end: End,
    /// Ways of its copies.
    pub branches: Vec<Branch>,
    /// How it ended.
    pub verdict: Verdict,
}

/// Who made an ICMP error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The host.
    pub host: String,
    /// What part of it.
    pub place: Place,
}

/// The way of a copy, or of what was found apart from the way that the topology explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The hop of the flow that it leaves from, by index; none if it is from nowhere.
    pub after: Option<usize>,
    /// Whether it passes a point that the flow passed before.
    pub again: bool,
    /// Where it passed.
    pub hops: Vec<Hop>,
    /// How its way ends.
    pub end: End,
}

/// What became of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    /// The probe.
    pub probe: Probe,
    /// The request, its reply, and ICMP errors.
    pub flows: Vec<Flow>,
    /// Drops that no flow accounts for.
    pub unattributed: Vec<Dropped>,
    /// ICMP errors that relays counted as sent and no point recorded.
    pub unseen: Vec<IcmpSent>,
    /// What the sender's socket received.
    pub answers: Vec<Answer>,
}

impl Journey {
    /// Puts together what became of a probe.
    pub fn reconstruct(map: &Map, observation: &Observation, numbering: &mut Numbering) -> Self {
        let mut parts = located(map, observation);
        let request = parts.remove(&Part::Request).unwrap_or_default();
        let from = observation.probe.from.as_str();
        let mut drafts = vec![Draft::new(Part::Request, walks(map, group(request), Some(from)))];
        if let Some(reply) = parts.remove(&Part::Reply) {
            drafts.push(Draft::new(Part::Reply, walks(map, group(reply), None)));
        }
        let mut errors = Vec::new();
        for (part, seen) in parts {
            errors.extend(Draft::apart(part, walks(map, group(seen), None)));
        }
        let path: Vec<String> =
            drafts.iter().flat_map(|draft| &draft.hops).map(|hop| hop.point.host.clone()).collect();
        errors.sort_by_key(|draft| (draft.about(), draft.origin_in(&path), draft.part));
        drafts.extend(errors);
        Self::conclude(map, observation, numbering, drafts)
    }

    /// Whether anything happened that nothing accounts for.
    #[must_use]
    pub fn is_unexplained(&self) -> bool {
        self.flows.iter().any(Flow::is_unexplained)
    }

    /// Whether anything is left over: what nothing accounts for, or a count that no packet accounts for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_unexplained() || !self.unattributed.is_empty() || !self.unseen.is_empty()
    }

    /// When that was last seen which nothing accounts for, if it was seen at all.
    #[must_use]
    pub fn last_seen(&self) -> Option<Duration> {
        let flow = self.flows.iter().find(|flow| flow.is_unexplained())?;
        let copy = flow.branches.iter().find(|branch| branch.end == End::Open { fault: None });
        let hops = if flow.verdict.is_unexplained() { &flow.hops } else { &copy?.hops };
        hops.last().map(Hop::at)
    }

    /// Whether any of its packets was seen where nothing that was recorded can have come.
    #[must_use]
    pub fn is_from_nowhere(&self) -> bool {
        let nowhere = |flow: &Flow| flow.branches.iter().any(|branch| branch.after.is_none());
        self.flows.iter().any(nowhere)
    }

    /// Whether it was delivered and no interface recorded it, although it had to leave its host: what it says proves nothing.
    #[must_use]
    pub fn is_unrecorded(&self, map: &Map) -> bool {
        let seen_nowhere = |flow: &Flow| flow.hops.is_empty() && flow.verdict.is_delivered();
        self.request().is_some_and(seen_nowhere) && !map.has(&self.probe.from, self.probe.to)
    }

    /// Accounts for every loss that nothing else does and that happened where a daemon had the packet: `what`.
    pub fn blame_daemons(&mut self, what: &str) {
        // A datagram that a fragment is missing of never reaches it; fragments of packets do, one by one.
        let is_cut = |hop: &Hop| hop.sightings.iter().any(|sighting| sighting.packet.fragment.is_some());
        let kept = |hop: &Hop| hop.encapsulated() && is_cut(hop) && hop.is_incomplete();
        let is_in_daemon =
            |last: Option<&Hop>| last.is_some_and(|last| relay_after(last).is_some() && !kept(last));
        for flow in &mut self.flows {
            let own = std::iter::once((&mut flow.end, flow.hops.last()));
            let copies = flow.branches.iter_mut().map(|branch| (&mut branch.end, branch.hops.last()));
            for (end, last) in own.chain(copies) {
                if let End::Open { fault: fault @ None } = end
                    && is_in_daemon(last)
                {
                    *fault = Some(what.to_owned());
                }
            }
            if let (End::Open { fault }, Verdict::Lost { fault: told, .. }) = (&flow.end, &mut flow.verdict) {
                told.clone_from(fault);
            }
        }
    }

    /// The probe's own flow.
    #[must_use]
    pub fn request(&self) -> Option<&Flow> {
        self.flows.iter().find(|flow| flow.part == Part::Request)
    }

    fn conclude(map: &Map, observation: &Observation, numbering: &mut Numbering, drafts: Vec<Draft>) -> Self {
        let mut ledger = Ledger::new(observation);
        let mut unseen = observation.icmp_sent.clone();
        let mut flows: Vec<Flow> = Vec::new();
        for mut draft in drafts {
            let about = draft.about().and_then(|about| {
                let part = if about == Quoted::Reply { Part::Reply } else { Part::Request };
                flows.iter().find(|flow| flow.part == part).map(|flow| flow.number)
            });
            // A relay may hand its error to the kernel by a raw socket; its counter tells whose it was.
            if let (Part::Error { kind, .. }, Some(origin)) = (draft.part, &mut draft.origin)
                && discount(&mut unseen, &origin.host, kind)
            {
                if origin.place == Place::Kernel {
                    origin.place = Place::RelayOutbound;
                }
                // What begins where the first did was made for a copy of the packet.
                let again = |copy: &&Vec<Hop>| {
                    copy.first()
                        .zip(draft.hops.first())
                        .is_some_and(|(copy, own)| copy.passes_same_point(own))
                };
                for _ in draft.copies.iter().filter(again) {
                    discount(&mut unseen, &origin.host, kind);
                }
            }
            let mut flow = draft.finish(map, &mut ledger, numbering.give());
            if let Some(quoted) = about.and_then(|about| flows.iter().find(|flow| flow.number == about)) {
                flow.misquoted = misquoted(&flow.hops, quoted);
            }
            flow.about = about;
            flows.push(flow);
        }
        let refused = |number, hops: &[Hop], end: &End| {
            refusal(&flows, number, hops.last(), end).unwrap_or_else(|| end.clone())
        };
        let ends: Vec<(End, Vec<End>)> = flows
            .iter()
            .map(|Flow { number, hops, end, branches, .. }| {
                let copies = branches.iter().map(|copy| match copy.end {
                    End::Open { .. } => refused(*number, &copy.hops, &copy.end),
                    _ => copy.end.clone(),
                });
                (refused(*number, hops, end), copies.collect())
            })
            .collect();
        for (flow, (end, copies)) in flows.iter_mut().zip(ends) {
            flow.end = end;
            for (copy, end) in flow.branches.iter_mut().zip(copies) {
                copy.end = end;
            }
        }
        let verdicts: Vec<Verdict> = flows.iter().map(|flow| judge(map, observation, &flows, flow)).collect();
        for (flow, verdict) in flows.iter_mut().zip(verdicts) {
            flow.verdict = verdict;
        }
        // A node that sends to itself uses no interface of interest; its own socket is witness enough.
        for answer in &observation.answers {
            if let Answer::Error { kind, .. } = answer
                && !flows
                    .iter()
                    .any(|flow| matches!(flow.part, Part::Error { kind: seen, .. } if seen == *kind))
            {
                discount(&mut unseen, &observation.probe.from, *kind);
            }
        }
        unseen.retain(|sent| sent.count > 0);
        Self {
            probe: observation.probe.clone(),
            flows,
            unattributed: ledger.dropped,
            unseen,
            answers: observation.answers.clone(),
        }
    }
}

impl Flow {
    /// Whether it or a copy of it was lost and nothing accounts for that.
    #[must_use]
    pub fn is_unexplained(&self) -> bool {
        let lost = |branch: &Branch| branch.end == End::Open { fault: None };
        self.verdict.is_unexplained() || self.branches.iter().any(lost)
    }
}

/// A flow before it is known how it ended.
struct Draft {
    part: Part,
    origin: Option<Origin>,
    hops: Vec<Hop>,
    copies: Vec<Vec<Hop>>,
}

impl Draft {
    fn new(part: Part, walks: Vec<Vec<Hop>>) -> Self {
        let mut walks = walks.into_iter();
        let hops = walks.next().unwrap_or_default();
        let origin = match part {
            Part::Error { .. } => hops.first().and_then(origin),
            Part::Request | Part::Reply => None,
        };
        Self { part, origin, hops, copies: walks.collect() }
    }

    /// One flow for each host that made such an error.
    fn apart(part: Part, walks: Vec<Vec<Hop>>) -> Vec<Self> {
        let mut by_source: Vec<Vec<Vec<Hop>>> = Vec::new();
        let source = |walk: &Vec<Hop>| walk.first().and_then(Hop::inner).map(|packet| packet.source);
        for walk in walks {
            match by_source.iter_mut().find(|others| others.first().and_then(source) == source(&walk)) {
                Some(others) => others.push(walk),
                None => by_source.push(vec![walk]),
            }
        }
        by_source.into_iter().map(|walks| Self::new(part, walks)).collect()
    }

    fn about(&self) -> Option<Quoted> {
        match self.part {
            Part::Error { about, .. } => Some(about),
            Part::Request | Part::Reply => None,
        }
    }

    fn origin_in(&self, path: &[String]) -> Option<usize> {
        let origin = self.origin.as_ref()?;
        path.iter().position(|host| *host == origin.host)
    }

    fn finish(self, map: &Map, ledger: &mut Ledger<'_>, number: u32) -> Flow {
        let end = ledger.settle(map, self.hops.last());
        let mut branches: Vec<Branch> = Vec::new();
        for hops in self.copies {
            let seen = |hop: &Hop| {
                let before = self.hops.iter().chain(branches.iter().flat_map(|branch| &branch.hops));
                before.into_iter().any(|other| other.passes_same_point(hop))
            };
            let again = hops.iter().any(seen);
            let after = hops.first().and_then(|start| departure(map, &self.hops, start));
            let end = ledger.settle(map, hops.last());
            branches.push(Branch { after, again, hops, end });
        }
        let verdict = Verdict::Lost { after: self.hops.last().map(Hop::place), fault: None };
        Flow {
            number,
            part: self.part,
            about: None,
            misquoted: Vec::new(),
            origin: self.origin,
            hops: self.hops,
            end,
            branches,
            verdict,
        }
    }
}

/// The probe's packets by what they are to it.
fn located(map: &Map, observation: &Observation) -> BTreeMap<Part, Vec<Located>> {
    let mut parts: BTreeMap<Part, Vec<Located>> = BTreeMap::new();
    let mut datagrams = BTreeMap::new();
    let mut open = Vec::new();
    for frame in &observation.frames {
        let packet = match Packet::parse(frame, map.port) {
            Packet::Ipv4(packet) => packet,
            Packet::Malformed(_) | Packet::Ipv6(_) if observation.probe.is_crafted() => {
                Ipv4::salvage(frame.network_octets())
            }
            _ => continue,
        };
        let part = match packet.payload {
            Payload::Malformed => claim_malformed(&observation.probe, frame, &packet),
            _ => claim(&observation.probe, &packet),
        };
        let sighting = Sighting { at: frame.at, cast: frame.cast, packet };
        let located = Located { point: frame.point.clone(), direction: frame.direction, sighting };
        match part {
            Some(part) => {
                datagrams.extend(DatagramId::levels(&located.sighting.packet).map(|id| (id, part)));
                parts.entry(part).or_default().push(located);
            }
            None => open.push(located),
        }
    }
    for located in open {
        let part = DatagramId::levels(&located.sighting.packet).find_map(|id| datagrams.get(&id).copied());
        if let Some(part) = part {
            parts.entry(part).or_default().push(located);
        }
    }
    parts
}

/// Who made a packet that was first seen at `hop`.
fn origin(hop: &Hop) -> Option<Origin> {
    let place = match (hop.point.role, hop.direction) {
        (Role::Tunnel, Direction::In) => Place::RelayOutbound,
        (Role::Underlay, Direction::Out) if hop.encapsulated() => Place::RelayInbound,
        (_, Direction::Out) => Place::Kernel,
        (_, Direction::In) => return None,
    };
    Some(Origin { host: hop.point.host.clone(), place })
}

/// Takes one error off what relays counted as sent, and tells whether there was one.
fn discount(unseen: &mut [IcmpSent], host: &str, kind: Kind) -> bool {
    let counted = unseen.iter_mut().find(|sent| {
        sent.host == host && sent.count > 0 && kind.name().is_some_and(|name| name == sent.name)
    });
    if let Some(sent) = counted {
        sent.count -= 1;
        return true;
    }
    false
}

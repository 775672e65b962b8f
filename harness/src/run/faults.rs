//! What is broken on purpose, now and while a stream flowed.

use std::time::Duration;

use super::Runner;
use crate::capture::frame::{Frame, now};
use crate::flow::{Fault, FaultPlace};

/// How long a packet may have been under way when what it met broke.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// A fault and when it was there, by the clock of the recording.
#[derive(Debug, Clone)]
pub(super) struct Episode {
    fault: Fault,
    since: Duration,
    /// None while it lasts.
    until: Option<Duration>,
}

impl Episode {
    /// Whether it may have met a packet of which these frames were seen.
    fn meets(&self, frames: &[Frame]) -> bool {
        let times = || frames.iter().map(|frame| frame.at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return true };
        self.since <= last.saturating_add(UNDER_WAY) && self.until.is_none_or(|until| until >= first)
    }
}

impl Runner<'_> {
    /// What is broken on purpose now.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let fault =
            |host: &str, place, what: &str| Fault { host: host.to_owned(), place, what: what.to_owned() };
        let topology = &self.lab.topology;
        let stopped = topology.nodes.iter().filter(|node| !self.lab.runs(&node.name));
        let stopped = stopped.map(|node| fault(&node.name, FaultPlace::Relay, "relay not running"));
        let paused = self.paused.iter().map(|node| fault(node, FaultPlace::Relay, "relay paused"));
        let down = self.down.iter().map(|host| {
            let place =
                if topology.container(host).is_some() { FaultPlace::Host } else { FaultPlace::Underlay };
            fault(host, place, "link down")
        });
        let cut = self.lab.cuts().map(|(from, to)| {
            let (place, what) = (FaultPlace::Toward(to.to_owned()), format!("cut from {to}"));
            Fault { host: from.to_owned(), place, what }
        });
        // A container's address is out of its node's subnet.
        let bare = topology.containers.iter().filter(|one| self.lab.attachment(&one.node).is_none());
        let bare = bare.map(|one| fault(&one.name, FaultPlace::Host, "no address yet"));
        stopped.chain(paused).chain(down).chain(cut).chain(bare).collect()
    }

    /// Notes which faults have come and gone in a step that began at `began`.
    pub(super) fn note_faults(&mut self, began: Duration) {
        let faults = self.faults();
        let ended = now();
        let lasts = |episode: &&mut Episode| episode.until.is_none();
        for episode in self.episodes.iter_mut().filter(lasts) {
            if !faults.contains(&episode.fault) {
                episode.until = Some(ended);
            }
        }
        for fault in faults {
            let known = self.episodes.iter().any(|known| known.until.is_none() && known.fault == fault);
            if !known {
                self.episodes.push(Episode { fault, since: began, until: None });
            }
        }
    }

    /// Notes a fault that began at `began` and is over.
    pub(super) fn broke(&mut self, fault: Fault, began: Duration) {
        self.episodes.push(Episode { fault, since: began, until: Some(now()) });
    }

    /// What is broken on purpose, or was at some time after `since`.
    pub(super) fn faults_since(&self, since: Duration) -> impl Iterator<Item = &Fault> {
        let met = self.episodes.iter().filter(move |one| one.until.is_none_or(|until| until >= since));
        met.map(|episode| &episode.fault)
    }

    /// What was broken on purpose when a packet of which these frames were seen was under way.
    pub(super) fn faults_met(&self, frames: &[Frame]) -> Vec<Fault> {
        let met = self.episodes.iter().filter(|episode| episode.meets(frames));
        met.map(|episode| episode.fault.clone()).collect()
    }
}

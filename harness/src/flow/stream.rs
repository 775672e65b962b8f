//! A steady stream of probes while something changes: the paths that it took, in order.
//!
//! Requests and replies are told apart, because a change that falls between a request and its reply would else make
//! a path that some runs have and others do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Journey, Map, Part};

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The requests' paths.
    pub requests: Paths,
    /// The replies' paths.
    pub replies: Paths,
    /// Probes that were sent.
    pub sent: usize,
    /// Probes whose request or reply did not arrive.
    pub lost: usize,
    /// The verdicts of what did not arrive, with how often.
    pub causes: BTreeMap<String, usize>,
    /// ICMP errors about probes of which nothing was lost, with who made them.
    pub undeserved: BTreeSet<String>,
    /// What became wrong on the way of packets that no path shows: those that did not arrive, and ICMP errors.
    pub damage: BTreeSet<String>,
}

/// The paths of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    /// The ladder of the first packet that took each path, without sequence and flow numbers, in order of appearance.
    pub distinct: Vec<String>,
    /// Which path was taken when.
    pub epochs: Vec<Epoch>,
}

/// Consecutive packets on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Index of the path.
    pub path: usize,
    /// How many packets took it. Varies from run to run.
    pub packets: usize,
}

impl Paths {
    /// How often the path changed.
    #[must_use]
    pub fn switches(&self) -> usize {
        self.epochs.len().saturating_sub(1)
    }

    fn took(&mut self, ladder: String) {
        let path = self.distinct.iter().position(|known| *known == ladder).unwrap_or_else(|| {
            self.distinct.push(ladder);
            self.distinct.len() - 1
        });
        match self.epochs.last_mut() {
            Some(epoch) if epoch.path == path => epoch.packets += 1,
            _ => self.epochs.push(Epoch { path, packets: 1 }),
        }
    }

    fn write(&self, text: &mut String, what: &str) {
        let Some((first, rest)) = self.epochs.split_first() else { return };
        let mut order = format!("path {}", first.path + 1);
        let mut seen = first.path;
        for epoch in rest {
            let again = if epoch.path <= seen { " again" } else { "" };
            seen = seen.max(epoch.path);
            let _ = write!(order, ", then path {}{again}", epoch.path + 1);
        }
        let switches = match self.switches() {
            0 => "no switch".to_owned(),
            1 => "1 switch".to_owned(),
            many => format!("{many} switches"),
        };
        let _ = writeln!(text, "{what}: {order} ({switches})");
        for (at, ladder) in self.distinct.iter().enumerate() {
            let _ = write!(text, "\npath {} of {what}: {ladder}", at + 1);
        }
    }
}

impl Summary {
    /// Sums up journeys in the order that their probes were sent in.
    #[must_use]
    pub fn new(map: &Map, journeys: &[Journey]) -> Self {
        let mut summary = Self { sent: journeys.len(), ..Self::default() };
        for journey in journeys {
            let mut lost = false;
            let mut errors = Vec::new();
            for flow in &journey.flows {
                let paths = match flow.part {
                    Part::Request => &mut summary.requests,
                    Part::Reply => &mut summary.replies,
                    Part::Error { kind, .. } => {
                        let host = flow.origin.as_ref().map_or("nowhere", |origin| origin.host.as_str());
                        errors.push(format!("{kind} from {host}"));
                        let damage = flow.damage().into_iter();
                        summary.damage.extend(damage.map(|what| format!("{kind} from {host}: {what}")));
                        continue;
                    }
                };
                if flow.verdict.is_delivered() {
                    paths.took(flow.exemplar(map, &journey.probe));
                } else {
                    lost = true;
                    *summary.causes.entry(flow.verdict_without_numbers()).or_default() += 1;
                    summary.damage.extend(flow.damage());
                }
            }
            summary.lost += usize::from(lost);
            if !lost {
                summary.undeserved.extend(errors);
            }
        }
        summary
    }

    /// The summary as text. Losses vary with time, and so are told only if `losses` is set.
    #[must_use]
    pub fn text(&self, losses: bool) -> String {
        let mut text = String::new();
        self.requests.write(&mut text, "requests");
        if !self.replies.epochs.is_empty() {
            text.push('\n');
            self.replies.write(&mut text, "replies");
        }
        for error in &self.undeserved {
            let _ = writeln!(text, "\nabout pings that were not lost: {error}");
        }
        for what in &self.damage {
            let _ = writeln!(text, "\nwrong with packets of no path: {what}");
        }
        if losses {
            let _ = writeln!(text, "\nlost: {} of {}{}", self.lost, self.sent, self.causes_in_words());
        }
        text
    }

    /// What became of what did not arrive: a line for each cause, each after a line break.
    #[must_use]
    pub fn causes_in_words(&self) -> String {
        let line = |(cause, times): (&String, &usize)| format!("\n    {times} {cause}");
        self.causes.iter().map(line).collect()
    }
}

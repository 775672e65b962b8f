//! Probes between many hosts: a row a probe, with the hosts that it and its reply passed.

use super::matrix::{align, answers, with_damage};
use super::{Flow, Hop, Journey, Map, Part};

/// A table of probes and the hosts on their ways.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mesh {
    rows: Vec<Vec<String>>,
}

impl Mesh {
    /// A table without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a probe. `label` tells it from others: `c1 > c2`.
    pub fn push(&mut self, map: &Map, label: &str, journey: &Journey) {
        let part = |part| journey.flows.iter().find(|flow| flow.part == part).map(way).unwrap_or_default();
        let answer = with_damage(answers(map, journey), journey);
        let row = vec![label.to_owned(), part(Part::Request), part(Part::Reply), answer];
        self.rows.push(row);
    }
}

impl std::fmt::Display for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines = vec![["probe", "request by", "reply by", "answer"].map(str::to_owned).to_vec()];
        lines.extend(self.rows.iter().cloned());
        f.write_str(&align(&lines))
    }
}

/// The hosts that a packet passed, in path order; those of its copies after a `+`.
fn way(flow: &Flow) -> String {
    let ways = std::iter::once(&flow.hops).chain(flow.branches.iter().map(|branch| &branch.hops));
    ways.map(|hops| hosts(hops)).collect::<Vec<_>>().join(" + ")
}

fn hosts(hops: &[Hop]) -> String {
    let mut hosts: Vec<&str> = hops.iter().map(|hop| hop.point.host.as_str()).collect();
    hosts.dedup();
    hosts.join(" ")
}

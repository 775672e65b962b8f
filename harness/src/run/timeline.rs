//! When each step began, by what the daemons had logged until then, and what was broken at the time.

use std::collections::BTreeMap;

use super::Runner;
use crate::flow::FaultPlace;
use crate::suite::Step;

/// A step that was begun, or one that another has in it.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Which of the case's steps it is or is in, from 1.
    pub number: usize,
    /// That step's title.
    pub title: String,
    /// The title of the one in it.
    inner: Option<String>,
    /// What was broken on purpose when it began.
    broken: Vec<String>,
    /// Octets of each node's log.
    logged: BTreeMap<String, usize>,
}

impl Begun {
    /// How many octets the daemons on a node had logged.
    pub fn logged(&self, node: &str) -> usize {
        self.logged.get(node).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}, `{}`", self.number, self.title)?;
        if let Some(inner) = &self.inner {
            write!(f, ", since its `{inner}`")?;
        }
        if !self.broken.is_empty() {
            write!(f, " (when it began: {})", self.broken.join(", "))?;
        }
        Ok(())
    }
}

impl Runner<'_> {
    /// The steps that were begun, in order, with those within others.
    pub fn begun(&self) -> &[Begun] {
        &self.begun
    }

    /// Notes that a step of the case begins.
    pub(super) fn begin(&mut self, number: usize, step: &Step) {
        self.note_begun(number, step.title(), None);
    }

    /// Notes that a step begins that the last one of the case has in it.
    pub(super) fn begin_inner(&mut self, step: &Step) {
        if let Some(Begun { number, title, .. }) = self.begun.last() {
            self.note_begun(*number, title.clone(), Some(step.title()));
        }
    }

    fn note_begun(&mut self, number: usize, title: String, inner: Option<String>) {
        self.lab.note_drops();
        let nodes = self.lab.topology.nodes.iter();
        let logged = nodes.map(|node| (node.name.clone(), self.lab.log_length(&node.name))).collect();
        let broken = self.broken();
        self.begun.push(Begun { number, title, inner, broken, logged });
    }

    /// What is broken on purpose now that a daemon may notice.
    fn broken(&self) -> Vec<String> {
        // What is within a node, no daemon hears of.
        let faults = self.faults().into_iter().filter(|fault| fault.place != FaultPlace::Host);
        let faults = faults.map(|fault| format!("{}: {}", fault.host, fault.what));
        let members = self.lab.stopped_members().map(|member| format!("{member} not running"));
        faults.chain(members).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_with_the_one_in_it_and_what_was_broken() {
        let begun = Begun {
            number: 4,
            title: "stream c1 > c2".to_owned(),
            inner: None,
            broken: Vec::new(),
            logged: BTreeMap::from([("a".to_owned(), 120)]),
        };
        assert_eq!(begun.to_string(), "step 4, `stream c1 > c2`");
        assert_eq!((begun.logged("a"), begun.logged("no node")), (120, 0));
        let inner = Some("stop-etcd etcd".to_owned());
        let begun =
            Begun { inner, broken: vec!["b: link down".to_owned(), "m1 not running".to_owned()], ..begun };
        assert_eq!(
            begun.to_string(),
            "step 4, `stream c1 > c2`, since its `stop-etcd etcd` (when it began: b: link down, m1 not running)"
        );
    }
}

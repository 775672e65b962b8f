//! What a recording's packets are to the flows: comments for whoever reads it in Wireshark.

use std::sync::Arc;
use std::time::Duration;

use super::{Flow, Hop, Journey};
use crate::capture::frame::{Direction, Point};

/// What one recorded packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where it was recorded.
    pub point: Arc<Point>,
    /// Which way it passed.
    pub direction: Direction,
    /// When.
    pub at: Duration,
    /// `[3] hop 2`, as the ladder counts; at the last hop how the flow ended, too.
    pub text: String,
}

impl Journey {
    /// What each packet of it is, under the flows' own numbers.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        self.flows.iter().flat_map(|flow| flow.notes(&format!("[{}]", flow.number))).collect()
    }
}

impl Flow {
    /// What each packet of it is, the flow being called `name`.
    #[must_use]
    pub fn notes(&self, name: &str) -> Vec<Note> {
        let mut notes = Vec::new();
        let end = format!(": {}", self.verdict);
        note(&mut notes, name, &self.hops, &end);
        for (at, branch) in self.branches.iter().enumerate() {
            note(&mut notes, &format!("{name} copy {}", at + 1), &branch.hops, "");
        }
        notes
    }
}

fn note(notes: &mut Vec<Note>, name: &str, hops: &[Hop], end: &str) {
    for (at, hop) in hops.iter().enumerate() {
        let end = if at + 1 == hops.len() { end } else { "" };
        let fragments = hop.sightings.len();
        for (part, sighting) in hop.sightings.iter().enumerate() {
            let part =
                if fragments > 1 { format!(" part {} of {fragments}", part + 1) } else { String::new() };
            notes.push(Note {
                point: hop.point.clone(),
                direction: hop.direction,
                at: sighting.at,
                text: format!("{name} hop {}{part}{end}", at + 1),
            });
        }
    }
}

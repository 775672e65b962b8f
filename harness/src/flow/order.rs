//! Whether packets keep their order from one point of their way to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Flow, Hop, Journey, Part};

/// Two points that follow each other on a way, between which packets changed their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disorder {
    /// The first point: `a eth0 >`.
    pub from: String,
    /// The point after it.
    pub to: String,
    /// The host that both are of: it did it. None if it happened between hosts.
    pub by: Option<String>,
}

/// Where packets of a stream that are `part` of their journeys changed their order, on any of their ways, the longest first.
/// Of a packet that passes a point twice the first passage counts.
#[must_use]
pub fn disorders(journeys: &[Journey], part: Part) -> Vec<Disorder> {
    let mut flows: Vec<&Flow> =
        journeys.iter().filter_map(|journey| journey.flows.iter().find(|flow| flow.part == part)).collect();
    flows.sort_by_key(|flow| std::cmp::Reverse(flow.hops.len()));
    let mut pairs: Vec<(&Hop, &Hop)> = Vec::new();
    for (before, after) in flows.iter().flat_map(|flow| flow.hops.iter().zip(flow.hops.iter().skip(1))) {
        let is_same =
            |(one, other): &(&Hop, &Hop)| one.passes_same_point(before) && other.passes_same_point(after);
        if !pairs.iter().any(is_same) {
            pairs.push((before, after));
        }
    }
    let mut disorders = Vec::new();
    for (before, after) in pairs {
        let (earlier, later) = (passages(&flows, before), passages(&flows, after));
        let both = earlier.iter().filter_map(|(packet, at)| Some((*at, *later.get(packet)?)));
        if overtake(both.collect()) {
            let (from, to) = (before.place(), after.place());
            let by = (before.point.host == after.point.host).then(|| before.point.host.clone());
            disorders.push(Disorder { from, to, by });
        }
    }
    disorders
}

/// Whether any packet passed the second point before one that had passed the first before it. Given are both times of each.
fn overtake(mut times: Vec<(Duration, Duration)>) -> bool {
    times.sort_unstable();
    let mut last = Duration::ZERO;
    times.chunk_by(|(one, _), (other, _)| one == other).any(|together| {
        let overtaken = together.iter().any(|(_, later)| *later < last);
        last = together.iter().map(|(_, later)| *later).fold(last, Duration::max);
        overtaken
    })
}

/// When each flow passed a point, by the flow's index.
fn passages(flows: &[&Flow], point: &Hop) -> BTreeMap<usize, Duration> {
    let passage = |flow: &Flow| flow.hops.iter().find(|hop| hop.passes_same_point(point)).map(Hop::at);
    flows.iter().enumerate().filter_map(|(index, flow)| Some((index, passage(flow)?))).collect()
}

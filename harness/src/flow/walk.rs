//! The order of hops on a packet's way, from what can come after what.

use std::time::Duration;

use super::{Hop, Map};
use crate::capture::frame::{Direction, Role};

/// Orders hops into walks: each as long as the topology allows, the one from the host `first` before all others.
/// Every hop is in exactly one walk.
pub(super) fn walks(map: &Map, mut hops: Vec<Hop>, first: Option<&str>) -> Vec<Vec<Hop>> {
    hops.sort_by_key(Hop::at);
    let mut walks = Vec::new();
    while let Some(start) = root(map, &hops, first) {
        let mut walk = vec![hops.remove(start)];
        while let Some(next) = walk.last().and_then(|last| successor(map, last, &hops)) {
            walk.push(hops.remove(next));
        }
        walks.push(walk);
    }
    walks
}

/// The hop that a walk of what is left begins with: one that nothing left can come before, the earliest of those.
fn root(map: &Map, hops: &[Hop], first: Option<&str>) -> Option<usize> {
    let begins = |hop: &Hop| hop.direction == Direction::Out && Some(hop.point.host.as_str()) == first;
    let has_predecessor = |hop: &Hop| {
        hops.iter().any(|other| {
            !std::ptr::eq(other, hop) && follows(map, other, hop).is_some() && !raises_ttl(other, hop)
        })
    };
    (0..hops.len()).min_by_key(|at| {
        let hop = &hops[*at];
        (!begins(hop), has_predecessor(hop), hop.at())
    })
}

/// The hop that comes next: the likeliest by topology, then by TTL, then by time.
fn successor(map: &Map, last: &Hop, hops: &[Hop]) -> Option<usize> {
    let candidates =
        hops.iter().enumerate().filter_map(|(at, hop)| Some((at, follows(map, last, hop)?, hop)));
    candidates
        .min_by_key(|(_, likelihood, hop)| {
            let lost = ttl(last).saturating_sub(ttl(hop));
            (*likelihood, raises_ttl(last, hop), lost, hop.at() < last.at(), gap(last.at(), hop.at()))
        })
        .map(|(at, _, _)| at)
}

/// A hop that a walk beginning with `start` can have left `walk` at: its index.
pub(super) fn departure(map: &Map, walk: &[Hop], start: &Hop) -> Option<usize> {
    let candidates = walk.iter().enumerate().filter(|(_, hop)| !raises_ttl(hop, start));
    candidates.filter_map(|(at, hop)| Some((follows(map, hop, start)?, at))).min().map(|(_, at)| at)
}

/// A TTL never grows on the way: if it does, it is another packet, or a grave defect.
fn raises_ttl(one: &Hop, next: &Hop) -> bool {
    ttl(next) > ttl(one)
}

fn ttl(hop: &Hop) -> u8 {
    hop.inner().map_or(0, |packet| packet.ttl)
}

fn gap(one: Duration, other: Duration) -> Duration {
    one.max(other).saturating_sub(one.min(other))
}

/// Whether `next` can be the hop right after `last`, and how likely it is where more than one can: 0 is likeliest.
fn follows(map: &Map, last: &Hop, next: &Hop) -> Option<u8> {
    use Direction::{In, Out};
    use Role::{Bridge, Container, Tunnel, Underlay};

    let same_host = last.point.host == next.point.host;
    let place = |hop: &Hop| (hop.point.role, hop.direction, hop.encapsulated());
    match (place(last), place(next)) {
        ((Container, Out, false), (Bridge, In, false)) => {
            is_behind(map, last, next).then(|| u8::from(is_for_neighbour(map, next)))
        }
        ((Container, Out, false), (Container, In, false)) => {
            are_neighbours(map, last, next).then(|| misdelivered(map, next))
        }
        ((Bridge, Out, false), (Container, In, false)) => {
            is_behind(map, next, last).then(|| misdelivered(map, next))
        }
        ((Underlay, Out, one), (Underlay, In, other)) if one == other && !same_host => {
            across(map, last, next)
        }
        // The relay.
        ((Tunnel, Out, false), (Underlay, Out, true)) if same_host => Some(0),
        ((Underlay, In, true), (Tunnel, In, false)) if same_host => Some(0),
        ((Underlay, In, true), (Underlay, Out, true)) if same_host => Some(1),
        ((Tunnel, Out, false), (Tunnel, In, false)) if same_host => Some(2),
        // The kernel forwards.
        ((_, In, false), (_, Out, false)) if same_host => Some(0),
        // As the kernel does, with the tunnel device's sighting missing.
        ((_, In, false), (Underlay, Out, true)) | ((Underlay, In, true), (_, Out, false)) if same_host => {
            Some(3)
        }
        _ => None,
    }
}

fn is_behind(map: &Map, container: &Hop, node: &Hop) -> bool {
    map.node_of(&container.point.host) == Some(node.point.host.as_str())
}

fn are_neighbours(map: &Map, one: &Hop, other: &Hop) -> bool {
    one.point.host != other.point.host && map.node_of(&one.point.host) == map.node_of(&other.point.host)
}

/// 0 if the host that has the packet is the one that it is for, else 1: a bridge floods what it has not learnt.
fn misdelivered(map: &Map, hop: &Hop) -> u8 {
    u8::from(!hop.first().is_some_and(|packet| map.has(&hop.point.host, packet.destination)))
}

/// Whether a packet that a bridge hands to its node is for a container on that bridge.
pub(super) fn is_for_neighbour(map: &Map, hop: &Hop) -> bool {
    let owner = hop.first().and_then(|packet| map.host_of(packet.destination));
    owner.and_then(|owner| map.node_of(owner)) == Some(hop.point.host.as_str())
}

fn across(map: &Map, last: &Hop, next: &Hop) -> Option<u8> {
    let (sent, seen) = (last.first()?, next.first()?);
    let owner = map.host_of(sent.destination);
    // No link translates anything or counts as a hop; what is seen was sent again by somebody between.
    let again = if (sent.source, sent.ttl) == (seen.source, seen.ttl) { 0 } else { 3 };
    if sent.destination == seen.destination {
        return Some(again + if map.has(&next.point.host, sent.destination) { 0 } else { 2 });
    }
    // Translated on the way: only an address that no host has itself.
    owner.is_none().then_some(3)
}

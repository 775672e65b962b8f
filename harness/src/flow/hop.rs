//! A packet at one point of its way.

use std::sync::Arc;
use std::time::Duration;

use super::sort::DatagramId;
use crate::capture::frame::{Cast, Direction, Point};
use crate::packet::Ipv4;

/// One recorded frame's packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When.
    pub at: Duration,
    /// Whom the frame was for.
    pub cast: Cast,
    /// The packet, as it was at that point.
    pub packet: Ipv4,
}

/// A packet passing a point; more than one sighting if it passed in fragments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where.
    pub point: Arc<Point>,
    /// Which way.
    pub direction: Direction,
    /// The packet, or its fragments by offset.
    pub sightings: Vec<Sighting>,
}

impl Hop {
    /// When its first part passed.
    #[must_use]
    pub fn at(&self) -> Duration {
        self.sightings.iter().map(|sighting| sighting.at).min().unwrap_or_default()
    }

    /// Whether it is a tunnel datagram that passes, whatever is in it.
    #[must_use]
    pub fn encapsulated(&self) -> bool {
        self.first().is_some_and(Ipv4::is_tunnel_datagram)
    }

    /// The tunnel datagram that the packet was in.
    #[must_use]
    pub fn outer(&self) -> Option<&Ipv4> {
        self.first().filter(|packet| packet.tunnelled().is_some())
    }

    /// The packet as it was on the wire, tunnel datagram and all.
    #[must_use]
    pub fn first(&self) -> Option<&Ipv4> {
        self.sightings.first().map(|sighting| &sighting.packet)
    }

    /// The packet itself, without the tunnel.
    #[must_use]
    pub fn inner(&self) -> Option<&Ipv4> {
        self.first().map(Ipv4::innermost)
    }

    /// Whom its frame was for.
    pub(super) fn cast(&self) -> Cast {
        self.sightings.first().map_or(Cast::Host, |sighting| sighting.cast)
    }

    /// Where, as text: `a eth0 >`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} {} {}", self.point.host, self.point.interface, sign(self.direction))
    }

    pub(super) fn passes_same_point(&self, other: &Self) -> bool {
        self.point == other.point && self.direction == other.direction
    }

    /// The inner packet's length, or the lengths of its fragments.
    pub(super) fn inner_lengths(&self) -> Vec<u16> {
        let mut lengths: Vec<(u16, u16)> = Vec::new();
        for sighting in &self.sightings {
            let inner = sighting.packet.innermost();
            let rest_of_outer = self.outer().is_some() && sighting.packet.tunnelled().is_none();
            if !rest_of_outer {
                lengths.push((inner.fragment.map_or(0, |fragment| fragment.offset), inner.len));
            }
        }
        lengths.sort_unstable();
        lengths.into_iter().map(|(_, len)| len).collect()
    }

    /// The lengths of the datagrams on the wire.
    pub(super) fn lengths(&self) -> Vec<u16> {
        self.sightings.iter().map(|sighting| sighting.packet.len).collect()
    }

    /// Whether a fragment is missing.
    pub(super) fn is_incomplete(&self) -> bool {
        let mut covered = 0;
        let mut parts: Vec<(u16, u16, bool)> = Vec::new();
        for sighting in &self.sightings {
            let packet = if self.outer().is_some() && sighting.packet.fragment.is_none() {
                sighting.packet.innermost()
            } else {
                &sighting.packet
            };
            if let Some(fragment) = packet.fragment {
                parts.push((fragment.offset, packet.payload_len(), fragment.more));
            }
        }
        parts.sort_unstable();
        let ends = parts.last().is_none_or(|(_, _, more)| !more);
        for (offset, len, _) in parts {
            if offset > covered {
                return true;
            }
            covered = covered.max(offset.saturating_add(len));
        }
        !ends
    }
}

/// `<` for in, `>` for out.
pub(super) fn sign(direction: Direction) -> char {
    match direction {
        Direction::In => '<',
        Direction::Out => '>',
    }
}

/// A sighting and where it was.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) point: Arc<Point>,
    pub(super) direction: Direction,
    pub(super) sighting: Sighting,
}

/// Puts fragments of one datagram that passed one point together; copies of a fragment begin another hop.
pub(super) fn group(mut seen: Vec<Located>) -> Vec<Hop> {
    seen.sort_by_key(|located| located.sighting.at);
    let mut hops: Vec<Hop> = Vec::new();
    for Located { point, direction, sighting } in seen {
        let joins = |hop: &&mut Hop| {
            hop.point == point
                && hop.direction == direction
                && hop.sightings.iter().all(|other| are_parts_of_one(&other.packet, &sighting.packet))
        };
        match hops.iter_mut().find(joins) {
            Some(hop) => hop.sightings.push(sighting),
            None => hops.push(Hop { point, direction, sightings: vec![sighting] }),
        }
    }
    for hop in &mut hops {
        hop.sightings.sort_by_key(|sighting| offsets(&sighting.packet));
    }
    hops
}

fn are_parts_of_one(one: &Ipv4, other: &Ipv4) -> bool {
    DatagramId::levels(one).any(|id| DatagramId::levels(other).any(|other| other == id))
        && offsets(one) != offsets(other)
}

/// Offsets from the outermost level on; a later outer fragment sorts after the first, which has the inner packet.
fn offsets(packet: &Ipv4) -> (u16, u16) {
    let offset = |packet: &Ipv4| packet.fragment.map_or(0, |fragment| fragment.offset);
    (offset(packet), offset(packet.innermost()))
}

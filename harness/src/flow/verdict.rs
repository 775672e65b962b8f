//! How a flow ended, and why.

use std::net::Ipv4Addr;

use super::walk::is_for_neighbour;
use super::{Dropped, Fault, FaultPlace, Hop, Map, Observation, Place};
use crate::capture::frame::{Cast, Direction, Role};
use crate::packet::Ipv4;
use crate::packet::icmp::Kind;

/// How a flow ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The socket that it was for received it, or the kernel that it was for answered it.
    Delivered {
        /// How often, if more than once.
        times: u32,
        /// The flow that answers it.
        answer: Option<u32>,
    },
    /// It reached a node's kernel that it was for: an error about a tunnel datagram.
    Received {
        /// The node.
        host: String,
    },
    /// ICMP errors came of it.
    Rejected {
        /// Their flows.
        by: Vec<u32>,
        /// Whether the sender's socket received any of them.
        arrived: bool,
    },
    /// The sender's socket was told of an error that no point recorded: its own kernel's, as a rule.
    Failed {
        /// The error: `host-unreachable from c1`.
        error: String,
    },
    /// Dropped, and counted or answered to the node that had put it in the tunnel.
    Dropped {
        /// By which host.
        host: String,
        /// By what part of it.
        place: Place,
        /// The counter's name, or the error's.
        reason: String,
    },
    /// Gone.
    Lost {
        /// Where it was last seen: `a eth0 >`; none if it was not seen at all.
        after: Option<String>,
        /// What was broken on purpose there; none leaves the loss unexplained.
        fault: Option<String>,
    },
    /// The sender's kernel refused to send it.
    NotSent {
        /// Why.
        why: String,
    },
}

impl Verdict {
    /// Whether it is a loss that nothing accounts for, which fails a case.
    #[must_use]
    pub fn is_unexplained(&self) -> bool {
        matches!(self, Self::Lost { fault: None, .. })
    }

    /// Whether the flow got where it was to go.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        matches!(self, Self::Delivered { .. } | Self::Received { .. })
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Delivered { times, answer } => {
                f.write_str("delivered")?;
                if *times > 1 {
                    write!(f, " {times} times")?;
                }
                answer.map_or(Ok(()), |flow| write!(f, ", answered by [{flow}]"))
            }
            Self::Received { host } => write!(f, "received by {host}"),
            Self::Rejected { by, arrived } => {
                let by: Vec<String> = by.iter().map(|flow| format!("[{flow}]")).collect();
                write!(f, "rejected by {}", by.join(" and "))?;
                f.write_str(if *arrived { "" } else { ", which never arrived" })
            }
            Self::Dropped { host, place, reason } => {
                write!(f, "dropped in {host}'s {}: {reason}", place.name())
            }
            Self::Lost { after, fault } => {
                match after {
                    Some(place) => write!(f, "lost after {place}")?,
                    None => f.write_str("lost before it was seen")?,
                }
                write!(f, ": {}", fault.as_deref().unwrap_or("unexplained"))
            }
            Self::Failed { error } => write!(f, "rejected at the sender itself: {error}"),
            Self::NotSent { why } => write!(f, "not sent: {why}"),
        }
    }
}

/// How a packet's way ends, by what was recorded and counted; what sockets say comes on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// At the host that it is for.
    Reached {
        /// The host.
        host: String,
    },
    /// At a host that it is not for, which ignores it.
    Astray {
        /// The host.
        host: String,
    },
    /// At a counted drop.
    Dropped {
        /// By which host.
        host: String,
        /// By what part of it.
        place: Place,
        /// The counter's name.
        reason: String,
    },
    /// Where an ICMP error about it was made, with no drop counted.
    Refused {
        /// By which host.
        host: String,
        /// By what part of it.
        place: Place,
        /// Type and code of the error.
        kind: Kind,
    },
    /// Nowhere.
    Open {
        /// What was broken on purpose there.
        fault: Option<String>,
    },
}

/// Drops that are not yet explained by a flow, and faults.
#[derive(Debug, Clone)]
pub(super) struct Ledger<'a> {
    pub(super) dropped: Vec<Dropped>,
    faults: &'a [Fault],
    /// The host that sent the probe.
    from: &'a str,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(observation: &'a Observation) -> Self {
        let dropped = observation.dropped.iter().filter(|drop| drop.count > 0).cloned().collect();
        Self { dropped, faults: &observation.faults, from: &observation.probe.from }
    }

    /// The end of a way whose last sighting is `last`. Takes the drop that accounts for it off the ledger.
    pub(super) fn settle(&mut self, map: &Map, last: Option<&Hop>) -> End {
        let Some((last, packet)) = last.and_then(|last| Some((last, last.first()?))) else {
            // It did not get out of the host that sent it, so nothing further on is to blame.
            let mut own = self
                .faults
                .iter()
                .filter(|fault| fault.host == self.from && !matches!(fault.place, FaultPlace::Toward(_)));
            return End::Open { fault: own.next().map(|fault| fault.what.clone()) };
        };
        let host = last.point.host.as_str();
        let ignored = |reason: &str| End::Dropped {
            host: host.to_owned(),
            place: Place::Kernel,
            reason: reason.to_owned(),
        };
        if last.cast() == Cast::Other
            && (last.point.role == Role::Underlay || map.has(host, packet.destination))
        {
            return ignored("frame for another host");
        }
        if let Some(place) = relay_after(last)
            && let Some(reason) = self.take(host, place, last)
        {
            return End::Dropped { host: host.to_owned(), place, reason };
        }
        if let Some((host, reason)) = self.shaped(map, last) {
            return End::Dropped { host, place: Place::Shaper, reason };
        }
        let arrived = last.direction == Direction::In && !last.encapsulated();
        if arrived && map.has(host, packet.destination) {
            return match self.take(host, Place::Kernel, last) {
                Some(reason) => End::Dropped { host: host.to_owned(), place: Place::Kernel, reason },
                None if is_refused_source(map, host, packet.source) => ignored("martian source"),
                None => End::Reached { host: host.to_owned() },
            };
        }
        let ahead = self.ahead(map, last);
        let by_kernel =
            ahead.into_iter().flatten().find_map(|host| Some((host, self.take(host, Place::Kernel, last)?)));
        if let Some((host, reason)) = by_kernel {
            return End::Dropped { host: host.to_owned(), place: Place::Kernel, reason };
        }
        let flooded = last.point.role == Role::Bridge && is_for_neighbour(map, last);
        if arrived && (last.point.role == Role::Container || flooded) {
            return End::Astray { host: host.to_owned() };
        }
        // Linux counts none of these by host: fib_validate_source(), ip_forward(), ip_route_input_mc().
        if last.direction == Direction::In {
            if is_refused_source(map, host, packet.source) {
                return ignored("martian source");
            }
            if is_refused_destination(packet.destination) {
                return ignored("martian destination");
            }
            if packet.destination.is_multicast() {
                return ignored("group not joined");
            }
            if last.cast() == Cast::Many && !map.has(host, packet.destination) {
                return ignored("frame for many, not forwarded");
            }
        }
        End::Open { fault: self.fault(map, last) }
    }

    /// What a shaper dropped on the way from this hop, or of the fragments that were to pass it.
    fn shaped(&mut self, map: &Map, last: &Hop) -> Option<(String, String)> {
        // A fragment may be missing since any shaper that the packet passed.
        let incomplete = last.is_incomplete();
        if !incomplete && (last.point.role, last.direction) != (Role::Underlay, Direction::Out) {
            return None;
        }
        let sender =
            last.first().and_then(|packet| map.host_of(packet.source)).unwrap_or_default().to_owned();
        let ahead = self.ahead(map, last).map(|host| host.unwrap_or_default().to_owned());
        let passed = self.dropped.iter().filter(|drop| incomplete && drop.place == Place::Shaper);
        let passed: Vec<String> = passed.map(|drop| drop.host.clone()).collect();
        let (host, reason) = [&sender, &ahead[0], &ahead[1]]
            .into_iter()
            .chain(&passed)
            .find_map(|host| Some((host.clone(), self.take(host, Place::Shaper, last)?)))?;
        // Each fragment is dropped by itself, and the packet is lost once.
        let is_fragment = |packet: &Ipv4| packet.fragment.is_some() || packet.innermost().fragment.is_some();
        if last.first().is_some_and(is_fragment) {
            self.dropped
                .retain(|drop| drop.place != Place::Shaper || drop.reason != reason || drop.host != host);
        }
        Some((host, reason))
    }

    /// The host that has the packet, and the one that it was about to reach.
    fn ahead<'h>(&self, map: &'h Map, last: &'h Hop) -> [Option<&'h str>; 2] {
        let next = match last.direction {
            Direction::Out => last.first().and_then(|packet| map.host_of(packet.destination)),
            Direction::In => None,
        };
        [Some(last.point.host.as_str()), next]
    }

    fn fault(&self, map: &Map, last: &Hop) -> Option<String> {
        let ahead = self.ahead(map, last);
        let on_underlay = last.point.role == Role::Underlay && last.direction == Direction::Out;
        let explains = |fault: &&Fault| {
            let near = ahead.contains(&Some(fault.host.as_str()));
            near && match &fault.place {
                FaultPlace::Relay => relay_after(last).is_some() && last.point.host == fault.host,
                FaultPlace::Device => {
                    last.direction == Direction::In
                        && last.point.role != Role::Tunnel
                        && !last.encapsulated()
                        && last.point.host == fault.host
                }
                FaultPlace::Underlay => on_underlay,
                FaultPlace::Toward(to) => {
                    on_underlay && last.point.host == fault.host && ahead.contains(&Some(to.as_str()))
                }
                FaultPlace::Host => true,
            }
        };
        self.faults.iter().find(explains).map(|fault| fault.what.clone())
    }

    /// Takes the drop of a packet off a place's, of the reason that fits best: about TTLs only when the TTL is used up. Of a
    /// packet in fragments each is dropped by itself.
    fn take(&mut self, host: &str, place: Place, last: &Hop) -> Option<String> {
        let expired = last.inner().is_some_and(|packet| packet.ttl <= 1);
        let of_place = self.dropped.iter_mut().filter(|drop| drop.host == host && drop.place == place);
        let best = of_place.min_by_key(|drop| drop.reason.contains("ttl") != expired)?;
        let pieces = u64::try_from(last.inner_lengths().len()).unwrap_or(1).max(1);
        best.count -= best.count.min(pieces);
        let reason = best.reason.clone();
        self.dropped.retain(|drop| drop.count > 0);
        Some(reason)
    }
}

/// Whether a host's kernel takes in no packet from this source: fib_validate_source().
fn is_refused_source(map: &Map, host: &str, source: Ipv4Addr) -> bool {
    is_martian(source) || map.has(host, source)
}

/// Whether no packet that arrives has this source, to Linux: of RFC 1812, section 5.3.7, it lets 240.0.0.0/4 pass.
fn is_martian(source: Ipv4Addr) -> bool {
    let [first, ..] = source.octets();
    first == 0 || source.is_loopback() || source.is_multicast() || source.is_broadcast()
}

/// Whether no packet that arrives is for this destination, to Linux: ip_route_input_slow().
fn is_refused_destination(destination: Ipv4Addr) -> bool {
    let [first, ..] = destination.octets();
    first == 0 || destination.is_loopback()
}

/// The side of the relay that a packet enters after a hop.
pub(super) fn relay_after(hop: &Hop) -> Option<Place> {
    match (hop.point.role, hop.direction, hop.encapsulated()) {
        (Role::Tunnel, Direction::Out, _) => Some(Place::RelayOutbound),
        (Role::Underlay, Direction::In, true) => Some(Place::RelayInbound),
        _ => None,
    }
}

//! Which frame belongs to which probe, and what it is to it.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use super::{Crafted, Key, Probe};
use crate::capture::frame::Frame;
use crate::packet::icmp::Kind;
use crate::packet::marker::{self, Marked};
use crate::packet::{Icmp, Ipv4, Packet, Payload, Tunnelled, Udp};

/// What a packet is to its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The probe itself.
    Request,
    /// The answer of the host that it was for.
    Reply,
    /// An ICMP error.
    Error {
        /// What it is about.
        about: Quoted,
        /// Type and code.
        kind: Kind,
    },
}

/// What an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quoted {
    /// The probe.
    Request,
    /// Its reply.
    Reply,
}

/// Frames by the probe that they belong to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sorted {
    /// Each probe's frames, by its number.
    pub probes: BTreeMap<u32, Vec<Frame>>,
    /// Frames of no probe.
    pub rest: Vec<Frame>,
}

/// Shares out one recording among many probes. `port` is the tunnel's.
#[must_use]
pub fn sort(probes: &[Probe], frames: Vec<Frame>, port: u16) -> Sorted {
    let by_number: HashMap<u32, &Probe> = probes.iter().map(|probe| (probe.number, probe)).collect();
    let mut datagrams = HashMap::new();
    let mut sorted = Sorted::default();
    let mut open = Vec::new();
    for frame in frames {
        let packet = Packet::parse(&frame, port);
        let owner = packet.ipv4().and_then(|packet| match packet.marker() {
            Some(number) => by_number.get(&number).copied(),
            None => probes.iter().find(|probe| claim(probe, packet).is_some()),
        });
        match (owner, packet) {
            (Some(probe), Packet::Ipv4(packet)) => {
                datagrams.extend(DatagramId::levels(&packet).map(|id| (id, probe.number)));
                sorted.probes.entry(probe.number).or_default().push(frame);
            }
            (_, packet) => open.push((frame, packet)),
        }
    }
    for (frame, packet) in open {
        let owner =
            packet.ipv4().and_then(|packet| DatagramId::levels(packet).find_map(|id| datagrams.get(&id)));
        match owner {
            Some(number) => sorted.probes.entry(*number).or_default().push(frame),
            None => sorted.rest.push(frame),
        }
    }
    sorted
}

/// What tells which fragments belong together (RFC 791).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DatagramId {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    id: u16,
}

impl DatagramId {
    fn of(packet: &Ipv4) -> Option<Self> {
        packet.fragment.is_some().then_some(Self {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            id: packet.id,
        })
    }

    /// The datagrams that a packet is a fragment of, from the outermost to the innermost.
    pub(super) fn levels(packet: &Ipv4) -> impl Iterator<Item = Self> + '_ {
        std::iter::successors(Some(packet), |packet| packet.tunnelled()).filter_map(Self::of)
    }
}

/// What a packet is to a probe, if it can be told from the packet alone (a later fragment needs its first).
pub(super) fn claim(probe: &Probe, packet: &Ipv4) -> Option<Part> {
    if let Key::Crafted(crafted) = probe.key {
        return claim_crafted(probe, crafted, packet);
    }
    match &packet.innermost().payload {
        Payload::Icmp(Icmp::Error { kind, quote: Some(quote), .. }) => {
            let about = claim_message(probe, quote.innermost(), true)?;
            Some(Part::Error { about, kind: *kind })
        }
        _ => claim_message(probe, packet.innermost(), false).map(|about| match about {
            Quoted::Request => Part::Request,
            Quoted::Reply => Part::Reply,
        }),
    }
}

/// The same for a packet that was built field by field, which may itself be an ICMP error, or no packet at all.
fn claim_crafted(probe: &Probe, crafted: Crafted, packet: &Ipv4) -> Option<Part> {
    let levels = || std::iter::successors(Some(packet), |packet| packet.tunnelled());
    if levels().any(|packet| is_same(probe, crafted, packet)) {
        return Some(Part::Request);
    }
    let inner = packet.innermost();
    // What comes of it may go back from the port that it came in a datagram from: a relay's.
    let caused = match &inner.payload {
        Payload::Icmp(Icmp::Error { kind, quote: Some(quote), .. }) => claim_crafted(probe, crafted, quote)
            .map(|about| match about {
                Part::Request => Part::Error { about: Quoted::Request, kind: *kind },
                Part::Reply | Part::Error { .. } => Part::Error { about: Quoted::Reply, kind: *kind },
            }),
        Payload::Icmp(Icmp::Echo { reply: true, id, marked, .. }) => {
            let answers = *id == crafted.id || marked.is_some_and(|marked| marked.number == crafted.marker);
            (answers && inner.source == probe.to).then_some(Part::Reply)
        }
        _ => None,
    };
    let carried =
        || levels().any(|packet| carries(crafted, packet)) || inner.marker() == Some(crafted.marker);
    caused.or_else(|| carried().then_some(Part::Request))
}

/// Whether a packet is the one that was sent.
fn is_same(probe: &Probe, crafted: Crafted, packet: &Ipv4) -> bool {
    (packet.source, packet.destination, packet.protocol, packet.id)
        == (probe.source, probe.to, crafted.protocol, crafted.id)
}

/// Whether a packet is the tunnel datagram that it was sent in, whatever is inside of that.
fn carries(crafted: Crafted, packet: &Ipv4) -> bool {
    let carries = |udp: &Udp| udp.tunnelled != Tunnelled::No && Some(udp.source) == crafted.outer;
    matches!(&packet.payload, Payload::Udp(udp) if carries(udp))
}

fn claim_message(probe: &Probe, packet: &Ipv4, quoted: bool) -> Option<Quoted> {
    let markless = quoted || usize::from(packet.payload_len()) < 8 + marker::LEN;
    let mine = |marked: Option<Marked>, key: bool| match marked {
        Some(marked) => marked.number == probe.number,
        None => markless && key,
    };
    match (&packet.payload, probe.key) {
        (
            Payload::Icmp(Icmp::Echo { reply, id, seq, marked, .. }),
            Key::Echo { id: own_id, seq: own_seq },
        ) => {
            let peer = if *reply { packet.source } else { packet.destination };
            let key = (*id, *seq) == (own_id, own_seq) && peer == probe.to;
            mine(*marked, key).then_some(if *reply { Quoted::Reply } else { Quoted::Request })
        }
        (Payload::Udp(udp), Key::Udp { source, destination }) => {
            let ports = (udp.source, udp.destination);
            let sent = ports == (source, destination) && packet.destination == probe.to;
            let back = ports == (destination, source) && packet.source == probe.to;
            let reply =
                udp.source == destination && (udp.destination != destination || packet.source == probe.to);
            mine(udp.marked, sent || back).then_some(if reply { Quoted::Reply } else { Quoted::Request })
        }
        // A probe in a tunnel datagram whose content is no packet: known by its marker only.
        (Payload::Udp(udp), Key::Echo { .. }) => mine(udp.marked, false).then_some(Quoted::Request),
        _ => None,
    }
}

/// Tells octets from others (FNV-1a).
pub fn fingerprint(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3))
}

/// What a frame that is no IPv4 packet is to a probe that was built field by field.
pub(super) fn claim_malformed(probe: &Probe, frame: &Frame, salvaged: &Ipv4) -> Option<Part> {
    let Key::Crafted(crafted) = probe.key else { return None };
    let marked = marker::find(&frame.octets).is_some_and(|marked| marked.number == crafted.marker);
    let same = fingerprint(frame.network_octets()) == crafted.fingerprint;
    let is_it = marked || same || is_same(probe, crafted, salvaged) || carries(crafted, salvaged);
    is_it.then_some(Part::Request)
}

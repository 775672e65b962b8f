//! What is wrong with a packet, and where on its way that began.

use super::{Flow, Hop, Journey};
use crate::packet::{Icmp, Ipv4, Payload};

/// What is wrong with a packet that was not wrong with it at the hop before.
pub(super) fn defects(packet: &Ipv4, before: Option<&Ipv4>) -> Vec<String> {
    let found = |packet: &Ipv4| {
        let marked = match &packet.payload {
            Payload::Icmp(Icmp::Echo { marked, .. }) => *marked,
            Payload::Udp(udp) => udp.marked,
            Payload::Tcp(tcp) => tcp.marked,
            _ => None,
        };
        [
            packet.checksum.is_bad().then(|| "BAD header checksum".to_owned()),
            packet.transport_checksum().is_bad().then(|| "BAD checksum".to_owned()),
            marked.is_some_and(|marked| marked.altered).then(|| "payload ALTERED".to_owned()),
            (packet.trailing > 0).then(|| format!("{} octets of junk after it", packet.trailing)),
        ]
    };
    let known = before.map(found).unwrap_or_default();
    found(packet)
        .into_iter()
        .flatten()
        .filter(|defect| !known.iter().flatten().any(|other| other == defect))
        .collect()
}

/// What became wrong with a packet from one hop to the next, its length among it.
fn damage(before: &Hop, hop: &Hop) -> Vec<String> {
    let (Some(was), Some(is)) = (before.inner(), hop.inner()) else { return Vec::new() };
    let mut found = defects(is, Some(was));
    if let ([was], [is]) = (before.inner_lengths().as_slice(), hop.inner_lengths().as_slice())
        && was != is
        && !before.is_incomplete()
        && !hop.is_incomplete()
    {
        found.push(format!("len {was} -> {is}"));
    }
    found.into_iter().map(|what| format!("{what} at {}", hop.place())).collect()
}

impl Flow {
    /// What became wrong with it on its way, its copies' ways included.
    fn damage(&self) -> Vec<String> {
        let along = |before: Option<&Hop>, hops: &[Hop]| {
            let pairs = before.into_iter().chain(hops).zip(hops.iter().skip(usize::from(before.is_none())));
            pairs.flat_map(|(before, hop)| damage(before, hop)).collect::<Vec<_>>()
        };
        let mut found = along(None, &self.hops);
        for branch in &self.branches {
            let before = branch.after.and_then(|at| self.hops.get(at)).or(self.hops.first());
            found.extend(along(before, &branch.hops));
        }
        found
    }
}

impl Journey {
    /// What became wrong with any of its packets on the way, for where no ladder shows it.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.flows.iter().flat_map(Flow::damage).collect()
    }
}

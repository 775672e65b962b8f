//! What is wrong with a packet, and where on its way that began.

use super::{Flow, Hop, Journey};
use crate::packet::{Icmp, Ipv4, Payload, Udp};

/// What is wrong with a packet that was not wrong with it at the hop before.
pub(super) fn defects(packet: &Ipv4, before: Option<&Ipv4>) -> Vec<String> {
    let found = |packet: &Ipv4| {
        [
            packet.checksum.is_bad().then(|| "BAD header checksum".to_owned()),
            packet.transport_checksum().is_bad().then(|| "BAD checksum".to_owned()),
            altered(packet).map(|at| format!("payload ALTERED from octet {at}")),
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

/// What an ICMP error's quote has otherwise than the packet that the error is about had anywhere on its way. Nothing if that was
/// seen nowhere.
pub(super) fn misquoted(error: &[Hop], about: &Flow) -> Vec<String> {
    let Some(Payload::Icmp(Icmp::Error { quote: Some(quote), .. })) =
        error.first().and_then(Hop::inner).map(|packet| &packet.payload)
    else {
        return Vec::new();
    };
    let hops = about.hops.iter().chain(about.branches.iter().flat_map(|branch| &branch.hops));
    let seen: Vec<&Ipv4> = hops.flat_map(|hop| &hop.sightings).map(|sighting| &sighting.packet).collect();
    let least = |different: fn(&Ipv4, &Ipv4) -> Vec<String>| {
        let differences = seen.iter().map(|packet| match (quote.tunnelled(), packet.tunnelled()) {
            (Some(quoted), Some(inner)) => [different(quote, packet), different(quoted, inner)].concat(),
            _ => different(quote, packet.innermost()),
        });
        differences.min_by_key(Vec::len).unwrap_or_default()
    };
    // Where addresses are translated, those in the quote are, too (RFC 5508, section 4.2), and nothing else of it: it may be
    // like the packet before translation in these, and after it in the rest.
    [least(different_ends), least(different_otherwise)].concat()
}

/// What translation may rewrite, if it is not the same in a quote and a packet.
fn different_ends(quote: &Ipv4, packet: &Ipv4) -> Vec<String> {
    let transport = match (&quote.payload, &packet.payload) {
        (
            Payload::Icmp(Icmp::Echo { reply, id, seq, .. }),
            Payload::Icmp(Icmp::Echo { reply: own_reply, id: own_id, seq: own_seq, .. }),
        ) => (reply, id, seq) == (own_reply, own_id, own_seq),
        (
            Payload::Udp(Udp { source, destination, len, .. }),
            Payload::Udp(Udp { source: own_source, destination: own_destination, len: own_len, .. }),
        ) => (source, destination, len) == (own_source, own_destination, own_len),
        (Payload::Tcp(quoted), Payload::Tcp(own)) => {
            (quoted.source, quoted.destination) == (own.source, own.destination)
        }
        _ => true,
    };
    named([
        (quote.source != packet.source, "source"),
        (quote.destination != packet.destination, "destination"),
        (!transport, "transport header"),
    ])
}

fn different_otherwise(quote: &Ipv4, packet: &Ipv4) -> Vec<String> {
    let damage = altered(quote).filter(|_| altered(quote) != altered(packet));
    let damage = damage.map(|at| format!("payload from octet {at}"));
    // Whether it is in one piece depends on who quotes it.
    let parted = quote.fragment.is_some() != packet.fragment.is_some();
    named([
        // A router need not undo what it did before it found the error (RFC 1812, section 4.3.2.3).
        (quote.ttl != packet.ttl && Some(quote.ttl) != packet.ttl.checked_sub(1), "ttl"),
        (!parted && (quote.len, quote.fragment) != (packet.len, packet.fragment), "length"),
        (quote.tos != packet.tos, "tos"),
        (quote.id != packet.id, "id"),
        (!parted && quote.df != packet.df, "df"),
        (quote.options != packet.options, "options"),
        (quote.protocol != packet.protocol, "protocol"),
        (quote.checksum.is_bad() && !packet.checksum.is_bad(), "header checksum"),
    ])
    .into_iter()
    .chain(damage)
    .collect()
}

/// The first octet of its payload that is not what was sent.
fn altered(packet: &Ipv4) -> Option<usize> {
    packet.marked().and_then(|marked| marked.altered)
}

fn named<const N: usize>(found: [(bool, &'static str); N]) -> Vec<String> {
    found.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what.to_owned()).collect()
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
        if !self.misquoted.is_empty() {
            found.push(format!("quotes with ANOTHER {}", self.misquoted.join(", ")));
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

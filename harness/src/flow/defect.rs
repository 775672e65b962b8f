//! What is wrong with a packet, and where on its way that began.

use super::ladder::tos;
use super::{Flow, Hop, Journey, Part};
use crate::packet::{Checksum, Icmp, Ipv4, Payload, Udp};

/// What is wrong with a packet that was not wrong with it at the hop before.
pub(super) fn defects(packet: &Ipv4, before: Option<&Ipv4>) -> Vec<String> {
    let found = |packet: &Ipv4| {
        [
            packet.checksum.is_bad().then(|| "BAD header checksum".to_owned()),
            packet.transport_checksum().is_bad().then(|| "BAD checksum".to_owned()),
            (packet.transport_checksum() == Checksum::Absent).then(|| "NO checksum".to_owned()),
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

/// What nobody on the way has a reason to change, and was.
pub(super) fn rewritten(was: &Ipv4, is: &Ipv4) -> Vec<String> {
    let translated = (was.source, was.destination) != (is.source, is.destination);
    let ends = ends(was).zip(ends(is)).filter(|(was, is)| was != is && !translated);
    [
        (was.id != is.id).then(|| "ANOTHER id".to_owned()),
        ends.map(|(_, (what, ..))| format!("ANOTHER {what}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What tells a flow from others of the same two hosts: what it is called, and its values.
fn ends(packet: &Ipv4) -> Option<(&'static str, u16, u16)> {
    match &packet.payload {
        Payload::Icmp(Icmp::Echo { id, seq, .. }) => Some(("echo id or seq", *id, *seq)),
        Payload::Udp(udp) => Some(("port", udp.source, udp.destination)),
        Payload::Tcp(tcp) => Some(("port", tcp.source, tcp.destination)),
        _ => None,
    }
}

/// What fragments of a packet, or of the tunnel datagram around it, have otherwise than the first of them, if that was not
/// so at the hop before.
pub(super) fn uneven(hop: &Hop, before: Option<&Hop>) -> Vec<String> {
    let known: Vec<String> =
        before.into_iter().flat_map(later).flat_map(|fragment| fragment.unlike).collect();
    let mut found = Vec::new();
    for Later { offset, mut unlike } in later(hop) {
        unlike.retain(|what| !known.contains(what));
        if !unlike.is_empty() {
            found.push(format!("from octet {offset} {}", unlike.join(", ")));
        }
    }
    found
}

/// A fragment that is not the first.
struct Later {
    /// What it begins with of its datagram's payload, in octets.
    offset: u16,
    /// Relative to the first, so that it stays the same when both pass a router.
    unlike: Vec<String>,
}

fn later(hop: &Hop) -> Vec<Later> {
    let Some((first, rest)) = hop.sightings.split_first() else { return Vec::new() };
    let offset = |packet: &Ipv4| packet.fragment.map_or(0, |fragment| fragment.offset);
    let later = |packet: &Ipv4| {
        let first = &first.packet;
        match (first.tunnelled(), packet.tunnelled()) {
            (Some(was), Some(is)) => {
                let outer = unlike(first, packet).into_iter().map(|what| format!("in udp {what}"));
                Later { offset: offset(is), unlike: unlike(was, is).into_iter().chain(outer).collect() }
            }
            (Some(_), None) => {
                let outer = unlike(first, packet).into_iter().map(|what| format!("of udp {what}"));
                Later { offset: offset(packet), unlike: outer.collect() }
            }
            _ => Later { offset: offset(packet), unlike: unlike(first, packet) },
        }
    };
    rest.iter().map(|sighting| later(&sighting.packet)).collect()
}

/// What a fragment, or the datagram around one, has otherwise than the first. Options may be left out of all but the first
/// (RFC 791, section 3.1).
fn unlike(first: &Ipv4, later: &Ipv4) -> Vec<String> {
    let ttl = i16::from(later.ttl) - i16::from(first.ttl);
    let tunnelled = first.tunnelled().is_some();
    let ports = ends(first).zip(ends(later)).is_some_and(|(first, later)| first != later);
    let mut unlike = named([
        (first.source != later.source, "ANOTHER source"),
        (first.destination != later.destination, "ANOTHER destination"),
        (first.protocol != later.protocol, "ANOTHER protocol"),
        (tunnelled && ports, "ANOTHER port"),
        // A relay learns its path by the outer one.
        (!tunnelled && first.df && !later.df, "no df"),
        (!tunnelled && !first.df && later.df, "df"),
        (!first.checksum.is_bad() && later.checksum.is_bad(), "BAD header checksum"),
    ]);
    if ttl != 0 {
        unlike.push(format!("ttl {ttl:+}"));
    }
    if first.tos != later.tos {
        unlike.push(tos(later.tos));
    }
    if later.trailing > 0 {
        unlike.push(format!("{} octets of junk after it", later.trailing));
    }
    unlike
}

/// What became wrong with a packet from one hop to the next, its length among it.
fn damage(before: &Hop, hop: &Hop) -> Vec<String> {
    let (Some(was), Some(is)) = (before.inner(), hop.inner()) else { return Vec::new() };
    let mut found = [defects(is, Some(was)), rewritten(was, is), uneven(hop, Some(before))].concat();
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
            (Some(quoted), Some(inner)) => {
                [different(quote, &as_run(packet, quote)), different(quoted, inner)].concat()
            }
            _ => different(quote, packet.innermost()),
        });
        differences.min_by_key(Vec::len).unwrap_or_default()
    };
    // Where addresses are translated, those in the quote are, too (RFC 5508, section 4.2), and nothing else of it: it may be
    // like the packet before translation in these, and after it in the rest.
    let mut found = [least(different_ends), least(different_otherwise)].concat();
    if found.is_empty() && !seen.iter().any(|packet| is_summed_as(quote, packet)) {
        found.push("transport checksum".to_owned());
    }
    found
}

/// A tunnel datagram with the length of what quotes it, if that is longer: a kernel quotes a run of datagrams that it has not cut
/// (`UDP_SEGMENT`), with the length of them all.
fn as_run(packet: &Ipv4, quote: &Ipv4) -> Ipv4 {
    let mut run = packet.clone();
    if quote.len > packet.len
        && let (Payload::Udp(udp), Payload::Udp(quoted)) = (&mut run.payload, &quote.payload)
    {
        (run.len, udp.len) = (quote.len, quoted.len);
    }
    run
}

/// Whether the transport's checksum that a quote has may be that of a packet: one that was not filled in yet may be, in the
/// quote.
fn is_summed_as(quote: &Ipv4, packet: &Ipv4) -> bool {
    let (quoted, own) = match (quote.tunnelled(), packet.tunnelled()) {
        (Some(quoted), Some(inner)) => (quoted, inner),
        _ => (quote, packet.innermost()),
    };
    let pending = packet.transport_checksum() == Checksum::Unverified && packet.fragment.is_none();
    quoted.transport_sum.is_none() || quoted.transport_sum == own.transport_sum || pending
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
    pub(super) fn damage(&self) -> Vec<String> {
        let along = |before: Option<&Hop>, hops: &[Hop]| {
            let pairs = before.into_iter().chain(hops).zip(hops.iter().skip(usize::from(before.is_none())));
            pairs.flat_map(|(before, hop)| damage(before, hop)).collect::<Vec<_>>()
        };
        let mut found = along(None, &self.hops);
        // Nobody makes an error that is wrong on purpose.
        if let (Part::Error { .. }, Some(hop)) = (self.part, self.hops.first())
            && let Some(packet) = hop.inner()
        {
            found.extend(defects(packet, None).into_iter().map(|what| format!("{what} at {}", hop.place())));
        }
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

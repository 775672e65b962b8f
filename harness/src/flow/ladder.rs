//! A flow as text: a line a hop, with what changed since the hop before and nothing else.

use std::fmt::Write as _;

use super::defect::{defects, rewritten, uneven};
use super::hop::sign;
use super::observation::Key;
use super::{Branch, End, Flow, Hop, Journey, Map, Part, Place, Probe, Verdict};
use crate::packet::{Icmp, Ipv4, Payload, Tunnelled, VXLAN_PORT};

impl Journey {
    /// All flows as text, in order, with what no flow accounts for at the end.
    #[must_use]
    pub fn ladder(&self, map: &Map) -> String {
        let mut ladders: Vec<String> = self.flows.iter().map(|flow| flow.ladder(map, &self.probe)).collect();
        let mut rest = String::new();
        for drop in &self.unattributed {
            let _ = writeln!(
                rest,
                "unattributed: {} dropped in {}'s {}: {}",
                drop.count,
                drop.host,
                drop.place.name(),
                drop.reason
            );
        }
        for sent in &self.unseen {
            let _ = writeln!(
                rest,
                "unseen: {} icmp {} that {}'s relay counted as sent",
                sent.count, sent.name, sent.host
            );
        }
        if !rest.is_empty() {
            ladders.push(rest);
        }
        ladders.join("\n")
    }
}

impl Flow {
    /// The flow as text: a header, a line a hop, the verdict. `probe` stands in where no point saw the packet.
    #[must_use]
    pub fn ladder(&self, map: &Map, probe: &Probe) -> String {
        let body = self.body(map);
        format!("[{}] {}\n{body}    => {}\n", self.number, self.header(map, probe, true), self.verdict)
    }

    /// The flow as an example of many: without sequence and flow numbers.
    pub(super) fn exemplar(&self, map: &Map, probe: &Probe) -> String {
        let verdict = self.verdict_without_numbers();
        format!("{}\n{}    => {verdict}\n", self.header(map, probe, false), self.body(map))
    }

    pub(super) fn verdict_without_numbers(&self) -> String {
        match &self.verdict {
            Verdict::Delivered { times, .. } => {
                Verdict::Delivered { times: *times, answer: None }.to_string()
            }
            Verdict::Rejected { arrived: true, .. } => "rejected".to_owned(),
            Verdict::Rejected { arrived: false, .. } => "rejected, but the error never arrived".to_owned(),
            verdict => verdict.to_string(),
        }
    }

    fn body(&self, map: &Map) -> String {
        let lines = Lines::new(map, self);
        let mut text = String::new();
        if let Some(origin) = &self.origin {
            lines.line(&mut text, "    ", [&origin.host, origin.place.name(), "!"], "");
        }
        lines.hops(&mut text, "    ", None, &self.hops);
        lines.end(&mut text, "    ", &self.end);
        for branch in &self.branches {
            self.draw_branch(&mut text, &lines, branch);
        }
        text
    }

    fn draw_branch(&self, text: &mut String, lines: &Lines<'_>, branch: &Branch) {
        let before = branch.after.and_then(|at| self.hops.get(at));
        let word = if branch.again { "again" } else { "also" };
        match before {
            Some(hop) => drop(writeln!(text, "  + {word}, from {}", hop.place())),
            None => drop(writeln!(text, "  + {word}, from nowhere")),
        }
        lines.hops(text, "  | ", before.or(self.hops.first()), &branch.hops);
        lines.end(text, "  | ", &branch.end);
        let _ = match &branch.end {
            End::Reached { host } => writeln!(text, "  | => reached {host}"),
            End::Astray { host } => writeln!(text, "  | => not for {host}"),
            End::Dropped { host, place, reason } => {
                writeln!(text, "  | => dropped in {host}'s {}: {reason}", place.name())
            }
            End::Refused { host, place, kind } => {
                writeln!(text, "  | => refused by {host}'s {}: {kind}", place.name())
            }
            End::Open { fault } => {
                let after = branch.hops.last().map(Hop::place);
                writeln!(text, "  | => {}", Verdict::Lost { after, fault: fault.clone() })
            }
        };
    }

    fn header(&self, map: &Map, probe: &Probe, seq: bool) -> String {
        let Some((hop, packet)) = self.hops.first().and_then(|hop| Some((hop, hop.inner()?))) else {
            return unseen(map, probe, seq);
        };
        let end = match &self.end {
            End::Reached { host } => host,
            _ => "",
        };
        let mut fields = vec![format!(
            "{} > {}  {}",
            map.label_at(packet.source, &hop.point.host),
            map.label_at(packet.destination, end),
            what(packet, self.part, seq)
        )];
        fields.push(format!("ttl {}", packet.ttl));
        match packet.fragment.filter(|_| probe.is_crafted()) {
            Some(fragment) => fields.push(format!("len {}  octets from {}", packet.len, fragment.offset)),
            None => fields.push(length(&hop.inner_lengths(), hop.is_incomplete())),
        }
        fields.extend(traits(packet));
        if let (Some(about), Payload::Icmp(Icmp::Error { quote: Some(quote), .. })) =
            (self.about, &packet.payload)
        {
            let tunnel = if quote.tunnelled().is_some() { " in udp" } else { "" };
            fields.push(format!("quotes [{about}]{tunnel} at ttl {}", quote.innermost().ttl));
            if !self.misquoted.is_empty() {
                fields.push(format!("with ANOTHER {}", self.misquoted.join(", ")));
            }
        }
        fields.extend(defects(packet, None));
        fields.extend(uneven(hop, None));
        fields.join("  ")
    }
}

fn unseen(map: &Map, probe: &Probe, seq: bool) -> String {
    let what = match probe.key {
        Key::Echo { seq: number, .. } if seq => format!("icmp echo-request seq {number}"),
        Key::Echo { .. } => "icmp echo-request".to_owned(),
        Key::Udp { destination, .. } => format!("udp to port {destination}"),
        Key::Crafted(crafted) => format!("protocol {}", crafted.protocol),
    };
    let len = u32::from(probe.size) + 28;
    let df = if probe.df { "  df" } else { "" };
    format!("{} > {}  {what}  ttl {}  len {len}{df}", map.label(probe.source), map.label(probe.to), probe.ttl)
}

/// The kind of packet, without what varies.
fn what(packet: &Ipv4, part: Part, seq: bool) -> String {
    match &packet.payload {
        Payload::Icmp(Icmp::Echo { reply, seq: number, .. }) => {
            let kind = if *reply { "echo-reply" } else { "echo-request" };
            if seq { format!("icmp {kind} seq {number}") } else { format!("icmp {kind}") }
        }
        Payload::Icmp(Icmp::Error { kind, mtu: Some(mtu), .. }) => format!("icmp {kind} mtu {mtu}"),
        Payload::Icmp(Icmp::Error { kind, .. } | Icmp::Other { kind, .. }) => format!("icmp {kind}"),
        Payload::Udp(udp) if part == Part::Reply => format!("udp from port {}", udp.source),
        Payload::Udp(udp) if udp.tunnelled == Tunnelled::Junk => {
            format!("udp to port {} with no packet in it", udp.destination)
        }
        Payload::Udp(udp) => format!("udp to port {}", udp.destination),
        Payload::Tcp(tcp) if part == Part::Reply => format!("tcp {} from port {}", tcp.flags, tcp.source),
        Payload::Tcp(tcp) => format!("tcp {} to port {}", tcp.flags, tcp.destination),
        Payload::Continuation => format!("later fragment of protocol {}", packet.protocol),
        Payload::Malformed => "no IPv4 packet".to_owned(),
        Payload::Other | Payload::Short => format!("protocol {}", packet.protocol),
    }
}

fn length(lengths: &[u16], incomplete: bool) -> String {
    let joined = lengths.iter().map(u16::to_string).collect::<Vec<_>>().join("+");
    let missing = if incomplete { "+missing" } else { "" };
    if lengths.len() > 1 || incomplete {
        format!("fragments {joined}{missing}")
    } else {
        format!("len {joined}")
    }
}

/// Header fields worth a word only when they are set.
fn traits(packet: &Ipv4) -> Vec<String> {
    let mut traits = Vec::new();
    if packet.df {
        traits.push("df".to_owned());
    }
    if packet.tos != 0 {
        traits.push(tos(packet.tos));
    }
    if !packet.options.is_empty() {
        traits.push(format!("options {}", packet.options.len()));
    }
    traits
}

/// What is in a TOS octet, in words.
pub(super) fn tos(tos: u8) -> String {
    let ecn = ["", " ect1", " ect0", " ce"][usize::from(tos & 3)];
    match tos >> 2 {
        0 if !ecn.is_empty() => format!("ecn{ecn}"),
        46 => format!("dscp ef{ecn}"),
        dscp => format!("dscp {dscp}{ecn}"),
    }
}

fn envelope(map: &Map, hop: &Hop, outer: &Ipv4) -> String {
    let ports = match &outer.payload {
        Payload::Udp(udp) => (udp.source, udp.destination),
        _ => (0, 0),
    };
    let is_tunnel = |port: u16| port == map.port || port == VXLAN_PORT;
    let port = |port: u16| if is_tunnel(port) { format!(":{port}") } else { String::from(":other") };
    let mut inside = vec![format!("ttl {}", outer.ttl), outer_length(hop)];
    // Outer DF is how a relay learns its path, and says nothing about the packet.
    inside.extend(traits(&Ipv4 { df: false, ..outer.clone() }));
    inside.extend(defects(outer, None));
    format!(
        "in udp {}{} > {}{} ({})",
        map.label(outer.source),
        port(ports.0),
        map.label(outer.destination),
        port(ports.1),
        inside.join(", ")
    )
}

fn outer_length(hop: &Hop) -> String {
    let fragmented = hop.first().is_some_and(|packet| packet.fragment.is_some());
    let lengths = hop.lengths();
    if fragmented {
        length(&lengths, hop.is_incomplete())
    } else {
        format!("len {}", lengths.iter().map(u16::to_string).collect::<Vec<_>>().join("+"))
    }
}

/// What changed from one hop to the next: the TTL, and all else.
fn changes(map: &Map, before: &Hop, hop: &Hop) -> (Option<String>, Vec<String>) {
    let (Some(was), Some(is)) = (before.inner(), hop.inner()) else { return (None, Vec::new()) };
    if is.payload == Payload::Malformed {
        let changes = (was.payload != Payload::Malformed).then(|| "NO IPv4 packet".to_owned());
        return (None, Vec::from_iter(changes));
    }
    let ttl = (was.ttl != is.ttl).then(|| format!("ttl {}", is.ttl));
    let mut list = Vec::new();
    let address = |from, to| format!("{} -> {}", map.label(from), map.label(to));
    if was.source != is.source {
        list.push(format!("src {}", address(was.source, is.source)));
    }
    if was.destination != is.destination {
        list.push(format!("dst {}", address(was.destination, is.destination)));
    }
    list.extend(quote_changes(map, was, is));
    let lengths = (before.inner_lengths(), hop.inner_lengths());
    let incomplete = (before.is_incomplete(), hop.is_incomplete());
    if lengths.0 != lengths.1 || (incomplete.1 && !incomplete.0) {
        let whole = lengths.1.len() == 1 && lengths.0.len() > 1 && !incomplete.1;
        list.push(length(&lengths.1, incomplete.1) + if whole { " reassembled" } else { "" });
    }
    if was.df != is.df {
        list.push(if is.df { "df" } else { "df cleared" }.to_owned());
    }
    if was.tos != is.tos {
        list.push(if is.tos == 0 { "tos 0".to_owned() } else { tos(is.tos) });
    }
    if was.options.len() != is.options.len() {
        list.push(format!("options {}", is.options.len()));
    } else if was.options != is.options {
        list.push("options rewritten".to_owned());
    }
    list.extend(defects(is, Some(was)));
    list.extend(rewritten(was, is));
    match (before.outer(), hop.outer()) {
        (None, Some(outer)) => list.push(envelope(map, hop, outer)),
        (Some(_), None) => list.push("out of udp".to_owned()),
        (Some(was), Some(is)) if envelope(map, before, was) != envelope(map, hop, is) => {
            list.push(envelope(map, hop, is));
        }
        _ => {}
    }
    list.extend(uneven(hop, Some(before)));
    (ttl, list)
}

/// Translation reaches into an error's quote as well (RFC 5508, section 4.2).
fn quote_changes(map: &Map, was: &Ipv4, is: &Ipv4) -> Vec<String> {
    let quote = |packet: &'_ Ipv4| match &packet.payload {
        Payload::Icmp(Icmp::Error { quote: Some(quote), .. }) => Some((quote.source, quote.destination)),
        _ => None,
    };
    let (Some(was), Some(is)) = (quote(was), quote(is)) else { return Vec::new() };
    let change = |word: &str, was, is| {
        (was != is).then(|| format!("quoted {word} {} -> {}", map.label(was), map.label(is)))
    };
    [change("src", was.0, is.0), change("dst", was.1, is.1)].into_iter().flatten().collect()
}

/// Columns of one flow.
struct Lines<'a> {
    map: &'a Map,
    host: usize,
    interface: usize,
}

/// Columns of `ttl 255` and the space after it.
const TTL_COLUMN: usize = 6;

impl<'a> Lines<'a> {
    fn new(map: &'a Map, flow: &Flow) -> Self {
        let (mut host, mut interface) = map.widths();
        for hop in flow.hops.iter().chain(flow.branches.iter().flat_map(|branch| &branch.hops)) {
            host = host.max(hop.point.host.len());
            interface = interface.max(hop.point.interface.len());
        }
        Self { map, host, interface }
    }

    fn line(&self, text: &mut String, margin: &str, [host, interface, sign]: [&str; 3], rest: &str) {
        let line = format!(
            "{margin}{host:<hosts$}  {interface:<interfaces$}  {sign}  {rest}",
            hosts = self.host,
            interfaces = self.interface
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }

    fn hops(&self, text: &mut String, margin: &str, before: Option<&Hop>, hops: &[Hop]) {
        let mut before = before;
        for hop in hops {
            let (ttl, list) = match before {
                Some(before) => changes(self.map, before, hop),
                None => (None, hop.outer().map(|outer| envelope(self.map, hop, outer)).into_iter().collect()),
            };
            let rest = format!("{:<TTL_COLUMN$}  {}", ttl.unwrap_or_default(), list.join("  "));
            let sign = sign(hop.direction).to_string();
            self.line(text, margin, [&hop.point.host, &hop.point.interface, &sign], rest.trim_end());
            before = Some(hop);
        }
    }

    fn end(&self, text: &mut String, margin: &str, end: &End) {
        match end {
            End::Dropped { host, place, reason } => {
                self.line(text, margin, [host, place.name(), "x"], reason)
            }
            End::Refused { host, place: Place::Kernel, kind } => {
                self.line(text, margin, [host, "kernel", "x"], &kind.to_string());
            }
            End::Refused { host, place, kind } => {
                self.line(text, margin, [host, place.name(), "x"], &format!("{kind}, not counted as a drop"));
            }
            End::Reached { .. } | End::Astray { .. } | End::Open { .. } => {}
        }
    }
}

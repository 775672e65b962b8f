//! Many probes at once: a row a probe, a column a point.

use super::hop::sign;
use super::{Answer, End, Flow, Hop, Journey, Map, Part, Verdict};
use crate::packet::icmp::Kind;
use crate::packet::{Icmp, Ipv4, Payload, Tunnelled};

/// What a cell tells about a probe at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Its TTL there.
    Ttl,
    /// `=` if it passed in one piece, else how many fragments it passed in.
    Pieces,
    /// Its TOS octet there, and that of the tunnel datagram around it if it is not 0.
    Tos,
    /// Its octets there, whatever its header says: of a tunnel datagram, those inside of it.
    Octets,
}

/// A table of probes by points, in the path order of the longest way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    cell: Cell,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    label: String,
    cells: Vec<(Column, String)>,
    answer: String,
    ended: String,
}

/// A point and a direction, as the two lines of the heading.
type Column = (String, String);

/// A cell of a point that the probe did not pass.
const UNSEEN: &str = "·";

impl Matrix {
    /// A table without rows.
    #[must_use]
    pub fn new(cell: Cell) -> Self {
        Self { cell, rows: Vec::new() }
    }

    /// Adds a probe. `label` tells it from others: `ttl 3`, `size 1473`.
    pub fn push(&mut self, map: &Map, label: &str, journey: &Journey) {
        let mut cells: Vec<(Column, String)> = Vec::new();
        for hop in journey.request().into_iter().flat_map(Flow::passes) {
            let column = (hop.point.host.clone(), format!("{} {}", hop.point.interface, sign(hop.direction)));
            let text = self.cell.of(hop);
            match cells.iter_mut().find(|(other, _)| *other == column) {
                Some((_, known)) => *known = format!("{known},{text}"),
                None => cells.push((column, text)),
            }
        }
        let row = Row {
            label: label.to_owned(),
            cells,
            answer: answers(map, journey),
            ended: with_damage(ended(journey), journey),
        };
        self.rows.push(row);
    }

    /// All points, in the order of the longest row; points that only others have, after the one before them there.
    fn columns(&self) -> Vec<Column> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.cells.len()));
        let mut columns: Vec<Column> = Vec::new();
        for row in rows {
            let mut after = 0;
            for (column, _) in &row.cells {
                match columns.iter().position(|known| known == column) {
                    Some(at) => after = at + 1,
                    None => {
                        columns.insert(after.min(columns.len()), column.clone());
                        after += 1;
                    }
                }
            }
        }
        columns
    }
}

impl std::fmt::Display for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.columns();
        let heading = |label: &str, part: fn(&Column) -> &String, answer: &str, ended: &str| {
            let points = columns.iter().map(|column| part(column).clone());
            let mut line = vec![label.to_owned()];
            line.extend(points);
            line.extend([answer.to_owned(), ended.to_owned()]);
            line
        };
        let mut lines = vec![
            heading("probe", |column| &column.0, "answer", "ended"),
            heading("", |column| &column.1, "", ""),
        ];
        for row in &self.rows {
            let cell = |column: &Column| {
                let known = row.cells.iter().find(|(other, _)| other == column);
                known.map_or_else(|| UNSEEN.to_owned(), |(_, text)| text.clone())
            };
            let mut line = vec![row.label.clone()];
            line.extend(columns.iter().map(cell));
            line.extend([row.answer.clone(), row.ended.clone()]);
            lines.push(line);
        }
        f.write_str(&align(&lines))
    }
}

/// Lines of cells as a table, its columns as wide as they need to be.
pub(crate) fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        lines.iter().filter_map(|line| line.get(at)).map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

impl Cell {
    fn of(self, hop: &Hop) -> String {
        match (self, hop.sightings.len()) {
            (Self::Ttl, _) => hop.inner().map(|packet| packet.ttl.to_string()).unwrap_or_default(),
            (Self::Tos, _) => tos(hop),
            (Self::Octets, _) => hop.first().map(octets).unwrap_or_default().to_string(),
            (Self::Pieces, 1) => "=".to_owned(),
            (Self::Pieces, pieces) => format!("{pieces} frags"),
        }
    }
}

fn tos(hop: &Hop) -> String {
    let Some(packet) = hop.inner() else { return String::new() };
    match hop.outer().map_or(0, |outer| outer.tos) {
        0 => format!("{:#04x}", packet.tos),
        outer => format!("{:#04x} in {outer:#04x}", packet.tos),
    }
}

fn octets(packet: &Ipv4) -> usize {
    match &packet.payload {
        Payload::Udp(udp) if udp.tunnelled != Tunnelled::No => usize::from(udp.len.saturating_sub(8)),
        Payload::Malformed => packet.len.into(),
        _ => (20 + packet.options.len()).max(packet.len.into()) + packet.trailing - packet.missing,
    }
}

impl Flow {
    /// Every hop, those of copies after all others.
    pub(super) fn passes(&self) -> impl Iterator<Item = &Hop> {
        self.hops.iter().chain(self.branches.iter().flat_map(|branch| &branch.hops))
    }

    fn mtu(&self) -> Option<u16> {
        match &self.hops.last()?.inner()?.payload {
            Payload::Icmp(Icmp::Error { mtu, .. }) => *mtu,
            _ => None,
        }
    }
}

/// A text with what became wrong with the probe, or with what came of it, on the way.
pub(super) fn with_damage(text: String, journey: &Journey) -> String {
    std::iter::once(text).chain(journey.damage()).collect::<Vec<_>>().join("; ")
}

pub(super) fn answers(map: &Map, journey: &Journey) -> String {
    let text = |answer: &Answer| match answer {
        Answer::Reply { ttl: Some(ttl), .. } => format!("reply ttl {ttl}"),
        Answer::Reply { ttl: None, .. } => "reply".to_owned(),
        Answer::Error { kind, from } => {
            let mtu = mtu_of(journey, *kind).map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
            format!("{kind}{mtu} from {}", map.label(*from))
        }
        Answer::NotSent { why } => why.clone(),
    };
    if journey.probe.is_crafted() {
        return caused(map, journey);
    }
    match journey.answers.as_slice() {
        [] => "nothing".to_owned(),
        answers => answers.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

/// What a packet that was built field by field has caused, as the recording shows it.
fn caused(map: &Map, journey: &Journey) -> String {
    let told = |flow: &Flow| {
        let what = match flow.part {
            Part::Request => return None,
            Part::Reply => "reply".to_owned(),
            Part::Error { kind, .. } => kind.to_string(),
        };
        let first = flow.hops.first().and_then(Hop::inner)?;
        let ended = if flow.verdict.is_delivered() { String::new() } else { format!(", {}", flow.verdict) };
        Some(format!("{what} to {}{ended}", map.label(first.destination)))
    };
    let all: Vec<String> = journey.flows.iter().filter_map(told).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

fn mtu_of(journey: &Journey, kind: Kind) -> Option<u16> {
    let same = |flow: &&Flow| matches!(flow.part, Part::Error { kind: seen, .. } if seen == kind);
    journey.flows.iter().find(same).and_then(Flow::mtu)
}

/// Where the request ended, in few words.
fn ended(journey: &Journey) -> String {
    let Some(flow) = journey.request() else { return UNSEEN.to_owned() };
    match (&flow.verdict, &flow.end) {
        (Verdict::Rejected { .. } | Verdict::Dropped { .. }, End::Dropped { host, place, reason }) => {
            format!("{host} {}: {reason}", place.name())
        }
        (Verdict::Rejected { .. }, End::Refused { host, place, kind }) => {
            format!("{host} {}: {kind}", place.name())
        }
        (Verdict::Delivered { times: 1, .. }, _) => "delivered".to_owned(),
        (verdict, _) => {
            let text = verdict.to_string();
            text.split(", answered by").next().unwrap_or_default().to_owned()
        }
    }
}

//! How far two printed texts differ, beside their first difference: how many lines, and where.

use std::collections::BTreeSet;

use similar::{Algorithm, capture_diff_slices};

use super::difference::{Context, Difference, Line, fields, first_difference, lines};

/// Of what kind of place so many are named.
const NAMED: usize = 4;

/// How two texts differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences {
    /// The first hop or cell that differs.
    pub first: Difference,
    /// What else differs.
    pub extent: Extent,
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.first, self.extent)
    }
}

/// Compares what was expected with what is, blanks apart. `headings` are the first lines of the case's steps, in order, as
/// the texts have them.
#[must_use]
pub fn differences(expected: &str, actual: &str, headings: &[String]) -> Option<Differences> {
    let first = first_difference(expected, actual)?;
    Some(Differences { first, extent: Extent::new(expected, actual, headings) })
}

/// The lines that differ, and where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// The step that the first of them belongs to, from 1.
    pub first_step: Option<usize>,
    /// How many there are beside the first.
    pub more: usize,
    /// The steps of these others.
    steps: BTreeSet<usize>,
    /// The numbers of their packets.
    packets: Vec<String>,
    /// The paths of a stream's packets.
    paths: Vec<String>,
    /// The labels of their rows, if they are rows of a table.
    rows: Vec<String>,
    /// Their hops, or the columns of the cells that differ.
    points: Vec<String>,
}

impl Extent {
    /// Puts the lines of two texts beside each other, blanks apart, and looks where those that differ belong.
    ///
    /// `headings` are the first lines of the case's steps, in order, as the texts have them.
    #[must_use]
    pub fn new(expected: &str, actual: &str, headings: &[String]) -> Self {
        let (left, right) = (located(expected, headings), located(actual, headings));
        let keys =
            |lines: &[Located<'_>]| lines.iter().map(|line| line.fields.join("  ")).collect::<Vec<_>>();
        let mut pairs = Vec::new();
        for operation in capture_diff_slices(Algorithm::Myers, &keys(&left), &keys(&right)) {
            if operation.tag() == similar::DiffTag::Equal {
                continue;
            }
            let (old, new) = (operation.old_range(), operation.new_range());
            let (old, new) = (left.get(old).unwrap_or_default(), right.get(new).unwrap_or_default());
            pairs.extend((0..old.len().max(new.len())).map(|at| (old.get(at), new.get(at))));
        }
        let mut pairs = pairs.into_iter();
        let mut extent = Self::default();
        let Some((one, other)) = pairs.next() else { return extent };
        extent.first_step = one.and_then(|line| line.step).max(other.and_then(|line| line.step));
        for (one, other) in pairs {
            extent.add(one, other);
        }
        extent
    }

    fn add(&mut self, expected: Option<&Located<'_>>, actual: Option<&Located<'_>>) {
        self.more += 1;
        // The headings are those of one of the texts: the other may not have come to a step that is new.
        self.steps.extend(expected.and_then(|line| line.step).max(actual.and_then(|line| line.step)));
        for line in [expected, actual].into_iter().flatten() {
            let flows = if line.is_path() { &mut self.paths } else { &mut self.packets };
            push(flows, line.flow.clone());
            push(&mut self.points, line.hop.clone());
            if !line.columns.is_empty() {
                push(&mut self.rows, line.fields.first().map(|label| (*label).to_owned()));
            }
        }
        if let (Some(expected), Some(actual)) = (expected, actual) {
            let cells = expected.columns.iter().zip(expected.fields.iter().zip(&actual.fields));
            for (column, _) in cells.filter(|(_, (was, is))| was != is) {
                push(&mut self.points, Some(column.clone()));
            }
        }
    }
}

/// Keeps what is not there yet.
fn push(all: &mut Vec<String>, one: Option<String>) {
    all.extend(one.filter(|one| !all.contains(one)));
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.more {
            0 => return f.write_str("no other line differs"),
            1 => f.write_str("and 1 more line differs")?,
            more => write!(f, "and {more} more lines differ")?,
        }
        if !self.steps.is_empty() {
            let steps: Vec<String> = self.steps.iter().map(usize::to_string).collect();
            write!(f, ", in step{} {}", if steps.len() > 1 { "s" } else { "" }, listed(&steps, steps.len()))?;
        }
        let places =
            [("packet", &self.packets), ("", &self.paths), ("row", &self.rows), ("at", &self.points)];
        let places = places.into_iter().filter(|(_, all)| !all.is_empty()).map(|(what, all)| {
            let plural = if all.len() > 1 && !matches!(what, "" | "at") { "s" } else { "" };
            format!("{what}{plural} {}", listed(all, NAMED)).trim_start().to_owned()
        });
        let places: Vec<String> = places.collect();
        if !places.is_empty() {
            write!(f, ": {}", places.join(", "))?;
        }
        Ok(())
    }
}

/// The first `most` of them, and how many others there are.
fn listed(all: &[String], most: usize) -> String {
    // To say of one that there is one more is longer than to name it.
    let most = if all.len() == most + 1 { all.len() } else { most };
    match all {
        [one] => one.clone(),
        [first @ .., last] if all.len() <= most => format!("{} and {last}", first.join(", ")),
        _ => {
            let named = all.get(..most).unwrap_or_default().join(", ");
            format!("{named} and {} more", all.len().saturating_sub(most))
        }
    }
}

/// A line and where it belongs.
#[derive(Debug)]
struct Located<'a> {
    fields: Vec<&'a str>,
    /// The case's step, from 1.
    step: Option<usize>,
    /// The packet's name, or that of the path of many.
    flow: Option<String>,
    hop: Option<String>,
    /// The columns of the table that it is a row of.
    columns: Vec<String>,
}

impl Located<'_> {
    fn is_path(&self) -> bool {
        self.flow.as_ref().is_some_and(|name| !name.starts_with('['))
    }
}

fn located<'a>(text: &'a str, headings: &[String]) -> Vec<Located<'a>> {
    let headings: Vec<Vec<&str>> = headings.iter().map(|heading| fields(heading)).collect();
    let mut context = Context::default();
    let mut step = 0;
    let mut all = Vec::new();
    for line in lines(text) {
        let fields = fields(line);
        // A snapshot may be older than the file, and lack steps or have others.
        let later = headings.get(step..).unwrap_or_default();
        if let Some(at) = later.iter().position(|heading| *heading == fields) {
            step += at + 1;
        }
        let columns = context.columns().to_vec();
        context.pass(line);
        // What is said after a packet is no part of it.
        let is_header = matches!(Line::read(line), Line::Header(..));
        let flow = context.flow().filter(|_| is_header || line.starts_with(' '));
        let hop = match Line::read(line) {
            Line::Hop(place, _) => place.rsplit_once(' ').map(|(point, _)| point.to_owned()),
            _ => None,
        };
        all.push(Located {
            step: (step > 0).then_some(step),
            flow: flow.map(str::to_owned),
            hop,
            columns: if context.columns() == columns { columns } else { Vec::new() },
            fields,
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
$ ping c1 > c2

[1] c1 > c2  icmp echo-request seq 1  ttl 64  len 84
    a     cni0      <
    a     flannel0  >  ttl 63
    => delivered, answered by [2]

[2] c2 > c1  icmp echo-reply seq 1  ttl 64  len 84
    b     cni0      <
    => delivered

Prose.

$ ping c1 > c2  ttl 1..3

probe  c1      a       answer        ended
       eth0 >  cni0 <
ttl 1  1       1       nothing       delivered
ttl 2  2       2       reply ttl 60  delivered
";

    fn extent(actual: &str) -> Extent {
        let headings = ["$ ping c1 > c2", "Prose.", "$ ping c1 > c2  ttl 1..3"].map(str::to_owned);
        Extent::new(TEXT, actual, &headings)
    }

    #[test]
    fn what_differs_alone_is_said_to_be_alone() {
        let extent = extent(&TEXT.replace("ttl 63", "ttl 62"));
        assert_eq!((extent.first_step, extent.more), (Some(1), 0));
        assert_eq!(extent.to_string(), "no other line differs");
        assert_eq!(super::Extent::new(TEXT, TEXT, &[]), Extent::default());
    }

    #[test]
    fn other_lines_are_counted_by_steps_packets_rows_and_points() {
        let actual =
            TEXT.replace("ttl 63", "ttl 62").replace("b     cni0      <", "b     cni0      <  ttl 9");
        assert_eq!(extent(&actual).to_string(), "and 1 more line differs, in step 1: packet [2], at b cni0");
        let actual =
            actual.replace("ttl 1  1       1", "ttl 1  1       0").replace("reply ttl 60", "reply ttl 59");
        assert_eq!(
            extent(&actual).to_string(),
            "and 3 more lines differ, in steps 1 and 3: packet [2], rows ttl 1 and ttl 2, at b cni0, a cni0 < and answer"
        );
    }

    #[test]
    fn a_line_that_is_missing_does_not_make_all_after_it_differ() {
        let extent =
            extent(&TEXT.replacen("    a     cni0      <\n", "", 1).replace("Prose.", "Other prose."));
        assert_eq!((extent.first_step, extent.more), (Some(1), 1));
        assert_eq!(extent.to_string(), "and 1 more line differs, in step 2");
    }

    #[test]
    fn paths_of_a_stream_are_named_beside_packets() {
        let text = "path 1 of requests: c1 > c2\n    a  cni0  <\n    a  eth0  >\n    => delivered\n";
        let actual = text.replace("cni0  <", "cni0  <  ttl 1").replace("eth0  >", "eth0  >  ttl 2");
        let expected = "and 1 more line differs: path 1 of requests, at a eth0";
        assert_eq!(Extent::new(text, &actual, &[]).to_string(), expected);
    }

    #[test]
    fn only_the_first_places_are_named() {
        let all: Vec<String> = (1..=6).map(|number| format!("[{number}]")).collect();
        assert_eq!(listed(&all, 4), "[1], [2], [3], [4] and 2 more");
        assert_eq!(listed(&all[..5], 4), "[1], [2], [3], [4] and [5]");
        assert_eq!(listed(&all[..1], 4), "[1]");
    }
}

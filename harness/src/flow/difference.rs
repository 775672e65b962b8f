//! The first difference between two printed flows, ladders or tables, in words.

/// Where two texts begin to differ, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where: `[1] hop 4, at a eth0 >`, `row ttl 3, column b eth0 <`.
    pub place: String,
    /// What was expected there; none if nothing more was.
    pub expected: Option<String>,
    /// What is there; none if nothing more is.
    pub actual: Option<String>,
    /// Lines before that are the same in both, at most two.
    pub before: Vec<String>,
    /// The expected line.
    pub expected_line: Option<String>,
    /// The actual line.
    pub actual_line: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
        writeln!(f, "{}: {}", self.place, self.contrast())?;
        for line in &self.before {
            writeln!(f, "            {line}")?;
        }
        writeln!(f, "  expected  {}", told(&self.expected_line).trim_end())?;
        writeln!(f, "  actual    {}", told(&self.actual_line).trim_end())?;
        if let (Some(expected), Some(actual)) = (&self.expected_line, &self.actual_line) {
            let same = expected.chars().zip(actual.chars()).take_while(|(one, other)| one == other).count();
            writeln!(f, "            {:same$}^", "")?;
        }
        Ok(())
    }
}

impl Difference {
    /// What was expected against what is there, in words.
    fn contrast(&self) -> String {
        // A line that is there but lacks the field: at a hop, where a line says only what changed, nothing did.
        let both = self.expected_line.is_some() && self.actual_line.is_some();
        match (&self.expected, &self.actual) {
            (Some(expected), None) if both => match unchanged(expected) {
                Some(what) if self.is_hop() => format!("expected {expected}, but {what} did not change"),
                _ => format!("expected {expected}, which is not there"),
            },
            (None, Some(actual)) if both => match unchanged(actual) {
                Some(what) if self.is_hop() => format!("{what} was not to change, but became {actual}"),
                _ => format!("got {actual}, which is not expected"),
            },
            (expected, actual) => {
                let told = |part: &Option<String>| part.clone().unwrap_or_else(|| "nothing".to_owned());
                format!("expected {}, got {}", told(expected), told(actual))
            }
        }
    }

    fn is_hop(&self) -> bool {
        matches!(self.actual_line.as_deref().map(Line::read), Some(Line::Hop(..)))
    }
}

/// The field of a packet of whose change a hop's line speaks, if it is one that a packet always has.
fn unchanged(field: &str) -> Option<&'static str> {
    match field.split(' ').next()? {
        "ttl" => Some("the TTL"),
        "src" => Some("the source"),
        "dst" => Some("the destination"),
        "len" => Some("the length"),
        "dscp" | "ecn" | "tos" => Some("the TOS octet"),
        _ => None,
    }
}

/// Compares what was expected with what is, blanks apart, and names the first hop or cell that differs.
#[must_use]
pub fn first_difference(expected: &str, actual: &str) -> Option<Difference> {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (lines(expected), lines(actual));
    let longest = expected.len().max(actual.len());
    let mut context = Context::default();
    for at in 0..longest {
        let pair = (expected.get(at).copied(), actual.get(at).copied());
        if let (Some(one), Some(other)) = pair
            && fields(one) == fields(other)
        {
            context.pass(one);
            continue;
        }
        let (place, expected_part, actual_part) = context.tell(pair.0, pair.1);
        let before = expected.get(at.saturating_sub(2)..at).unwrap_or_default();
        return Some(Difference {
            place,
            expected: expected_part,
            actual: actual_part,
            before: before.iter().map(|line| (*line).to_owned()).collect(),
            expected_line: pair.0.map(str::to_owned),
            actual_line: pair.1.map(str::to_owned),
        });
    }
    None
}

pub(super) fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim().is_empty()).collect()
}

/// Two blanks or more separate fields; one is inside a field.
pub(super) fn fields(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|field| !field.is_empty()).collect()
}

/// What kind of line it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A step begins, within another or not: its title.
    Step(&'a str),
    /// A flow begins, or the path of many: its name, `[3]` or `path 1 of requests`, then fields.
    Header(&'a str, Vec<&'a str>),
    /// A hop: its place, then what changed.
    Hop(String, Vec<&'a str>),
    /// How a way ended.
    Verdict(&'a str),
    /// Anything else.
    Other(Vec<&'a str>),
}

impl<'a> Line<'a> {
    pub(super) fn read(line: &'a str) -> Self {
        let text = line.trim_start_matches("  |").trim();
        if let Some(title) = text.strip_prefix("$ ") {
            return Self::Step(title);
        }
        if text.starts_with('[')
            && let Some((name, rest)) = text.split_once(' ').filter(|(name, _)| name.ends_with(']'))
        {
            return Self::Header(name, fields(rest));
        }
        if text.starts_with("path ")
            && let Some((name, rest)) = text.split_once(": ")
        {
            return Self::Header(name, fields(rest));
        }
        if let Some(verdict) = text.strip_prefix("=> ") {
            return Self::Verdict(verdict);
        }
        let mut words = text.split_whitespace();
        if let (Some(host), Some(interface), Some(sign @ ("<" | ">" | "x" | "!"))) =
            (words.next(), words.next(), words.next())
            && line.starts_with("  ")
        {
            let rest = text.split_once(&format!("  {sign}")).map_or("", |(_, rest)| rest);
            return Self::Hop(format!("{host} {interface} {sign}"), fields(rest));
        }
        Self::Other(fields(text))
    }
}

/// Where in the text the comparison is.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The step's title.
    step: Option<String>,
    /// The flow's name.
    flow: Option<String>,
    /// Hops of the flow so far.
    hops: usize,
    /// Hosts and interfaces of a table's columns.
    hosts: Vec<String>,
    columns: Vec<String>,
}

impl Context {
    /// Takes note of a line that the comparison goes past.
    pub(super) fn pass(&mut self, line: &str) {
        let cells = fields(line);
        match Line::read(line) {
            Line::Step(title) => *self = Self { step: Some(title.to_owned()), ..Self::default() },
            Line::Header(name, _) => {
                *self = Self { step: self.step.take(), flow: Some(name.to_owned()), ..Self::default() };
            }
            Line::Hop(..) => self.hops += 1,
            Line::Other(_) if cells.first() == Some(&"probe") => {
                let cells: Vec<String> = cells.into_iter().map(str::to_owned).collect();
                // Where columns are points, their hosts stand here and their interfaces in the next line.
                let of_points = cells.last().is_some_and(|last| last == "ended");
                let (hosts, columns) = if of_points { (cells, Vec::new()) } else { (Vec::new(), cells) };
                *self = Self { step: self.step.take(), hosts, columns, ..Self::default() };
            }
            // The second line of a table's heading, which has no cell below `probe`.
            Line::Other(_) if !self.hosts.is_empty() && self.columns.is_empty() => {
                let points =
                    self.hosts.iter().skip(1).zip(&cells).map(|(host, cell)| format!("{host} {cell}"));
                self.columns = std::iter::once("probe".to_owned()).chain(points).collect();
                self.columns.extend(["answer".to_owned(), "ended".to_owned()]);
            }
            Line::Other(_) | Line::Verdict(_) => {}
        }
    }

    /// The name of the flow that the last line belongs to.
    pub(super) fn flow(&self) -> Option<&str> {
        self.flow.as_deref()
    }

    /// What the columns of the table are called that the last line belongs to.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The place, what was expected there, what is there.
    fn tell(&self, expected: Option<&str>, actual: Option<&str>) -> (String, Option<String>, Option<String>) {
        let (one, other) = (expected.map(Line::read), actual.map(Line::read));
        let here = self.flow.clone().unwrap_or_else(|| self.step());
        let hop = self.hops + 1;
        match (&one, &other) {
            (Some(Line::Hop(place, was)), Some(Line::Hop(same, is))) if place == same => {
                // Why a packet ended is a word that has no namesake.
                let (was, is) = if place.ends_with(" x") { first_unlike(was, is) } else { unlike(was, is) };
                (format!("{here} hop {hop}, at {place}"), was, is)
            }
            (Some(Line::Header(name, was)), Some(Line::Header(same, is))) if name == same => {
                let (was, is) = unlike(was, is);
                (format!("{name} as first seen"), was, is)
            }
            (Some(Line::Verdict(was)), Some(Line::Verdict(is))) => {
                (format!("{here} verdict"), Some((*was).to_owned()), Some((*is).to_owned()))
            }
            (Some(Line::Step(was)), Some(Line::Step(is))) => {
                (self.next_step(), Some((*was).to_owned()), Some((*is).to_owned()))
            }
            (Some(Line::Other(was)), Some(Line::Other(is))) if !self.columns.is_empty() => self.cell(was, is),
            (Some(Line::Hop(..)), _) | (_, Some(Line::Hop(..))) => {
                (format!("{here} hop {hop}"), one.map(summary), other.map(summary))
            }
            _ => (self.below(), one.map(summary), other.map(summary)),
        }
    }

    /// The step, as a place.
    fn step(&self) -> String {
        self.step.as_ref().map_or_else(|| "the beginning".to_owned(), |title| format!("`{title}`"))
    }

    fn next_step(&self) -> String {
        if self.step.is_some() {
            format!("the step after {}", self.step())
        } else {
            "the first step".to_owned()
        }
    }

    /// Where a line stands that belongs to no packet and no table.
    fn below(&self) -> String {
        match (&self.flow, &self.step) {
            (Some(name), _) => format!("after {name}"),
            (None, Some(_)) => format!("below {}", self.step()),
            (None, None) => "at the beginning".to_owned(),
        }
    }

    fn cell(&self, was: &[&str], is: &[&str]) -> (String, Option<String>, Option<String>) {
        let at = was.iter().zip(is).take_while(|(was, is)| was == is).count();
        let row = if at == 0 { "rows".to_owned() } else { format!("row {}", was.first().unwrap_or(&"")) };
        let column = self.columns.get(at).map(String::as_str).unwrap_or("?");
        let cell = |cells: &[&str]| cells.get(at).map(|cell| (*cell).to_owned());
        (format!("{row}, column {column}"), cell(was), cell(is))
    }
}

fn summary(line: Line<'_>) -> String {
    match line {
        Line::Step(title) => format!("`{title}`"),
        Line::Header(name, fields) => format!("{name} {}", fields.first().unwrap_or(&"")),
        Line::Hop(place, _) => place,
        Line::Verdict(verdict) => verdict.to_owned(),
        Line::Other(fields) => fields.join("  "),
    }
}

/// The first field of each that the other does not have.
fn first_unlike(was: &[&str], is: &[&str]) -> (Option<String>, Option<String>) {
    let first = |of: &[&str], other: &[&str]| {
        of.iter().find(|field| !other.contains(field)).map(|field| (*field).to_owned())
    };
    (first(was, is), first(is, was))
}

/// The first field of each that the other does not have; if only one has such a field, its namesake in the other.
fn unlike(was: &[&str], is: &[&str]) -> (Option<String>, Option<String>) {
    let word = |field: &str| field.split(' ').next().map(str::to_owned);
    let missing = was.iter().find(|field| !is.contains(field));
    let added = match missing {
        Some(missing) => is.iter().find(|field| !was.contains(field) && word(field) == word(missing)),
        None => is.iter().find(|field| !was.contains(field)),
    };
    (missing.map(|field| (*field).to_owned()), added.map(|field| (*field).to_owned()))
}

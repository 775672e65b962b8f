//! Colours for terminals, put on the finished text: snapshots never have them.

use owo_colors::Style;

/// What a piece of text is, and so how it is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ink {
    /// Nothing special.
    Plain,
    /// A flow's header.
    Header,
    /// A place that a packet passed: there is little to learn from it.
    Place,
    /// What changed at a hop.
    Change,
    /// The tunnel's envelope.
    Envelope,
    /// What got where it was to go.
    Good,
    /// What did not, with a cause.
    Loss,
    /// What is wrong.
    Wrong,
}

impl Ink {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Header => Style::new().bold(),
            Self::Place => Style::new().dimmed(),
            Self::Change => Style::new().yellow(),
            Self::Envelope => Style::new().cyan(),
            Self::Good => Style::new().green(),
            Self::Loss => Style::new().magenta(),
            Self::Wrong => Style::new().red().bold(),
        }
    }
}

/// The text with ANSI escapes.
#[must_use]
pub fn paint(text: &str) -> String {
    let painted = |(ink, piece): (Ink, &str)| match ink {
        Ink::Plain => piece.to_owned(),
        ink => ink.style().style(piece).to_string(),
    };
    spans(text).into_iter().map(painted).collect()
}

/// The text in pieces, each of one kind; together they are the text.
#[must_use]
pub fn spans(text: &str) -> Vec<(Ink, &str)> {
    text.split_inclusive('\n').flat_map(line).collect()
}

fn line(line: &str) -> Vec<(Ink, &str)> {
    let text = line.trim_start_matches("  |").trim();
    if line.starts_with('[') {
        return vec![(Ink::Header, line)];
    }
    // Of two texts beside each other, what only one has.
    if let Some(ink) = line.chars().next().and_then(difference_ink) {
        return vec![(ink, line)];
    }
    if let Some(verdict) = text.strip_prefix("=> ") {
        return vec![(verdict_ink(verdict), line)];
    }
    if line.starts_with("unattributed") || line.starts_with("unseen") || line.starts_with("  + ") {
        return vec![(Ink::Wrong, line)];
    }
    match ['<', '>', 'x', '!'].iter().filter_map(|sign| line.find(&format!("  {sign}"))).min() {
        Some(at) if line.starts_with("  ") => hop(line, at + 3),
        _ => vec![(Ink::Plain, line)],
    }
}

fn difference_ink(mark: char) -> Option<Ink> {
    match mark {
        '+' => Some(Ink::Good),
        '-' => Some(Ink::Loss),
        _ => None,
    }
}

fn verdict_ink(verdict: &str) -> Ink {
    if verdict.starts_with("delivered") || verdict.starts_with("received") || verdict.starts_with("reached") {
        Ink::Good
    } else if verdict.ends_with("unexplained") {
        Ink::Wrong
    } else {
        Ink::Loss
    }
}

/// A hop's line: the place as far as its sign at `end`, then what changed.
fn hop(line: &str, end: usize) -> Vec<(Ink, &str)> {
    let (place, rest) = line.split_at(end);
    if place.ends_with('x') || place.ends_with('!') {
        return vec![(Ink::Loss, line)];
    }
    let mut spans = vec![(Ink::Place, place)];
    let mut rest = rest;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start().len();
        let len =
            rest.get(blanks..).and_then(|field| field.find("  ")).map_or(rest.len(), |len| blanks + len);
        let (field, after) = rest.split_at(len);
        spans.push((field_ink(field.trim()), field));
        rest = after;
    }
    spans
}

fn field_ink(field: &str) -> Ink {
    if field.is_empty() {
        Ink::Plain
    } else if field.contains("BAD")
        || field.contains("ALTERED")
        || field.contains("missing")
        || field.contains("junk")
    {
        Ink::Wrong
    } else if field.starts_with("in udp") || field.starts_with("out of udp") {
        Ink::Envelope
    } else {
        Ink::Change
    }
}

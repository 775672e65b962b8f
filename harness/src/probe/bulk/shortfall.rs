//! How what arrived falls short of what was sent, in words.

use std::collections::BTreeSet;

use crate::capture::FLOOD_PORTS;

/// What was not as it was to be, in few words and then with the first of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// In few words: `of 500 datagrams 3 never came, 1 came twice`.
    pub what: String,
    /// One line for each kind of thing, or for each stream.
    pub details: Vec<String>,
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        self.details.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A stream by its number and its ports.
pub(super) fn named(stream: u16, to: u16) -> String {
    // Senders' ports follow each other.
    format!("stream {stream} (port {} > {to})", u32::from(*FLOOD_PORTS.start()) + u32::from(stream))
}

/// How often something happened, in which streams, and where first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) count: u64,
    streams: BTreeSet<u16>,
    first: Option<(Option<u16>, String)>,
}

impl Tally {
    /// Once more, of a stream if that is known; `what` is told of the first.
    pub(super) fn add(&mut self, stream: Option<u16>, what: impl FnOnce() -> String) {
        self.count += 1;
        self.streams.extend(stream);
        self.first.get_or_insert_with(|| (stream, what()));
    }

    /// `3 in 2 streams; the first: stream 65 (port 29065 > 29905), datagram 32`.
    pub(super) fn text(&self, to: u16) -> String {
        let Some((stream, what)) = &self.first else { return "none".to_owned() };
        let stream = stream.map_or(String::new(), |stream| format!("{}, ", named(stream, to)));
        let among = match self.streams.len() {
            0 | 1 => String::new(),
            streams => format!(" in {streams} streams"),
        };
        let all = if self.count > 1 { format!("{}{among}; the first: ", self.count) } else { String::new() };
        format!("{all}{stream}{what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_with_its_stream_and_ports() {
        let mut tally = Tally::default();
        tally.add(Some(65), || "datagram 32".to_owned());
        assert_eq!(tally.text(29_905), "stream 65 (port 29065 > 29905), datagram 32");
        tally.add(Some(66), || "datagram 1".to_owned());
        tally.add(Some(66), || "datagram 2".to_owned());
        assert_eq!(
            tally.text(29_905),
            "3 in 2 streams; the first: stream 65 (port 29065 > 29905), datagram 32"
        );
    }
}

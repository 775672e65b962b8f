//! Which datagrams of each stream have arrived, and how.

use std::collections::BTreeSet;
use std::time::Duration;

use super::pattern::{Altered, Pattern};
use super::shortfall::{Shortfall, Tally};
use super::udp::{Datagrams, HEADER, WINDOW};

/// What the receiver knows of all streams.
#[derive(Debug)]
pub(super) struct Ledger {
    octets: u64,
    flows: Vec<Flow>,
    /// Streams that have not arrived to their ends.
    open: usize,
    /// Whether one has ever come before another that was sent earlier.
    gapped: bool,
    late: Tally,
    twice: Tally,
    altered: Tally,
    foreign: Tally,
}

/// What has arrived of a stream.
#[derive(Debug)]
struct Flow {
    /// The datagrams from `next` on.
    rest: Datagrams,
    /// How many there are.
    count: u32,
    /// One more than the highest that has arrived.
    next: u32,
    /// Those before `next` that have not arrived.
    missing: BTreeSet<u32>,
}

impl Flow {
    fn is_complete(&self) -> bool {
        self.next == self.count && self.missing.is_empty()
    }
}

impl Ledger {
    /// Of streams of so many octets each.
    pub(super) fn new(octets: u64, streams: u16) -> Self {
        let flow = |stream| {
            let rest = Datagrams::new(stream, octets);
            let count = u32::try_from(rest.clone().count()).unwrap_or(u32::MAX);
            Flow { rest, count, next: 0, missing: BTreeSet::new() }
        };
        let flows: Vec<Flow> = (0..streams).map(flow).collect();
        let open = flows.iter().filter(|flow| !flow.is_complete()).count();
        let [late, twice, altered, foreign] = std::array::from_fn(|_| Tally::default());
        Self { octets, flows, open, gapped: false, late, twice, altered, foreign }
    }

    /// Whether all of all streams has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Whether nothing is wrong so far: no datagram is missing before another.
    pub(super) fn is_sound(&self) -> bool {
        let tallies = [&self.late, &self.twice, &self.altered, &self.foreign];
        !self.gapped && tallies.iter().all(|tally| tally.count == 0)
    }

    /// Takes note of a datagram: whether it is one that had not arrived before.
    pub(super) fn arrived(&mut self, pattern: &Pattern, datagram: &[u8]) -> bool {
        let length = datagram.len();
        let Some((&[s0, s1, q0, q1, q2, q3], data)) = datagram.split_first_chunk::<HEADER>() else {
            self.foreign.add(None, || format!("{length} octets, too short for its header"));
            return false;
        };
        let (stream, sequence) = (u16::from_be_bytes([s0, s1]), u32::from_be_bytes([q0, q1, q2, q3]));
        let Some(flow) = self.flows.get_mut(usize::from(stream)) else {
            self.foreign.add(None, || {
                format!("{length} octets that begin as of stream {stream}, which there is not")
            });
            return false;
        };
        // No more than the window may be under way, whatever was lost.
        let is_sent = sequence < flow.count && sequence <= flow.next.saturating_add(WINDOW);
        if !is_sent {
            self.foreign.add(Some(stream), || {
                format!("{length} octets that begin as datagram {sequence}, which was not sent yet")
            });
            return false;
        }
        let place = if sequence >= flow.next {
            flow.rest.by_ref().find(|(at, ..)| *at == sequence)
        } else {
            Datagrams::new(stream, self.octets).find(|(at, ..)| *at == sequence)
        };
        let Some((_, from, size)) = place else { return false };
        let flaw = if data.len() == size {
            pattern.difference(stream, from, data).map(|Altered { first, count }| {
                format!(
                    "{count} of its {size} octets of data are not what was sent, the first is octet {first}"
                )
            })
        } else {
            Some(format!("{} octets of data came where {size} were sent", data.len()))
        };
        let is_altered = flaw.is_some();
        if let Some(flaw) = flaw {
            self.altered.add(Some(stream), || format!("datagram {sequence}: {flaw}"));
        }
        if sequence >= flow.next {
            self.gapped |= sequence > flow.next;
            flow.missing.extend(flow.next..sequence);
            flow.next = sequence + 1;
        } else if flow.missing.remove(&sequence) {
            let last = flow.next - 1;
            self.late.add(Some(stream), || format!("datagram {sequence}, after {last}"));
        } else {
            if !is_altered {
                self.twice.add(Some(stream), || format!("datagram {sequence}"));
            }
            return false;
        }
        self.open -= usize::from(flow.is_complete());
        true
    }

    /// What is wrong, `sent` datagrams of each stream having been sent to port `to`, and the last awaited for `waited`.
    pub(super) fn shortfall(&self, sent: &[u32], to: u16, waited: Duration) -> Option<Shortfall> {
        let mut never = Tally::default();
        let (mut all, mut unsent) = (0, 0);
        for ((flow, sent), stream) in self.flows.iter().zip(sent).zip(0u16..) {
            all += u64::from(*sent);
            unsent += u64::from(flow.count.saturating_sub(*sent));
            for sequence in flow.missing.iter().copied().chain(flow.next..*sent) {
                let last = flow.count - 1;
                never.add(Some(stream), || format!("datagram {sequence} of 0 to {last}"));
            }
        }
        let kinds = [
            (&never, "never came", format!(" (awaited for {} s after the last that came)", waited.as_secs())),
            (&self.late, "came out of order", String::new()),
            (&self.twice, "came twice", String::new()),
            (&self.altered, "came altered", String::new()),
            (&self.foreign, "came that nobody sent", String::new()),
        ];
        let found: Vec<_> = kinds.into_iter().filter(|(tally, ..)| tally.count > 0).collect();
        if found.is_empty() && unsent == 0 {
            return None;
        }
        let what: Vec<String> =
            found.iter().map(|(tally, what, _)| format!("{} {what}", tally.count)).collect();
        let what = format!(
            "of {all} datagrams {}",
            if what.is_empty() { "all came".to_owned() } else { what.join(", ") }
        );
        let mut details: Vec<String> =
            found.iter().map(|(tally, what, more)| format!("{what}: {}{more}", tally.text(to))).collect();
        if unsent > 0 {
            details.push(format!(
                "not sent: {unsent}, for no more than {WINDOW} are sent before others have come"
            ));
        }
        Some(Shortfall { what, details })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCTETS: u64 = 20_000;
    const TO: u16 = 29_905;

    fn datagram(pattern: &Pattern, stream: u16, sequence: u32) -> Vec<u8> {
        let (_, from, length) = Datagrams::new(stream, OCTETS).nth(sequence as usize).unwrap();
        let mut octets = [&stream.to_be_bytes()[..], &sequence.to_be_bytes()].concat();
        octets.resize(HEADER + length, 0);
        pattern.fill(stream, from, &mut octets[HEADER..]);
        octets
    }

    /// What is said of two streams, of which these datagrams arrive: first whether each is new.
    fn judge(arrivals: impl IntoIterator<Item = Vec<u8>>, sent: [u32; 2]) -> (Vec<bool>, Ledger, String) {
        let pattern = Pattern::new();
        let mut ledger = Ledger::new(OCTETS, 2);
        let new = arrivals.into_iter().map(|octets| ledger.arrived(&pattern, &octets)).collect();
        let text = ledger.shortfall(&sent, TO, Duration::from_secs(5)).map(|short| short.to_string());
        (new, ledger, text.unwrap_or_default())
    }

    fn counts() -> [u32; 2] {
        [0, 1].map(|stream| Datagrams::new(stream, OCTETS).count() as u32)
    }

    fn all(pattern: &Pattern) -> Vec<Vec<u8>> {
        let streams = counts().into_iter().zip(0u16..);
        streams.flat_map(|(count, stream)| (0..count).map(move |at| datagram(pattern, stream, at))).collect()
    }

    #[test]
    fn all_in_order_is_sound() {
        let (new, ledger, text) = judge(all(&Pattern::new()), counts());
        assert!(new.iter().all(|new| *new) && ledger.is_complete() && ledger.is_sound());
        assert_eq!(text, "");
    }

    #[test]
    fn late_twice_altered_and_lost_datagrams_are_told_apart() {
        let pattern = Pattern::new();
        let mut octets = all(&pattern);
        let total: u32 = counts().iter().sum();
        octets.swap(3, 5);
        octets.insert(8, octets[7].clone());
        octets[12][HEADER] ^= 1;
        octets[14].pop();
        // The last of stream 0 and the first of stream 1.
        let first = counts()[0] as usize;
        octets.drain(first..=first + 1);
        let (new, ledger, text) = judge(octets, counts());
        assert!(!ledger.is_complete() && !ledger.is_sound());
        assert_eq!(new.iter().filter(|new| !**new).count(), 1);
        let last = counts()[0] - 1;
        let short = datagram(&pattern, 0, 11).len() - HEADER;
        assert_eq!(
            text,
            format!(
                "of {total} datagrams 2 never came, 2 came out of order, 1 came twice, 2 came altered\n  never came: 2 in \
                 2 streams; the first: stream 0 (port 29000 > {TO}), datagram {last} of 0 to {last} (awaited for 5 s after \
                 the last that came)\n  came out of order: 2; the first: stream 0 (port 29000 > {TO}), datagram 4, after \
                 5\n  came twice: stream 0 (port 29000 > {TO}), datagram 7\n  came altered: 2; the first: stream 0 \
                 (port 29000 > {TO}), datagram 11: 1 of its {short} octets of data are not what was sent, the first is \
                 octet 0"
            )
        );
    }

    #[test]
    fn what_bears_no_header_of_these_streams_is_told_as_foreign() {
        let pattern = Pattern::new();
        let mut far = datagram(&pattern, 1, 0);
        far[2..6].copy_from_slice(&1_000_000u32.to_be_bytes());
        let (new, ledger, text) = judge([vec![0; 3], vec![9; 40], far], [0, 0]);
        assert_eq!(new, [false; 3]);
        assert!(!ledger.is_sound());
        assert!(text.starts_with("of 0 datagrams 3 came that nobody sent\n"), "{text}");
        assert!(text.contains("the first: 3 octets, too short for its header\n"), "{text}");
    }

    #[test]
    fn what_was_not_sent_is_no_loss() {
        let pattern = Pattern::new();
        let (_, _, text) = judge([datagram(&pattern, 0, 0)], [1, 0]);
        let unsent = counts().iter().sum::<u32>() - 1;
        assert_eq!(
            text,
            format!(
                "of 1 datagrams all came\n  not sent: {unsent}, for no more than {WINDOW} are sent before others have come"
            )
        );
    }
}

//! Datagrams on their way out, packed so that the kernel takes many in one call.
//!
//! A *run* is a row of datagrams to one node, of one traffic class, all of the same length but the last, which may be shorter: what
//! `UDP_SEGMENT` sends at once. Runs are made of datagrams and not of super-packets: 45 segments of a TCP packet do
//! not fit one send, and small packets of any flow share a run.

use std::net::Ipv4Addr;

use super::MAX_PACKET;

/// Datagrams in a run. Linux took 64 at first (`UDP_MAX_SEGMENTS`) and counted the UDP header in until 5.16.
const MAX_COUNT: usize = 63;

/// Octets of a run: the longest UDP payload over IPv4.
const MAX_OCTETS: usize = 65_507;

/// Runs that wait for one call.
const MAX_RUNS: usize = 64;

/// Octets that wait for one call. Held to what the second-level cache keeps while the kernel copies it again.
const FULL: usize = 128 << 10;

/// Where a datagram goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The node.
    pub node: Ipv4Addr,
    /// The outer header's traffic class octet.
    pub traffic_class: u8,
}

impl From<Ipv4Addr> for Destination {
    /// To `node`, unmarked.
    fn from(node: Ipv4Addr) -> Self {
        Self { node, traffic_class: 0 }
    }
}

/// A row of datagrams in the buffer of [`Runs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where they go, and how.
    pub to: Destination,
    /// Octets before the first in the buffer.
    pub start: usize,
    /// Octets of all.
    pub length: usize,
    /// Octets of each but the last; zero only when a single empty datagram makes the run.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
}

impl Run {
    fn takes(&self, to: Destination, length: usize) -> bool {
        self.to == to
            && length <= self.stride
            && self.length == self.stride * self.count
            && self.count < MAX_COUNT
            && self.length + length <= MAX_OCTETS
            // An empty datagram cannot be told from none in a run.
            && length > 0
    }

    /// What is left of it without its first `count` datagrams, of which it has more.
    #[must_use]
    pub fn without(self, count: usize) -> Self {
        let octets = count * self.stride;
        Self { start: self.start + octets, length: self.length - octets, count: self.count - count, ..self }
    }

    /// Each datagram's place in the buffer, in order.
    pub fn datagrams(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let end = self.start + self.length;
        (0..self.count).map(move |index| {
            let start = self.start + index * self.stride;
            start..end.min(start + self.stride)
        })
    }
}

/// The buffer with its runs.
#[derive(Debug)]
pub struct Runs {
    buffer: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    segmented: bool,
}

impl Runs {
    /// An empty buffer. Without `segmented` each datagram is a run of its own.
    #[must_use]
    pub fn new(segmented: bool) -> Self {
        Self {
            buffer: vec![0; FULL + MAX_PACKET].into(),
            used: 0,
            runs: Vec::with_capacity(MAX_RUNS),
            segmented,
        }
    }

    /// From now on each datagram is a run of its own.
    pub fn stop_segmenting(&mut self) {
        self.segmented = false;
    }

    /// Room for one more datagram of [`MAX_PACKET`] octets at most. To be called while not [`Runs::is_full`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Takes the first `length` octets of the room as a datagram.
    pub fn push(&mut self, to: impl Into<Destination>, length: usize) {
        let to = to.into();
        match self.runs.last_mut() {
            Some(run) if self.segmented && run.takes(to, length) => {
                run.length += length;
                run.count += 1;
            }
            _ => self.runs.push(Run { to, start: self.used, length, stride: length, count: 1 }),
        }
        self.used += length;
    }

    /// Whether the runs must be sent before more is written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used >= FULL || self.runs.len() == MAX_RUNS
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What waits: the buffer and its runs in the order to be sent.
    #[must_use]
    pub fn waiting(&self) -> (&[u8], &[Run]) {
        (&self.buffer, &self.runs)
    }

    /// Forgets what was sent.
    pub fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

    fn counts(datagrams: &[(Ipv4Addr, usize)]) -> Vec<usize> {
        let mut runs = Runs::new(true);
        for (node, length) in datagrams {
            runs.push(*node, *length);
        }
        runs.waiting().1.iter().map(|run| run.count).collect()
    }

    #[test]
    fn equal_datagrams_to_one_node_share_a_run_and_a_shorter_one_closes_it() {
        assert_eq!(counts(&[(A, 100), (A, 100), (A, 40), (A, 40), (A, 100)]), [3, 1, 1]);
        assert_eq!(counts(&[(A, 100), (B, 100), (A, 100)]), [1, 1, 1]);
        assert_eq!(counts(&[(A, 100), (A, 0), (A, 100)]), [1, 1, 1]);
    }

    #[test]
    fn datagrams_of_another_traffic_class_make_another_run() {
        let mut runs = Runs::new(true);
        for traffic_class in [0, 0, 2, 3, 2, 2] {
            runs.push(Destination { node: A, traffic_class }, 100);
        }
        let runs: Vec<_> = runs.waiting().1.iter().map(|run| (run.to.traffic_class, run.count)).collect();
        assert_eq!(runs, [(0, 2), (2, 1), (3, 1), (2, 2)]);
    }

    #[test]
    fn a_run_holds_63_datagrams_and_65507_octets() {
        assert_eq!(counts(&[(A, 60); 64]), [63, 1]);
        assert_eq!(counts(&[(A, 1472); 45]), [44, 1]);
        assert_eq!(counts(&[(A, 32_754); 2]), [1, 1]);
        assert_eq!(counts(&[(A, 32_753); 2]), [2]);
        assert_eq!(counts(&[(A, 65_535), (A, 1)]), [1, 1]);
    }

    #[test]
    fn there_is_room_for_the_largest_packet_until_full() {
        let mut runs = Runs::new(true);
        while !runs.is_full() {
            assert!(runs.room().len() >= MAX_PACKET);
            runs.push(A, 1471);
        }
        runs.clear();
        assert!(runs.is_empty() && !runs.is_full());
    }

    proptest! {
        #[test]
        fn the_datagrams_come_out_as_they_went_in(
            datagrams in prop::collection::vec(
                ((prop::sample::select(vec![A, B]), 0u8..3), 0usize..400), 0..64
            ),
            segmented in any::<bool>(),
        ) {
            let to = |(node, traffic_class)| Destination { node, traffic_class };
            let mut runs = Runs::new(segmented);
            for (index, (place, length)) in datagrams.iter().enumerate() {
                runs.room()[..*length].fill(index as u8);
                runs.push(to(*place), *length);
            }
            let (buffer, waiting) = runs.waiting();
            let out: Vec<_> = waiting
                .iter()
                .flat_map(|run| run.datagrams().map(|place| (run.to, buffer[place].to_vec())))
                .collect();
            let expected: Vec<_> = datagrams
                .iter()
                .enumerate()
                .map(|(index, (place, length))| (to(*place), vec![index as u8; *length]))
                .collect();
            prop_assert_eq!(out, expected);
            for run in waiting {
                prop_assert!(run.length <= MAX_OCTETS.max(400) && run.count <= MAX_COUNT);
                prop_assert!(segmented || run.count == 1);
            }
        }
    }
}

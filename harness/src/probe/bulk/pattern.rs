//! The octets that streams carry.

use crate::probe::noise::noise;

/// Octets that tell a stream from another, and one place in it from another.
#[derive(Debug)]
pub(super) struct Pattern(Vec<u8>);

/// Octets that are not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Altered {
    /// Where the first of them is.
    pub(super) first: usize,
    /// How many there are.
    pub(super) count: u64,
}

impl Pattern {
    /// A prime, so that no power of two of octets is a whole number of rounds.
    const PERIOD: usize = 65_521;

    pub(super) fn new() -> Self {
        // Twice, so that any part as long as the period is in one piece.
        let once: Vec<u8> = noise(0x9e37_79b9).take(Self::PERIOD).collect();
        Self([once.as_slice(), once.as_slice()].concat())
    }

    /// The octets of a stream from one place on, not longer than the period.
    fn part(&self, stream: u16, from: u64, length: usize) -> &[u8] {
        let begin = (from % Self::PERIOD as u64) as usize + usize::from(stream) * 73;
        self.0.get(begin % Self::PERIOD..).and_then(|rest| rest.get(..length)).unwrap_or_default()
    }

    pub(super) fn fill(&self, stream: u16, mut from: u64, out: &mut [u8]) {
        for out in out.chunks_mut(Self::PERIOD) {
            out.copy_from_slice(self.part(stream, from, out.len()));
            from += out.len() as u64;
        }
    }

    /// Which octets are not the stream's, if any.
    pub(super) fn difference(&self, stream: u16, from: u64, octets: &[u8]) -> Option<Altered> {
        let mut altered: Option<Altered> = None;
        let mut at = 0;
        for octets in octets.chunks(Self::PERIOD) {
            let part = self.part(stream, from + at as u64, octets.len());
            // Almost all are as they were sent, and told so at once.
            if part != octets {
                for (here, _) in part.iter().zip(octets).enumerate().filter(|(_, (is, was))| is != was) {
                    altered.get_or_insert(Altered { first: at + here, count: 0 }).count += 1;
                }
            }
            at += octets.len();
        }
        altered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_a_foreign_and_a_flipped_octet_are_all_told() {
        let pattern = Pattern::new();
        let mut octets = vec![0; 200_000];
        pattern.fill(3, 1000, &mut octets);
        assert_eq!(pattern.difference(3, 1000, &octets), None);
        assert_eq!(pattern.difference(3, 1000 + 65_521, &octets), None);
        for (stream, from) in [(3, 1001), (3, 999), (4, 1000), (3, 1000 + 65_536)] {
            assert!(pattern.difference(stream, from, &octets).is_some_and(|altered| altered.first < 20));
        }
        octets[150_000] ^= 1;
        assert_eq!(pattern.difference(3, 1000, &octets), Some(Altered { first: 150_000, count: 1 }));
        octets[70_000] ^= 1;
        assert_eq!(pattern.difference(3, 1000, &octets), Some(Altered { first: 70_000, count: 2 }));
    }
}

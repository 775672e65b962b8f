//! The octets that streams carry.

/// Octets that tell a stream from another, and one place in it from another.
#[derive(Debug)]
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    /// A prime, so that no power of two of octets is a whole number of rounds.
    const PERIOD: usize = 65_521;

    pub(super) fn new() -> Self {
        // Xorshift (Marsaglia 2003), from any seed but 0.
        let mut state = 0x9e37_79b9_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8
        };
        // Twice, so that any part as long as the period is in one piece.
        let once: Vec<u8> = (0..Self::PERIOD).map(|_| next()).collect();
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

    /// The first octet that is not the stream's.
    pub(super) fn difference(&self, stream: u16, from: u64, octets: &[u8]) -> Option<usize> {
        let mut at = 0;
        for octets in octets.chunks(Self::PERIOD) {
            let part = self.part(stream, from + at as u64, octets.len());
            if part != octets {
                return part.iter().zip(octets).position(|(is, was)| is != was).map(|first| at + first);
            }
            at += octets.len();
        }
        None
    }

    /// How many octets are not the stream's.
    pub(super) fn differing(&self, stream: u16, from: u64, octets: &[u8]) -> u64 {
        let mut from = from;
        let mut count = 0;
        for octets in octets.chunks(Self::PERIOD) {
            let part = self.part(stream, from, octets.len());
            count += part.iter().zip(octets).filter(|(is, was)| is != was).count() as u64;
            from += octets.len() as u64;
        }
        count
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
            assert!(pattern.difference(stream, from, &octets).is_some_and(|at| at < 20));
        }
        octets[150_000] ^= 1;
        assert_eq!(pattern.difference(3, 1000, &octets), Some(150_000));
        octets[70_000] ^= 1;
        assert_eq!(
            (pattern.difference(3, 1000, &octets), pattern.differing(3, 1000, &octets)),
            (Some(70_000), 2)
        );
    }
}

//! Decisions by chance that are the same in every run.

use fastrand::Rng;

/// How many decisions are shuffled together.
const BLOCK: usize = 100;

/// Says yes to so many of every hundred, at places that a seed shuffles anew for each hundred.
///
/// A coin tossed for each would come out at 5 % only in the long run; a case has a few hundred packets.
#[derive(Debug, Clone)]
pub(super) struct Chance {
    percent: u8,
    random: Rng,
    block: [bool; BLOCK],
    next: usize,
}

impl Chance {
    /// `percent` of 100 and more is always.
    pub(super) fn new(percent: u8, seed: u64) -> Self {
        Self { percent, random: Rng::with_seed(seed), block: [false; BLOCK], next: BLOCK }
    }

    /// The next decision.
    pub(super) fn draw(&mut self) -> bool {
        if self.next >= BLOCK {
            for (at, slot) in self.block.iter_mut().enumerate() {
                *slot = at < usize::from(self.percent);
            }
            self.random.shuffle(&mut self.block);
            self.next = 0;
        }
        let drawn = self.block.get(self.next).copied().unwrap_or_default();
        self.next += 1;
        drawn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_hundred_has_exactly_its_percentage(percent in 0u8..=100, seed: u64) {
            let mut chance = Chance::new(percent, seed);
            for _ in 0..3 {
                let yes = (0..BLOCK).filter(|_| chance.draw()).count();
                prop_assert_eq!(yes, usize::from(percent));
            }
        }

        #[test]
        fn a_seed_repeats_itself(seed: u64) {
            let draw = || {
                let mut chance = Chance::new(30, seed);
                (0..250).map(|_| chance.draw()).collect::<Vec<_>>()
            };
            prop_assert_eq!(draw(), draw());
        }
    }

    #[test]
    fn places_vary_from_hundred_to_hundred_and_from_seed_to_seed() {
        let hundred = |chance: &mut Chance| (0..BLOCK).map(|_| chance.draw()).collect::<Vec<_>>();
        let (mut one, mut other) = (Chance::new(5, 1), Chance::new(5, 2));
        let first = hundred(&mut one);
        assert_ne!(first, hundred(&mut one));
        assert_ne!(first, hundred(&mut other));
    }
}

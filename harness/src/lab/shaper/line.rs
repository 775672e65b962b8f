//! One direction of a shaped link: what becomes of each frame, and when. Pure: time is a number, a frame anything.
//!
//! In this order, as tc-netem(8) has it: loss, then the rate with its queue, then the delay, which duplicates share and
//! reordered frames skip.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;

use super::chance::Chance;

/// What is done to a direction's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Impairment {
    /// How long each is held.
    pub delay: Duration,
    /// How much longer at most. The order is kept.
    pub jitter: Duration,
    /// How many of a hundred are dropped.
    pub loss: u8,
    /// How many of a hundred arrive twice.
    pub duplicate: u8,
    /// How many of a hundred are not delayed, and so overtake those that are.
    pub reorder: u8,
    /// How fast they pass.
    pub rate: Option<Rate>,
}

/// A link that passes one frame after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits per second, those of the Ethernet header among them.
    pub bits: u64,
    /// How many frames wait for their turn at most, the one that passes not counted.
    pub queue: usize,
}

/// Why a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// By chance.
    Loss,
    /// The queue before the link was full.
    QueueFull,
}

impl Cause {
    /// The name in verdicts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::QueueFull => "queue-full",
        }
    }
}

/// What is on the way in one direction. Times are since any fixed moment.
#[derive(Debug)]
pub(super) struct Line<T> {
    impairment: Impairment,
    seed: u64,
    lanes: HashMap<u8, Lane>,
    /// When each frame that waits for the rate, or passes at it, will have passed; none of them later than the next.
    passing: VecDeque<Duration>,
    /// When the last frame in order is due.
    last_due: Duration,
    /// What is held, by when it is due and then by number.
    held: BTreeMap<(Duration, u64), Held<T>>,
    next: u64,
}

#[derive(Debug)]
struct Held<T> {
    protocol: Option<u8>,
    frame: T,
}

/// Decisions about one protocol's frames. Each protocol has its own, so that a case's probes meet the same decisions
/// however many frames of others come between.
#[derive(Debug)]
struct Lane {
    loss: Chance,
    duplicate: Chance,
    reorder: Chance,
    jitter: Rng,
}

impl Lane {
    fn new(impairment: &Impairment, seed: u64) -> Self {
        let mut seeds = Rng::with_seed(seed);
        Self {
            loss: Chance::new(impairment.loss, seeds.u64(..)),
            duplicate: Chance::new(impairment.duplicate, seeds.u64(..)),
            reorder: Chance::new(impairment.reorder, seeds.u64(..)),
            jitter: seeds,
        }
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.jitter.u64(..=most))
    }
}

impl<T: Clone> Line<T> {
    pub(super) fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            seed,
            lanes: HashMap::new(),
            passing: VecDeque::new(),
            last_due: Duration::ZERO,
            held: BTreeMap::new(),
            next: 0,
        }
    }

    /// Takes a frame of `len` octets in, or gives it back with the reason why it is dropped. `protocol` is IPv4's; what
    /// is not IPv4, above all ARP, passes at once and untouched.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        protocol: Option<u8>,
        len: usize,
        frame: T,
    ) -> Option<(Cause, T)> {
        let Some(number) = protocol else {
            self.hold(now, None, frame);
            return None;
        };
        let impairment = self.impairment;
        let seed = self.seed.rotate_left(8) ^ u64::from(number);
        let lane = self.lanes.entry(number).or_insert_with(|| Lane::new(&impairment, seed));
        // All are drawn for each frame, so that none depends on what came of another.
        let (lost, twice, overtakes) = (lane.loss.draw(), lane.duplicate.draw(), lane.reorder.draw());
        let held = impairment.delay.saturating_add(lane.jitter(impairment.jitter));
        if lost {
            return Some((Cause::Loss, frame));
        }
        let Some(passed) = self.pass(now, len) else { return Some((Cause::QueueFull, frame)) };
        let due = if overtakes {
            passed
        } else {
            self.last_due = self.last_due.max(passed.saturating_add(held));
            self.last_due
        };
        if twice {
            self.hold(due, protocol, frame.clone());
        }
        self.hold(due, protocol, frame);
        None
    }

    /// When a frame that comes now will have passed at the rate; none if there is no room for it.
    fn pass(&mut self, now: Duration, len: usize) -> Option<Duration> {
        let Some(Rate { bits, queue }) = self.impairment.rate else { return Some(now) };
        while self.passing.front().is_some_and(|passed| *passed <= now) {
            self.passing.pop_front();
        }
        if self.passing.len() > queue {
            return None;
        }
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let nanoseconds = len.saturating_mul(8 * 1_000_000_000) / bits.max(1);
        let begins = self.passing.back().copied().unwrap_or(now);
        let passed = begins.saturating_add(Duration::from_nanos(nanoseconds));
        self.passing.push_back(passed);
        Some(passed)
    }

    fn hold(&mut self, due: Duration, protocol: Option<u8>, frame: T) {
        self.held.insert((due, self.next), Held { protocol, frame });
        self.next += 1;
    }

    /// The next frame that is due by now.
    pub(super) fn release(&mut self, now: Duration) -> Option<T> {
        let entry = self.held.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove().frame)
    }

    /// When the next frame is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.held.first_key_value().map(|((due, _), _)| *due)
    }

    /// The number that the next frame will have. Frames are numbered as they are taken in.
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    /// Whether a frame is held that has a lower number, and one of a protocol in which packets stand for themselves: TCP
    /// never rests.
    pub(super) fn holds_before(&self, number: u64) -> bool {
        let counts = |protocol: u8| i32::from(protocol) != libc::IPPROTO_TCP;
        let mut held = self.held.iter();
        held.any(|((_, held), frame)| *held < number && frame.protocol.is_some_and(counts))
    }
}

#[cfg(test)]
mod tests;

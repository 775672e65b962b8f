//! How often errors are sent (RFC 1812 section 4.3.2.8), so that one who floods takes no one else's.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Errors a second, and at once, for all destinations together.
const RATE: u32 = 1000;
const BURST: u32 = 100;

/// The same for each of them: a quarter, so that it takes several who flood to use up what there is.
const SHARE_RATE: u32 = RATE / 4;
const SHARE_BURST: u32 = BURST / 4;

/// As many as a /24 has addresses.
const SHARES: usize = 256;

/// What one thread may send: a bucket for all under a fixed number of buckets for each destination. Destinations may
/// have one in common; those of one /24 do not.
#[derive(Debug)]
pub struct FairRate {
    all: TokenBucket,
    shares: Box<[TokenBucket; SHARES]>,
}

impl FairRate {
    /// All buckets full.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let share = |_| TokenBucket::new(SHARE_RATE, SHARE_BURST, now);
        Self { all: TokenBucket::new(RATE, BURST, now), shares: Box::new(std::array::from_fn(share)) }
    }

    /// Whether an error may be sent to `destination` at `now`. It is asked for its own share first: what that refuses
    /// costs the others nothing.
    pub fn take(&mut self, destination: Ipv4Addr, now: Instant) -> bool {
        let share = destination.octets().into_iter().fold(0, |mixed, octet| mixed ^ octet);
        self.shares[usize::from(share)].take(now) && self.all.take(now)
    }
}

/// A steady rate with bursts.
#[derive(Debug)]
pub struct TokenBucket {
    burst: u32,
    interval: Duration,
    tokens: u32,
    refilled: Instant,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains `rate` tokens a second. `rate` must not be zero.
    #[must_use]
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { burst, interval: Duration::from_secs(1) / rate, tokens: burst, refilled: now }
    }

    /// Takes a token if there is one at `now`.
    pub fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        let gained = elapsed.as_nanos() / self.interval.as_nanos();
        if gained >= u128::from(self.burst - self.tokens) {
            self.tokens = self.burst;
            self.refilled = now;
        } else {
            // Fewer than `burst`, so the product and the casts are in range.
            self.tokens += gained as u32;
            self.refilled += self.interval * gained as u32;
        }
        let available = self.tokens > 0;
        self.tokens -= u32::from(available);
        available
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLOODER: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 3);

    #[test]
    fn one_who_floods_takes_no_error_from_the_others() {
        let start = Instant::now();
        let mut rate = FairRate::new(start);
        let mut flooder = 0;
        for millisecond in 0..2000u64 {
            let now = start + Duration::from_millis(millisecond);
            flooder += (0..40).filter(|_| rate.take(FLOODER, now)).count();
            if millisecond % 100 == 0 {
                for host in (0..=255).filter(|host| *host != 3).step_by(20) {
                    assert!(rate.take(Ipv4Addr::new(10, 5, 1, host), now), "{host} at {millisecond} ms");
                }
            }
        }
        assert_eq!(flooder, 25 + 1999 / 4);
    }

    #[test]
    fn all_together_get_no_more_than_there_is() {
        let start = Instant::now();
        let mut rate = FairRate::new(start);
        let hosts = || (0..=255).flat_map(|host| [Ipv4Addr::new(10, 5, 1, host); 2]);
        assert_eq!(hosts().filter(|host| rate.take(*host, start)).count(), 100);
        let later = start + Duration::from_millis(50);
        assert_eq!(hosts().filter(|host| rate.take(*host, later)).count(), 50);
    }

    #[test]
    fn the_bucket_lets_a_burst_pass_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 3, start);
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        assert!(!bucket.take(start + Duration::from_millis(99)));
        assert!(bucket.take(start + Duration::from_millis(100)));
        assert!(!bucket.take(start + Duration::from_millis(199)));
        assert!(bucket.take(start + Duration::from_millis(200)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 3);
    }

    proptest! {
        #[test]
        fn the_bucket_never_passes_more_than_burst_plus_rate(steps in prop::collection::vec(0u64..300, 1..200)) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(100, 20, start);
            let mut now = start;
            let mut passed = 0;
            for step in steps {
                now += Duration::from_millis(step);
                passed += u128::from(bucket.take(now));
            }
            prop_assert!(passed <= 20 + (now - start).as_millis() / 10);
        }

        #[test]
        fn who_sends_little_is_answered_whatever_one_other_does(
            steps in prop::collection::vec((0u64..20, 0usize..300), 1..100), quiet in any::<[u8; 4]>(),
        ) {
            let quiet = Ipv4Addr::from(quiet);
            prop_assume!(quiet.octets().iter().fold(0, |mixed, octet| mixed ^ octet) != 10 ^ 5 ^ 1 ^ 3);
            let start = Instant::now();
            let mut rate = FairRate::new(start);
            let mut now = start;
            for (pause, flood) in steps {
                for _ in 0..flood {
                    rate.take(FLOODER, now);
                }
                now += Duration::from_millis(4 + pause);
                prop_assert!(rate.take(quiet, now));
            }
        }
    }
}

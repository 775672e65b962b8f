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

/// The same for each flow to one of them: at once its whole share, and half of it in the long run. Many may have one address, as all containers have that of
/// the node's tunnel device where they are masqueraded, and one flow of theirs leaves errors for the others.
const FLOW_RATE: u32 = SHARE_RATE / 2;
const FLOW_BURST: u32 = SHARE_BURST;

/// As many as a /24 has addresses.
const SHARES: usize = 256;

/// The packets that errors are about, as far as they are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where errors about them go: their source.
    pub destination: Ipv4Addr,
    /// Their IP protocol.
    pub protocol: u8,
    /// Both ports, or the identifier of ICMP; 0 for protocols without.
    pub ports: u32,
}

impl Flow {
    /// Its place among the flows' buckets, spread by Fibonacci hashing.
    fn place(self) -> usize {
        let key = u64::from(self.destination.to_bits()) << 32 | u64::from(self.ports);
        let mixed = (key ^ u64::from(self.protocol) << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as usize
    }
}

/// What one thread may send: a bucket for all, under it a fixed number of buckets for each destination, and as many under
/// these for each flow. Destinations may have one in common, but those of one /24 do not; flows may.
#[derive(Debug)]
pub struct FairRate {
    all: TokenBucket,
    shares: Box<[TokenBucket; SHARES]>,
    flows: Box<[TokenBucket; SHARES]>,
}

impl FairRate {
    /// All buckets full.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let each = |rate, burst| Box::new(std::array::from_fn(|_| TokenBucket::new(rate, burst, now)));
        Self {
            all: TokenBucket::new(RATE, BURST, now),
            shares: each(SHARE_RATE, SHARE_BURST),
            flows: each(FLOW_RATE, FLOW_BURST),
        }
    }

    /// Whether an error about a packet of `flow` may be sent at `now`. The smallest share is asked first: what that
    /// refuses costs the others nothing.
    pub fn take(&mut self, flow: Flow, now: Instant) -> bool {
        let share = flow.destination.octets().into_iter().fold(0, |mixed, octet| mixed ^ octet);
        self.flows[flow.place()].take(now) && self.shares[usize::from(share)].take(now) && self.all.take(now)
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

    const FLOODER: Flow = flow(Ipv4Addr::new(10, 5, 1, 3), 7777);

    const fn flow(destination: Ipv4Addr, ports: u32) -> Flow {
        Flow { destination, protocol: 17, ports }
    }

    fn host(last: u8) -> Flow {
        flow(Ipv4Addr::new(10, 5, 1, last), 9)
    }

    #[test]
    fn one_who_floods_takes_no_error_from_the_others() {
        let start = Instant::now();
        let mut rate = FairRate::new(start);
        let mut flooder = 0;
        for millisecond in 0..2000u64 {
            let now = start + Duration::from_millis(millisecond);
            flooder += (0..40).filter(|_| rate.take(FLOODER, now)).count();
            if millisecond % 100 == 0 {
                for last in (0..=255).filter(|last| *last != 3).step_by(20) {
                    assert!(rate.take(host(last), now), "{last} at {millisecond} ms");
                }
            }
        }
        assert_eq!(flooder, 25 + 1999 / 8);
    }

    #[test]
    fn many_flows_of_one_address_take_no_error_from_the_others() {
        let start = Instant::now();
        let mut rate = FairRate::new(start);
        let mut flooder = 0;
        for millisecond in 0..2000u64 {
            let now = start + Duration::from_millis(millisecond);
            flooder += (0..40).filter(|port| rate.take(flow(FLOODER.destination, *port), now)).count();
            if millisecond % 100 == 0 {
                assert!(rate.take(host(4), now), "at {millisecond} ms");
            }
        }
        assert!((400..=25 + 1999 / 4).contains(&flooder), "{flooder}");
    }

    #[test]
    fn one_flow_leaves_errors_for_the_others_of_its_address() {
        let start = Instant::now();
        let mut rate = FairRate::new(start);
        for millisecond in 0..2000u64 {
            let now = start + Duration::from_millis(millisecond);
            for _ in 0..40 {
                rate.take(FLOODER, now);
            }
            if millisecond >= 100 && millisecond % 10 == 0 {
                let other = if millisecond % 20 == 0 {
                    Flow { protocol: 1, ..FLOODER }
                } else {
                    flow(FLOODER.destination, 7778)
                };
                assert!(rate.take(other, now), "{other:?} at {millisecond} ms");
            }
        }
    }

    #[test]
    fn flows_are_spread_over_all_buckets() {
        let places = |flows: &mut dyn Iterator<Item = Flow>| {
            flows.map(Flow::place).collect::<std::collections::HashSet<_>>().len()
        };
        let destination = FLOODER.destination;
        assert!(places(&mut (0..1024).map(|port| flow(destination, 40_000 + port))) > 200);
        assert!(places(&mut (0..1024).map(|port| flow(destination, (40_000 + port) << 16 | 53))) > 200);
        assert!(places(&mut (0..=255).map(|protocol| Flow { protocol, ..FLOODER })) > 100);
    }

    #[test]
    fn all_together_get_no_more_than_there_is() {
        let start = Instant::now();
        let mut rate = FairRate::new(start);
        let hosts = || (0..=255).flat_map(|last| [host(last); 2]);
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
            let quiet = flow(Ipv4Addr::from(quiet), 9);
            prop_assume!(quiet.place() != FLOODER.place());
            prop_assume!(quiet.destination.octets().iter().fold(0, |mixed, octet| mixed ^ octet) != 10 ^ 5 ^ 1 ^ 3);
            let start = Instant::now();
            let mut rate = FairRate::new(start);
            let mut now = start;
            for (pause, flood) in steps {
                for _ in 0..flood {
                    rate.take(FLOODER, now);
                }
                now += Duration::from_millis(8 + pause);
                prop_assert!(rate.take(quiet, now));
            }
        }
    }
}

//! Keeping this node's lease: renewal before it expires, and taking it again when it is lost.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Registry, RegistryError, Written, acquire::Held, backoff::Backoff, table::OwnLease};
use crate::{http::Health, lease};

/// What the registry says of this node's lease, compared with what was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This node's address stands there, the one that it has or the one that it had.
    Ours {
        /// Which.
        holder: Ipv4Addr,
        /// Of the last change.
        revision: i64,
        /// Whether it expires unless renewed.
        expires: bool,
    },
    /// The key is gone.
    Gone,
    /// It cannot be taken for this node's.
    Lost(Loss),
    /// The registry's mirror lags behind the last write.
    Unknown,
}

/// Why this node's key is not its own any more though it is there. It is not written over: whoever wrote it may be
/// forwarding for the subnet, or have meant something by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Another node's address stands there.
    Stolen(Ipv4Addr),
    /// What stands there cannot be understood.
    Unreadable,
}

impl Loss {
    fn report(self, subnet: Ipv4Net, health: &Health) {
        match self {
            Self::Stolen(holder) => {
                tracing::error!(
                    %subnet, %holder,
                    "another node's address stands in this node's lease: stop one of the two, or delete the key"
                );
                health.lease_lost(format!("the lease of {subnet} names {holder}"));
            }
            Self::Unreadable => {
                tracing::error!(%subnet, "this node's lease cannot be read: put it right, or delete the key");
                health.lease_lost(format!("the lease of {subnet} cannot be read"));
            }
        }
    }
}

fn judge(own: Option<OwnLease>, held: &Held, wanted: Ipv4Addr) -> State {
    match own {
        None => State::Unknown,
        Some(own) if own.revision < held.written.mod_revision => State::Unknown,
        Some(OwnLease { unreadable: Some(_), .. }) => State::Lost(Loss::Unreadable),
        Some(OwnLease { held: None, .. }) => State::Gone,
        // With a new address the answer to its write may have been lost.
        Some(OwnLease { held: Some((holder, revision)), expires, .. })
            if holder == held.lease.public_ip || holder == wanted =>
        {
            State::Ours { holder, revision, expires }
        }
        Some(OwnLease { held: Some((holder, _)), .. }) => State::Lost(Loss::Stolen(holder)),
    }
}

/// When to renew: `margin` before the end, but never in less than a tenth of the time to live.
fn renewal(written: &Written, margin: Duration, now: Instant) -> Option<Instant> {
    let ttl = written.ttl?;
    Some(now + ttl.saturating_sub(margin).max(ttl / 10))
}

/// Keeps `held`, with the address in `public_ip`, until the future is dropped. Forwarding goes on whatever happens; `health` says what is wrong.
pub async fn hold<R: Registry>(
    registry: Arc<R>,
    mut held: Held,
    mut own: watch::Receiver<Option<OwnLease>>,
    mut public_ip: watch::Receiver<Ipv4Addr>,
    margin: Duration,
    health: Arc<Health>,
) {
    let key = lease::key(held.lease.subnet);
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut renew_at = renewal(&held.written, margin, Instant::now());
    health.lease_written(held.written.ttl);
    let mut epoch = 0;
    let mut reported = None;
    loop {
        let mirrored = *own.borrow_and_update();
        let wanted = *public_ip.borrow_and_update();
        if let Some(own) = mirrored.filter(|own| own.epoch != epoch) {
            epoch = own.epoch;
            tracing::error!(revision = own.revision, "the registry was set back: what it says now counts");
            held.written.mod_revision = 0;
        }
        let state = judge(mirrored, &held, wanted);
        if matches!(state, State::Ours { .. } | State::Gone) {
            reported = None;
        }
        if let State::Ours { holder, expires, .. } = state {
            held.lease.public_ip = holder;
            if expires != held.written.ttl.is_some() {
                tracing::info!(subnet = %held.lease.subnet, expires, "somebody changed whether this node's lease expires");
                // One that expires now is renewed at once, as nobody knows how long it lasts.
                renew_at = expires.then(Instant::now);
                if !expires {
                    held.written.ttl = None;
                    health.lease_written(None);
                }
            }
        }
        let outcome = match state {
            State::Ours { holder, revision, expires } if wanted != holder => {
                tracing::info!(subnet = %held.lease.subnet, public_ip = %wanted, "advertising this node's new address");
                registry.renew(&key, wanted, revision, expires).await
            }
            State::Gone => {
                tracing::error!(subnet = %held.lease.subnet, "this node's lease was deleted or has expired; taking it again");
                health.lease_lost(format!("the lease of {} was deleted", held.lease.subnet));
                registry.create(&key, wanted).await
            }
            State::Lost(loss) => {
                // Every change in the registry comes by here.
                if reported != Some(loss) {
                    loss.report(held.lease.subnet, &health);
                    reported = Some(loss);
                }
                let changed = tokio::select! {
                    changed = own.changed() => changed,
                    changed = public_ip.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                continue;
            }
            State::Ours { .. } | State::Unknown => {
                if let State::Ours { revision, .. } = state {
                    held.written.mod_revision = revision;
                    health.lease_held();
                }
                tokio::select! {
                    changed = own.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    changed = public_ip.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    () = until(renew_at) => {
                        registry.renew(&key, wanted, held.written.mod_revision, true).await
                    }
                }
            }
        };
        match outcome {
            Ok(written) => {
                tracing::info!(subnet = %held.lease.subnet, revision = written.mod_revision, "lease written");
                held.written = written;
                held.lease.public_ip = wanted;
                health.lease_written(written.ttl);
                renew_at = renewal(&written, margin, Instant::now());
                backoff.reset();
                health.lease_held();
            }
            Err(error @ RegistryError::Conflict(_)) => {
                // The mirror will tell what stands there. Neither a lost watch nor other nodes' leases that change all
                // the time must make this a tight loop.
                tracing::warn!(%error, "lease changed while it was written");
                sleep(backoff.pause()).await;
            }
            Err(error) => {
                let pause = backoff.pause();
                tracing::error!(%error, retry_in = ?pause, "lease not written");
                sleep(pause).await;
            }
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::Lease,
        registry::{LEASE_TTL, memory::Memory},
    };

    const ME: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

    fn held(mod_revision: i64) -> Held {
        let lease = Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: ME };
        Held { lease, written: Written { mod_revision, ttl: Some(LEASE_TTL) } }
    }

    #[test]
    fn what_is_older_than_the_last_write_proves_nothing() {
        assert_eq!(judge(None, &held(5), ME), State::Unknown);
        assert_eq!(
            judge(Some(OwnLease { revision: 4, held: None, ..OwnLease::default() }), &held(5), ME),
            State::Unknown
        );
        assert_eq!(
            judge(
                Some(OwnLease { revision: 4, held: Some((OTHER, 4)), ..OwnLease::default() }),
                &held(5),
                ME
            ),
            State::Unknown
        );
    }

    #[test]
    fn the_holder_tells_a_lease_kept_from_one_stolen_or_gone() {
        assert_eq!(
            judge(Some(OwnLease { revision: 9, held: Some((ME, 7)), ..OwnLease::default() }), &held(5), ME),
            State::Ours { holder: ME, revision: 7, expires: false }
        );
        assert_eq!(
            judge(
                Some(OwnLease { revision: 9, held: Some((OTHER, 7)), ..OwnLease::default() }),
                &held(5),
                ME
            ),
            State::Lost(Loss::Stolen(OTHER))
        );
        assert_eq!(
            judge(Some(OwnLease { revision: 9, held: None, ..OwnLease::default() }), &held(5), ME),
            State::Gone
        );
    }

    #[test]
    fn renewal_comes_a_margin_before_the_end_and_never_for_a_reservation() {
        let now = Instant::now();
        let margin = Duration::from_secs(3600);
        assert_eq!(renewal(&held(5).written, margin, now), Some(now + Duration::from_secs(23 * 3600)));
        let reserved = Written { mod_revision: 5, ttl: None };
        assert_eq!(renewal(&reserved, margin, now), None);
        let widest = Duration::from_secs(1439 * 60);
        assert_eq!(renewal(&held(5).written, widest, now), Some(now + LEASE_TTL / 10));
    }

    struct Holding {
        registry: Arc<Memory>,
        health: Arc<Health>,
        mirror: watch::Sender<Option<OwnLease>>,
        public_ip: watch::Sender<Ipv4Addr>,
    }

    const KEY: &str = "10.5.1.0-24";
    const MARGIN: Duration = Duration::from_secs(3600);

    impl Holding {
        /// Takes the lease and holds it; the mirror is moved by hand.
        async fn start() -> Self {
            let registry = Memory::new();
            let written = registry.create(KEY, ME).await.unwrap();
            let health = Arc::new(Health::starting("test"));
            health.started();
            let (mirror, own) = watch::channel(None);
            let held = Held { written, ..held(0) };
            let (public_ip, address) = watch::channel(ME);
            tokio::spawn(hold(Arc::clone(&registry), held, own, address, MARGIN, Arc::clone(&health)));
            let holding = Self { registry, health, mirror, public_ip };
            holding.reflect();
            holding
        }

        /// Shows the registry's present state, as the follower would.
        fn reflect(&self) {
            let entry = self.registry.entry(KEY);
            let read = entry.as_ref().map(|entry| (lease::parse_value(&entry.value), entry.mod_revision));
            let held = read.as_ref().and_then(|(holder, revision)| Some((*holder.as_ref().ok()?, *revision)));
            let unreadable =
                read.as_ref().and_then(|(holder, revision)| holder.is_err().then_some(*revision));
            self.mirror.send_replace(Some(OwnLease {
                revision: self.registry.revision(),
                held,
                expires: true,
                unreadable,
                ..OwnLease::default()
            }));
        }

        fn revision(&self) -> Option<i64> {
            self.registry.entry(KEY).map(|entry| entry.mod_revision)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_renewed_a_margin_before_its_end_each_time() {
        let holding = Holding::start().await;
        sleep(LEASE_TTL - MARGIN - Duration::from_secs(1)).await;
        assert_eq!(holding.revision(), Some(1));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(holding.revision(), Some(2));
        holding.reflect();
        sleep(LEASE_TTL - MARGIN).await;
        assert_eq!(holding.revision(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_fails_is_tried_again_until_it_succeeds() {
        let holding = Holding::start().await;
        holding.registry.set_down(true);
        sleep(LEASE_TTL - MARGIN + Duration::from_secs(600)).await;
        assert_eq!(holding.revision(), Some(1));
        holding.registry.set_down(false);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(holding.revision(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_registry_was_set_back_the_lease_is_taken_again() {
        let holding = Holding::start().await;
        holding.registry.remove(KEY);
        // As after a restart on an empty disk: the revision is lower than that of the lease, and the key is not there.
        let empty = OwnLease { epoch: 1, ..OwnLease::default() };
        holding.mirror.send_replace(Some(empty));
        sleep(Duration::from_secs(1)).await;
        assert!(holding.registry.entry(KEY).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_became_a_reservation_is_not_renewed() {
        let holding = Holding::start().await;
        let revision = holding.revision();
        holding.mirror.send_modify(|own| *own = own.map(|own| OwnLease { expires: false, ..own }));
        sleep(LEASE_TTL * 3).await;
        assert_eq!(holding.revision(), revision);
    }

    #[test]
    fn the_address_that_this_node_is_to_have_is_nobody_elses() {
        let own = OwnLease { revision: 9, held: Some((OTHER, 7)), expires: true, ..OwnLease::default() };
        let ours = State::Ours { holder: OTHER, revision: 7, expires: true };
        assert_eq!(judge(Some(own), &held(5), OTHER), ours);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_lease_is_taken_again() {
        let holding = Holding::start().await;
        holding.registry.remove(KEY);
        holding.registry.set_down(true);
        holding.reflect();
        sleep(Duration::from_secs(60)).await;
        assert!(holding.health.not_ready().is_some());
        holding.registry.set_down(false);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(holding.revision(), Some(3));
        assert_eq!(holding.health.not_ready(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_names_another_node_is_left_alone_and_reported() {
        let holding = Holding::start().await;
        holding.registry.put_lease(KEY, OTHER);
        holding.reflect();
        sleep(LEASE_TTL * 2).await;
        assert_eq!(holding.revision(), Some(2), "not fought over");
        assert!(holding.health.not_ready().is_some_and(|reason| reason.contains("192.168.0.2")));
        holding.registry.remove(KEY);
        holding.reflect();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(holding.revision(), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn another_holder_is_told_of_once_however_much_happens() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let holding = Holding::start().await;
        let third = Ipv4Addr::new(192, 168, 0, 3);
        for (holder, told) in [(OTHER, 1), (OTHER, 1), (third, 2), (third, 2)] {
            for _ in 0..5 {
                holding.registry.put_lease(KEY, holder);
                holding.reflect();
                sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(log.text().matches("stop one of the two").count(), told, "{}", log.text());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_cannot_be_read_is_reported_and_left_until_it_can() {
        let holding = Holding::start().await;
        holding.registry.put_value(KEY, b"by hand");
        holding.reflect();
        sleep(LEASE_TTL * 2).await;
        assert_eq!(holding.revision(), Some(2), "not written over");
        let reason = holding.health.not_ready().unwrap();
        assert!(reason.contains("cannot be read"), "{reason}");
        holding.registry.put_lease(KEY, ME);
        holding.reflect();
        sleep(Duration::from_secs(60)).await;
        // As its time was over it is renewed at once.
        assert_eq!((holding.revision(), holding.health.not_ready()), (Some(4), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_not_tried_again_with_every_change_in_the_registry() {
        let holding = Holding::start().await;
        // The mirror does not show it, so the renewal fails.
        holding.registry.put_lease(KEY, ME);
        sleep(LEASE_TTL - MARGIN - Duration::from_secs(1)).await;
        let before = holding.registry.renewals();
        for _ in 0..600 {
            holding.mirror.send_modify(|_| ());
            sleep(Duration::from_millis(100)).await;
        }
        let attempts = holding.registry.renewals() - before;
        assert!((1..=8).contains(&attempts), "{attempts} attempts in a minute");
    }

    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl Log {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for Log {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_the_mirror_has_not_shown_yet_is_not_overwritten() {
        let holding = Holding::start().await;
        sleep(LEASE_TTL - MARGIN - Duration::from_secs(1)).await;
        holding.registry.put_lease(KEY, OTHER);
        sleep(Duration::from_secs(600)).await;
        assert_eq!(holding.revision(), Some(2));
        holding.reflect();
        sleep(Duration::from_secs(60)).await;
        assert!(holding.health.not_ready().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_address_is_written_into_the_same_lease_even_if_the_registry_is_away_at_first() {
        let holding = Holding::start().await;
        let holder = || lease::parse_value(&holding.registry.entry(KEY).unwrap().value);
        holding.registry.set_down(true);
        holding.public_ip.send_replace(OTHER);
        sleep(Duration::from_secs(300)).await;
        assert_eq!(holder(), Ok(ME));
        holding.registry.set_down(false);
        sleep(Duration::from_secs(60)).await;
        assert_eq!((holder(), holding.revision()), (Ok(OTHER), Some(2)));
        holding.reflect();
        sleep(Duration::from_secs(60)).await;
        assert_eq!((holding.revision(), holding.health.not_ready()), (Some(2), None));
    }
}

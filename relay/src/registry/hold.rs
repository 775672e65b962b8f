//! Keeping this node's lease: renewal before it expires, and taking it again when it is lost.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Registry, RegistryError, Written, acquire::Held, backoff::Backoff, table::OwnLease};
use crate::{http::Health, lease};

/// What the registry says of this node's lease, compared with what was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is as it should be, last changed at this revision.
    Ours(i64),
    /// The key is gone.
    Gone,
    /// Another node's address stands there.
    Stolen(std::net::Ipv4Addr),
    /// The registry's mirror lags behind the last write.
    Unknown,
}

fn judge(own: Option<OwnLease>, held: &Held) -> State {
    match own {
        None => State::Unknown,
        Some(own) if own.revision < held.written.mod_revision => State::Unknown,
        Some(OwnLease { held: None, .. }) => State::Gone,
        Some(OwnLease { held: Some((holder, revision)), .. }) if holder == held.lease.public_ip => {
            State::Ours(revision)
        }
        Some(OwnLease { held: Some((holder, _)), .. }) => State::Stolen(holder),
    }
}

/// When to renew: `margin` before the end, but never in less than a tenth of the time to live.
fn renewal(written: &Written, margin: Duration, now: Instant) -> Option<Instant> {
    let ttl = written.ttl?;
    Some(now + ttl.saturating_sub(margin).max(ttl / 10))
}

/// Keeps `held` until the future is dropped. Forwarding goes on whatever happens; `health` says what is wrong.
pub async fn hold<R: Registry>(
    registry: Arc<R>,
    mut held: Held,
    mut own: watch::Receiver<Option<OwnLease>>,
    margin: Duration,
    health: Arc<Health>,
) {
    let key = lease::key(held.lease.subnet);
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut renew_at = renewal(&held.written, margin, Instant::now());
    loop {
        let state = judge(*own.borrow_and_update(), &held);
        let outcome = match state {
            State::Gone => {
                tracing::error!(subnet = %held.lease.subnet, "this node's lease was deleted or has expired; taking it again");
                health.lease_lost(format!("the lease of {} was deleted", held.lease.subnet));
                registry.create(&key, held.lease.public_ip).await
            }
            State::Stolen(holder) => {
                tracing::error!(
                    subnet = %held.lease.subnet, %holder,
                    "another node's address stands in this node's lease: stop one of the two, or delete the key"
                );
                health.lease_lost(format!("the lease of {} names {holder}", held.lease.subnet));
                if own.changed().await.is_err() {
                    return;
                }
                continue;
            }
            State::Ours(_) | State::Unknown => {
                if let State::Ours(revision) = state {
                    held.written.mod_revision = revision;
                    health.lease_held();
                }
                tokio::select! {
                    changed = own.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    () = until(renew_at) => {
                        registry.renew(&key, held.lease.public_ip, held.written.mod_revision, true).await
                    }
                }
            }
        };
        match outcome {
            Ok(written) => {
                tracing::info!(subnet = %held.lease.subnet, revision = written.mod_revision, "lease written");
                held.written = written;
                renew_at = renewal(&written, margin, Instant::now());
                backoff.reset();
                health.lease_held();
            }
            Err(error @ RegistryError::Conflict(_)) => {
                // The mirror will tell what stands there; a lost watch must not make this a tight loop.
                tracing::warn!(%error, "lease changed while it was written");
                let _ = tokio::time::timeout(backoff.pause(), own.changed()).await;
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
    use crate::{lease::Lease, registry::LEASE_TTL};
    use std::net::Ipv4Addr;

    const ME: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

    fn held(mod_revision: i64) -> Held {
        let lease = Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: ME };
        Held { lease, written: Written { mod_revision, ttl: Some(LEASE_TTL) } }
    }

    #[test]
    fn what_is_older_than_the_last_write_proves_nothing() {
        assert_eq!(judge(None, &held(5)), State::Unknown);
        assert_eq!(judge(Some(OwnLease { revision: 4, held: None }), &held(5)), State::Unknown);
        assert_eq!(judge(Some(OwnLease { revision: 4, held: Some((OTHER, 4)) }), &held(5)), State::Unknown);
    }

    #[test]
    fn the_holder_tells_a_lease_kept_from_one_stolen_or_gone() {
        assert_eq!(judge(Some(OwnLease { revision: 9, held: Some((ME, 7)) }), &held(5)), State::Ours(7));
        assert_eq!(
            judge(Some(OwnLease { revision: 9, held: Some((OTHER, 7)) }), &held(5)),
            State::Stolen(OTHER)
        );
        assert_eq!(judge(Some(OwnLease { revision: 9, held: None }), &held(5)), State::Gone);
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
}

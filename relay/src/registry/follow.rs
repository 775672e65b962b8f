//! Mirroring the registry's leases into the route table: list, then watch, list again when history is lost.
//!
//! Whatever happens to the registry, the routes stay as they were last known until it says otherwise.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::{sync::watch, time::sleep};

use super::{
    Registry, RegistryError, Watch, WatchError,
    backoff::Backoff,
    table::{Folded, LeaseTable, OwnLease},
};
use crate::datapath::routes::Routes;

/// How the mirroring fares, for `/metrics`.
#[derive(Debug, Default)]
pub struct FollowStats {
    /// Whether the watch is running.
    pub connected: AtomicBool,
    /// Times that the watch had to be set up again.
    pub reconnects: AtomicU64,
    /// Times that everything was listed.
    pub lists: AtomicU64,
    /// Entries that were skipped.
    pub skipped: AtomicU64,
}

/// Keeps `routes` as the registry has them.
#[derive(Debug)]
pub struct Follower<R> {
    /// The registry.
    pub registry: Arc<R>,
    /// What is known.
    pub table: LeaseTable,
    /// What the data path reads.
    pub routes: Arc<Routes>,
    /// Told of this node's own lease after every change; none before the first list.
    pub own: watch::Sender<Option<OwnLease>>,
    /// How it fares.
    pub stats: Arc<FollowStats>,
}

impl<R: Registry> Follower<R> {
    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::reconnect();
        loop {
            match self.list().await {
                Ok(()) => {}
                Err(error) => {
                    self.lost(&error, &mut backoff).await;
                    continue;
                }
            }
            let reason = self.watch_until_history_is_lost(&mut backoff).await;
            tracing::warn!(reason, revision = self.table.revision(), "listing all leases again");
        }
    }

    async fn list(&mut self) -> Result<(), RegistryError> {
        let snapshot = self.registry.list().await?;
        self.stats.lists.fetch_add(1, Relaxed);
        let folded = self.table.apply_snapshot(&snapshot);
        self.publish(&folded);
        tracing::info!(leases = snapshot.entries.len(), revision = snapshot.revision, "listed the leases");
        Ok(())
    }

    async fn watch_until_history_is_lost(&mut self, backoff: &mut Backoff) -> String {
        loop {
            let mut stream = match self.registry.watch(self.table.revision() + 1).await {
                Ok(stream) => stream,
                Err(WatchError::HistoryLost(reason)) => return reason,
                Err(WatchError::Lost(error)) => {
                    self.lost(&error, backoff).await;
                    continue;
                }
            };
            if !self.stats.connected.swap(true, Relaxed) {
                tracing::info!(revision = self.table.revision(), "watching the leases");
            }
            let error = loop {
                match stream.next().await {
                    Ok(batch) => {
                        backoff.reset();
                        let folded = self.table.apply_batch(&batch);
                        self.publish(&folded);
                    }
                    Err(WatchError::HistoryLost(reason)) => {
                        // Without a pause, a registry that answers every watch like this would be listed in a loop.
                        sleep(backoff.pause()).await;
                        return reason;
                    }
                    Err(WatchError::Lost(error)) => break error,
                }
            };
            self.lost(&error, backoff).await;
        }
    }

    async fn lost(&self, error: &RegistryError, backoff: &mut Backoff) {
        self.stats.reconnects.fetch_add(1, Relaxed);
        if self.stats.connected.swap(false, Relaxed) || self.table.revision() == 0 {
            tracing::warn!(%error, routes = self.routes.len(), "registry lost; the routes stay, trying again");
        } else {
            tracing::debug!(%error, "registry still lost");
        }
        sleep(backoff.pause()).await;
    }

    fn publish(&self, folded: &Folded) {
        self.routes.apply(&folded.changes, self.table.revision());
        for (subnet, next_hop) in &folded.changes {
            match next_hop {
                Some(node) => tracing::info!(%subnet, %node, "route set"),
                None => tracing::info!(%subnet, "route removed"),
            }
        }
        self.stats.skipped.fetch_add(folded.skipped.len() as u64, Relaxed);
        for skipped in folded.skipped.iter().filter(|skipped| skipped.first) {
            tracing::warn!(key = skipped.key, reason = skipped.reason, "registry entry skipped");
        }
        self.own.send_replace(Some(self.table.own()));
    }
}

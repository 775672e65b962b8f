//! Mirroring the registry's leases into the route table: list, then watch, list again when history is lost.
//!
//! Whatever happens to the registry, the routes stay as they were last known until it says otherwise.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Registry, RegistryError, Watch, WatchError,
    backoff::Backoff,
    table::{Folded, LeaseTable, OwnLease},
};
use crate::datapath::routes::Routes;

/// A watch that held this long was a good one: the next pause is the shortest again.
const STABLE: Duration = Duration::from_secs(10);

/// Route changes at once that are logged one by one.
const MAX_LOGGED: usize = 20;

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
    /// The address of this node.
    pub public_ip: watch::Receiver<Ipv4Addr>,
    /// How it fares.
    pub stats: Arc<FollowStats>,
}

impl<R: Registry> Follower<R> {
    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        let mut reconnect = Backoff::reconnect();
        // A registry that answers every watch with "history lost" must not be listed in a loop.
        let mut relist = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
        loop {
            if let Err(error) = self.list().await {
                self.lost(&error, &mut reconnect).await;
                continue;
            }
            let resumed_at = self.table.revision();
            let reason = self.watch_until_history_is_lost(&mut reconnect).await;
            tracing::warn!(reason, revision = self.table.revision(), "listing all leases again");
            if self.table.revision() > resumed_at {
                relist.reset();
            }
            sleep(relist.pause()).await;
        }
    }

    async fn list(&mut self) -> Result<(), RegistryError> {
        let asked = Instant::now();
        let snapshot = self.registry.list().await?;
        let answered = Instant::now();
        self.stats.lists.fetch_add(1, Relaxed);
        let folded = self.table.apply_snapshot(&snapshot);
        self.publish(&folded);
        tracing::info!(
            leases = snapshot.entries.len(),
            revision = snapshot.revision,
            answered_in = ?answered - asked,
            applied_in = ?answered.elapsed(),
            "listed the leases"
        );
        Ok(())
    }

    async fn watch_until_history_is_lost(&mut self, reconnect: &mut Backoff) -> String {
        loop {
            let started = Instant::now();
            match self.watch().await {
                WatchError::HistoryLost(reason) => return reason,
                WatchError::Lost(error) => {
                    if started.elapsed() > STABLE {
                        reconnect.reset();
                    }
                    self.lost(&error, reconnect).await;
                }
            }
        }
    }

    /// Watches from where the table stands until that ends.
    async fn watch(&mut self) -> WatchError {
        let mut stream = match self.registry.watch(self.table.revision() + 1).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = changed(&mut self.public_ip) => {
                    let public_ip = *self.public_ip.borrow_and_update();
                    let folded = self.table.set_public_ip(public_ip);
                    self.publish(&folded);
                    let cause = "this node has another address".into();
                    let doing = "watching the leases";
                    return RegistryError::Unavailable { doing, cause }.into();
                }
            };
            let batch = match next {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            if !self.stats.connected.swap(true, Relaxed) {
                tracing::info!(revision = self.table.revision(), "watching the leases");
            }
            let folded = self.table.apply_batch(&batch);
            self.publish(&folded);
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
        if folded.changes.len() > MAX_LOGGED {
            tracing::info!(changes = folded.changes.len(), routes = self.routes.len(), "many routes changed");
        } else {
            for (subnet, next_hop) in &folded.changes {
                match next_hop {
                    Some(node) => tracing::info!(%subnet, %node, "route set"),
                    None => tracing::info!(%subnet, "route removed"),
                }
            }
        }
        for (subnet, node) in &folded.changes {
            if node.is_some() && !self.table.is_of_usual_length(*subnet) {
                tracing::warn!(%subnet, "a lease of another length than SubnetLen says: the longest match counts");
            }
        }
        self.stats.skipped.fetch_add(folded.skipped.len() as u64, Relaxed);
        for skipped in folded.skipped.iter().filter(|skipped| skipped.first) {
            tracing::warn!(key = skipped.key, reason = skipped.reason, "registry entry skipped");
        }
        for subnet in &folded.misdirected {
            tracing::warn!(%subnet, "another subnet is leased to this node's address: no route to it");
        }
        self.own.send_replace(Some(self.table.own()));
    }
}

/// Waits for a change, for ever when there can be none.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lease::Lease, network::Network, registry::memory::Memory};

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);

    struct Running {
        registry: Arc<Memory>,
        routes: Arc<Routes>,
        stats: Arc<FollowStats>,
        own: watch::Receiver<Option<OwnLease>>,
    }

    impl Running {
        fn start(registry: &Arc<Memory>) -> Self {
            let network = Network::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
            let own =
                Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: Ipv4Addr::new(192, 168, 0, 1) };
            let (sender, receiver) = watch::channel(None);
            let routes = Arc::new(Routes::new(network.prefix, network.subnet_len));
            let stats = Arc::new(FollowStats::default());
            let follower = Follower {
                registry: Arc::clone(registry),
                table: LeaseTable::new(network, own),
                routes: Arc::clone(&routes),
                own: sender,
                public_ip: watch::channel(own.public_ip).1,
                stats: Arc::clone(&stats),
            };
            tokio::spawn(follower.run());
            Self { registry: Arc::clone(registry), routes, stats, own: receiver }
        }

        /// Waits until the table reflects `revision`; the clock of the test jumps over every pause.
        async fn reach(&mut self, revision: i64) {
            self.own.wait_for(|own| own.is_some_and(|own| own.revision == revision)).await.unwrap();
        }

        fn node_of(&self, third: u8) -> Option<Ipv4Addr> {
            self.routes.lookup(Ipv4Addr::new(10, 5, third, 9))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn routes_follow_the_registry() {
        let registry = Memory::new();
        registry.put_lease("10.5.2.0-24", NODE);
        let mut running = Running::start(&registry);
        running.reach(1).await;
        assert_eq!(running.node_of(2), Some(NODE));
        running.reach(registry.put_lease("10.5.2.0-24", OTHER)).await;
        assert_eq!(running.node_of(2), Some(OTHER));
        running.reach(registry.remove("10.5.2.0-24")).await;
        assert_eq!(running.node_of(2), None);
        assert_eq!(registry.lists(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn routes_outlive_the_registry_and_catch_up_without_a_list() {
        let registry = Memory::new();
        registry.put_lease("10.5.2.0-24", NODE);
        let mut running = Running::start(&registry);
        running.reach(1).await;
        registry.set_down(true);
        registry.remove("10.5.2.0-24");
        let revision = registry.put_lease("10.5.3.0-24", NODE);
        sleep(Duration::from_secs(600)).await;
        assert_eq!((running.node_of(2), running.node_of(3)), (Some(NODE), None));
        assert!(!running.stats.connected.load(Relaxed));
        registry.set_down(false);
        running.reach(revision).await;
        assert_eq!((running.node_of(2), running.node_of(3)), (None, Some(NODE)));
        assert_eq!(registry.lists(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn compaction_is_answered_by_one_list_and_the_difference() {
        let registry = Memory::new();
        registry.put_lease("10.5.2.0-24", NODE);
        registry.put_lease("10.5.4.0-24", NODE);
        let mut running = Running::start(&registry);
        running.reach(2).await;
        registry.set_down(true);
        sleep(Duration::from_secs(1)).await;
        registry.remove("10.5.2.0-24");
        let revision = registry.put_lease("10.5.3.0-24", NODE);
        registry.compact();
        registry.set_down(false);
        running.reach(revision).await;
        assert_eq!(
            (running.node_of(2), running.node_of(3), running.node_of(4)),
            (None, Some(NODE), Some(NODE))
        );
        assert_eq!(registry.lists(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_never_has_history_is_not_listed_in_a_loop() {
        let registry = Memory::new();
        registry.put_lease("10.5.2.0-24", NODE);
        registry.compact_for_ever();
        let mut running = Running::start(&registry);
        running.reach(1).await;
        sleep(Duration::from_secs(60)).await;
        // From 10 ms on the pauses double up to 5 s.
        assert!((15..40).contains(&registry.lists()), "{} lists in a minute", registry.lists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_lost_its_past_is_listed_anew() {
        let registry = Memory::new();
        for _ in 0..5 {
            registry.put_lease("10.5.2.0-24", NODE);
        }
        let mut running = Running::start(&registry);
        running.reach(5).await;
        registry.wipe();
        running.registry.put_lease("10.5.3.0-24", OTHER);
        running.reach(1).await;
        assert_eq!((running.node_of(2), running.node_of(3)), (None, Some(OTHER)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_down_at_first_is_tried_until_it_answers() {
        let registry = Memory::new();
        registry.put_lease("10.5.2.0-24", NODE);
        registry.set_down(true);
        let mut running = Running::start(&registry);
        sleep(Duration::from_secs(60)).await;
        assert!(running.routes.is_empty());
        registry.set_down(false);
        running.reach(1).await;
        assert_eq!(running.node_of(2), Some(NODE));
    }
}

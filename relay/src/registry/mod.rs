//! Who has which subnet: the shared registry in which nodes lease subnets and see each other's leases.
//!
//! [`Registry`] is what a store must offer. On top of it: [`acquire`] picks this node's lease at start, [`hold`]
//! keeps it, [`follow`] mirrors all leases into the route table. [`table`] folds events into routes and holds no
//! connection.

pub mod acquire;
pub mod backoff;
pub mod etcd;
pub mod file;
pub mod follow;
pub mod hold;
#[cfg(test)]
pub(crate) mod memory;
pub mod table;

use std::{future::Future, net::Ipv4Addr, time::Duration};

use thiserror::Error;

/// How long a lease lives when it is not renewed (flannel `pkg/subnet/etcd/local_manager.go`, `subnetTTL`).
pub const LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// One key below the registry's `subnets`, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last part of the key, such as `10.5.34.0-24`.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Whether it expires unless renewed; a reservation does not.
    pub expires: bool,
}

/// Every entry at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The entries, in byte order of their keys.
    pub entries: Vec<Entry>,
    /// The registry's revision when it was taken.
    pub revision: i64,
}

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(Entry),
    /// It was deleted or expired.
    Delete {
        /// The last part of the key.
        key: String,
    },
}

/// Changes in order, complete up to a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub events: Vec<Event>,
    /// The revision up to which nothing is missing.
    pub revision: i64,
}

/// A lease was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Revision of the write.
    pub mod_revision: i64,
    /// How long it lives from now; none for a reservation.
    pub ttl: Option<Duration>,
}

/// The registry did not do what was asked.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// It cannot be reached or answered with an error.
    #[error("{doing}: {cause}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What came back.
        cause: String,
    },
    /// It answered that this user may not do that; nothing was done.
    #[error("{doing}: {cause}")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// What came back.
        cause: String,
    },
    /// It did not answer in time.
    #[error("{doing}: no answer within {}", humantime(.after))]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The key has no value.
    #[error("key {0} does not exist: write the network config there")]
    Missing(String),
    /// Someone else changed the key first.
    #[error("key {0} was changed by another node meanwhile")]
    Conflict(String),
}

fn humantime(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

/// A watch ended.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The connection is lost; the watch can resume where it was.
    #[error(transparent)]
    Lost(#[from] RegistryError),
    /// History since the start revision is gone, or never was: everything has to be listed again.
    #[error("history is not available: {0}")]
    HistoryLost(String),
}

/// A store of leases.
pub trait Registry: Send + Sync + 'static {
    /// A running watch.
    type Watch: Watch;

    /// The network configuration, as stored.
    fn config(&self) -> impl Future<Output = Result<Vec<u8>, RegistryError>> + Send;

    /// Every entry.
    fn list(&self) -> impl Future<Output = Result<Snapshot, RegistryError>> + Send;

    /// Watches for changes from `revision` on.
    fn watch(&self, revision: i64) -> impl Future<Output = Result<Self::Watch, WatchError>> + Send;

    /// Writes a new lease; [`RegistryError::Conflict`] if the key exists.
    fn create(
        &self,
        key: &str,
        public_ip: Ipv4Addr,
    ) -> impl Future<Output = Result<Written, RegistryError>> + Send;

    /// Writes a lease again with a fresh time to live, or none for a reservation; [`RegistryError::Conflict`] if it
    /// changed since `mod_revision`.
    fn renew(
        &self,
        key: &str,
        public_ip: Ipv4Addr,
        mod_revision: i64,
        expires: bool,
    ) -> impl Future<Output = Result<Written, RegistryError>> + Send;

    /// This node has another address: connections from the old one are of no use, though they look alive.
    fn forget_connections(&self) {}

    /// Deletes an entry; [`RegistryError::Conflict`] if it changed since `mod_revision`.
    fn delete(&self, key: &str, mod_revision: i64) -> impl Future<Output = Result<(), RegistryError>> + Send;
}

/// A stream of changes.
pub trait Watch: Send {
    /// The next changes; waits until there are some. The first batch, often empty, says that the watch is
    /// established; a later one may be empty when only the revision advanced. Nothing is lost when the future is
    /// dropped.
    fn next(&mut self) -> impl Future<Output = Result<Batch, WatchError>> + Send;
}

#[cfg(test)]
mod tests;

//! A registry in memory, for tests of what runs on top of one.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::watch;

use super::{Batch, Entry, Event, LEASE_TTL, Registry, RegistryError, Snapshot, Watch, WatchError, Written};
use crate::lease;

#[derive(Debug, Clone)]
pub(crate) struct Memory {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<()>,
    /// Where call times come from; none take no time.
    latency: Option<Arc<Mutex<fastrand::Rng>>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    history: Vec<(i64, Event)>,
    revision: i64,
    compacted: i64,
    down: bool,
    lists: usize,
    renewals: usize,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Arc::default(), changed: watch::Sender::new(()), latency: None })
    }

    /// Calls and their answers take up to 20 ms each, at random.
    pub(crate) fn slow(seed: u64) -> Arc<Self> {
        let latency = Some(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
        Arc::new(Self { inner: Arc::default(), changed: watch::Sender::new(()), latency })
    }

    async fn travel(&self) {
        if let Some(latency) = &self.latency {
            let time = Duration::from_millis(latency.lock().unwrap().u64(..=20));
            tokio::time::sleep(time).await;
        }
    }

    /// Every change so far, with its revision.
    pub(crate) fn history(&self) -> Vec<(i64, Event)> {
        self.inner().history.clone()
    }

    /// Every entry.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        Snapshot { entries: inner.entries.values().cloned().collect(), revision: inner.revision }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn up(&self) -> Result<MutexGuard<'_, Inner>, RegistryError> {
        let inner = self.inner();
        if inner.down {
            return Err(RegistryError::Unavailable { doing: "testing", cause: "down".into() });
        }
        Ok(inner)
    }

    fn record(&self, inner: &mut Inner, event: Event) {
        inner.history.push((inner.revision, event));
        self.changed.send_replace(());
    }

    /// Writes as another node would; returns the revision.
    pub(crate) fn put_lease(&self, key: &str, holder: Ipv4Addr) -> i64 {
        self.put(key, holder, true)
    }

    /// Writes a lease that does not expire.
    pub(crate) fn reserve(&self, key: &str, holder: Ipv4Addr) -> i64 {
        self.put(key, holder, false)
    }

    /// Writes what may be no lease.
    pub(crate) fn put_value(&self, key: &str, value: &[u8]) -> i64 {
        self.put_entry(key, value.to_vec(), true)
    }

    fn put(&self, key: &str, holder: Ipv4Addr, expires: bool) -> i64 {
        self.put_entry(key, lease::value(holder), expires)
    }

    fn put_entry(&self, key: &str, value: Vec<u8>, expires: bool) -> i64 {
        let mut inner = self.inner();
        inner.revision += 1;
        let entry = Entry { key: key.into(), value, mod_revision: inner.revision, expires };
        inner.entries.insert(key.into(), entry.clone());
        self.record(&mut inner, Event::Put(entry));
        inner.revision
    }

    pub(crate) fn remove(&self, key: &str) -> i64 {
        let mut inner = self.inner();
        inner.revision += 1;
        inner.entries.remove(key);
        self.record(&mut inner, Event::Delete { key: key.into() });
        inner.revision
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.inner().down = down;
        self.changed.send_replace(());
    }

    /// Forgets all history.
    pub(crate) fn compact(&self) {
        let mut inner = self.inner();
        inner.compacted = inner.revision;
        inner.history.clear();
    }

    /// Has no history from now on, whatever revision is asked for.
    pub(crate) fn compact_for_ever(&self) {
        self.inner().compacted = i64::MAX;
        self.changed.send_replace(());
    }

    /// Loses everything, as an etcd restored from nothing.
    pub(crate) fn wipe(&self) {
        let down = self.inner().down;
        *self.inner() = Inner { down, ..Inner::default() };
        self.changed.send_replace(());
    }

    pub(crate) fn lists(&self) -> usize {
        self.inner().lists
    }

    /// Leases that were to be renewed, whether or not they were.
    pub(crate) fn renewals(&self) -> usize {
        self.inner().renewals
    }

    pub(crate) fn revision(&self) -> i64 {
        self.inner().revision
    }

    pub(crate) fn entry(&self, key: &str) -> Option<Entry> {
        self.inner().entries.get(key).cloned()
    }

    fn write(&self, inner: &mut Inner, key: &str, public_ip: Ipv4Addr, expires: bool) -> Written {
        inner.revision += 1;
        let value = lease::value(public_ip);
        let entry = Entry { key: key.into(), value, mod_revision: inner.revision, expires };
        inner.entries.insert(key.into(), entry.clone());
        self.record(inner, Event::Put(entry));
        Written { mod_revision: inner.revision, ttl: expires.then_some(LEASE_TTL) }
    }
}

impl Registry for Memory {
    type Watch = MemoryWatch;

    async fn config(&self) -> Result<Vec<u8>, RegistryError> {
        Err(RegistryError::Missing("config".into()))
    }

    async fn list(&self) -> Result<Snapshot, RegistryError> {
        self.travel().await;
        // A list takes time, in which others may write.
        let snapshot = {
            let mut inner = self.up()?;
            inner.lists += 1;
            Snapshot { entries: inner.entries.values().cloned().collect(), revision: inner.revision }
        };
        tokio::task::yield_now().await;
        self.travel().await;
        Ok(snapshot)
    }

    async fn watch(&self, revision: i64) -> Result<MemoryWatch, WatchError> {
        drop(self.up()?);
        Ok(MemoryWatch {
            registry: self.clone(),
            changed: self.changed.subscribe(),
            revision: revision - 1,
            established: false,
        })
    }

    async fn create(&self, key: &str, public_ip: Ipv4Addr) -> Result<Written, RegistryError> {
        self.travel().await;
        let result = self.up().and_then(|mut inner| {
            if inner.entries.contains_key(key) {
                return Err(RegistryError::Conflict(key.into()));
            }
            Ok(self.write(&mut inner, key, public_ip, true))
        });
        self.travel().await;
        result
    }

    async fn renew(
        &self,
        key: &str,
        public_ip: Ipv4Addr,
        mod_revision: i64,
        expires: bool,
    ) -> Result<Written, RegistryError> {
        self.travel().await;
        let result = self.up().and_then(|mut inner| {
            inner.renewals += 1;
            if inner.entries.get(key).is_none_or(|entry| entry.mod_revision != mod_revision) {
                return Err(RegistryError::Conflict(key.into()));
            }
            Ok(self.write(&mut inner, key, public_ip, expires))
        });
        self.travel().await;
        result
    }

    async fn delete(&self, key: &str, mod_revision: i64) -> Result<(), RegistryError> {
        self.travel().await;
        if self.up()?.entries.get(key).is_none_or(|entry| entry.mod_revision != mod_revision) {
            return Err(RegistryError::Conflict(key.into()));
        }
        self.remove(key);
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct MemoryWatch {
    registry: Memory,
    changed: watch::Receiver<()>,
    revision: i64,
    established: bool,
}

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            {
                let inner = self.registry.up()?;
                if inner.compacted > self.revision || inner.revision < self.revision {
                    return Err(WatchError::HistoryLost("compacted or restored".into()));
                }
                let news = inner.history.iter().filter(|(revision, _)| *revision > self.revision);
                let events: Vec<Event> = news.map(|(_, event)| event.clone()).collect();
                if !events.is_empty() || !self.established {
                    self.established = true;
                    self.revision = inner.revision;
                    return Ok(Batch { events, revision: self.revision });
                }
            }
            self.changed.changed().await.unwrap();
        }
    }
}

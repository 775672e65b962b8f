//! The registry in etcd v3, laid out as flannel has it: `PREFIX/config` and `PREFIX/subnets/KEY`.
//!
//! Every call has a deadline, and HTTP/2 pings find a connection that died without a word. A watch asks for a
//! leader, so that a member cut off from the others ends it instead of serving the past.

mod endpoints;
mod tls;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use endpoints::{Endpoints, cause};
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, GetResponse, KeyValue,
    LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, TxnResponse,
    WatchOptions, WatchStream,
};
pub use tls::TlsFiles;

use super::{Batch, Entry, Event, Registry, RegistryError, Snapshot, Watch, WatchError, Written};
use crate::lease;

/// Octets that an answer of etcd may have: a million leases of 120 each. gRPC's usual 4 MiB are 35,000 of them.
const MAX_ANSWER: usize = 128 << 20;

/// Where etcd is and how to speak to it.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// URLs of the members.
    pub endpoints: Vec<String>,
    /// The prefix of all keys, such as `/coreos.com/network`.
    pub prefix: String,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// For endpoints that are not `http://`.
    pub tls: TlsFiles,
    /// How long a lease lives when it is not renewed; etcd lengthens less than about 2 s.
    pub ttl: Duration,
}

/// The registry in etcd.
pub struct Etcd {
    prefix: String,
    ttl: Duration,
    endpoints: Arc<Endpoints>,
}

impl Etcd {
    /// Prepares a client; nothing is sent until the first call.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        let prefix = clean_path(&options.prefix);
        let ttl = options.ttl;
        Self {
            prefix,
            ttl,
            endpoints: Arc::new(Endpoints::new(options.endpoints, options.user, options.tls)),
        }
    }

    fn subnets(&self) -> String {
        join(&self.prefix, "subnets/")
    }

    fn key(&self, key: &str) -> String {
        self.subnets() + key
    }

    async fn grant(&self) -> Result<i64, RegistryError> {
        let ttl = self.ttl.as_secs().cast_signed();
        let grant = |mut client: Client| async move { client.lease_grant(ttl, None).await };
        Ok(self.endpoints.call("granting an etcd lease", grant).await?.id())
    }

    /// Revokes an etcd lease that no key is attached to any more; it would expire by itself a day later.
    async fn release(&self, id: i64) {
        let release = |mut client: Client| async move {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            let state = client.lease_time_to_live(id, Some(options)).await?;
            if state.keys().is_empty() && state.ttl() > 0 {
                client.lease_revoke(id).await?;
            }
            Ok(())
        };
        if let Err(error) = self.endpoints.call("revoking an unused etcd lease", release).await {
            tracing::debug!(%error, "an unused etcd lease stays until it expires");
        }
    }

    /// Puts this node's value at `key` if `condition` holds.
    async fn write(
        &self,
        doing: &'static str,
        key: &str,
        public_ip: Ipv4Addr,
        condition: Compare,
        expires: bool,
    ) -> Result<(Written, Option<KeyValue>), RegistryError> {
        let grant = if expires { Some(self.grant().await?) } else { None };
        let options = PutOptions::new().with_prev_key();
        let options = grant.iter().fold(options, |options, id| options.with_lease(*id));
        let put = TxnOp::put(self.key(key), lease::value(public_ip), Some(options));
        let txn = Txn::new().when([condition]).and_then([put]);
        let outcome = match self.commit(doing, txn).await {
            Ok(response) if !response.succeeded() => Err(RegistryError::Conflict(self.key(key))),
            outcome => outcome,
        };
        // After any other error the write may yet be done, and revoking its etcd lease would undo it: that stays until
        // it expires.
        if let (Some(id), Err(RegistryError::Conflict(_) | RegistryError::Denied { .. })) = (grant, &outcome)
        {
            self.release(id).await;
        }
        let mut response = outcome?;
        let mod_revision = response.take_header().map_or(0, |header| header.revision());
        let previous = response.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Put(mut put) => put.take_prev_key(),
            _ => None,
        });
        Ok((Written { mod_revision, ttl: expires.then_some(self.ttl) }, previous))
    }

    async fn commit(&self, doing: &'static str, txn: Txn) -> Result<TxnResponse, RegistryError> {
        let commit = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        self.endpoints.call(doing, commit).await
    }

    async fn get(
        &self,
        doing: &'static str,
        key: &str,
        options: Option<GetOptions>,
    ) -> Result<GetResponse, RegistryError> {
        let get = |client: Client| {
            let options = options.clone();
            let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
            async move { kv.get(key, options).await }
        };
        self.endpoints.call(doing, get).await
    }
}

impl Registry for Etcd {
    type Watch = EtcdWatch;

    async fn config(&self) -> Result<Vec<u8>, RegistryError> {
        let key = join(&self.prefix, "config");
        let mut response = self.get("reading the network config from etcd", &key, None).await?;
        response.take_kvs().pop().map(|kv| kv.value().to_vec()).ok_or(RegistryError::Missing(key))
    }

    async fn list(&self) -> Result<Snapshot, RegistryError> {
        let prefix = self.subnets();
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Ascend);
        let response = self.get("listing the leases in etcd", &prefix, Some(options)).await?;
        let entries = response.kvs().iter().filter_map(|kv| entry(&prefix, kv)).collect();
        Ok(Snapshot { entries, revision: response.header().map_or(0, |header| header.revision()) })
    }

    async fn watch(&self, revision: i64) -> Result<EtcdWatch, WatchError> {
        let prefix = self.subnets();
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_progress_notify();
        let watch = |client: Client| {
            let (prefix, options) = (prefix.as_str(), options.clone());
            let mut watch = client.watch_client().max_decoding_message_size(MAX_ANSWER);
            async move { watch.watch(prefix, Some(options)).await }
        };
        let stream = self.endpoints.call("watching the leases in etcd", watch).await?;
        Ok(EtcdWatch { endpoints: Arc::clone(&self.endpoints), prefix, stream, revision: revision - 1 })
    }

    async fn create(&self, key: &str, public_ip: Ipv4Addr) -> Result<Written, RegistryError> {
        let absent = Compare::version(self.key(key), CompareOp::Equal, 0);
        Ok(self.write("creating a lease in etcd", key, public_ip, absent, true).await?.0)
    }

    async fn renew(
        &self,
        key: &str,
        public_ip: Ipv4Addr,
        mod_revision: i64,
        expires: bool,
    ) -> Result<Written, RegistryError> {
        let unchanged = Compare::mod_revision(self.key(key), CompareOp::Equal, mod_revision);
        let (written, previous) =
            self.write("renewing the lease in etcd", key, public_ip, unchanged, expires).await?;
        if let Some(old) = previous.map(|kv| kv.lease()).filter(|id| *id != 0) {
            self.release(old).await;
        }
        Ok(written)
    }

    fn forget_connections(&self) {
        self.endpoints.forget();
    }

    async fn delete(&self, key: &str, mod_revision: i64) -> Result<(), RegistryError> {
        let unchanged = Compare::mod_revision(self.key(key), CompareOp::Equal, mod_revision);
        let delete = TxnOp::delete(self.key(key), None::<DeleteOptions>);
        let txn = Txn::new().when([unchanged]).and_then([delete]);
        let response = self.commit("deleting a lease in etcd", txn).await?;
        if response.succeeded() { Ok(()) } else { Err(RegistryError::Conflict(self.key(key))) }
    }
}

/// A watch on the leases in etcd.
pub struct EtcdWatch {
    endpoints: Arc<Endpoints>,
    prefix: String,
    stream: WatchStream,
    /// The revision up to which events have been delivered.
    revision: i64,
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        // A member without a leader accepts a watch and then ends it: the next attempt goes to another.
        let lost = |cause: String| {
            self.endpoints.rotate();
            RegistryError::Unavailable { doing: "watching the leases in etcd", cause }
        };
        let response = self
            .stream
            .message()
            .await
            .map_err(|error| lost(cause(&error)))?
            .ok_or_else(|| lost("etcd closed the stream".into()))?;
        let current = response.header().map_or(0, |header| header.revision());
        if response.compact_revision() != 0 {
            let compacted = response.compact_revision();
            return Err(WatchError::HistoryLost(format!("etcd was compacted up to revision {compacted}")));
        }
        if response.canceled() {
            // A token that has expired ends a watch by this and no status, so the library does not ask for a new one:
            // only a new client does. The tokens for the other members are of the same age.
            self.endpoints.forget();
            return Err(lost(format!("etcd cancelled the watch: {}", response.cancel_reason())).into());
        }
        if response.created() {
            // A watch on a revision to come would wait in silence for a history that was lost.
            if current < self.revision {
                return Err(WatchError::HistoryLost(format!(
                    "etcd is at revision {current}, below {} seen before",
                    self.revision
                )));
            }
            return Ok(Batch { events: Vec::new(), revision: self.revision });
        }
        // With events, the header may run ahead of a backlog; without, it reports progress.
        let latest =
            response.events().iter().filter_map(|event| event.kv()).map(KeyValue::mod_revision).max();
        self.revision = self.revision.max(latest.unwrap_or(current));
        let events = response.events().iter().filter_map(|event| event_of(&self.prefix, event)).collect();
        Ok(Batch { events, revision: self.revision })
    }
}

fn event_of(prefix: &str, event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    match event.event_type() {
        EventType::Put => entry(prefix, kv).map(Event::Put),
        EventType::Delete => key_below(prefix, kv).map(|key| Event::Delete { key }),
    }
}

fn entry(prefix: &str, kv: &KeyValue) -> Option<Entry> {
    let key = key_below(prefix, kv)?;
    Some(Entry { key, value: kv.value().to_vec(), mod_revision: kv.mod_revision(), expires: kv.lease() != 0 })
}

/// The key without the prefix; octets that are no UTF-8 become marks that no lease key has.
fn key_below(prefix: &str, kv: &KeyValue) -> Option<String> {
    kv.key().strip_prefix(prefix.as_bytes()).map(|key| String::from_utf8_lossy(key).into_owned())
}

/// Go's `path.Join` for an absolute or relative prefix: no doubled and no trailing slashes, none added in front.
fn clean_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let lead = if path.starts_with('/') { "/" } else { "" };
    format!("{lead}{}", parts.join("/"))
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() || prefix == "/" { format!("{prefix}{key}") } else { format!("{prefix}/{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_cleaned_as_flannel_cleans_them() {
        for (given, config) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com//network/", "/coreos.com/network/config"),
            ("coreos.com", "coreos.com/config"),
            ("/", "/config"),
            ("", "config"),
        ] {
            assert_eq!(join(&clean_path(given), "config"), config, "{given:?}");
        }
    }
}

//! The registry in etcd v3, laid out as flannel has it: `PREFIX/config` and `PREFIX/subnets/KEY`.
//!
//! Every call has a deadline, and HTTP/2 pings find a connection that died without a word. A watch asks for a
//! leader, so that a member cut off from the others ends it instead of serving the past.

use std::{future::Future, net::Ipv4Addr, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, KeyValue, PutOptions,
    SortOrder, SortTarget, Txn, TxnOp, WatchOptions, WatchStream,
};
use tokio::{sync::OnceCell, time::timeout};

use super::{Batch, Entry, Event, LEASE_TTL, Registry, RegistryError, Snapshot, Watch, WatchError, Written};
use crate::lease;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Where etcd is and how to speak to it.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// URLs of the members.
    pub endpoints: Vec<String>,
    /// The prefix of all keys, such as `/coreos.com/network`.
    pub prefix: String,
    /// Name and password.
    pub user: Option<(String, String)>,
}

/// The registry in etcd.
pub struct Etcd {
    options: EtcdOptions,
    prefix: String,
    client: OnceCell<Client>,
}

impl Etcd {
    /// Prepares a client; nothing is sent until the first call.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        let prefix = clean_path(&options.prefix);
        Self { options, prefix, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<Client, RegistryError> {
        let connect = || async {
            let mut options = ConnectOptions::new()
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
                .with_keep_alive_while_idle(true)
                .with_require_leader(true);
            if let Some((name, password)) = &self.options.user {
                options = options.with_user(name, password).with_auto_token_refresh(true);
            }
            call("connecting to etcd", Client::connect(&self.options.endpoints, Some(options))).await
        };
        self.client.get_or_try_init(connect).await.cloned()
    }

    fn subnets(&self) -> String {
        join(&self.prefix, "subnets/")
    }

    fn key(&self, key: &str) -> String {
        self.subnets() + key
    }

    async fn grant(&self, client: &mut Client) -> Result<i64, RegistryError> {
        let ttl = LEASE_TTL.as_secs().cast_signed();
        Ok(call("granting an etcd lease", client.lease_grant(ttl, None)).await?.id())
    }

    /// Revokes an etcd lease that no key is attached to any more; it would expire by itself a day later.
    async fn release(&self, client: &mut Client, id: i64) {
        let release = async {
            let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
            let state = call("reading an etcd lease", client.lease_time_to_live(id, Some(options))).await?;
            if state.keys().is_empty() && state.ttl() > 0 {
                call("revoking an etcd lease", client.lease_revoke(id)).await?;
            }
            Ok::<_, RegistryError>(())
        };
        if let Err(error) = release.await {
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
        let mut client = self.client().await?;
        let grant = if expires { Some(self.grant(&mut client).await?) } else { None };
        let options = PutOptions::new().with_prev_key();
        let options = grant.iter().fold(options, |options, id| options.with_lease(*id));
        let put = TxnOp::put(self.key(key), lease::value(public_ip), Some(options));
        let txn = Txn::new().when([condition]).and_then([put]);
        let mut response = call(doing, client.txn(txn)).await?;
        if !response.succeeded() {
            if let Some(id) = grant {
                self.release(&mut client, id).await;
            }
            return Err(RegistryError::Conflict(self.key(key)));
        }
        let mod_revision = response.take_header().map_or(0, |header| header.revision());
        let previous = response.op_responses().into_iter().find_map(|op| match op {
            etcd_client::TxnOpResponse::Put(mut put) => put.take_prev_key(),
            _ => None,
        });
        Ok((Written { mod_revision, ttl: expires.then_some(LEASE_TTL) }, previous))
    }
}

impl Registry for Etcd {
    type Watch = EtcdWatch;

    async fn config(&self) -> Result<Vec<u8>, RegistryError> {
        let key = join(&self.prefix, "config");
        let mut client = self.client().await?;
        let mut response =
            call("reading the network config from etcd", client.get(key.as_str(), None)).await?;
        response.take_kvs().pop().map(|kv| kv.value().to_vec()).ok_or(RegistryError::Missing(key))
    }

    async fn list(&self) -> Result<Snapshot, RegistryError> {
        let prefix = self.subnets();
        let mut client = self.client().await?;
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Ascend);
        let response = call("listing the leases in etcd", client.get(prefix.as_str(), Some(options))).await?;
        let entries = response.kvs().iter().filter_map(|kv| entry(&prefix, kv)).collect();
        Ok(Snapshot { entries, revision: response.header().map_or(0, |header| header.revision()) })
    }

    async fn watch(&self, revision: i64) -> Result<EtcdWatch, WatchError> {
        let prefix = self.subnets();
        let mut client = self.client().await?;
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_progress_notify();
        let stream =
            call("watching the leases in etcd", client.watch(prefix.as_str(), Some(options))).await?;
        Ok(EtcdWatch { prefix, stream, revision: revision - 1 })
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
            let mut client = self.client().await?;
            self.release(&mut client, old).await;
        }
        Ok(written)
    }

    async fn delete(&self, key: &str, mod_revision: i64) -> Result<(), RegistryError> {
        let mut client = self.client().await?;
        let unchanged = Compare::mod_revision(self.key(key), CompareOp::Equal, mod_revision);
        let delete = TxnOp::delete(self.key(key), None::<DeleteOptions>);
        let txn = Txn::new().when([unchanged]).and_then([delete]);
        let response = call("deleting a lease in etcd", client.txn(txn)).await?;
        if response.succeeded() { Ok(()) } else { Err(RegistryError::Conflict(self.key(key))) }
    }
}

/// A watch on the leases in etcd.
pub struct EtcdWatch {
    prefix: String,
    stream: WatchStream,
    /// The revision up to which events have been delivered.
    revision: i64,
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        let lost = |cause: String| RegistryError::Unavailable { doing: "watching the leases in etcd", cause };
        loop {
            let response = self
                .stream
                .message()
                .await
                .map_err(|error| lost(error.to_string()))?
                .ok_or_else(|| lost("etcd closed the stream".into()))?;
            let current = response.header().map_or(0, |header| header.revision());
            if response.compact_revision() != 0 {
                let compacted = response.compact_revision();
                return Err(WatchError::HistoryLost(format!(
                    "etcd was compacted up to revision {compacted}"
                )));
            }
            if response.canceled() {
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
                continue;
            }
            // With events, the header may run ahead of a backlog; without, it reports progress.
            let latest =
                response.events().iter().filter_map(|event| event.kv()).map(KeyValue::mod_revision).max();
            self.revision = self.revision.max(latest.unwrap_or(current));
            let events = response.events().iter().filter_map(|event| event_of(&self.prefix, event)).collect();
            return Ok(Batch { events, revision: self.revision });
        }
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

async fn call<T>(
    doing: &'static str,
    future: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, RegistryError> {
    match timeout(CALL_TIMEOUT, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(RegistryError::Unavailable { doing, cause: error.to_string() }),
        Err(_) => Err(RegistryError::Timeout { doing, after: CALL_TIMEOUT }),
    }
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

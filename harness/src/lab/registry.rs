//! The cluster's etcd as the lab itself uses it: the network configuration, leases written and removed by hand, and
//! waiting until the daemons know of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use etcd_client::{CompactionOptions, GetOptions, PutOptions};
use ipnet::Ipv4Net;

use super::{Error, Lab, PREFIX, SWITCH};
use crate::etcd;
use crate::overlay::{self, Daemon};
use crate::wait;

/// For an election, which takes etcd one to two seconds.
const LED_WITHIN: Duration = Duration::from_secs(5);
/// For an answer that a report can do without.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// From a change in etcd to its effect in every daemon.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
/// The same where a daemon may have overlooked it, and says nothing of that.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);

/// Whether etcd cannot answer now, and may soon.
fn is_unavailable(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() == tonic::Code::Unavailable)
}

/// A lease as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The whole key.
    pub key: String,
    /// The value.
    pub value: String,
    /// The etcd revision of its last change.
    pub revision: i64,
    /// Whether etcd lets it expire if nobody renews it.
    pub expires: bool,
}

impl Lease {
    /// The route that it means: its subnet, and the node that owns that; none if it is malformed.
    pub fn route(&self) -> Option<(Ipv4Net, Ipv4Addr)> {
        #[derive(serde::Deserialize)]
        struct Value {
            #[serde(rename = "PublicIP")]
            owner: Ipv4Addr,
        }
        let name = self.key.rsplit('/').next()?;
        let subnet = name.replacen('-', "/", 1).parse().ok()?;
        let Value { owner } = serde_json::from_str(&self.value).ok()?;
        Some((subnet, owner))
    }
}

impl Lab {
    /// Starts the etcd members, each a host of the underlay, and writes the network configuration.
    pub(super) async fn start_etcd(&mut self) -> Result<(), Error> {
        if self.topology.members.is_empty() {
            return Ok(());
        }
        let switch = self.host(SWITCH)?.clone();
        let mut members = Vec::new();
        for member in self.topology.members.clone() {
            let host = self.add_host(&member.name).await?;
            self.join_underlay(&switch, &host, member.address).await?;
            members.push(etcd::MemberSpec {
                name: member.name,
                address: member.address,
                namespace: host.namespace,
            });
        }
        let cluster = etcd::Cluster::start(self.workshop.etcd, members, &self.dir.join("etcd")).await?;
        self.etcd = Some(cluster);
        self.client()
            .await?
            .put(format!("{PREFIX}/config"), self.topology.config.clone(), None)
            .await
            .map_err(registry("writing the network configuration"))?;
        Ok(())
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        let endpoints = self.etcd.iter().flat_map(etcd::Cluster::endpoints);
        endpoints.map(|endpoint| format!("http://{endpoint}")).collect()
    }

    /// A client of a running member, connected within that member's own namespace: the lab sees etcd whatever links a
    /// case has cut.
    pub(crate) async fn client(&self) -> Result<etcd_client::Client, Error> {
        let members = self.etcd.iter().flat_map(etcd::Cluster::members);
        let running = members.into_iter().find(|member| member.is_running());
        let member =
            running.ok_or_else(|| Error::State { what: "no etcd member runs in this lab".to_owned() })?;
        Ok(etcd::client(member.namespace(), &[member.endpoint()]).await?)
    }

    /// All leases, in order of key.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn leases(&self) -> Result<Vec<Lease>, Error> {
        let client = self.client().await?;
        let found = wait::until("etcd to list the leases", LED_WITHIN, async || {
            let options = GetOptions::new().with_prefix();
            match client.clone().get(format!("{PREFIX}/subnets/"), Some(options)).await {
                // Its members are choosing another leader: busy disks make them.
                Err(error) if is_unavailable(&error) => Err(error.to_string()),
                found => Ok(found),
            }
        });
        let found = found.await?.map_err(registry("listing the leases"))?;
        let lease = |pair: &etcd_client::KeyValue| Lease {
            key: String::from_utf8_lossy(pair.key()).into_owned(),
            value: String::from_utf8_lossy(pair.value()).into_owned(),
            revision: pair.mod_revision(),
            expires: pair.lease() != 0,
        };
        Ok(found.kvs().iter().map(lease).collect())
    }

    /// Writes a lease over whatever has its key, and waits until the daemons of the nodes `seen_by` know it, or all. It
    /// expires after `expires` seconds, if given.
    ///
    /// # Errors
    /// When etcd does not answer, or a daemon does not follow.
    pub async fn put_lease(
        &mut self,
        subnet: Ipv4Net,
        owner: Ipv4Addr,
        expires: Option<u8>,
        seen_by: Option<&[String]>,
    ) -> Result<(), Error> {
        let doing = || registry(format!("writing the lease of {subnet}"));
        let mut client = self.client().await?;
        let mut options = PutOptions::new();
        if let Some(seconds) = expires {
            let granted = client.lease_grant(seconds.into(), None).await.map_err(doing())?;
            options = options.with_lease(granted.id());
        }
        let answer =
            client.put(lease_key(subnet), lease_value(owner), Some(options)).await.map_err(doing())?;
        self.wait_for_revision(answer.header().map_or(0, |header| header.revision()), seen_by).await
    }

    /// Writes any key below the overlay's prefix, and waits until every daemon has seen it.
    ///
    /// # Errors
    /// When etcd does not answer, or a daemon does not follow.
    pub async fn put_key(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let put = self.client().await?.put(format!("{PREFIX}/{key}"), value, None).await;
        let answer = put.map_err(registry(format!("writing {key}")))?;
        let revision = if key.starts_with("subnets/") {
            answer.header().map_or(0, |header| header.revision())
        } else {
            0
        };
        self.wait_for_revision(revision, None).await
    }

    /// Removes a lease and waits until the daemons of the nodes `seen_by` know, or all.
    ///
    /// # Errors
    /// When there is no such lease, etcd does not answer, or a daemon does not follow.
    pub async fn delete_lease(&mut self, subnet: Ipv4Net, seen_by: Option<&[String]>) -> Result<(), Error> {
        let answer = self
            .client()
            .await?
            .delete(lease_key(subnet), None)
            .await
            .map_err(registry(format!("deleting the lease of {subnet}")))?;
        if answer.deleted() == 0 {
            return Err(Error::State { what: format!("there is no lease of {subnet} to delete") });
        }
        self.wait_for_revision(answer.header().map_or(0, |header| header.revision()), seen_by).await
    }

    /// Has etcd forget all history before its present revision, and waits until it has.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn compact(&self) -> Result<(), Error> {
        let mut client = self.client().await?;
        let now = client.get(PREFIX, None).await.map_err(registry("asking etcd for its revision"))?;
        let revision = now.header().map_or(0, |header| header.revision());
        let options = CompactionOptions::new().with_physical();
        client
            .compact(revision, Some(options))
            .await
            .map_err(registry(format!("compacting etcd at revision {revision}")))?;
        Ok(())
    }

    /// Waits until every daemon's routes reflect all leases.
    pub(super) async fn wait_for_registry(&self) -> Result<(), Error> {
        if self.etcd.is_none() {
            return Ok(());
        }
        let newest = self.leases().await?.iter().map(|lease| lease.revision).max();
        self.wait_for_revision(newest.unwrap_or(0), None).await
    }

    /// Waits until the routes of the daemons on the nodes `among`, or of all, reflect etcd at `revision`.
    async fn wait_for_revision(&self, revision: i64, among: Option<&[String]>) -> Result<(), Error> {
        let awaited = |node: &String| among.is_none_or(|among| among.contains(node));
        for (node, daemon) in self.answering().filter(|(node, _)| awaited(node)) {
            let awaited = format!("the daemon on {node} to know etcd's revision {revision}");
            let told = wait::until(&awaited, KNOWN_WITHIN, async || match daemon.counters().await {
                Ok(Some(counters)) if counters.revision < revision => {
                    Err(format!("it knows revision {}", counters.revision))
                }
                Ok(Some(_)) => Ok(true),
                Ok(None) => Ok(false),
                Err(error) => Err(error.to_string()),
            })
            .await
            .map_err(|error| self.waited_in_vain(node, error))?;
            if !told {
                self.wait_for_leases(node, daemon.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// Waits until a daemon that tells no revision has the routes that etcd has leases for, or some time has passed: that
    /// it does not follow one is for the case to show.
    async fn wait_for_leases(&self, node: &str, daemon: &dyn Daemon) -> Result<(), Error> {
        if self.etcd.is_none() || daemon.routes().await.is_err() {
            return Ok(());
        }
        // It makes no route to its own subnet.
        let own = self.attachments.get(node).map(|attachment| attachment.subnet);
        let leases = self.leases().await?;
        let leased: BTreeMap<Ipv4Net, Ipv4Addr> =
            leases.iter().filter_map(Lease::route).filter(|(subnet, _)| Some(*subnet) != own).collect();
        let waited = wait::until("the routes to be those of the leases", FOLLOWED_WITHIN, async || {
            let routes = daemon.routes().await.map_err(|error| error.to_string())?;
            if routes == leased { Ok(()) } else { Err(format!("they are {routes:?}")) }
        });
        if let Err(error) = waited.await {
            tracing::debug!(node, %error, "not waited for any longer");
        }
        Ok(())
    }

    /// Waits until etcd says that `subnet` is `owner`'s, or nobody's, and the daemon on `node` knows.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub async fn wait_for_route(
        &self,
        node: &str,
        subnet: Ipv4Net,
        owner: Option<Ipv4Addr>,
        within: Duration,
    ) -> Result<(), Error> {
        let daemon = self.daemon(node)?;
        if let Err(error @ overlay::Error::Lacks { .. }) = daemon.routes().await {
            return Err(error.into());
        }
        let awaited = match owner {
            Some(owner) => format!("{node} to send {subnet} to {owner}"),
            None => format!("{node} to have no route to {subnet}"),
        };
        let waited = wait::until(&awaited, within, async || {
            let routes = daemon.routes().await.map_err(|error| error.to_string())?;
            match (routes.get(&subnet), owner) {
                (Some(found), Some(owner)) if *found == owner => Ok(()),
                (None, None) => Ok(()),
                (Some(found), _) => Err(format!("it sends it to {found}")),
                (None, Some(_)) => Err("it has no route to it".to_owned()),
            }
        });
        match waited.await {
            Ok(()) => Ok(()),
            Err(mut vain) => {
                let lease = self.lease_in_words(subnet).await;
                vain.last = vain.last.map(|last| last + &lease);
                Err(self.waited_in_vain(node, vain))
            }
        }
    }

    /// What etcd says of a subnet's lease, to be put behind what a daemon makes of it; nothing where it does not answer.
    async fn lease_in_words(&self, subnet: Ipv4Net) -> String {
        let key = lease_key(subnet);
        match tokio::time::timeout(TOLD_WITHIN, self.leases()).await {
            Ok(Ok(leases)) => match leases.iter().find(|lease| lease.key == key) {
                Some(lease) => format!(", and etcd has its lease: {}", lease.value),
                None => ", and etcd has no lease of it".to_owned(),
            },
            Ok(Err(_)) | Err(_) => String::new(),
        }
    }

    /// The name of the etcd member that leads, once one does.
    ///
    /// # Errors
    /// When none does for five seconds.
    pub async fn leader(&self) -> Result<String, Error> {
        let members = self.etcd.iter().flat_map(etcd::Cluster::members);
        let running: Vec<_> = members.filter(|member| member.is_running()).collect();
        let found = wait::until("etcd to have a leader", LED_WITHIN, async || {
            for member in &running {
                let mut client = etcd::client(member.namespace(), &[member.endpoint()])
                    .await
                    .map_err(|error| error.to_string())?;
                let status = client.status().await.map_err(|error| error.to_string())?;
                let own = status.header().map_or(0, |header| header.member_id());
                if own != 0 && status.leader() == own {
                    return Ok(member.name().to_owned());
                }
            }
            Err("no member says that it leads".to_owned())
        });
        Ok(found.await?)
    }

    /// The names of etcd members that do not run.
    pub fn stopped_members(&self) -> impl Iterator<Item = &str> {
        let members = self.etcd.iter().flat_map(etcd::Cluster::members);
        members.filter(|member| !member.is_running()).map(etcd::Member::name)
    }

    /// Starts or stops an etcd member.
    ///
    /// # Errors
    /// When it does not come up or end.
    pub async fn set_member(&mut self, name: &str, up: bool) -> Result<(), Error> {
        let member = self.member(name)?;
        let done = if up { member.start().await } else { member.stop().await };
        Ok(done?)
    }

    /// Keeps a copy of the data of an etcd member that was stopped.
    ///
    /// # Errors
    /// When it runs, or its data cannot be copied.
    pub async fn save_member(&mut self, name: &str) -> Result<(), Error> {
        Ok(self.stopped_member(name)?.save().await?)
    }

    /// Puts a stopped etcd member back to what it knew when it was saved.
    ///
    /// # Errors
    /// When it runs, or was never saved.
    pub async fn restore_member(&mut self, name: &str) -> Result<(), Error> {
        Ok(self.stopped_member(name)?.restore().await?)
    }

    fn stopped_member(&mut self, name: &str) -> Result<&mut etcd::Member, Error> {
        let member = self.member(name)?;
        if member.is_running() {
            return Err(Error::State { what: format!("etcd member {name} runs") });
        }
        Ok(member)
    }

    fn member(&mut self, name: &str) -> Result<&mut etcd::Member, Error> {
        let cluster =
            self.etcd.as_mut().ok_or_else(|| Error::State { what: "this lab has no etcd".to_owned() })?;
        Ok(cluster.member(name)?)
    }
}

/// The key of a subnet's lease (flannel pkg/subnet/subnet.go, `MakeSubnetKey`).
pub(crate) fn lease_key(subnet: Ipv4Net) -> String {
    format!("{PREFIX}/subnets/{}-{}", subnet.network(), subnet.prefix_len())
}

/// The value of a node's lease (flannel pkg/lease/lease.go, `LeaseAttrs`).
pub(crate) fn lease_value(owner: Ipv4Addr) -> String {
    format!("{{\"PublicIP\":\"{owner}\",\"PublicIPv6\":null}}")
}

pub(crate) fn registry(doing: impl Into<String>) -> impl FnOnce(etcd_client::Error) -> Error {
    let doing = doing.into();
    |source| Error::Registry { doing, source: Box::new(source) }
}

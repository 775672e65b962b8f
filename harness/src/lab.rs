//! A lab: every host of a topology as a network namespace, wired, with etcd and the overlay's daemons running.
//!
//! Each node, container and etcd member is a namespace whose `eth0` is one end of a veth. The other ends of nodes and
//! members are ports of the `underlay` bridge in a namespace of its own, the switch; those of containers are ports of
//! their node's bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use ipnet::Ipv4Net;
use nix::mount::{MntFlags, umount2};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use crate::capture::frame::Role;
use crate::capture::recorder::{self, Recorder};
use crate::etcd;
use crate::overlay::{self, Attachment, Daemon, Overlay};
use crate::reaper::{self, Reaper};
use crate::sandbox::{self, Sandbox};
use crate::standstill;
use crate::topology::{Node, Topology};
use crate::wait::TimedOut;

mod cut;
mod daemons;
mod drawing;
pub mod drop_reasons;
mod flood;
pub mod host;
pub mod kernel;
mod leaks;
mod links;
mod quiet;
pub(crate) mod registry;
pub mod shaper;
pub mod watch;

use drop_reasons::DropReasons;
use host::Host;
pub use quiet::Breach;

/// The interface of every host on the network it is attached to.
pub const INTERFACE: &str = "eth0";
/// The key prefix in etcd: flannel's default.
pub const PREFIX: &str = "/coreos.com/network";
/// The directory of the namespaces' files, in the lab's.
const NAMESPACES: &str = "netns";
/// The switch's bridge.
const SWITCH: &str = "underlay";

/// How labs are built.
#[derive(Clone)]
pub struct Workshop {
    /// The process's namespaces.
    pub sandbox: Sandbox,
    /// What runs on the nodes.
    pub overlay: Arc<dyn Overlay>,
    /// How etcd runs.
    pub etcd: etcd::Kind,
    /// Why it runs so.
    pub reason: String,
    /// Whether every interface is recorded. What is measured must not be: each packet would be copied at each of them.
    pub recorded: bool,
    /// Kernel settings of every host, `key = value` as sysctl(8) names them, beside those that labs need.
    pub settings: Vec<(String, String)>,
    /// Why the kernel drops packets, where that may be looked at.
    pub drop_reasons: Option<Arc<DropReasons>>,
}

impl Workshop {
    /// Checks that the machine has what labs need, moves the process into its private namespaces, and starts the reaper that
    /// ends all that is left in them.
    ///
    /// # Errors
    /// When something is missing or forbidden: the message says what to change. Call it before any thread is started.
    pub fn new(overlay: Arc<dyn Overlay>, etcd: etcd::Kind) -> Result<Self, WorkshopError> {
        overlay.check_machine()?;
        let sandbox = Sandbox::enter()?;
        // Before anything is started that is to end with this process.
        Reaper::get()?.guard(&sandbox)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (etcd, reason) = runtime.block_on(etcd.settle())?;
        standstill::watch()?;
        let drop_reasons = if sandbox.rootless() { None } else { watch_drops() };
        Ok(Self { sandbox, overlay, etcd, reason, recorded: true, settings: Vec::new(), drop_reasons })
    }

    /// The same, with these kernel settings for every host.
    ///
    /// # Errors
    /// When a host's kernel does not have one, or does not take its value.
    pub fn with_settings(self, settings: Vec<(String, String)>) -> Result<Self, WorkshopError> {
        if !settings.is_empty() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let host = Host::create("every-host", &self.sandbox.dir().join("every-host")).await?;
                settings.iter().try_for_each(|(key, value)| host.set(key, value))
            })?;
        }
        Ok(Self { settings, ..self })
    }
}

fn watch_drops() -> Option<Arc<DropReasons>> {
    match DropReasons::watch() {
        Ok(reasons) => Some(Arc::new(reasons)),
        Err(error) => {
            tracing::debug!(%error, "the kernel's reasons to drop packets are not looked at");
            None
        }
    }
}

/// Why no lab can be built on this machine.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    /// The overlay lacks something.
    #[error(transparent)]
    Overlay(#[from] overlay::Error),
    /// The process gets no namespaces.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// Nothing would end what outlives the process.
    #[error(transparent)]
    Reaper(#[from] reaper::Error),
    /// There is nothing to run etcd in.
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
    /// There is no event loop.
    #[error("starting the event loop, or a thread: {0}")]
    Runtime(#[from] std::io::Error),
    /// A host cannot be as it was asked for.
    #[error(transparent)]
    Host(#[from] host::Error),
}

/// A running lab. Dropping it ends its processes and removes its namespaces.
pub struct Lab {
    /// What it was built from.
    pub topology: Topology,
    /// What its interfaces see.
    pub recorder: Recorder,
    workshop: Workshop,
    /// The processor that takes in the packets of its interfaces.
    processor: u32,
    dir: PathBuf,
    hosts: BTreeMap<String, Host>,
    daemons: BTreeMap<String, Box<dyn Daemon>>,
    attachments: BTreeMap<String, Attachment>,
    /// Nodes whose daemon does not answer: it is not ready yet, or paused.
    silent: BTreeSet<String>,
    baselines: BTreeMap<String, quiet::Baseline>,
    /// How daemons and their interfaces stood when they were last quiet.
    rested: BTreeMap<String, quiet::Baseline>,
    /// Tunnel datagrams that a host sent and its daemon did not.
    injected: BTreeMap<String, u64>,
    /// Tunnel datagrams that a host took in and that were not for it.
    astray: BTreeMap<String, u64>,
    /// Packets of floods, which no interface is recorded to have seen.
    unrecorded: u64,
    etcd: Option<etcd::Cluster>,
    cuts: cut::Cuts,
    shapers: shaper::Shapers,
}

/// Why a lab could not be built or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The overlay's daemon.
    #[error(transparent)]
    Overlay(#[from] overlay::Error),
    /// The recording.
    #[error(transparent)]
    Recorder(#[from] recorder::Error),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
    /// A request to etcd.
    #[error("{doing}: {source}")]
    Registry {
        /// What was being done.
        doing: String,
        /// The cause.
        source: Box<etcd_client::Error>,
    },
    /// What was awaited did not come.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// What was awaited of a node did not come.
    #[error("{source}\nof the daemon on {node}, {trace}")]
    Node {
        /// The node.
        node: String,
        /// What was awaited.
        source: TimedOut,
        /// What its daemon left.
        trace: Box<overlay::Trace>,
    },
    /// The lab's directory.
    #[error("creating {path}: {source}")]
    Dir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Children that end.
    #[error("watching for what ends: {source}")]
    Watch {
        /// The cause.
        source: std::io::Error,
    },
    /// A shaper.
    #[error("{doing}: {source}")]
    Shaper {
        /// What was being done.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
    /// No such host.
    #[error("there is no host `{name}` in this lab")]
    NoHost {
        /// The name asked for.
        name: String,
    },
    /// A step that the lab's state does not allow.
    #[error("{what}")]
    State {
        /// What is wrong.
        what: String,
    },
}

impl Error {
    /// Whether the overlay does not have what was asked for.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        matches!(self, Self::Overlay(overlay::Error::Lacks { .. }))
    }
}

impl From<crate::netlink::Error> for Error {
    fn from(error: crate::netlink::Error) -> Self {
        Self::Host(error.into())
    }
}

impl Lab {
    /// Takes note of what the kernel has dropped so far, and why.
    pub fn note_drops(&self) {
        self.workshop.drop_reasons.iter().for_each(|reasons| reasons.take());
    }

    /// What the kernel of this machine, whichever host's, dropped soon after a moment, where that may be looked at.
    pub fn dropped_after(&self, moment: Duration) -> Option<String> {
        self.workshop.drop_reasons.as_ref()?.after(moment)
    }

    /// Builds the hosts and links of `topology`, starts etcd and the daemons, and records every interface.
    ///
    /// # Errors
    /// When any part cannot be had. What was built is removed again.
    pub async fn build(workshop: &Workshop, topology: Topology) -> Result<Self, Error> {
        let mut lab = Self::wire(workshop, topology).await?;
        lab.start().await?;
        Ok(lab)
    }

    /// Starts etcd, and the daemons of the nodes that have one from the start.
    ///
    /// # Errors
    /// When one of them does not start. What came of it is still there to be looked at.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.start_etcd().await?;
        self.wait_for_links(&[]).await?;
        let started: Vec<Node> = self.topology.nodes.iter().filter(|node| node.starts).cloned().collect();
        self.start_daemons(&started, &[]).await
    }

    /// Builds only hosts and links: nothing runs in them yet.
    ///
    /// # Errors
    /// When the kernel refuses any part.
    pub async fn wire(workshop: &Workshop, topology: Topology) -> Result<Self, Error> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let dir = workshop.sandbox.dir().join(format!("lab{number}"));
        std::fs::create_dir_all(&dir).map_err(|source| Error::Dir { path: dir.clone(), source })?;
        let mut lab = Self {
            recorder: Recorder::new(topology.port),
            topology,
            workshop: workshop.clone(),
            processor: processor(number),
            dir,
            hosts: BTreeMap::new(),
            daemons: BTreeMap::new(),
            attachments: BTreeMap::new(),
            silent: BTreeSet::new(),
            baselines: BTreeMap::new(),
            rested: BTreeMap::new(),
            injected: BTreeMap::new(),
            astray: BTreeMap::new(),
            unrecorded: 0,
            etcd: None,
            cuts: cut::Cuts::default(),
            shapers: shaper::Shapers::default(),
        };
        let switch = lab.add_host(SWITCH).await?;
        switch.netlink.add_bridge(SWITCH).await?;
        for node in lab.topology.nodes.clone() {
            lab.wire_node(&switch, &node).await?;
        }
        for container in lab.topology.containers.clone() {
            lab.wire_container(&container).await?;
        }
        for machine in lab.topology.machines.clone() {
            let host = lab.add_host(&machine.name).await?;
            host.set("net.ipv4.ip_forward", "1")?;
            lab.join_underlay(&switch, &host, machine.address).await?;
        }
        if workshop.recorded {
            lab.record()?;
        }
        Ok(lab)
    }

    /// The directory of the lab's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A host by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts.get(name).ok_or_else(|| Error::NoHost { name: name.to_owned() })
    }

    /// All hosts, the switch among them, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// What the overlay gave a node, at the last start of its daemon.
    pub fn attachment(&self, node: &str) -> Option<&Attachment> {
        self.attachments.get(node)
    }

    async fn add_host(&mut self, name: &str) -> Result<Host, Error> {
        let host = Host::create(name, &self.dir.join(NAMESPACES)).await?;
        for (key, value) in &self.workshop.settings {
            host.set(key, value)?;
        }
        // What is measured is measured as kernels come.
        if self.workshop.recorded {
            host.keep_order(self.processor);
        }
        self.hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// Records every interface of interest from now on.
    fn record(&mut self) -> Result<(), Error> {
        let Self { recorder, topology, hosts, .. } = self;
        let namespace = |name: &str| match hosts.get(name) {
            Some(host) => Ok(&host.namespace),
            None => Err(Error::NoHost { name: name.to_owned() }),
        };
        let mut recorded = Vec::new();
        for node in &topology.nodes {
            let roles = vec![(INTERFACE, Role::Underlay), (topology.bridge.as_str(), Role::Bridge)];
            recorded.push((namespace(&node.name)?, roles));
        }
        for container in &topology.containers {
            recorded.push((namespace(&container.name)?, vec![(INTERFACE, Role::Container)]));
        }
        for machine in &topology.machines {
            recorded.push((namespace(&machine.name)?, vec![(INTERFACE, Role::Underlay)]));
        }
        Ok(recorder.add(&recorded)?)
    }

    /// Ends everything that runs in the lab, waits until it has, and tells what is left all the same.
    #[must_use = "what is left is a failure"]
    pub async fn down(mut self) -> Vec<String> {
        let mut left = Vec::new();
        for ended in join_all(self.daemons.values_mut().map(|daemon| daemon.kill())).await {
            left.extend(ended.err().map(|error| error.to_string()));
        }
        if let Some(cluster) = self.etcd.take()
            && let Err(error) = cluster.shutdown().await
        {
            left.extend(error.to_string().lines().map(str::to_owned));
        }
        self.recorder.end().await;
        left.extend(leaks::processes(self.hosts.values().map(|host| &host.namespace)).await);
        let dir = self.dir.clone();
        // The namespaces and the directory go with the lab.
        drop(self);
        left.extend(leaks::files(&dir));
        left
    }

    /// Ends it as [`Lab::down`] does, and warns of what is left: for those whose result that does not spoil.
    pub async fn end(self) {
        for left in self.down().await {
            tracing::warn!("the lab left behind: {left}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Whatever holds a namespace goes first: while one is held, its file is a mount point.
        self.daemons.clear();
        self.etcd = None;
        self.shapers = shaper::Shapers::default();
        self.hosts.clear();
        // netns-rs binds the namespaces' directory to itself.
        if let Err(error) = umount2(&self.dir.join(NAMESPACES), MntFlags::MNT_DETACH) {
            tracing::debug!(%error, "namespaces' directory not unmounted");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::debug!(dir = %self.dir.display(), %error, "lab directory not removed");
        }
    }
}

/// A processor for the lab of this number: labs that run side by side have different ones.
fn processor(number: u32) -> u32 {
    let allowed = sched_getaffinity(Pid::from_raw(0));
    let is_allowed = |cpu: &u32| allowed.as_ref().is_ok_and(|set| set.is_set(*cpu as usize).unwrap_or(false));
    let allowed: Vec<u32> = (0..u32::BITS).filter(is_allowed).collect();
    allowed.get(number as usize % allowed.len().max(1)).copied().unwrap_or(0)
}

/// The `offset`-th address of a subnet.
fn address(subnet: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(offset))
}

/// An address with the length of the network it is in.
fn prefix(address: Ipv4Addr, network: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new_assert(address, network.prefix_len())
}

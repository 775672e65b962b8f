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

use futures_util::future::{join_all, try_join_all};
use ipnet::Ipv4Net;
use nix::mount::{MntFlags, umount2};

use crate::capture::frame::Role;
use crate::capture::recorder::{self, Recorder};
use crate::etcd;
use crate::netlink::Netlink;
use crate::overlay::{self, Attachment, Daemon, Overlay, Site};
use crate::sandbox::{self, Sandbox};
use crate::topology::{Container, Masquerade, Node, Topology};
use crate::wait::{self, TimedOut};

mod cut;
mod drawing;
mod flood;
pub mod host;
pub mod kernel;
mod leaks;
mod quiet;
pub(crate) mod registry;
pub mod shaper;

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
/// For a bridge to notice a carrier.
const LINKED_WITHIN: Duration = Duration::from_secs(5);
/// Octets of a tunnel's headers: IPv4 and UDP.
const ENCAPSULATION_LEN: u32 = 28;

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
}

impl Workshop {
    /// Checks that the machine has what labs need, and moves the process into its private namespaces.
    ///
    /// # Errors
    /// When something is missing or forbidden: the message says what to change. Call it before any thread is started.
    pub fn new(overlay: Arc<dyn Overlay>, etcd: etcd::Kind) -> Result<Self, WorkshopError> {
        overlay.check_machine()?;
        let sandbox = Sandbox::enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (etcd, reason) = runtime.block_on(etcd.settle());
        Ok(Self { sandbox, overlay, etcd, reason, recorded: true })
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
    /// There is no event loop.
    #[error("starting the event loop: {0}")]
    Runtime(#[from] std::io::Error),
}

/// A running lab. Dropping it ends its processes and removes its namespaces.
pub struct Lab {
    /// What it was built from.
    pub topology: Topology,
    /// What its interfaces see.
    pub recorder: Recorder,
    workshop: Workshop,
    dir: PathBuf,
    hosts: BTreeMap<String, Host>,
    daemons: BTreeMap<String, Box<dyn Daemon>>,
    attachments: BTreeMap<String, Attachment>,
    /// Nodes whose daemon does not answer: it is not ready yet, or paused.
    silent: BTreeSet<String>,
    baselines: BTreeMap<String, quiet::Baseline>,
    /// Tunnel datagrams that a host sent and its daemon did not.
    injected: BTreeMap<String, u64>,
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
    /// The lab's directory.
    #[error("creating {path}: {source}")]
    Dir {
        /// The directory.
        path: PathBuf,
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

impl From<crate::netlink::Error> for Error {
    fn from(error: crate::netlink::Error) -> Self {
        Self::Host(error.into())
    }
}

impl Lab {
    /// Builds the hosts and links of `topology`, starts etcd and the daemons, and records every interface.
    ///
    /// # Errors
    /// When any part cannot be had. What was built is removed again.
    pub async fn build(workshop: &Workshop, topology: Topology) -> Result<Self, Error> {
        let mut lab = Self::wire(workshop, topology).await?;
        lab.start_etcd().await?;
        lab.wait_for_links(&[]).await?;
        let started: Vec<Node> = lab.topology.nodes.iter().filter(|node| node.starts).cloned().collect();
        lab.start_daemons(&started, &[]).await?;
        Ok(lab)
    }

    /// Builds only hosts and links: nothing runs in them yet.
    ///
    /// # Errors
    /// When the kernel refuses any part.
    pub async fn wire(workshop: &Workshop, topology: Topology) -> Result<Self, Error> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let dir = workshop.sandbox.dir().join(format!("lab{}", LABS.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).map_err(|source| Error::Dir { path: dir.clone(), source })?;
        let mut lab = Self {
            recorder: Recorder::new(topology.port),
            topology,
            workshop: workshop.clone(),
            dir,
            hosts: BTreeMap::new(),
            daemons: BTreeMap::new(),
            attachments: BTreeMap::new(),
            silent: BTreeSet::new(),
            baselines: BTreeMap::new(),
            injected: BTreeMap::new(),
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

    /// The daemons that run, with their nodes' names.
    pub fn daemons(&mut self) -> impl Iterator<Item = (&str, &mut Box<dyn Daemon>)> {
        self.daemons.iter_mut().map(|(node, daemon)| (node.as_str(), daemon))
    }

    /// Whether a node's daemon was started and not ended by the lab.
    pub fn runs(&self, node: &str) -> bool {
        self.daemons.contains_key(node)
    }

    async fn add_host(&mut self, name: &str) -> Result<Host, Error> {
        let host = Host::create(name, &self.dir.join(NAMESPACES)).await?;
        self.hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// Joins a host to the switch and gives it an address on the underlay.
    async fn join_underlay(&self, switch: &Host, host: &Host, address: Ipv4Addr) -> Result<(), Error> {
        let mtu = self.topology.mtu;
        switch.netlink.add_veth(host.name(), Some(SWITCH), mtu, (&host.namespace, INTERFACE)).await?;
        host.netlink.add_address(INTERFACE, prefix(address, self.topology.underlay)).await?;
        host.netlink.set_up(INTERFACE, true).await?;
        Ok(())
    }

    async fn wire_node(&mut self, switch: &Host, node: &Node) -> Result<(), Error> {
        let host = self.add_host(&node.name).await?;
        host.set("net.ipv4.ip_forward", "1")?;
        self.join_underlay(switch, &host, node.address).await?;
        let bridge = self.topology.bridge.clone();
        Ok(host.netlink.add_bridge(&bridge).await?)
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

    async fn wire_container(&mut self, container: &Container) -> Result<(), Error> {
        let host = self.add_host(&container.name).await?;
        let node = self.host(&container.node)?.clone();
        let mtu = self.topology.mtu.saturating_sub(ENCAPSULATION_LEN);
        let bridge = Some(self.topology.bridge.as_str());
        node.netlink.add_veth(&container.name, bridge, mtu, (&host.namespace, INTERFACE)).await?;
        Ok(host.netlink.set_up(INTERFACE, true).await?)
    }

    /// Starts the daemons of several nodes at once, with `flags` beside those of the lab, and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_daemons(&mut self, nodes: &[Node], flags: &[String]) -> Result<(), Error> {
        for node in nodes {
            self.launch_daemon(node, flags).await?;
        }
        self.await_daemons(nodes).await
    }

    /// Starts a node's daemon, and does not wait for it.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub async fn launch_daemon(&mut self, node: &Node, flags: &[String]) -> Result<(), Error> {
        if self.runs(&node.name) {
            return Err(Error::State { what: format!("the daemon on {} runs already", node.name) });
        }
        let baseline = self.baseline(&node.name)?;
        self.baselines.insert(node.name.clone(), baseline);
        let flags: Vec<String> = self.topology.flags.iter().chain(flags).cloned().collect();
        let site = Site {
            node: &node.name,
            namespace: &self.host(&node.name)?.namespace,
            interface: INTERFACE,
            mtu: self.topology.mtu,
            dir: &self.dir.join(&node.name),
            network: self.topology.network,
            subnet: node.subnet,
            nodes: &self.topology.nodes,
            endpoints: &self.endpoints(),
            prefix: PREFIX,
            flags: &flags,
        };
        let daemon = self.workshop.overlay.start(site).await?;
        self.daemons.insert(node.name.clone(), daemon);
        self.silent.insert(node.name.clone());
        Ok(())
    }

    /// Waits until the daemons of these nodes, which were started, are ready, and all daemons know of all leases.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn await_daemons(&mut self, nodes: &[Node]) -> Result<(), Error> {
        let awaited = |node: &String| nodes.iter().any(|awaited| awaited.name == *node);
        let daemons = self.daemons.iter_mut().filter(|(node, _)| awaited(node));
        let ready = daemons.map(async |(node, daemon)| Ok::<_, Error>((node.clone(), daemon.ready().await?)));
        for (node, attachment) in try_join_all(ready).await? {
            self.attach(&node, &attachment).await?;
            self.silent.remove(&node);
            self.recorder.learn(&node, &attachment.device);
            self.attachments.insert(node, attachment);
        }
        self.wait_for_registry().await
    }

    /// Waits until a node's daemon, which was started, has ended by itself.
    ///
    /// # Errors
    /// When it still runs after some time.
    pub async fn await_end(&mut self, node: &str) -> Result<std::process::ExitStatus, Error> {
        let mut daemon = self.take_daemon(node)?;
        Ok(daemon.ended().await?)
    }

    /// Stops the process of a node's daemon, or lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause_daemon(&mut self, node: &str, paused: bool) -> Result<(), Error> {
        let daemon = self.daemons.get_mut(node).ok_or_else(|| not_running(node))?;
        daemon.pause(paused).await?;
        if paused {
            self.silent.insert(node.to_owned());
        } else {
            self.silent.remove(node);
        }
        Ok(())
    }

    /// A node's daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn daemon(&self, node: &str) -> Result<&dyn Daemon, Error> {
        self.daemons.get(node).map(AsRef::as_ref).ok_or_else(|| not_running(node))
    }

    /// All that the daemons on a node have logged, those that ended too.
    pub fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.dir.join(node).join("relay.log")).unwrap_or_default()
    }

    /// The daemons that can be asked, with their nodes' names.
    fn answering(&self) -> impl Iterator<Item = (&String, &Box<dyn Daemon>)> {
        self.daemons.iter().filter(|(node, _)| !self.silent.contains(*node))
    }

    /// Does for a node what Docker or a CNI plugin does with `subnet.env`: addresses for the bridge and the containers.
    async fn attach(&mut self, node: &str, attachment: &Attachment) -> Result<(), Error> {
        let host = self.host(node)?.clone();
        if self.attachments.get(node) == Some(attachment) {
            return Ok(());
        }
        let subnet = attachment.subnet;
        let gateway = address(subnet, 1);
        let bridge = self.topology.bridge.clone();
        host.netlink.flush_addresses(&bridge).await?;
        host.netlink.set_mtu(&bridge, attachment.mtu).await?;
        host.netlink.add_address(&bridge, prefix(gateway, subnet)).await?;
        let containers = self.topology.containers.iter().filter(|container| container.node == node);
        for (container, offset) in containers.zip(2..) {
            let inside = self.host(&container.name)?;
            host.netlink.set_mtu(&container.name, attachment.mtu).await?;
            inside.netlink.set_mtu(INTERFACE, attachment.mtu).await?;
            inside.netlink.flush_addresses(INTERFACE).await?;
            inside.netlink.add_address(INTERFACE, prefix(address(subnet, offset), subnet)).await?;
            inside.netlink.add_default_route(gateway).await?;
        }
        self.topology.move_node(node, subnet);
        match self.topology.masquerade {
            Masquerade::None => Ok(()),
            Masquerade::Docker => Ok(host.run("nft", &["-f", "-"], &docker_rules(&bridge, subnet))?),
        }
    }

    /// Asks a node's daemon to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn stop_daemon(&mut self, node: &str) -> Result<std::process::ExitStatus, Error> {
        let mut daemon = self.take_daemon(node)?;
        let status = daemon.stop().await?;
        Ok(status)
    }

    /// Kills a node's daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_daemon(&mut self, node: &str) -> Result<(), Error> {
        let mut daemon = self.take_daemon(node)?;
        daemon.kill().await?;
        Ok(())
    }

    fn take_daemon(&mut self, node: &str) -> Result<Box<dyn Daemon>, Error> {
        self.silent.remove(node);
        self.daemons.remove(node).ok_or_else(|| not_running(node))
    }

    /// Ends everything that runs in the lab, waits until it has, and tells what is left all the same.
    pub async fn down(mut self) -> Vec<String> {
        for ended in join_all(self.daemons.values_mut().map(|daemon| daemon.kill())).await {
            if let Err(error) = ended {
                tracing::warn!(%error, "daemon not ended");
            }
        }
        if let Some(cluster) = self.etcd.take()
            && let Err(error) = cluster.shutdown().await
        {
            tracing::warn!(%error, "etcd not ended");
        }
        self.recorder.end().await;
        let mut left = leaks::processes(self.hosts.values().map(|host| &host.namespace));
        let dir = self.dir.clone();
        // The namespaces and the directory go with the lab.
        drop(self);
        left.extend(leaks::files(&dir));
        left
    }

    /// Gives a node another address on an interface in the place of those that it has there.
    ///
    /// # Errors
    /// When there is no such node or the kernel refuses.
    pub async fn readdress(&mut self, node: &str, interface: &str, address: Ipv4Addr) -> Result<(), Error> {
        let host = self.host(node)?;
        host.netlink.flush_addresses(interface).await?;
        host.netlink.add_address(interface, prefix(address, self.topology.underlay)).await?;
        if let Some(node) = self.topology.nodes.iter_mut().find(|known| known.name == node) {
            node.address = address;
        }
        Ok(())
    }

    /// Sets a host's `eth0` up or down, and waits until the bridge at its other end has noticed. `down` names the hosts
    /// whose links are down after that.
    ///
    /// # Errors
    /// When there is no such host or the kernel refuses.
    pub async fn set_link(&mut self, host: &str, up: bool, down: &[String]) -> Result<(), Error> {
        match self.etcd.as_mut().and_then(|cluster| cluster.member(host).ok()) {
            // A member's eth0 may be in a container, which is another one at every start.
            Some(member) => {
                Netlink::connect(member.namespace()).map_err(host::Error::from)?.set_up(INTERFACE, up).await?
            }
            None => self.host(host)?.netlink.set_up(INTERFACE, up).await?,
        }
        // The kernel dropped a container's default route with the link; who ran the container would set it again.
        if let Some(container) = self.topology.container(host).filter(|_| up)
            && let Some(attachment) = self.attachments.get(&container.node)
        {
            self.host(host)?.netlink.add_default_route(address(attachment.subnet, 1)).await?;
        }
        self.wait_for_links(down).await
    }

    /// Waits until every bridge forwards at every port but those to the hosts `down`.
    async fn wait_for_links(&self, down: &[String]) -> Result<(), Error> {
        let nodes = self.topology.nodes.iter().map(|node| node.name.as_str());
        for bridge in nodes.chain([SWITCH]) {
            let netlink = &self.host(bridge)?.netlink;
            let awaited = format!("the links at `{bridge}` to forward");
            wait::until(&awaited, LINKED_WITHIN, async || {
                let blocked = netlink.ports_not_forwarding().await.map_err(|error| error.to_string())?;
                let expected = |port: &&String| !down.contains(port);
                if blocked.iter().find(expected).is_none()
                    && down.iter().all(|host| !self.is_port(bridge, host) || blocked.contains(host))
                {
                    return Ok(());
                }
                Err(format!("these do not: {}", blocked.join(", ")))
            })
            .await?;
        }
        Ok(())
    }

    /// Whether `host` is attached to the bridge in `bridge`.
    fn is_port(&self, bridge: &str, host: &str) -> bool {
        match self.topology.container(host) {
            Some(container) => container.node == bridge,
            None => bridge == SWITCH && !self.shapers.stand_before(host),
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

fn not_running(node: &str) -> Error {
    Error::State { what: format!("the daemon on {node} does not run") }
}

/// The `offset`-th address of a subnet.
fn address(subnet: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(offset))
}

/// An address with the length of the network it is in.
fn prefix(address: Ipv4Addr, network: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new_assert(address, network.prefix_len())
}

/// Docker's rule for its default bridge: `-t nat -A POSTROUTING -s SUBNET ! -o docker0 -j MASQUERADE`.
fn docker_rules(bridge: &str, subnet: Ipv4Net) -> String {
    format!(
        "table ip docker\ndelete table ip docker\ntable ip docker {{\n  chain postrouting {{\n    type nat hook \
         postrouting priority srcnat\n    ip saddr {subnet} oifname != \"{bridge}\" masquerade\n  }}\n}}\n"
    )
}

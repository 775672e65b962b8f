//! What the lab knows of an overlay: how to start it on a node, and what it says of itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use ipnet::Ipv4Net;

use crate::netns::{self, Namespace};
use crate::topology::Node;
use crate::wait::TimedOut;

mod kernel;
pub mod log;
mod metrics;
pub mod plain;
pub mod relay;
mod trace;
pub mod vxlan;

pub use trace::Trace;

/// An overlay's kind: how it is started.
pub trait Overlay: Send + Sync {
    /// What it is called: `relay`, `vxlan`.
    fn name(&self) -> &'static str;

    /// Whether there is a program, which takes flags and keeps a log, or only what the kernel does.
    fn runs_daemon(&self) -> bool {
        true
    }

    /// Whether that program counts what it drops. What is lost in one that does not, nothing tells of.
    fn counts(&self) -> bool {
        true
    }

    /// Whether the machine has what the daemon needs, as far as that can be told before a lab is built.
    ///
    /// # Errors
    /// When something is missing: what, and how to get it.
    fn check_machine(&self) -> Result<(), Error>;

    /// Starts its daemon on a node, and does not wait for it.
    fn start<'a>(&'a self, site: Site<'a>) -> LocalBoxFuture<'a, Result<Box<dyn Daemon>, Error>>;
}

/// Where a daemon is started.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The node's name.
    pub node: &'a str,
    /// Its namespace.
    pub namespace: &'a Namespace,
    /// Its interface on the underlay.
    pub interface: &'a str,
    /// MTU of the underlay in octets.
    pub mtu: u32,
    /// A directory for what the daemon keeps on this node; the same at every start.
    pub dir: &'a Path,
    /// The overlay's network.
    pub network: Ipv4Net,
    /// The subnet that the node is to have, as if it had had it before.
    pub subnet: Ipv4Net,
    /// All nodes of the lab, this one among them: what overlays without a registry have instead.
    pub nodes: &'a [Node],
    /// The cluster's etcd endpoints, as URLs.
    pub endpoints: &'a [String],
    /// The key prefix in etcd.
    pub prefix: &'a str,
    /// Further flags for the daemon.
    pub flags: &'a [String],
}

/// A running daemon.
pub trait Daemon: Send {
    /// Waits until it is ready to forward: what it gives its node.
    fn ready(&mut self) -> LocalBoxFuture<'_, Result<Attachment, Error>>;

    /// Its counters now, or none if this kind of overlay has no such thing.
    fn counters(&self) -> LocalBoxFuture<'_, Result<Option<Counters>, Error>>;

    /// The value of one of its metrics, named with its labels; none if it has no such metric.
    ///
    /// # Errors
    /// When it has no metrics at all, or cannot be asked.
    fn metric<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<f64>, Error>>;

    /// The values of those of its metrics that count from its start on, by name with labels.
    ///
    /// # Errors
    /// When it has no metrics at all, or cannot be asked.
    fn totals(&self) -> LocalBoxFuture<'_, Result<BTreeMap<String, f64>, Error>>;

    /// Where it sends what is for each subnet of its peers.
    ///
    /// # Errors
    /// When it follows no leases, or tells nobody, or cannot be asked.
    fn routes(&self) -> LocalBoxFuture<'_, Result<BTreeMap<Ipv4Net, Ipv4Addr>, Error>>;

    /// The ids of its processes; none of an overlay that only the kernel runs.
    fn processes(&self) -> Vec<u32>;

    /// How it exited, if it has.
    fn exited(&mut self) -> Option<ExitStatus>;

    /// Stops its process, which stays and does nothing, or lets it go on.
    ///
    /// # Errors
    /// When it does not come to a stop.
    fn pause(&mut self, paused: bool) -> LocalBoxFuture<'_, Result<(), Error>>;

    /// Waits until it has ended by itself.
    fn ended(&mut self) -> LocalBoxFuture<'_, Result<ExitStatus, Error>>;

    /// Asks it to end, and waits until it has.
    fn stop(&mut self) -> LocalBoxFuture<'_, Result<ExitStatus, Error>>;

    /// Ends it at once, with no chance to clean up, and waits until it has.
    fn kill(&mut self) -> LocalBoxFuture<'_, Result<(), Error>>;

    /// All that it has logged.
    fn log(&self) -> String;

    /// What its `subnet.env` has, or why it cannot be read; none of an overlay that writes no such file.
    fn subnet_file(&self) -> Option<String> {
        None
    }

    /// What it leaves to be judged by.
    fn trace(&self) -> Trace {
        Trace::new(&self.log(), self.subnet_file())
    }
}

/// What a daemon gives its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The overlay's device.
    pub device: String,
    /// The node's subnet.
    pub subnet: Ipv4Net,
    /// MTU inside the overlay, in octets.
    pub mtu: u32,
}

/// What a daemon counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets read from the overlay's device.
    pub device_read: u64,
    /// Datagrams sent to peers.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Packets written to the overlay's device.
    pub device_written: u64,
    /// Packets dropped, by direction and reason. Reasons that never occurred may be present as 0.
    pub drops: BTreeMap<DropCause, u64>,
    /// ICMP errors sent, by type.
    pub icmp: BTreeMap<String, u64>,
    /// The etcd revision that its routes reflect.
    pub revision: i64,
}

/// Why, and on which way, a daemon dropped a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropCause {
    /// The packet's way through the daemon.
    pub way: Way,
    /// The daemon's name for the reason.
    pub reason: String,
}

/// A packet's way through a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the overlay's device to a peer.
    Outbound,
    /// From a peer to the overlay's device.
    Inbound,
}

impl Counters {
    /// Packets dropped on one way.
    pub fn dropped(&self, way: Way) -> u64 {
        self.drops.iter().filter(|(cause, _)| cause.way == way).map(|(_, count)| count).sum()
    }

    /// Drops that were counted since `earlier`, with how many.
    pub fn drops_since(&self, earlier: &Self) -> Vec<(DropCause, u64)> {
        increases(&self.drops, &earlier.drops)
    }

    /// ICMP errors that were counted since `earlier`, by type, with how many.
    pub fn icmp_since(&self, earlier: &Self) -> Vec<(String, u64)> {
        increases(&self.icmp, &earlier.icmp)
    }

    /// What a daemon counted and, before it was started, another in its place.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        self.device_read += earlier.device_read;
        self.sent += earlier.sent;
        self.received += earlier.received;
        self.device_written += earlier.device_written;
        for (cause, count) in &earlier.drops {
            *self.drops.entry(cause.clone()).or_default() += count;
        }
        for (kind, count) in &earlier.icmp {
            *self.icmp.entry(kind.clone()).or_default() += count;
        }
        self
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "  packets read from the device     {}", self.device_read)?;
        writeln!(f, "  datagrams sent                   {}", self.sent)?;
        writeln!(f, "  datagrams received               {}", self.received)?;
        writeln!(f, "  packets written to the device    {}", self.device_written)?;
        for (cause, count) in self.drops.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  dropped {:<24} {count}", format!("{}, {}", cause.way, cause.reason))?;
        }
        for (kind, count) in self.icmp.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  icmp {kind:<27} {count}")?;
        }
        writeln!(f, "  routes reflect etcd's revision   {}", self.revision)
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

/// What is higher now than before, with by how much.
fn increases<K: Ord + Clone>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let increase = |(key, count): (&K, &u64)| {
        let increase = count.saturating_sub(before.get(key).copied().unwrap_or(0));
        (increase > 0).then(|| (key.clone(), increase))
    };
    now.iter().filter_map(increase).collect()
}

/// Why a daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its program was not found or could not be executed.
    #[error(
        "starting {program} on {node}: {source}\nBuild it with `cargo build -p relay`, or name it with --relay PATH."
    )]
    Program {
        /// The program's path.
        program: String,
        /// The node.
        node: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The device that all TUN devices are made with.
    #[error("opening {path}: {source}\n{remedy}")]
    Tun {
        /// The device.
        path: &'static str,
        /// The cause.
        source: std::io::Error,
        /// What to change.
        remedy: &'static str,
    },
    /// A program that configures the kernel for an overlay is not there.
    #[error("starting {program} on {node}: {source}\nInstall it: ci/suites does.")]
    NoTool {
        /// The program.
        program: &'static str,
        /// The node.
        node: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The kernel refused to be configured.
    #[error("configuring the overlay on {node}, {program} says: {said}")]
    Refused {
        /// The node.
        node: String,
        /// Which program was to.
        program: &'static str,
        /// What it wrote to standard error.
        said: String,
    },
    /// It ended by itself.
    #[error("the daemon on {node} ended by itself ({status}) {when}\n{trace}")]
    Exited {
        /// The node.
        node: String,
        /// How.
        status: ExitStatus,
        /// In which phase.
        when: &'static str,
        /// What it left.
        trace: Box<Trace>,
    },
    /// It did not become ready.
    #[error("the daemon on {node}: {source}\n{trace}")]
    NotReady {
        /// The node.
        node: String,
        /// What was awaited.
        source: TimedOut,
        /// What it left.
        trace: Box<Trace>,
    },
    /// It still runs.
    #[error("the daemon on {node} still runs after {} s\n{trace}", .within.as_secs())]
    NotEnded {
        /// The node.
        node: String,
        /// How long it had.
        within: Duration,
        /// What it left.
        trace: Box<Trace>,
    },
    /// It did not end.
    #[error("the daemon on {node} did not end within {} s after SIGTERM; it was killed\n{trace}", .within.as_secs())]
    NotStopped {
        /// The node.
        node: String,
        /// How long it had.
        within: Duration,
        /// What it left.
        trace: Box<Trace>,
    },
    /// It could not be asked.
    #[error("asking the daemon on {node} for {what}: {why}")]
    Query {
        /// The node.
        node: String,
        /// What was asked for.
        what: String,
        /// Why not.
        why: String,
    },
    /// It is of a kind that has no such thing.
    #[error("{overlay} has no {what}")]
    Lacks {
        /// The overlay.
        overlay: &'static str,
        /// What was asked for.
        what: String,
    },
    /// A file of the node.
    #[error("{doing} on {node}: {source}")]
    File {
        /// The node.
        node: String,
        /// What was being done.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The node's namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
}

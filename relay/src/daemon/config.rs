//! What the daemon is to do, as the command line says.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{registry::etcd::EtcdOptions, underlay::Selection};

/// What the daemon is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The registry.
    pub registry: RegistryOptions,
    /// How to find the underlay's interface.
    pub underlay: Selection,
    /// What is handed to the kernel in bulk.
    pub offload: crate::datapath::offload::Offload,
    /// How datagrams are marked.
    pub marking: crate::datapath::marking::Marking,
    /// Whether other nodes' datagrams arrive from addresses that are not in their leases.
    pub peers_behind_nat: bool,
    /// Where to write `subnet.env`.
    pub subnet_file: PathBuf,
    /// Where to answer `relay status` and `relay routes`.
    pub control_socket: PathBuf,
    /// How long before its expiry the lease is renewed.
    pub renew_margin: Duration,
    /// Packet filter rules.
    pub filter: FilterConfig,
    /// Whether to add a blackhole route for this node's subnet.
    pub blackhole_route: bool,
    /// Where to serve health checks and metrics.
    pub healthz: Option<(IpAddr, u16)>,
}

/// Where the subnets are registered.
#[derive(Debug, Clone)]
pub enum RegistryOptions {
    /// In etcd.
    Etcd(EtcdOptions),
    /// In a file.
    File(PathBuf),
}

/// Which packet filter rules to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterConfig {
    /// Whether packets that leave the network are masqueraded.
    pub masquerade: bool,
    /// Whether their ports are chosen at random.
    pub fully_random: bool,
    /// Whether forwarded packets of the network are accepted.
    pub forward: bool,
    /// How often the rules, and the blackhole route, are looked at.
    pub resync: Duration,
}

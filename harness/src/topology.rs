//! What a lab consists of, with every name and address settled: pure data, no file descriptors.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A lab: nodes with containers behind them, etcd members beside them, one underlay between all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The overlay's network, from which every node's subnet is leased.
    pub network: Ipv4Net,
    /// The network that joins the nodes.
    pub underlay: Ipv4Net,
    /// MTU of the underlay in octets.
    pub mtu: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Name of the bridge that a node's containers are attached to.
    pub bridge: String,
    /// Address translation on the nodes.
    pub masquerade: Masquerade,
    /// The nodes, in the order of the suite file.
    pub nodes: Vec<Node>,
    /// The containers, in the order of the suite file.
    pub containers: Vec<Container>,
    /// The etcd members.
    pub members: Vec<Member>,
}

/// A machine that runs an overlay daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// The subnet it is to lease.
    pub subnet: Ipv4Net,
    /// Whether its daemon runs when the first step begins.
    pub starts: bool,
}

/// A workload behind a node's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The name of its node.
    pub node: String,
    /// Its address: the node's subnet's base + 2 for the node's first container, + 3 for the second, and so on.
    pub address: Ipv4Addr,
}

/// An etcd member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name: `etcd` if alone, else `etcd1`, `etcd2`, …
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
}

/// What a node does to the source address of packets that leave the container subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Masquerade {
    /// Nothing.
    #[default]
    None,
    /// Docker's rule: what comes from the subnet and leaves by any interface but the bridge is masqueraded.
    Docker,
}

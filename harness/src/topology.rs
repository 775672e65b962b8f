//! What a lab consists of, with every name and address settled: pure data, no file descriptors.

mod link;
mod name;
mod plan;

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use link::{LinkAddress, Port};
pub use plan::plan;
pub(crate) use plan::settle;

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
    /// Machines on the underlay that have no part in the overlay.
    pub machines: Vec<Machine>,
    /// The network's configuration in etcd, as JSON.
    pub config: String,
    /// Flags that every daemon is started with, beside those that the lab needs.
    pub flags: Vec<String>,
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

/// A machine on the underlay that runs nothing: a client from outside, a router, an intruder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
}

/// What a node does to the source address of packets that leave the container subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Masquerade {
    /// Nothing.
    #[default]
    None,
    /// Docker's rule: what comes from the subnet and leaves by any interface but the bridge is masqueraded.
    Docker,
}

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// A node.
    Node(&'a Node),
    /// A container.
    Container(&'a Container),
    /// An etcd member.
    Member(&'a Member),
    /// A machine that has no part in the overlay.
    Machine(&'a Machine),
}

impl<'a> Host<'a> {
    /// Its name.
    pub fn name(self) -> &'a str {
        match self {
            Self::Node(node) => &node.name,
            Self::Container(container) => &container.name,
            Self::Member(member) => &member.name,
            Self::Machine(machine) => &machine.name,
        }
    }

    /// The address of its `eth0`: a node's and a member's is on the underlay.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Node(node) => node.address,
            Self::Container(container) => container.address,
            Self::Member(member) => member.address,
            Self::Machine(machine) => machine.address,
        }
    }
}

impl Node {
    /// The address of its bridge: the subnet's base + 1.
    pub fn bridge_address(&self) -> Ipv4Addr {
        offset(self.subnet, 1)
    }

    /// The address of its TUN device: the subnet's base.
    pub fn tunnel_address(&self) -> Ipv4Addr {
        self.subnet.network()
    }
}

impl Default for Topology {
    /// Two nodes with a container each: what a suite file means that says nothing of its lab.
    fn default() -> Self {
        plan::settle(&crate::suite::Lab::default()).0
    }
}

impl Topology {
    /// Notes that a node has leased `subnet`: its containers have addresses there.
    pub fn move_node(&mut self, name: &str, subnet: Ipv4Net) {
        for node in self.nodes.iter_mut().filter(|node| node.name == name) {
            node.subnet = subnet;
        }
        let containers = self.containers.iter_mut().filter(|container| container.node == name);
        for (container, distance) in containers.zip(2..) {
            container.address = offset(subnet, distance);
        }
    }

    /// Every host: nodes, then containers, then etcd members, then machines.
    pub fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        let nodes = self.nodes.iter().map(Host::Node);
        let containers = self.containers.iter().map(Host::Container);
        let machines = self.machines.iter().map(Host::Machine);
        nodes.chain(containers).chain(self.members.iter().map(Host::Member)).chain(machines)
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Option<Host<'_>> {
        self.hosts().find(|host| host.name() == name)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The container of this name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The etcd member of this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The containers of a node, in the order of the suite file.
    pub fn containers_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| container.node == node)
    }

    /// The node that a container or a node is on.
    pub fn node_of(&self, name: &str) -> Option<&Node> {
        match self.host(name)? {
            Host::Node(node) => Some(node),
            Host::Container(container) => self.node(&container.node),
            Host::Member(_) | Host::Machine(_) => None,
        }
    }

    /// The address that a suite file means by a word: that of the host of this name, or the word itself.
    pub fn address_of(&self, word: &str) -> Option<Ipv4Addr> {
        self.host(word).map(Host::address).or_else(|| word.parse().ok())
    }

    /// The subnet that a suite file means by a word: that of the node of this name, or the word itself.
    pub fn subnet_of(&self, word: &str) -> Option<Ipv4Net> {
        self.node(word).map(|node| node.subnet).or_else(|| word.parse().ok())
    }
}

/// An address of a network by its distance from the network's own. The distance lies within the network.
fn offset(network: Ipv4Net, distance: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()).saturating_add(distance))
}

/// The lab as a drawing in text: each node with its addresses, its containers under it, then the etcd members.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "network {}  underlay {}  mtu {}", self.network, self.underlay, self.mtu)?;
        for node in &self.nodes {
            let stopped = if node.starts { "" } else { "  not started" };
            writeln!(f, "node {}  {}  subnet {}{stopped}", node.name, node.address, node.subnet)?;
            for container in self.containers_of(&node.name) {
                writeln!(f, "  container {}  {}", container.name, container.address)?;
            }
        }
        for member in &self.members {
            writeln!(f, "etcd {}  {}", member.name, member.address)?;
        }
        for machine in &self.machines {
            writeln!(f, "machine {}  {}", machine.name, machine.address)?;
        }
        Ok(())
    }
}

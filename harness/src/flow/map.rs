//! Which address is whose, and how it is printed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::topology::{Node, Topology};

/// The lab's addresses by name, and what is behind what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The tunnel's UDP port.
    pub port: u16,
    addresses: BTreeMap<Ipv4Addr, Vec<Owner>>,
    /// Container's name to its node's name.
    behind: BTreeMap<String, String>,
    host_width: usize,
    interface_width: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    host: String,
    label: String,
}

impl Map {
    /// The map of a lab whose overlay's device is called `tunnel` (`flannel0`). A node's underlay address is printed
    /// as the node's name, the tunnel's (the subnet's base) as `a/flannel0`, the bridge's (base + 1) as `a/cni0`.
    #[must_use]
    pub fn new(topology: &Topology, tunnel: &str) -> Self {
        let mut map = Self {
            port: topology.port,
            addresses: BTreeMap::new(),
            behind: BTreeMap::new(),
            host_width: 0,
            interface_width: ["eth0", "relay", &topology.bridge, tunnel]
                .map(str::len)
                .into_iter()
                .max()
                .unwrap_or(0),
        };
        for node in &topology.nodes {
            map.insert_node(node, tunnel, &topology.bridge);
        }
        for container in &topology.containers {
            map.insert(container.address, &container.name, &container.name);
            map.behind.insert(container.name.clone(), container.node.clone());
        }
        for member in &topology.members {
            map.insert(member.address, &member.name, &member.name);
        }
        for machine in &topology.machines {
            map.insert(machine.address, &machine.name, &machine.name);
        }
        map
    }

    /// Notes a node's addresses: on the underlay, of its tunnel device and of its bridge.
    pub fn insert_node(&mut self, node: &Node, tunnel: &str, bridge: &str) {
        self.insert(node.address, &node.name, &node.name);
        self.insert(node.tunnel_address(), &node.name, &format!("{}/{tunnel}", node.name));
        self.insert(node.bridge_address(), &node.name, &format!("{}/{bridge}", node.name));
    }

    /// Adds an address, or another host that has it too: a node that moved, a host that the topology does not have.
    pub fn insert(&mut self, address: Ipv4Addr, host: &str, label: &str) {
        self.host_width = self.host_width.max(host.len());
        let places = self.addresses.entry(address).or_default();
        places.retain(|place| place.host != host);
        places.insert(0, Owner { host: host.to_owned(), label: label.to_owned() });
    }

    /// The host that has an address; the latest, if several have had it.
    #[must_use]
    pub fn host_of(&self, address: Ipv4Addr) -> Option<&str> {
        self.addresses.get(&address)?.first().map(|place| place.host.as_str())
    }

    /// Whether a host has an address, or is one of several that have it one after the other.
    #[must_use]
    pub fn has(&self, host: &str, address: Ipv4Addr) -> bool {
        self.addresses.get(&address).is_some_and(|places| places.iter().any(|place| place.host == host))
    }

    /// How an address is printed: by name, or in numbers if nobody has it.
    #[must_use]
    pub fn label(&self, address: Ipv4Addr) -> String {
        self.label_at(address, "")
    }

    /// How an address is printed that was seen at `host`, which decides if several hosts have it.
    #[must_use]
    pub fn label_at(&self, address: Ipv4Addr, host: &str) -> String {
        let places = self.addresses.get(&address).map(Vec::as_slice).unwrap_or_default();
        let place = places.iter().find(|place| place.host == host).or(places.first());
        place.map_or_else(|| address.to_string(), |place| place.label.clone())
    }

    /// The node that a container is behind.
    #[must_use]
    pub fn node_of(&self, container: &str) -> Option<&str> {
        self.behind.get(container).map(String::as_str)
    }

    /// Columns that the longest host name takes, and the longest interface name.
    pub(super) fn widths(&self) -> (usize, usize) {
        (self.host_width, self.interface_width)
    }
}

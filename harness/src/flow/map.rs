//! Which address is whose, and how it is printed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::topology::Topology;

/// The lab's addresses by name, and what is behind what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The tunnel's UDP port.
    pub port: u16,
    addresses: BTreeMap<Ipv4Addr, Owner>,
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
            map.insert(node.address, &node.name, &node.name);
            let base = node.subnet.network();
            map.insert(base, &node.name, &format!("{}/{tunnel}", node.name));
            let bridge = Ipv4Addr::from(u32::from(base).wrapping_add(1));
            map.insert(bridge, &node.name, &format!("{}/{}", node.name, topology.bridge));
        }
        for container in &topology.containers {
            map.insert(container.address, &container.name, &container.name);
            map.behind.insert(container.name.clone(), container.node.clone());
        }
        for member in &topology.members {
            map.insert(member.address, &member.name, &member.name);
        }
        map
    }

    /// Adds or changes an address: a node that moved, a host that the topology does not have.
    pub fn insert(&mut self, address: Ipv4Addr, host: &str, label: &str) {
        self.host_width = self.host_width.max(host.len());
        self.addresses.insert(address, Owner { host: host.to_owned(), label: label.to_owned() });
    }

    /// The host that has an address.
    #[must_use]
    pub fn host_of(&self, address: Ipv4Addr) -> Option<&str> {
        self.addresses.get(&address).map(|owner| owner.host.as_str())
    }

    /// How an address is printed: by name, or in numbers if nobody has it.
    #[must_use]
    pub fn label(&self, address: Ipv4Addr) -> String {
        self.addresses.get(&address).map_or_else(|| address.to_string(), |owner| owner.label.clone())
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

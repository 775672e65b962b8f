//! Which interfaces are on one link, and where a host sends what is not for a neighbour.

use std::net::Ipv4Addr;

use super::{Host, Topology};
use crate::lab::INTERFACE;

/// An interface on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its host.
    pub host: String,
    /// Its name there.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Whom a frame is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkAddress {
    /// Whoever has this address.
    Mac([u8; 6]),
    /// An interface.
    Port(Port),
}

impl LinkAddress {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self::Mac([0xff; 6]);
}

impl Topology {
    /// All interfaces on the link that a host's interface is on, this one among them; none if it is on no link.
    pub fn link(&self, host: &str, interface: &str) -> Option<Vec<Port>> {
        let port = |host: &str, interface: &str, address| Port {
            host: host.to_owned(),
            interface: interface.to_owned(),
            address,
        };
        let node = match self.host(host)? {
            Host::Container(container) if interface == INTERFACE => self.node(&container.node)?,
            Host::Node(node) if interface == self.bridge => node,
            Host::Node(_) | Host::Machine(_) | Host::Member(_) if interface == INTERFACE => {
                let on_underlay = self.hosts().filter(|host| !matches!(host, Host::Container(_)));
                return Some(on_underlay.map(|host| port(host.name(), INTERFACE, host.address())).collect());
            }
            _ => return None,
        };
        let containers = self.containers_of(&node.name);
        let containers = containers.map(|container| port(&container.name, INTERFACE, container.address));
        Some(
            std::iter::once(port(&node.name, &self.bridge, node.bridge_address()))
                .chain(containers)
                .collect(),
        )
    }

    /// Whom a host's kernel would send a frame to, by that interface, with a packet for this address: who has it, or the
    /// node of a container. None where it would know of nobody.
    pub fn next_hop(&self, host: &str, interface: &str, to: Ipv4Addr) -> Option<LinkAddress> {
        let ports = self.link(host, interface)?;
        let [_, b, c, d] = to.octets();
        if to.is_multicast() {
            // RFC 1112, section 6.4.
            return Some(LinkAddress::Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]));
        }
        let subnets = self.nodes.iter().map(|node| node.subnet.broadcast());
        if to.is_broadcast() || to == self.underlay.broadcast() || subnets.into_iter().any(|all| all == to) {
            return Some(LinkAddress::BROADCAST);
        }
        let is_container = self.container(host).is_some();
        let gateway = ports.first().filter(|_| is_container);
        ports.iter().find(|port| port.address == to).or(gateway).cloned().map(LinkAddress::Port)
    }

    /// Whom a suite file means by a word: a host's interface on the link, everybody, or a MAC address.
    pub fn link_address(&self, host: &str, interface: &str, word: &str) -> Option<LinkAddress> {
        if word == "broadcast" {
            return Some(LinkAddress::BROADCAST);
        }
        if let Some(port) = self.link(host, interface)?.into_iter().find(|port| port.host == word) {
            return Some(LinkAddress::Port(port));
        }
        let octet = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
        let octets: Vec<u8> = word.split(':').map(octet).collect::<Option<_>>()?;
        octets.try_into().ok().map(LinkAddress::Mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(host: &str, interface: &str, to: [u8; 4]) -> Option<String> {
        match Topology::default().next_hop(host, interface, to.into())? {
            LinkAddress::Port(Port { host, interface, .. }) => Some(format!("{host} {interface}")),
            LinkAddress::Mac(octets) => Some(format!("{octets:02x?}")),
        }
    }

    #[test]
    fn a_frame_is_for_who_has_the_address_or_for_the_node() {
        assert_eq!(hop("c1", "eth0", [10, 5, 2, 2]).unwrap(), "a cni0");
        assert_eq!(hop("a", "cni0", [10, 5, 1, 2]).unwrap(), "c1 eth0");
        assert_eq!(hop("a", "eth0", [172, 20, 0, 2]).unwrap(), "b eth0");
        assert_eq!(hop("a", "eth0", [10, 5, 2, 2]), None);
        assert_eq!(hop("c1", "eth0", [224, 128, 0, 251]).unwrap(), "[01, 00, 5e, 00, 00, fb]");
        assert_eq!(hop("c1", "eth0", [10, 5, 1, 255]).unwrap(), "[ff, ff, ff, ff, ff, ff]");
        assert_eq!(hop("c1", "cni0", [10, 5, 2, 2]), None);
        assert_eq!(hop("a", "flannel0", [10, 5, 2, 2]), None);
    }

    #[test]
    fn a_word_is_a_host_on_the_link_or_an_address() {
        let topology = Topology::default();
        let mac = |word| topology.link_address("c1", "eth0", word);
        assert!(matches!(mac("a"), Some(LinkAddress::Port(Port { interface, .. })) if interface == "cni0"));
        assert_eq!(mac("02:00:00:00:00:aB"), Some(LinkAddress::Mac([2, 0, 0, 0, 0, 0xab])));
        assert_eq!(mac("broadcast"), Some(LinkAddress::BROADCAST));
        for wrong in ["b", "2:0:0:0:0:1", "02:00:00:00:00", "02:00:00:00:00:00:00", "zz:00:00:00:00:00", ""] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }
}

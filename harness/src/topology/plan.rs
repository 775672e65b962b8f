//! From the lab of a suite file to a topology: every default filled in, every address settled, every mistake found.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Container, Machine, Member, Node, Topology, name, offset};
use crate::suite::{Lab, Mistake, Text, suggest};

/// Flannel's default UDP port.
const PORT: u16 = 8285;
/// Prefix length of the nodes' subnets, unless the suite file gives them: flannel's default.
pub(super) const SUBNET_LEN: u8 = 24;
/// More nodes than this, each with a daemon, namespaces and a recording of every interface, are no longer a lab for
/// one machine.
const MAX_NODES: usize = 128;
/// As with nodes.
const MAX_CONTAINERS: usize = 256;
/// As with nodes.
const MAX_MACHINES: usize = 16;
/// How far below the underlay's broadcast address the first machine is: below the etcd members.
const MACHINES_FROM: u32 = 15;

/// Settles every name and address of a lab.
///
/// # Errors
///
/// Every mistake in it.
pub fn plan(lab: &Lab) -> Result<Topology, Vec<Mistake>> {
    let (topology, mistakes) = settle(lab);
    if mistakes.is_empty() { Ok(topology) } else { Err(mistakes) }
}

/// As [`plan`], but with mistakes gives what can be settled all the same, so that the steps can be checked with it.
pub(crate) fn settle(lab: &Lab) -> (Topology, Vec<Mistake>) {
    let mut plan = Plan { lab, mistakes: Vec::new() };
    let network = plan.unicast(&lab.network, "the overlay's network");
    let underlay = plan.underlay(network);
    let members = plan.members(underlay);
    let nodes = plan.nodes(network, underlay);
    let containers = plan.containers(&nodes);
    let machines = plan.machines(underlay);
    plan.names(&nodes, &containers);
    let network = network.unwrap_or(UNSETTLED);
    let topology = Topology {
        network,
        underlay,
        mtu: lab.mtu,
        port: PORT,
        bridge: lab.bridge.to_string(),
        masquerade: lab.masquerade,
        config: lab.config.as_ref().map_or_else(|| config(network, &nodes), ToString::to_string),
        flags: lab.flags.iter().map(ToString::to_string).collect(),
        nodes,
        containers,
        members,
        machines,
    };
    (topology, plan.mistakes)
}

struct Plan<'a> {
    lab: &'a Lab,
    mistakes: Vec<Mistake>,
}

impl Plan<'_> {
    fn mistake(&mut self, at: &Text, message: String, label: &str, help: impl Into<String>) {
        self.mistakes.push(Mistake::new(at.span(), message, label).help(help));
    }

    /// Reads a prefix whose host bits are zero.
    fn prefix(&mut self, text: &Text, what: &str) -> Option<Ipv4Net> {
        match text.parse::<Ipv4Net>() {
            Ok(prefix) if prefix == prefix.trunc() => Some(prefix),
            Ok(prefix) => {
                let whole = prefix.trunc();
                let message = format!("{what} {text} has bits set after its first {}", prefix.prefix_len());
                self.mistake(
                    text,
                    message,
                    "an address, not a network",
                    format!("did you mean \"{whole}\"?"),
                );
                None
            }
            Err(_) => {
                let message = format!("{what} {:?} is not an IPv4 prefix", text.as_str());
                let help =
                    format!("write an address and a length, as in {:?}", Lab::default().network.as_str());
                self.mistake(text, message, "not a prefix", help);
                None
            }
        }
    }

    /// Reads a network of its own: one that hosts can have addresses of.
    fn unicast(&mut self, text: &Text, what: &str) -> Option<Ipv4Net> {
        let prefix = self.prefix(text, what)?;
        let first = prefix.network();
        let reserved = first.is_loopback() || first.is_multicast() || matches!(first.octets()[0], 0 | 240..);
        if reserved || prefix.prefix_len() < 8 {
            let message = format!("{what} {prefix} is not one that hosts can have addresses of");
            let help = "take a private one: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, or a part of these";
            self.mistake(text, message, "reserved by the Internet's protocols, or too large", help);
            return None;
        }
        Some(prefix)
    }

    fn underlay(&mut self, network: Option<Ipv4Net>) -> Ipv4Net {
        let default = Ipv4Net::new_assert(Ipv4Addr::new(172, 20, 0, 0), 24);
        let text = &self.lab.underlay;
        let Some(underlay) = self.unicast(text, "the underlay") else { return default };
        if let Some(network) = network.filter(|network| overlap(underlay, *network)) {
            let at = if text.span().is_empty() { &self.lab.network } else { text };
            let message = format!("the underlay {underlay} and the overlay's network {network} overlap");
            self.mistake(
                at,
                message,
                "overlaps",
                "take a network for each, of which neither contains the other",
            );
        }
        let machines = self.lab.machines.len().min(MAX_MACHINES);
        let others =
            if machines > 0 { MACHINES_FROM as usize - 1 + machines } else { usize::from(self.lab.etcd) };
        let needed = self.lab.nodes.len().min(MAX_NODES) + others;
        let room = underlay.hosts().take(needed).count();
        if room < needed || underlay.prefix_len() > 30 {
            let message = format!("the underlay {underlay} has no room for {needed} hosts");
            let help = format!("{} and {} are to have an address each", nodes(self.lab), members(self.lab));
            self.mistake(text, message, "too small", help);
            return default;
        }
        underlay
    }

    fn members(&self, underlay: Ipv4Net) -> Vec<Member> {
        let name = |n: u32| if self.lab.etcd == 1 { "etcd".to_owned() } else { format!("etcd{n}") };
        let address = |n: u32| Ipv4Addr::from(u32::from(underlay.broadcast()).saturating_sub(n));
        (1..=u32::from(self.lab.etcd)).map(|n| Member { name: name(n), address: address(n) }).collect()
    }

    fn machines(&mut self, underlay: Ipv4Net) -> Vec<Machine> {
        let written = &self.lab.machines;
        if let Some(beyond) = written.get(MAX_MACHINES) {
            let message =
                format!("{} machines are more than a lab has, which is {MAX_MACHINES}", written.len());
            self.mistake(beyond, message, "the first too many", "take fewer");
        }
        let address = |n| Ipv4Addr::from(u32::from(underlay.broadcast()).saturating_sub(n));
        let machine = |(n, name): (u32, &Text)| Machine { name: name.to_string(), address: address(n) };
        (MACHINES_FROM..).zip(written.iter().take(MAX_MACHINES)).map(machine).collect()
    }

    fn nodes(&mut self, network: Option<Ipv4Net>, underlay: Ipv4Net) -> Vec<Node> {
        let lab = self.lab;
        let known = || lab.nodes.iter().map(Text::as_str);
        if let Some(beyond) = lab.nodes.get(MAX_NODES) {
            let message = format!("{} nodes are more than a lab has, which is {MAX_NODES}", lab.nodes.len());
            let help = "each is a daemon of its own with every interface recorded, all on one machine; how one \
                        daemon copes with thousands of leases is measured with leases put into etcd";
            self.mistake(beyond, message, "the first too many", help);
        }
        for (node, _) in lab.subnets.0.iter().filter(|(node, _)| !known().any(|name| name == node.as_str())) {
            let message = format!("`subnets` names a node `{node}`, which the lab has not");
            self.mistake(node, message, "no such node", suggest(node, known(), "nodes"));
        }
        let mut seen = HashSet::new();
        for node in lab.started.iter().flatten() {
            if !known().any(|name| name == node.as_str()) {
                let message = format!("`started` names a node `{node}`, which the lab has not");
                self.mistake(node, message, "no such node", suggest(node, known(), "nodes"));
            } else if !seen.insert(node.as_str()) {
                let message = format!("`started` names {node} twice");
                self.mistake(node, message, "named before", "name it once");
            }
        }
        let mut nodes: Vec<Node> = Vec::new();
        let mut without = Vec::new();
        for (n, name) in (1..).zip(lab.nodes.iter().take(MAX_NODES)) {
            let written =
                |name: &str| lab.subnets.0.iter().find(|(node, _)| node.as_str() == name).map(|(_, at)| at);
            let subnet = network.and_then(|network| match written(name) {
                Some(text) => self.subnet(text, network),
                None => nth_subnet(n, network).or_else(|| {
                    without.push(name);
                    None
                }),
            });
            let node = Node {
                name: name.to_string(),
                address: offset(underlay, n),
                subnet: subnet.unwrap_or(UNSETTLED),
                starts: lab.started.as_ref().is_none_or(|started| started.contains(name)),
            };
            if let Some((other, conflict)) =
                nodes.iter().find_map(|other| Some((other, conflict(other, &node)?)))
            {
                let at = written(name).or(written(&other.name)).unwrap_or(name);
                self.mistakes.push(conflict(at));
            }
            nodes.push(node);
        }
        if let (Some(network), [first, ..]) = (network, without.as_slice()) {
            let message = format!("{network} has no /{SUBNET_LEN} for node {first}");
            let at = if lab.network.span().is_empty() { first } else { &lab.network };
            let help = "take a larger network, or give each node a subnet in `subnets`";
            self.mistake(at, message, "too small", help);
        }
        nodes
    }

    /// Reads the subnet that a node is to lease, and checks that flannel would lease it.
    fn subnet(&mut self, text: &Text, network: Ipv4Net) -> Option<Ipv4Net> {
        let subnet = self.prefix(text, "the subnet")?;
        let (shortest, len) = (network.prefix_len() + 2, subnet.prefix_len());
        if !network.contains(&subnet) {
            let message = format!("the subnet {subnet} is outside of the overlay's network {network}");
            let help = if shortest > 30 {
                "take a larger network".to_owned()
            } else {
                let example = Ipv4Net::new_assert(network.network(), SUBNET_LEN.clamp(shortest, 30));
                format!("take one within it, such as \"{}\"", nth(example, 1))
            };
            self.mistake(text, message, "outside", help);
            return None;
        }
        if len < shortest || len > 30 {
            let message = format!("flannel leases no /{len} out of {network}");
            let help = if shortest > 30 {
                "take a larger network".to_owned()
            } else {
                format!("take a /{shortest} to /30")
            };
            self.mistake(text, message, "of a length it refuses", help);
            return None;
        }
        if subnet.network() == network.network() {
            let message =
                format!("the subnet {subnet} is the first of {network}, which flannel never leases");
            let help = format!("the lowest that it does lease is \"{}\"", nth(subnet, 1));
            self.mistake(text, message, "below its default SubnetMin", help);
            return None;
        }
        Some(subnet)
    }

    fn containers(&mut self, nodes: &[Node]) -> Vec<Container> {
        let lab = self.lab;
        let Some(written) = &lab.containers else {
            let one = |(n, node): (usize, &Node)| Container {
                name: format!("c{n}"),
                node: node.name.clone(),
                address: offset(node.subnet, 2),
            };
            return (1..).zip(nodes).map(one).collect();
        };
        if let Some((beyond, _)) = written.0.get(MAX_CONTAINERS) {
            let message =
                format!("{} containers are more than a lab has, which is {MAX_CONTAINERS}", written.0.len());
            self.mistake(
                beyond,
                message,
                "the first too many",
                "take fewer: each is a namespace, and recorded",
            );
        }
        let mut containers: Vec<Container> = Vec::new();
        for (name, on) in written.0.iter().take(MAX_CONTAINERS) {
            let Some(node) = nodes.iter().find(|node| node.name == on.as_str()) else {
                let message = format!("container {name} is on a node `{on}`, which the lab has not");
                let known = nodes.iter().map(|node| node.name.as_str());
                self.mistake(on, message, "no such node", suggest(on, known, "nodes"));
                // Kept, so that a step that names it is not wrong as well.
                let (name, node) = (name.to_string(), on.to_string());
                containers.push(Container { name, node, address: Ipv4Addr::UNSPECIFIED });
                continue;
            };
            let before = containers.iter().filter(|container| container.node == node.name).count();
            let distance = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(2);
            let address = offset(node.subnet, distance);
            if node.subnet != UNSETTLED && address >= node.subnet.broadcast() {
                let message = format!("{name} has no address left in {} of node {on}", node.subnet);
                self.mistake(name, message, "one too many", "put it on another node, or take larger subnets");
            }
            containers.push(Container { name: name.to_string(), node: node.name.clone(), address });
        }
        containers
    }

    /// Checks what nodes, containers and the bridge are called.
    fn names(&mut self, nodes: &[Node], containers: &[Container]) {
        let lab = self.lab;
        let written = lab.containers.iter().flat_map(|written| &written.0).map(|(name, _)| name);
        let mut seen = HashSet::new();
        for name in lab.nodes.iter().take(MAX_NODES).chain(written).chain(&lab.machines) {
            if let Some(problem) = name::host_problem(name) {
                self.mistake(
                    name,
                    format!("a host cannot be called {:?}", name.as_str()),
                    "not a name",
                    problem,
                );
            } else if !seen.insert(name.as_str()) {
                let message = format!("there are two hosts called `{name}`");
                let help = "hosts are told apart by their names: give each its own";
                self.mistake(name, message, "called so as well", help);
            }
        }
        if lab.containers.is_none()
            && let Some(clash) = lab
                .nodes
                .iter()
                .chain(&lab.machines)
                .find(|name| containers.iter().any(|c| c.name == name.as_str()))
        {
            let message = format!("`{clash}` has the name of a container: left out, they are c1, c2, …");
            self.mistake(clash, message, "taken", "call it something else, or write `containers` out");
        }
        let bridge = &lab.bridge;
        if let Some(problem) = name::bridge_problem(bridge) {
            self.mistake(
                bridge,
                format!("the bridge cannot be called {:?}", bridge.as_str()),
                "not a name",
                problem,
            );
        }
        let machines = lab.machines.iter().map(Text::as_str);
        let names =
            nodes.iter().map(|node| node.name.as_str()).chain(containers.iter().map(|c| c.name.as_str()));
        if names.chain(machines).any(|host| host == bridge.as_str()) {
            let message = format!("the bridge has the name of a host, `{bridge}`");
            self.mistake(
                bridge,
                message,
                "taken",
                "leave `bridge` out for cni0, or call the host something else",
            );
        }
    }
}

/// The network's configuration that the lab writes by itself (flannel Documentation/configuration.md).
fn config(network: Ipv4Net, nodes: &[Node]) -> String {
    let subnet_len = nodes.first().map_or(SUBNET_LEN, |node| node.subnet.prefix_len());
    let backend = format!("{{\"Type\":\"udp\",\"Port\":{PORT}}}");
    format!("{{\"Network\":\"{network}\",\"SubnetLen\":{subnet_len},\"Backend\":{backend}}}")
}

/// Stands for a subnet that could not be settled, after the mistake was told.
const UNSETTLED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// The subnet of the n-th node, n from 1, that the suite file gives none.
fn nth_subnet(n: u32, network: Ipv4Net) -> Option<Ipv4Net> {
    let subnet = nth(Ipv4Net::new(network.network(), SUBNET_LEN).ok()?, n);
    (network.prefix_len() + 2 <= SUBNET_LEN && network.contains(&subnet)).then_some(subnet)
}

/// Why a node cannot have its subnet beside another node, if it cannot: the mistake, once it is known where to show it.
fn conflict(other: &Node, node: &Node) -> Option<impl FnOnce(&Text) -> Mistake + use<>> {
    let (ours, theirs) = (node.subnet, other.subnet);
    let (name, other_name) = (&node.name, &other.name);
    if ours == UNSETTLED || theirs == UNSETTLED || ours == theirs && !(node.starts && other.starts) {
        return None;
    }
    let (message, label, help) = if ours == theirs {
        let help = "only a node that is not in `started` can share one, to take it over in a later step";
        (format!("{other_name} and {name} both have the subnet {ours}"), "taken", help)
    } else if overlap(ours, theirs) {
        let message = format!("the subnets {theirs} of {other_name} and {ours} of {name} overlap");
        (message, "overlaps", "take a subnet for each of its own")
    } else if ours.prefix_len() != theirs.prefix_len() {
        let message = format!("{other_name} has a /{}, {name} a /{}", theirs.prefix_len(), ours.prefix_len());
        let help = "the subnets of a network are all of one length: give every node one in `subnets`";
        (message, "of another length", help)
    } else {
        return None;
    };
    Some(move |at: &Text| Mistake::new(at.span(), message, label).help(help))
}

/// The network that comes `n` networks of its size after this one.
fn nth(first: Ipv4Net, n: u32) -> Ipv4Net {
    let size = 1u32 << (32 - first.prefix_len()).min(31);
    let address = u32::from(first.network()).saturating_add(size.saturating_mul(n));
    Ipv4Net::new(Ipv4Addr::from(address), first.prefix_len()).map_or(first, |network| network.trunc())
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn nodes(lab: &Lab) -> String {
    match lab.nodes.len() {
        1 => "one node".to_owned(),
        n => format!("{n} nodes"),
    }
}

fn members(lab: &Lab) -> String {
    match lab.etcd {
        1 => "one etcd member".to_owned(),
        n => format!("{n} etcd members"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Pairs;
    use crate::topology::Host;

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        Pairs(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn messages(lab: &Lab) -> Vec<String> {
        plan(lab).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lab_of_defaults_is_two_nodes_with_a_container_each() {
        let topology = plan(&Lab::default()).unwrap();
        assert_eq!(
            topology.to_string(),
            "network 10.5.0.0/16  underlay 172.20.0.0/24  mtu 1500\n\
             node a  172.20.0.1  subnet 10.5.1.0/24\n  container c1  10.5.1.2\n\
             node b  172.20.0.2  subnet 10.5.2.0/24\n  container c2  10.5.2.2\n\
             etcd etcd  172.20.0.254\n"
        );
        assert!(topology.nodes.iter().all(|node| node.starts));
    }

    #[test]
    fn containers_of_a_node_follow_its_bridge_in_the_order_of_the_file() {
        let containers = Some(pairs(&[("x", "b"), ("y", "a"), ("z", "b")]));
        let topology = plan(&Lab { containers, ..Lab::default() }).unwrap();
        let of_b: Vec<_> = topology.containers_of("b").map(|c| (c.name.as_str(), c.address)).collect();
        assert_eq!(of_b, [("x", address("10.5.2.2")), ("z", address("10.5.2.3"))]);
        assert_eq!(topology.node("b").unwrap().bridge_address(), address("10.5.2.1"));
        assert_eq!(topology.node("b").unwrap().tunnel_address(), address("10.5.2.0"));
    }

    #[test]
    fn several_etcd_members_are_numbered_from_the_top_of_the_underlay() {
        let lab = Lab { etcd: 3, underlay: "192.168.7.0/28".into(), ..Lab::default() };
        let topology = plan(&lab).unwrap();
        let members: Vec<_> = topology.members.iter().map(|m| (m.name.as_str(), m.address)).collect();
        let expected = [("etcd1", "192.168.7.14"), ("etcd2", "192.168.7.13"), ("etcd3", "192.168.7.12")];
        assert_eq!(members, expected.map(|(name, at)| (name, address(at))));
    }

    #[test]
    fn a_word_means_the_host_or_the_subnet_of_that_name_or_itself() {
        let topology = plan(&Lab::default()).unwrap();
        assert_eq!(topology.host("c1").map(Host::address), Some(address("10.5.1.2")));
        assert_eq!(topology.address_of("b"), Some(address("172.20.0.2")));
        assert_eq!(topology.address_of("10.5.99.1"), Some(address("10.5.99.1")));
        assert_eq!(topology.address_of("c9"), None);
        assert_eq!(topology.subnet_of("b"), Some("10.5.2.0/24".parse().unwrap()));
        assert_eq!(topology.subnet_of("10.5.0.0/16"), Some("10.5.0.0/16".parse().unwrap()));
        assert_eq!(topology.node_of("c2").map(|node| node.name.as_str()), Some("b"));
        assert_eq!(topology.node_of("etcd"), None);
    }

    #[test]
    fn a_subnet_is_shared_only_with_a_node_that_is_not_started() {
        let subnets = pairs(&[("b", "10.5.1.0/24")]);
        let both = Lab { subnets, ..Lab::default() };
        assert_eq!(messages(&both), ["a and b both have the subnet 10.5.1.0/24"]);
        let one = Lab { started: Some(vec!["a".into()]), ..both };
        let topology = plan(&one).unwrap();
        assert_eq!(topology.containers[0].address, topology.containers[1].address);
    }

    #[test]
    fn as_many_nodes_and_members_fit_as_the_underlay_has_addresses() {
        let lab = |nodes: usize| Lab {
            nodes: (0..nodes).map(|n| format!("n{n}").as_str().into()).collect(),
            underlay: "192.168.0.0/29".into(),
            ..Lab::default()
        };
        let topology = plan(&lab(5)).unwrap();
        assert_eq!(
            (topology.nodes[4].address, topology.members[0].address),
            (address("192.168.0.5"), address("192.168.0.6"))
        );
        assert_eq!(messages(&lab(6)), ["the underlay 192.168.0.0/29 has no room for 7 hosts"]);
    }

    #[test]
    fn a_node_has_no_more_containers_than_its_subnet_has_addresses() {
        let subnets = pairs(&[("a", "10.5.1.0/30"), ("b", "10.5.2.0/30")]);
        let lab = |containers: &[(&str, &str)]| Lab {
            containers: Some(pairs(containers)),
            subnets: subnets.clone(),
            ..Lab::default()
        };
        assert!(plan(&lab(&[("x", "a")])).unwrap().config.contains("\"SubnetLen\":30"));
        assert_eq!(
            messages(&lab(&[("x", "a"), ("y", "a")])),
            ["y has no address left in 10.5.1.0/30 of node a"]
        );
    }

    #[test]
    fn the_smallest_network_for_two_nodes_is_enough() {
        assert_eq!(
            plan(&Lab { network: "10.5.0.0/22".into(), ..Lab::default() }).unwrap().nodes[1]
                .subnet
                .to_string(),
            "10.5.2.0/24"
        );
        let too_small = Lab { network: "10.5.0.0/23".into(), ..Lab::default() };
        assert_eq!(messages(&too_small), ["10.5.0.0/23 has no /24 for node a"]);
        let at_the_end = Lab { network: "255.255.0.0/16".into(), ..Lab::default() };
        assert_eq!(messages(&at_the_end).len(), 1);
    }

    #[test]
    fn every_mistake_is_told_and_none_of_its_consequences() {
        let lab = Lab {
            network: "ten".into(),
            subnets: pairs(&[("b", "10.9.0.0/24")]),
            started: Some(vec!["z".into()]),
            bridge: "a bridge".into(),
            ..Lab::default()
        };
        let expected = [
            "the overlay's network \"ten\" is not an IPv4 prefix",
            "`started` names a node `z`, which the lab has not",
            "the bridge cannot be called \"a bridge\"",
        ];
        assert_eq!(messages(&lab), expected);
    }
}

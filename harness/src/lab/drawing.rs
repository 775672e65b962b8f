//! The lab as a drawing in text.

use super::{INTERFACE, Lab};
use crate::topology::Host;

impl Lab {
    /// The lab as a tree: what is on the underlay, and what is behind each node.
    pub fn drawing(&self) -> String {
        let topology = &self.topology;
        let mut text = format!("underlay {}  mtu {}\n", topology.underlay, topology.mtu);
        let others: Vec<_> =
            topology.hosts().filter(|host| matches!(host, Host::Member(_) | Host::Machine(_))).collect();
        for (index, node) in topology.nodes.iter().enumerate() {
            let last = index + 1 == topology.nodes.len() && others.is_empty();
            let (branch, below) = if last { ("└─", "  ") } else { ("├─", "│ ") };
            let overlay = match self.attachment(&node.name) {
                Some(attachment) => format!(
                    "{} {}  mtu {}  {} {}/{}",
                    attachment.device,
                    attachment.subnet.network(),
                    attachment.mtu,
                    topology.bridge,
                    super::address(attachment.subnet, 1),
                    attachment.subnet.prefix_len(),
                ),
                None => "relay not started".to_owned(),
            };
            text += &format!("{branch} {:<8}  {INTERFACE} {:<14}  {overlay}\n", node.name, node.address);
            let containers: Vec<_> = topology.containers_of(&node.name).collect();
            for (index, container) in containers.iter().enumerate() {
                let branch = if index + 1 == containers.len() { "└─" } else { "├─" };
                text +=
                    &format!("{below}   {branch} {:<8}  {INTERFACE} {}\n", container.name, container.address);
            }
        }
        for (index, host) in others.iter().enumerate() {
            let branch = if index + 1 == others.len() { "└─" } else { "├─" };
            text += &format!("{branch} {:<8}  {INTERFACE} {}\n", host.name(), host.address());
        }
        text
    }
}

//! The lab as a drawing in text.

use super::{INTERFACE, Lab, PREFIX};
use crate::overlay::relay::RELAY;
use crate::topology::Host;

impl Lab {
    /// For each host a command that starts a shell in it, from another terminal.
    pub fn ways_in(&self) -> String {
        let sandbox = &self.workshop.sandbox;
        let pid = std::process::id();
        let (sudo, user) = if sandbox.rootless() {
            ("", " --user --preserve-credentials")
        } else {
            (if std::env::var_os("SUDO_UID").is_some() { "sudo " } else { "" }, "")
        };
        let mut text = "To get into a host, from another terminal:\n".to_owned();
        for host in self.hosts() {
            let path = sandbox.seen_from_outside(host.namespace.path());
            let net = path.display();
            text +=
                &format!("  {:<10}  {sudo}nsenter --target {pid}{user} --mount --net={net}\n", host.name());
        }
        let node = self.topology.nodes.first().map(|node| self.host(&node.name));
        if let (Some(Ok(node)), endpoints @ [_, ..]) = (node, self.endpoints().as_slice()) {
            let (endpoints, net) = (endpoints.join(","), sandbox.seen_from_outside(node.namespace.path()));
            text += &format!(
                "\netcd answers at {endpoints}, to any host on the underlay. What is in it, with Debian's \
                 etcd-client:\n  {sudo}nsenter --target {pid}{user} --mount --net={} etcdctl --endpoints={endpoints} \
                 get --prefix {PREFIX}\n",
                net.display()
            );
        }
        let overlay = self.workshop.overlay.name();
        let running = self.topology.nodes.iter().find(|node| self.runs(&node.name));
        if let Some(node) = running.filter(|_| overlay == RELAY) {
            let dir = self.dir.join(&node.name);
            text += &format!(
                "\n{}'s relay keeps its log and subnet.env in {}, as seen there. What it has to say:\n  \
                 {sudo}nsenter --target {pid}{user} --mount \"$PWD/target/debug/relay\" status --subnet-file {}/subnet.env\n",
                node.name,
                dir.display(),
                dir.display(),
            );
        }
        text
    }

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
                None => format!("{} not started", self.workshop.overlay.name()),
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

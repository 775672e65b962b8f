//! Links and addresses: of nodes and machines on the underlay, and of containers behind their nodes' bridges.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::{Error, Host, INTERFACE, Lab, SWITCH, address, host, prefix};
use crate::netlink::Netlink;
use crate::overlay::Attachment;
use crate::topology::{Container, Masquerade, Node};
use crate::wait;

/// For a bridge to notice a carrier.
const LINKED_WITHIN: Duration = Duration::from_secs(5);
/// Octets of a tunnel's headers: IPv4 and UDP.
const ENCAPSULATION_LEN: u32 = 28;

impl Lab {
    /// Joins a host to the switch and gives it an address on the underlay.
    pub(super) async fn join_underlay(
        &self,
        switch: &Host,
        host: &Host,
        address: Ipv4Addr,
    ) -> Result<(), Error> {
        let mtu = self.topology.mtu;
        switch.netlink.add_veth(host.name(), Some(SWITCH), mtu, (&host.namespace, INTERFACE)).await?;
        host.netlink.add_address(INTERFACE, prefix(address, self.topology.underlay)).await?;
        host.netlink.set_up(INTERFACE, true).await?;
        Ok(())
    }

    pub(super) async fn wire_node(&mut self, switch: &Host, node: &Node) -> Result<(), Error> {
        let host = self.add_host(&node.name).await?;
        host.set("net.ipv4.ip_forward", "1")?;
        self.join_underlay(switch, &host, node.address).await?;
        let bridge = self.topology.bridge.clone();
        Ok(host.netlink.add_bridge(&bridge).await?)
    }

    pub(super) async fn wire_container(&mut self, container: &Container) -> Result<(), Error> {
        let host = self.add_host(&container.name).await?;
        let node = self.host(&container.node)?.clone();
        let mtu = self.topology.mtu.saturating_sub(ENCAPSULATION_LEN);
        let bridge = Some(self.topology.bridge.as_str());
        node.netlink.add_veth(&container.name, bridge, mtu, (&host.namespace, INTERFACE)).await?;
        Ok(host.netlink.set_up(INTERFACE, true).await?)
    }

    /// Does for a node what Docker or a CNI plugin does with `subnet.env`: addresses for the bridge and the containers.
    pub(super) async fn attach(&mut self, node: &str, attachment: &Attachment) -> Result<(), Error> {
        let host = self.host(node)?.clone();
        if self.attachments.get(node) == Some(attachment) {
            return Ok(());
        }
        let subnet = attachment.subnet;
        let gateway = address(subnet, 1);
        let bridge = self.topology.bridge.clone();
        host.netlink.flush_addresses(&bridge).await?;
        host.netlink.set_mtu(&bridge, attachment.mtu).await?;
        host.netlink.add_address(&bridge, prefix(gateway, subnet)).await?;
        let containers = self.topology.containers.iter().filter(|container| container.node == node);
        for (container, offset) in containers.zip(2..) {
            let inside = self.host(&container.name)?;
            host.netlink.set_mtu(&container.name, attachment.mtu).await?;
            inside.netlink.set_mtu(INTERFACE, attachment.mtu).await?;
            inside.netlink.flush_addresses(INTERFACE).await?;
            inside.netlink.add_address(INTERFACE, prefix(address(subnet, offset), subnet)).await?;
            inside.netlink.add_default_route(gateway).await?;
        }
        self.topology.move_node(node, subnet);
        match self.topology.masquerade {
            Masquerade::None => Ok(()),
            Masquerade::Docker => Ok(host.run("nft", &["-f", "-"], &docker_rules(&bridge, subnet)).await?),
        }
    }

    /// Gives a node another address on an interface in the place of those that it has there.
    ///
    /// # Errors
    /// When there is no such node or the kernel refuses.
    pub async fn readdress(&mut self, node: &str, interface: &str, address: Ipv4Addr) -> Result<(), Error> {
        let host = self.host(node)?;
        host.netlink.flush_addresses(interface).await?;
        host.netlink.add_address(interface, prefix(address, self.topology.underlay)).await?;
        if let Some(node) = self.topology.nodes.iter_mut().find(|known| known.name == node) {
            node.address = address;
        }
        Ok(())
    }

    /// Sets a host's `eth0` up or down, and waits until the bridge at its other end has noticed. `down` names the hosts
    /// whose links are down after that.
    ///
    /// # Errors
    /// When there is no such host or the kernel refuses.
    pub async fn set_link(&mut self, host: &str, up: bool, down: &[String]) -> Result<(), Error> {
        match self.etcd.as_mut().and_then(|cluster| cluster.member(host).ok()) {
            // A member's eth0 may be in a container, which is another one at every start.
            Some(member) => {
                Netlink::connect(member.namespace()).map_err(host::Error::from)?.set_up(INTERFACE, up).await?
            }
            None => self.host(host)?.netlink.set_up(INTERFACE, up).await?,
        }
        // The kernel dropped a container's default route with the link; who ran the container would set it again.
        if let Some(container) = self.topology.container(host).filter(|_| up)
            && let Some(attachment) = self.attachments.get(&container.node)
        {
            self.host(host)?.netlink.add_default_route(address(attachment.subnet, 1)).await?;
        }
        self.wait_for_links(down).await
    }

    /// Waits until every bridge forwards at every port but those to the hosts `down`.
    pub(super) async fn wait_for_links(&self, down: &[String]) -> Result<(), Error> {
        let nodes = self.topology.nodes.iter().map(|node| node.name.as_str());
        for bridge in nodes.chain([SWITCH]) {
            let netlink = &self.host(bridge)?.netlink;
            let awaited = format!("the links at `{bridge}` to forward");
            wait::until(&awaited, LINKED_WITHIN, async || {
                let blocked = netlink.ports_not_forwarding().await.map_err(|error| error.to_string())?;
                let expected = |port: &&String| !down.contains(port);
                if blocked.iter().find(expected).is_none()
                    && down.iter().all(|host| !self.is_port(bridge, host) || blocked.contains(host))
                {
                    return Ok(());
                }
                Err(format!("these do not: {}", blocked.join(", ")))
            })
            .await?;
        }
        Ok(())
    }

    /// Whether `host` is attached to the bridge in `bridge`.
    fn is_port(&self, bridge: &str, host: &str) -> bool {
        match self.topology.container(host) {
            Some(container) => container.node == bridge,
            None => bridge == SWITCH && !self.shapers.stand_before(host),
        }
    }
}

/// Docker's rule for its default bridge: `-t nat -A POSTROUTING -s SUBNET ! -o docker0 -j MASQUERADE`.
fn docker_rules(bridge: &str, subnet: Ipv4Net) -> String {
    format!(
        "table ip docker\ndelete table ip docker\ntable ip docker {{\n  chain postrouting {{\n    type nat hook \
         postrouting priority srcnat\n    ip saddr {subnet} oifname != \"{bridge}\" masquerade\n  }}\n}}\n"
    )
}

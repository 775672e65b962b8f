//! The kernel's VXLAN (RFC 7348), set up as flannel's vxlan backend does: what userspace overlays are compared with.

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::kernel::{Kernel, configure, peers};
use super::{Attachment, Daemon, Error, Overlay, Site};
use crate::packet::VXLAN_PORT;
use crate::topology::Node;

/// The device has the name of relay's, so that what both do can be compared line by line.
const DEVICE: &str = "flannel0";
/// Outer IPv4, UDP and VXLAN headers, and the inner Ethernet header.
const ENCAPSULATION_LEN: u32 = 50;

/// VXLAN with static entries for every other node: no multicast, no learning.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan;

impl Overlay for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn runs_daemon(&self) -> bool {
        false
    }

    fn check_machine(&self) -> Result<(), Error> {
        Ok(())
    }

    fn start<'a>(&'a self, site: Site<'a>) -> LocalBoxFuture<'a, Result<Box<dyn Daemon>, Error>> {
        async move {
            let Some(own) = site.nodes.iter().find(|node| node.name == site.node) else {
                let (node, what) = (site.node.to_owned(), "its address".to_owned());
                return Err(Error::Query { node, what, why: "the lab has no such node".to_owned() });
            };
            let mtu = site.mtu.saturating_sub(ENCAPSULATION_LEN);
            let mut ip = format!(
                "link add {DEVICE} address {} mtu {mtu} type vxlan id 1 dev {} local {} dstport {VXLAN_PORT} nolearning\n\
                 address add {}/32 dev {DEVICE}\nlink set {DEVICE} up\n",
                hardware_address(own),
                site.interface,
                own.address,
                site.subnet.network(),
            );
            let mut bridge = String::new();
            for node in peers(site) {
                let (gateway, hardware) = (node.subnet.network(), hardware_address(node));
                ip += &format!("neighbour add {gateway} lladdr {hardware} dev {DEVICE} nud permanent\n");
                ip += &format!("route add {} via {gateway} dev {DEVICE} onlink\n", node.subnet);
                bridge += &format!("fdb add {hardware} dev {DEVICE} dst {}\n", node.address);
            }
            configure(site, "ip", &ip)?;
            configure(site, "bridge", &bridge)?;
            let attachment = Attachment { device: DEVICE.to_owned(), subnet: site.subnet, mtu };
            let undo = format!("link del {DEVICE}\n");
            Ok(Box::new(Kernel::new(self.name(), site, attachment, undo)) as Box<dyn Daemon>)
        }
        .boxed_local()
    }
}

/// A locally administered address made of the node's address, which every node can tell of every other.
fn hardware_address(node: &Node) -> String {
    let [a, b, c, d] = node.address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

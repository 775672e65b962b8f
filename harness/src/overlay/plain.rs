//! No overlay: each node has plain routes to the others' subnets. What the underlay itself can do.

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::kernel::{Kernel, configure, peers};
use super::{Attachment, Daemon, Error, Overlay, Site};
use crate::topology::Node;

/// Plain routes, without encapsulation.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Overlay for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn runs_daemon(&self) -> bool {
        false
    }

    fn check_machine(&self) -> Result<(), Error> {
        Ok(())
    }

    fn start<'a>(&'a self, site: Site<'a>) -> LocalBoxFuture<'a, Result<Box<dyn Daemon>, Error>> {
        async move {
            let add = |node: &Node| format!("route add {} via {}\n", node.subnet, node.address);
            configure(site, "ip", &peers(site).map(add).collect::<String>())?;
            let attachment =
                Attachment { device: site.interface.to_owned(), subnet: site.subnet, mtu: site.mtu };
            let undo = peers(site).map(|node| format!("route del {}\n", node.subnet)).collect();
            Ok(Box::new(Kernel::new(self.name(), site, attachment, undo)) as Box<dyn Daemon>)
        }
        .boxed_local()
    }
}

//! No overlay: each node has plain routes to the others' subnets. What the underlay itself can do.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use ipnet::Ipv4Net;

use super::kernel::{Kernel, configure, peers};
use super::{Attachment, Daemon, Error, Overlay, Site};

/// Plain routes, without encapsulation.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Overlay for Plain {
    fn check_machine(&self) -> Result<(), Error> {
        Ok(())
    }

    fn start<'a>(&'a self, site: Site<'a>) -> LocalBoxFuture<'a, Result<Box<dyn Daemon>, Error>> {
        async move {
            let routes: BTreeMap<Ipv4Net, Ipv4Addr> =
                peers(site).map(|node| (node.subnet, node.address)).collect();
            let add = |(subnet, via): (&Ipv4Net, &Ipv4Addr)| format!("route add {subnet} via {via}\n");
            configure(site, "ip", &routes.iter().map(add).collect::<String>())?;
            let attachment =
                Attachment { device: site.interface.to_owned(), subnet: site.subnet, mtu: site.mtu };
            let delete = |(subnet, _): (&Ipv4Net, &Ipv4Addr)| format!("route del {subnet}\n");
            let undo = routes.iter().map(delete).collect();
            Ok(Box::new(Kernel::new(site, attachment, routes, undo)) as Box<dyn Daemon>)
        }
        .boxed_local()
    }
}

//! Joining a container to the lab: its member's `eth0` is moved into the container's namespace, with all that
//! is set on it.

use std::os::fd::{AsFd, AsRawFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::Error;
use crate::netns::Namespace;

/// The link that joins a node to the underlay.
const LINK: &str = "eth0";

/// Moves `eth0` of member `name` from one namespace to another, with its addresses and routes, which the kernel
/// drops when a link changes namespaces (`dev_change_net_namespace`), as it does queueing disciplines.
///
/// # Errors
/// When there is no `eth0` in `from`, or the kernel refuses a step.
pub(super) async fn move_eth0(name: &str, from: &Namespace, to: &Namespace) -> Result<(), Error> {
    let failed = |step| {
        move |source: rtnetlink::Error| Error::Attach {
            name: name.to_owned(),
            step,
            source: Box::new(source),
        }
    };
    let old = Netlink::open(name, from)?;
    let link = old.link().await.map_err(failed("out of its namespace: finding it"))?;
    let index = link.header.index;
    let addresses = old.addresses(index).await.map_err(failed("out of its namespace: listing addresses"))?;
    let routes = old.routes(index).await.map_err(failed("out of its namespace: listing routes"))?;

    let move_to =
        LinkMessageBuilder::<LinkUnspec>::new().index(index).setns_by_fd(to.as_fd().as_raw_fd()).build();
    old.handle.link().set(move_to).execute().await.map_err(failed("into the container"))?;

    let new = Netlink::open(name, to)?;
    let index = new.link().await.map_err(failed("into the container: finding it there"))?.header.index;
    for mut address in addresses {
        address.header.index = index;
        let mut request = new.handle.address().add(index, std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        *request.message_mut() = address;
        request.execute().await.map_err(failed("into the container: setting its address"))?;
    }
    if link.header.flags.contains(LinkFlags::Up) {
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
        new.handle.link().set(up).execute().await.map_err(failed("into the container: setting it up"))?;
    }
    for mut route in routes {
        for attribute in &mut route.attributes {
            if let RouteAttribute::Oif(interface) = attribute {
                *interface = index;
            }
        }
        new.handle
            .route()
            .add(route)
            .execute()
            .await
            .map_err(failed("into the container: adding a route"))?;
    }
    Ok(())
}

/// A netlink socket in a namespace, open as long as this is.
struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    fn open(name: &str, namespace: &Namespace) -> Result<Self, Error> {
        let opened = namespace.run(rtnetlink::new_connection)?;
        let (connection, handle, _) = opened.map_err(|source| Error::Attach {
            name: name.to_owned(),
            step: "between namespaces: opening a netlink socket",
            source: Box::new(source),
        })?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    async fn link(&self) -> Result<LinkMessage, rtnetlink::Error> {
        let mut links = self.handle.link().get().match_name(LINK.to_owned()).execute();
        links.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)
    }

    /// The addresses of the link that were set, rather than made by the kernel.
    async fn addresses(&self, index: u32) -> Result<Vec<AddressMessage>, rtnetlink::Error> {
        let addresses = self.handle.address().get().set_link_index_filter(index).execute();
        addresses
            .try_filter(|address| std::future::ready(address.header.scope != AddressScope::Link))
            .try_collect()
            .await
    }

    /// The IPv4 routes by the link that were added, rather than made by the kernel; those with a gateway come
    /// last, because the others make it reachable.
    async fn routes(&self, index: u32) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
        let all = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let mut routes: Vec<RouteMessage> = self.handle.route().get(all).execute().try_collect().await?;
        routes.retain(|route| {
            route.header.protocol != RouteProtocol::Kernel
                && route.attributes.contains(&RouteAttribute::Oif(index))
        });
        let has_gateway = |route: &RouteMessage| {
            route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)))
        };
        routes.sort_by_key(has_gateway);
        Ok(routes)
    }
}

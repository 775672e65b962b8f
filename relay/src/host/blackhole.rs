//! `--ip-blackhole-route`: packets to containers of this node that are not there end here, instead of leaving by the
//! default route when the bridge is gone.
//!
//! Source: flannel `main.go`. Like flannel's, the route stays when the daemon ends.

use std::{io, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{RouteMessage, RouteProtocol, RouteType},
};
use tokio::time::interval;

fn route(subnet: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.network(), subnet.prefix_len())
        .kind(RouteType::BlackHole)
        .protocol(RouteProtocol::Boot)
        .build()
}

/// Adds the route. A bridge's own route to the subnet stands in its place.
///
/// # Errors
/// The kernel refuses.
pub async fn add(netlink: &Handle, subnet: Ipv4Net) -> Result<(), rtnetlink::Error> {
    match netlink.route().add(route(subnet)).execute().await {
        Err(error) if is(&error, io::ErrorKind::AlreadyExists) => Ok(()),
        result => result,
    }
}

/// Removes the route, if it is there.
///
/// # Errors
/// The kernel refuses.
pub async fn remove(netlink: &Handle, subnet: Ipv4Net) -> Result<(), rtnetlink::Error> {
    match netlink.route().del(route(subnet)).execute().await {
        // ESRCH.
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ESRCH => Ok(()),
        result => result,
    }
}

fn is(error: &rtnetlink::Error, kind: io::ErrorKind) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().kind() == kind)
}

/// Adds the route again whenever it is gone, until the future is dropped.
pub async fn keep(netlink: Handle, subnet: Ipv4Net, every: Duration) {
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        if let Err(error) = add(&netlink, subnet).await {
            tracing::debug!(%error, %subnet, "blackhole route not added");
        }
    }
}

//! `--ip-blackhole-route`: packets to containers of this node that are not there end here, instead of leaving by the
//! default route when the bridge is gone.
//!
//! Source: flannel `main.go`. Like flannel's, the route stays when the daemon ends; a start that does not want it removes it. Unlike flannel's, which has the
//! metric 0, it has the worst: a bridge that gets its address later must not lose its packets to it.

use std::{io, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{RouteMessage, RouteProtocol, RouteType},
};
use tokio::time::interval;

const METRIC: u32 = u32::MAX;

fn route(subnet: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.network(), subnet.prefix_len())
        .kind(RouteType::BlackHole)
        .priority(METRIC)
        .protocol(RouteProtocol::Boot)
        .build()
}

/// Adds the route, if it is not there.
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

/// The subnets that an earlier start may have left a route for, which this start does not want.
pub fn unwanted(previous: Option<Ipv4Net>, subnet: Ipv4Net, wanted: bool) -> impl Iterator<Item = Ipv4Net> {
    let present = (!wanted).then_some(subnet);
    present.into_iter().chain(previous.filter(|previous| *previous != subnet))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_start_left_goes_unless_it_is_wanted_now() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let (one, two) = (net("10.5.1.0/24"), net("10.5.2.0/24"));
        let left = |previous, wanted| unwanted(previous, one, wanted).collect::<Vec<_>>();
        assert_eq!(left(None, true), []);
        assert_eq!(left(Some(one), true), []);
        assert_eq!(left(Some(two), true), [two]);
        assert_eq!(left(None, false), [one]);
        assert_eq!(left(Some(two), false), [one, two]);
    }
}

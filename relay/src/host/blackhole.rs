//! `--ip-blackhole-route`: packets to containers of this node that are not there end here, instead of leaving by the
//! default route when the bridge is gone.
//!
//! Source: flannel `main.go`. Like flannel's, the route stays when the daemon ends; a start that does not want it
//! removes it. Unlike flannel's, which has the metric 0, it has the worst: a bridge that gets its address later must not
//! lose its packets to it. So a route that flanneld left is removed in any case.

use std::{io, net::Ipv4Addr, time::Duration};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
    },
};
use tokio::time::sleep;

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
async fn add(netlink: &Handle, subnet: Ipv4Net) -> Result<(), rtnetlink::Error> {
    match netlink.route().add(route(subnet)).execute().await {
        Err(error) if is(&error, io::ErrorKind::AlreadyExists) => Ok(()),
        result => result,
    }
}

/// Removes the route, if it is there.
async fn remove(netlink: &Handle, subnet: Ipv4Net) -> Result<(), rtnetlink::Error> {
    match netlink.route().del(route(subnet)).execute().await {
        // ESRCH.
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ESRCH => Ok(()),
        result => result,
    }
}

/// Removes flanneld's route, if it is there.
async fn remove_flanneld_s(netlink: &Handle, subnet: Ipv4Net) -> Result<(), rtnetlink::Error> {
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = netlink.route().get(query).execute().try_collect().await?;
    let Some(route) = routes.into_iter().find(|route| is_flanneld_s(route, subnet)) else { return Ok(()) };
    // To the kernel the metric 0 means any: it takes the best route of the kind, which is this one.
    netlink.route().del(route).execute().await
}

fn is_flanneld_s(route: &RouteMessage, subnet: Ipv4Net) -> bool {
    let has = |wanted| route.attributes.contains(&wanted);
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    route.header.kind == RouteType::BlackHole
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.destination_prefix_length == subnet.prefix_len()
        && has(RouteAttribute::Destination(RouteAddress::Inet(subnet.network())))
        && metric.unwrap_or(0) == 0
}

fn is(error: &rtnetlink::Error, kind: io::ErrorKind) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().kind() == kind)
}

/// The subnets that an earlier start may have left a route for, which this start does not want.
fn unwanted(previous: Option<Ipv4Net>, subnet: Ipv4Net, wanted: bool) -> impl Iterator<Item = Ipv4Net> {
    let present = (!wanted).then_some(subnet);
    present.into_iter().chain(previous.filter(|previous| *previous != subnet))
}

/// Removes what earlier starts, of relay or flanneld, left for the `previous` subnet and this one. `wanted` is the
/// route for this one. What fails is only told.
pub async fn clean_up(netlink: &Handle, previous: Option<Ipv4Net>, subnet: Ipv4Net, wanted: bool) {
    let told = |result, subnet: Ipv4Net| {
        if let Err(error) = result {
            let error: rtnetlink::Error = error;
            tracing::warn!(%error, %subnet, "blackhole route of an earlier start not removed");
        }
    };
    for earlier in unwanted(previous, subnet, wanted) {
        told(remove(netlink, earlier).await, earlier);
    }
    for earlier in unwanted(previous, subnet, false) {
        told(remove_flanneld_s(netlink, earlier).await, earlier);
    }
}

/// Has the route there, if the kernel takes it: [`keep`] tries again.
pub async fn set(netlink: &Handle, subnet: Ipv4Net) {
    if let Err(error) = add(netlink, subnet).await {
        tracing::debug!(%error, %subnet, "blackhole route not added");
    }
}

/// Adds the route again, which was [`set`], whenever it is gone, until the future is dropped.
pub async fn keep(netlink: Handle, subnet: Ipv4Net, every: Duration) {
    loop {
        sleep(every).await;
        set(&netlink, subnet).await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{super::namespace, *};

    /// What the kernel has, by iproute2.
    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_route_of_flanneld_goes_and_no_other() {
        namespace::run("host::blackhole::tests::the_route_of_flanneld_goes_and_no_other", async {
            let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
            let (present, previous) = (net("10.5.1.0/24"), net("10.5.2.0/24"));
            let left = || {
                let shown = ip("-4 route show type blackhole");
                shown.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
            };
            for wanted in [true, false] {
                for route in
                    ["10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24", "10.5.1.0/25", "10.5.1.0/24 metric 7"]
                {
                    ip(&format!("route replace blackhole {route}"));
                }
                add(&netlink, present).await.unwrap();
                add(&netlink, previous).await.unwrap();
                for _ in 0..2 {
                    clean_up(&netlink, Some(previous), present, wanted).await;
                    let ours = "blackhole 10.5.1.0/24 metric 4294967295";
                    let mut expected = vec!["blackhole 10.5.1.0/24 metric 7", ours];
                    expected.truncate(if wanted { 2 } else { 1 });
                    expected.extend(["blackhole 10.5.1.0/25", "blackhole 10.5.3.0/24"]);
                    let mut left = left();
                    left.sort();
                    expected.sort_unstable();
                    assert_eq!(left, expected, "wanted: {wanted}");
                }
            }
        });
    }

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

//! Putting the device's address and route back when something else takes them away: setting the device down and up
//! drops its routes, and so may an administrator or a network manager.

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::LinkFlags,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
    },
};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr},
};
use tokio::sync::watch;

use super::{
    device::{self, DeviceConfig},
    netlink::{Notice, Watch},
};

/// Keeps the device as `wanted` until the future is dropped. A device that was set down is left down; deleting it ends the data path.
///
/// # Errors
/// The netlink socket cannot be opened, or is lost.
pub async fn keep(name: String, wanted: watch::Receiver<DeviceConfig>) -> io::Result<Infallible> {
    let groups = &[MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv4Ifaddr];
    let mut watch = Watch::open(groups).await?;
    loop {
        watch.changed(|notice| concerns(notice, &wanted.borrow())).await?;
        let config = *wanted.borrow();
        match missing(&watch.handle, &config).await {
            Ok(None) => {}
            Ok(Some(what)) => {
                tracing::warn!(device = name, missing = what, "putting back what something else removed");
                match device::configure(&watch.handle, &name, config).await {
                    Ok(()) => {}
                    // The data path ends for that, and says so.
                    Err(error) if error.is_about_no_device() => tracing::debug!(%error),
                    Err(error) => {
                        tracing::error!(%error, "device not restored; trying again");
                        watch.look_again();
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "looking at the device; trying again");
                watch.look_again();
            }
        }
    }
}

/// Whether a change may have cost the device its address or route.
fn concerns(notice: &Notice, config: &DeviceConfig) -> bool {
    let NetlinkPayload::InnerMessage(message) = &notice.payload else {
        return false;
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => link.header.index == config.index,
        RouteNetlinkMessage::DelAddress(address) => address.header.index == config.index,
        RouteNetlinkMessage::DelRoute(route) => destination(route) == Some(config.network),
        RouteNetlinkMessage::NewRoute(route) => {
            destination(route) == Some(config.network) && output(route) != Some(config.index)
        }
        _ => false,
    }
}

/// What an upright device lacks.
async fn missing(netlink: &Handle, config: &DeviceConfig) -> Result<Option<&'static str>, rtnetlink::Error> {
    let link = netlink.link().get().match_index(config.index).execute().try_next().await?;
    if !link.is_some_and(|link| link.header.flags.contains(LinkFlags::Up)) {
        return Ok(None);
    }
    let local = AddressAttribute::Local(IpAddr::V4(config.address));
    let addresses: Vec<_> =
        netlink.address().get().set_link_index_filter(config.index).execute().try_collect().await?;
    if !addresses.iter().any(|address| address.attributes.contains(&local)) {
        return Ok(Some("address"));
    }
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = netlink.route().get(query).execute().try_collect().await?;
    let ours = |route: &RouteMessage| {
        route.header.table == RouteHeader::RT_TABLE_MAIN
            && destination(route) == Some(config.network)
            && output(route) == Some(config.index)
    };
    Ok(if routes.iter().any(ours) { None } else { Some("route") })
}

fn destination(route: &RouteMessage) -> Option<Ipv4Net> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let length = route.header.destination_prefix_length;
    Ipv4Net::new(address.or((length == 0).then_some(Ipv4Addr::UNSPECIFIED))?, length).ok()
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DeviceConfig = DeviceConfig {
        index: 7,
        mtu: 1472,
        address: Ipv4Addr::new(10, 5, 56, 0),
        network: Ipv4Net::new_assert(Ipv4Addr::new(10, 5, 0, 0), 16),
    };

    fn route(network: &str, index: u32) -> RouteMessage {
        let network: Ipv4Net = network.parse().unwrap();
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .output_interface(index)
            .build()
    }

    #[test]
    fn the_loss_of_the_route_or_its_change_to_another_device_is_noticed() {
        let noticed = |message| concerns(&Notice::from(message), &CONFIG);
        assert!(noticed(RouteNetlinkMessage::DelRoute(route("10.5.0.0/16", 7))));
        assert!(noticed(RouteNetlinkMessage::NewRoute(route("10.5.0.0/16", 8))));
        assert!(!noticed(RouteNetlinkMessage::NewRoute(route("10.5.0.0/16", 7))), "our own doing");
        assert!(!noticed(RouteNetlinkMessage::DelRoute(route("10.6.0.0/16", 7))));
        assert!(!noticed(RouteNetlinkMessage::DelRoute(route("0.0.0.0/0", 7))));
    }
}

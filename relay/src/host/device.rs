//! The device's MTU, address and route, by rtnetlink.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        route::RouteProtocol,
    },
};
use thiserror::Error;

/// The device could not be set up.
#[derive(Debug, Error)]
#[error("{step}: {source}")]
pub struct DeviceError {
    step: String,
    source: rtnetlink::Error,
}

impl DeviceError {
    /// Whether the device is there no more.
    #[must_use]
    pub fn is_about_no_device(&self) -> bool {
        matches!(&self.source, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::ENODEV)
    }
}

/// How the device is to be.
#[derive(Debug, Clone, Copy)]
pub struct DeviceConfig {
    /// The kernel's number of the device.
    pub index: u32,
    /// The largest packet in octets.
    pub mtu: u32,
    /// Its address, with a length of 32 so that the kernel adds no broadcast route.
    pub address: Ipv4Addr,
    /// What is routed to it.
    pub network: Ipv4Net,
}

/// Removes every other IPv4 address: a device taken over from an earlier run may have that of another subnet.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_other_addresses(
    netlink: &Handle,
    name: &str,
    config: DeviceConfig,
) -> Result<(), DeviceError> {
    let failed = |source| DeviceError { step: format!("removing old addresses of {name}"), source };
    let filter = netlink.address().get().set_link_index_filter(config.index);
    let addresses: Vec<AddressMessage> = filter.execute().try_collect().await.map_err(failed)?;
    let ours = AddressAttribute::Local(IpAddr::V4(config.address));
    for address in addresses {
        let is_ipv4 = address.header.family == AddressFamily::Inet;
        if is_ipv4 && !address.attributes.contains(&ours) {
            netlink.address().del(address).execute().await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Brings the device up and routes the network to it, in place of a route that another device may have left.
///
/// # Errors
/// The kernel refuses a step.
pub async fn configure(netlink: &Handle, name: &str, config: DeviceConfig) -> Result<(), DeviceError> {
    let failed = |step: String| move |source| DeviceError { step, source };
    let link = LinkUnspec::new_with_index(config.index).mtu(config.mtu).up().build();
    netlink
        .link()
        .set(link)
        .execute()
        .await
        .map_err(failed(format!("bringing {name} up with an MTU of {}", config.mtu)))?;
    netlink
        .address()
        .add(config.index, config.address.into(), 32)
        .replace()
        .execute()
        .await
        .map_err(failed(format!("giving {name} the address {}/32", config.address)))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(config.network.network(), config.network.prefix_len())
        .output_interface(config.index)
        .protocol(RouteProtocol::Boot)
        .build();
    netlink
        .route()
        .add(route)
        .replace()
        .execute()
        .await
        .map_err(failed(format!("routing {} to {name}", config.network)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{namespace, netlink},
        *,
    };

    #[test]
    fn addresses_of_another_subnet_go_and_no_others() {
        namespace::run("host::device::tests::addresses_of_another_subnet_go_and_no_others", async {
            let (netlink, _) = netlink::connect(&[]).await.unwrap();
            let address = Ipv4Addr::new(10, 5, 1, 0);
            let network = "10.5.0.0/16".parse().unwrap();
            // The one device that any namespace has.
            let config = DeviceConfig { index: 1, mtu: 1472, address, network };
            let has = [IpAddr::V4(address), [10, 5, 2, 0].into(), "fd00::1".parse().unwrap()];
            for address in has {
                let length = if address.is_ipv4() { 32 } else { 128 };
                netlink.address().add(1, address, length).execute().await.unwrap();
            }
            // Its own address is not taken away for a moment either: that would take routes with it.
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::new(10, 6, 0, 0), 16)
                .output_interface(1)
                .pref_source(address)
                .build();
            netlink.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
            netlink.route().add(route).execute().await.unwrap();
            remove_other_addresses(&netlink, "lo", config).await.unwrap();
            let left = netlink.address().get().set_link_index_filter(1).execute();
            let left: Vec<AddressMessage> = left.try_collect().await.unwrap();
            for (at, address) in has.into_iter().enumerate() {
                let there =
                    left.iter().any(|left| left.attributes.contains(&AddressAttribute::Address(address)));
                assert_eq!(there, at != 1, "{address} in {left:?}");
            }
            let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
            let routes: Vec<_> = netlink.route().get(query).execute().try_collect().await.unwrap();
            assert!(routes.iter().any(|route| route.header.destination_prefix_length == 16), "{routes:?}");
        });
    }
}

//! Following the underlay while the daemon runs: its interface may get another MTU or another address.
//!
//! The interface chosen at start stays. While it is down or has no address, what was last known stays too. So does the
//! address chosen at start while the interface has it: another one stands in for it, unless `--iface` names the address.

use std::{convert::Infallible, io, net::Ipv4Addr};

use rtnetlink::{MulticastGroup, packet_core::NetlinkPayload, packet_route::RouteNetlinkMessage};
use tokio::sync::watch;

use super::{Interface, Selection, Underlay, list};
use crate::{
    host::netlink::{Notice, Watch},
    lease,
};

/// Tells `current` of every change until the future is dropped.
///
/// # Errors
/// The netlink socket cannot be opened, or is lost.
pub async fn follow(selection: Selection, current: watch::Sender<Underlay>) -> io::Result<Infallible> {
    let mut watch = Watch::open(&[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr]).await?;
    let home = current.borrow().address;
    loop {
        watch.changed(concerns).await?;
        match list(&watch.handle).await {
            Ok(interfaces) => {
                current.send_if_modified(|underlay| {
                    match refreshed(&interfaces, underlay, home, &selection) {
                        Some(new) if new != *underlay => {
                            *underlay = new;
                            true
                        }
                        _ => false,
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "looking at the underlay; trying again");
                watch.look_again();
            }
        }
    }
}

fn concerns(notice: &Notice) -> bool {
    matches!(
        notice.payload,
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
        )
    )
}

/// The underlay as it is now, `home` being the address chosen at start; none while its interface is gone or has no
/// address that it may use.
fn refreshed(
    interfaces: &[Interface],
    current: &Underlay,
    home: Ipv4Addr,
    selection: &Selection,
) -> Option<Underlay> {
    let interface = interfaces.iter().find(|interface| interface.name == current.interface)?;
    let has = |address: &Ipv4Addr| interface.addresses.contains(address);
    // An address that is lost for a moment leaves a secondary or a virtual one behind: that is no place to stay.
    let address = match [home, current.address].into_iter().find(has) {
        Some(address) => address,
        None if selection.names(home) => return None,
        None => *interface.addresses.iter().find(|address| lease::is_node_address(**address))?,
    };
    Some(Underlay {
        interface: interface.name.clone(),
        address,
        mtu: interface.mtu,
        public_ip: selection.public_ip.unwrap_or(address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn after(mtu: u32, addresses: &[u8], public_ip: Option<Ipv4Addr>) -> Option<Underlay> {
        let selection = Selection { public_ip, ..Selection::default() };
        from(1, mtu, addresses, &selection)
    }

    /// After a start at address 1 the tunnel is at `present`.
    fn from(present: u8, mtu: u32, addresses: &[u8], selection: &Selection) -> Option<Underlay> {
        let (address, public_ip) = (address(present), address(present));
        let current = Underlay { interface: "eth0".into(), address, mtu: 1500, public_ip };
        let addresses = addresses.iter().map(|last| self::address(*last)).collect();
        let other =
            Interface { index: 1, name: "lo".into(), mtu: 65536, addresses: vec![Ipv4Addr::LOCALHOST] };
        let interfaces = [other, Interface { index: 2, name: "eth0".into(), mtu, addresses }];
        refreshed(&interfaces, &current, self::address(1), selection)
    }

    #[test]
    fn the_address_stays_while_the_interface_has_it() {
        let underlay = after(1400, &[5, 1], None).unwrap();
        assert_eq!((underlay.address, underlay.public_ip, underlay.mtu), (address(1), address(1), 1400));
    }

    #[test]
    fn another_address_is_taken_and_advertised_when_it_has_gone() {
        let underlay = after(1500, &[5, 6], None).unwrap();
        assert_eq!((underlay.address, underlay.public_ip), (address(5), address(5)));
        let translated = after(1500, &[5], Some(address(99))).unwrap();
        assert_eq!((translated.address, translated.public_ip), (address(5), address(99)));
    }

    #[test]
    fn the_address_of_the_start_is_taken_again_when_it_is_back() {
        let any = Selection::default();
        assert_eq!(from(5, 1500, &[5, 6], &any).unwrap().address, address(5));
        let back = from(5, 1500, &[5, 6, 1], &any).unwrap();
        assert_eq!((back.address, back.public_ip), (address(1), address(1)));
    }

    #[test]
    fn an_address_named_for_the_tunnel_is_not_left_for_another() {
        let named =
            |what: &str| Selection { interfaces: vec!["eth9".into(), what.into()], ..Selection::default() };
        assert_eq!(from(1, 1500, &[5, 6], &named("192.0.2.1")), None);
        assert_eq!(from(1, 1500, &[5, 6, 1], &named("192.0.2.1")).unwrap().address, address(1));
        assert_eq!(from(1, 1500, &[5, 6], &named("eth0")).unwrap().address, address(5));
    }

    #[test]
    fn a_loopback_address_does_not_take_the_place_of_one_that_has_gone() {
        let current =
            Underlay { interface: "lo".into(), address: address(1), mtu: 65_536, public_ip: address(1) };
        let addresses = vec![Ipv4Addr::LOCALHOST];
        let interfaces = [Interface { index: 1, name: "lo".into(), mtu: 65_536, addresses }];
        assert_eq!(refreshed(&interfaces, &current, address(1), &Selection::default()), None);
    }

    #[test]
    fn nothing_changes_while_there_is_no_address() {
        assert_eq!(after(1500, &[], None), None);
    }
}

//! Following the underlay while the daemon runs: its interface may get another MTU or another address.
//!
//! The interface chosen at start stays. While it is down or has no address, what was last known stays too.

use std::{io, time::Duration};

use futures_util::{FutureExt, StreamExt};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::{
    sync::watch,
    time::{interval, sleep},
};

use super::{Interface, Selection, Underlay, list};
use crate::lease;

/// Between a change and the look at its outcome: an address is often replaced in two steps.
const SETTLE: Duration = Duration::from_millis(100);
/// Between two looks without a change: the kernel drops notices that a full socket has no room for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Tells `current` of every change until the future is dropped.
///
/// # Errors
/// The netlink socket cannot be opened.
pub async fn follow(selection: Selection, current: watch::Sender<Underlay>) -> io::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    // Its own socket for the looks as well: while one listing is under way on a socket the kernel refuses another (EBUSY).
    let (connection, netlink, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    let watch = async {
        // What was changed before the socket was there is seen by the first look.
        let mut looks = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some((message, _)) if concerns(&message) => sleep(SETTLE).await,
                    Some(_) => continue,
                    None => break,
                },
                _ = looks.tick() => {}
            }
            while let Some(Some(_)) = messages.next().now_or_never() {}
            match list(&netlink).await {
                Ok(interfaces) => {
                    current.send_if_modified(|underlay| match refreshed(&interfaces, underlay, &selection) {
                        Some(new) if new != *underlay => {
                            *underlay = new;
                            true
                        }
                        _ => false,
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "looking at the underlay; trying again");
                    looks.reset_after(SETTLE);
                }
            }
        }
    };
    tokio::join!(connection, watch);
    Ok(())
}

fn concerns(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    matches!(
        message.payload,
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
        )
    )
}

/// The underlay as it is now; none while its interface is gone or has no address.
fn refreshed(interfaces: &[Interface], current: &Underlay, selection: &Selection) -> Option<Underlay> {
    let interface = interfaces.iter().find(|interface| interface.name == current.interface)?;
    let first = *interface.addresses.iter().find(|address| lease::is_node_address(**address))?;
    let address = if interface.addresses.contains(&current.address) { current.address } else { first };
    Some(Underlay {
        interface: interface.name.clone(),
        address,
        mtu: interface.mtu,
        public_ip: selection.public_ip.unwrap_or(address),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn after(mtu: u32, addresses: &[u8], public_ip: Option<Ipv4Addr>) -> Option<Underlay> {
        let current =
            Underlay { interface: "eth0".into(), address: address(1), mtu: 1500, public_ip: address(1) };
        let addresses = addresses.iter().map(|last| address(*last)).collect();
        let other =
            Interface { index: 1, name: "lo".into(), mtu: 65536, addresses: vec![Ipv4Addr::LOCALHOST] };
        let interfaces = [other, Interface { index: 2, name: "eth0".into(), mtu, addresses }];
        refreshed(&interfaces, &current, &Selection { public_ip, ..Selection::default() })
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
    fn a_loopback_address_does_not_take_the_place_of_one_that_has_gone() {
        let current =
            Underlay { interface: "lo".into(), address: address(1), mtu: 65_536, public_ip: address(1) };
        let addresses = vec![Ipv4Addr::LOCALHOST];
        let interfaces = [Interface { index: 1, name: "lo".into(), mtu: 65_536, addresses }];
        assert_eq!(refreshed(&interfaces, &current, &Selection::default()), None);
    }

    #[test]
    fn nothing_changes_while_there_is_no_address() {
        assert_eq!(after(1500, &[], None), None);
    }
}

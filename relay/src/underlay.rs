//! Which interface and address carry the tunnel.
//!
//! Source: flannel `main.go` and `pkg/ipmatch/match.go`: `--iface` in order, then `--iface-regex`, then
//! `--iface-can-reach`; with none of them the address given as `--public-ip`, else the default route's interface.

pub mod follow;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use futures_util::TryStreamExt;
use regex::Regex;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
        link::LinkAttribute,
        route::{RouteAttribute, RouteHeader, RouteMessage},
    },
};
use thiserror::Error;

use crate::lease;

/// The interface that carries the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The interface's name.
    pub interface: String,
    /// The address to bind to.
    pub address: Ipv4Addr,
    /// The interface's MTU in octets.
    pub mtu: u32,
    /// The address at which other nodes reach this one; differs from `address` behind a translator.
    pub public_ip: Ipv4Addr,
}

/// How to find the interface, as given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names or addresses, the first that exists counts.
    pub interfaces: Vec<String>,
    /// Patterns for an address, or else for a name.
    pub patterns: Vec<String>,
    /// An address that the interface is to reach.
    pub can_reach: Option<Ipv4Addr>,
    /// The address to advertise.
    pub public_ip: Option<Ipv4Addr>,
}

/// No interface could be chosen.
#[derive(Debug, Error)]
pub enum UnderlayError {
    /// The kernel's lists could not be read.
    #[error("listing interfaces and addresses: {0}")]
    Netlink(#[from] rtnetlink::Error),
    /// A pattern is no regular expression.
    #[error("--iface-regex {pattern}: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: regex::Error,
    },
    /// There is no route to the address to be reached.
    #[error("--iface-can-reach {address}: {source}")]
    Unreachable {
        /// The address.
        address: Ipv4Addr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Nothing matches.
    #[error("no interface with an IPv4 address matches {wanted}; there are {available}")]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The address is none that other nodes can send to.
    #[error(
        "other nodes cannot reach {address} on {interface}: name another interface with --iface, or with --public-ip the address that they reach"
    )]
    NotReachable {
        /// The interface chosen.
        interface: String,
        /// The address to bind to or to advertise.
        address: Ipv4Addr,
    },
    /// Nothing was asked for, and there is no default route to go by.
    #[error(
        "there is no default route to choose an interface by: name one with --iface; there are {available}"
    )]
    NoDefaultRoute {
        /// What there is.
        available: String,
    },
}

/// An interface with its usable IPv4 addresses, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    index: u32,
    name: String,
    mtu: u32,
    addresses: Vec<Ipv4Addr>,
}

/// Chooses the interface.
///
/// # Errors
/// Nothing matches; the message lists what there is.
pub async fn choose(netlink: &Handle, selection: &Selection) -> Result<Underlay, UnderlayError> {
    let interfaces = list(netlink).await?;
    let default = default_interface(netlink).await?;
    pick(&interfaces, selection, default, source_towards)
}

fn pick(
    interfaces: &[Interface],
    selection: &Selection,
    default: Option<u32>,
    source_towards: impl FnOnce(Ipv4Addr) -> io::Result<Ipv4Addr>,
) -> Result<Underlay, UnderlayError> {
    let found = if selection.is_explicit() {
        asked_for(interfaces, selection, source_towards)?
    } else if let Some(address) = selection.public_ip {
        by_address(interfaces, address)
    } else {
        let by_index =
            |index| interfaces.iter().find(|interface| interface.index == index).and_then(first_address);
        let found = default.and_then(by_index);
        if found.is_none() {
            return Err(UnderlayError::NoDefaultRoute { available: describe(interfaces) });
        }
        found
    };
    let (interface, address) = found.ok_or_else(|| UnderlayError::NotFound {
        wanted: selection.describe(),
        available: describe(interfaces),
    })?;
    let public_ip = selection.public_ip.unwrap_or(address);
    // What is sent from a loopback address does not leave the machine, whatever is advertised.
    if let Some(address) = [address, public_ip].into_iter().find(|address| !lease::is_node_address(*address))
    {
        return Err(UnderlayError::NotReachable { interface: interface.name.clone(), address });
    }
    Ok(Underlay { interface: interface.name.clone(), address, mtu: interface.mtu, public_ip })
}

/// Each way is looked at only when those before it found nothing: what is wrong with it does not matter else.
fn asked_for<'a>(
    interfaces: &'a [Interface],
    selection: &Selection,
    source_towards: impl FnOnce(Ipv4Addr) -> io::Result<Ipv4Addr>,
) -> Result<Option<Found<'a>>, UnderlayError> {
    let named = selection.interfaces.iter().find_map(|wanted| by_name_or_address(interfaces, wanted));
    if named.is_some() {
        return Ok(named);
    }
    for pattern in &selection.patterns {
        let regex = Regex::new(pattern)
            .map_err(|source| UnderlayError::Pattern { pattern: pattern.clone(), source })?;
        if let Some(found) = by_pattern(interfaces, &regex) {
            return Ok(Some(found));
        }
    }
    let Some(address) = selection.can_reach else { return Ok(None) };
    let source = source_towards(address).map_err(|source| UnderlayError::Unreachable { address, source })?;
    Ok(by_address(interfaces, source))
}

impl Selection {
    const fn is_explicit(&self) -> bool {
        !self.interfaces.is_empty() || !self.patterns.is_empty() || self.can_reach.is_some()
    }

    /// Whether `address` itself was named for the tunnel, not an interface that happens to have it.
    fn names(&self, address: Ipv4Addr) -> bool {
        self.interfaces.iter().any(|wanted| wanted.parse() == Ok(address))
    }

    fn describe(&self) -> String {
        let named = self.interfaces.iter().map(|name| format!("--iface {name}"));
        let patterns = self.patterns.iter().map(|pattern| format!("--iface-regex {pattern}"));
        let reach = self.can_reach.iter().map(|address| format!("--iface-can-reach {address}"));
        let mut all: Vec<String> = named.chain(patterns).chain(reach).collect();
        if let (true, Some(address)) = (all.is_empty(), self.public_ip) {
            all.push(format!("--public-ip {address} (add --iface if a translator has that address)"));
        }
        all.join(", ")
    }
}

type Found<'a> = (&'a Interface, Ipv4Addr);

fn first_address(interface: &Interface) -> Option<Found<'_>> {
    interface.addresses.first().map(|address| (interface, *address))
}

fn by_address(interfaces: &[Interface], address: Ipv4Addr) -> Option<Found<'_>> {
    interfaces
        .iter()
        .find(|interface| interface.addresses.contains(&address))
        .map(|interface| (interface, address))
}

fn by_name_or_address<'a>(interfaces: &'a [Interface], wanted: &str) -> Option<Found<'a>> {
    match wanted.parse() {
        Ok(address) => by_address(interfaces, address),
        Err(_) => interfaces.iter().find(|interface| interface.name == wanted).and_then(first_address),
    }
}

fn by_pattern<'a>(interfaces: &'a [Interface], pattern: &Regex) -> Option<Found<'a>> {
    let by_address = interfaces.iter().find_map(|interface| {
        let address = interface.addresses.iter().find(|address| pattern.is_match(&address.to_string()))?;
        Some((interface, *address))
    });
    by_address.or_else(|| {
        interfaces.iter().filter(|interface| pattern.is_match(&interface.name)).find_map(first_address)
    })
}

fn describe(interfaces: &[Interface]) -> String {
    let shown: Vec<String> = interfaces
        .iter()
        .flat_map(|interface| {
            interface.addresses.iter().map(|address| format!("{} ({address})", interface.name))
        })
        .collect();
    if shown.is_empty() { "none".into() } else { shown.join(", ") }
}

/// The address that the kernel would use towards `address`; nothing is sent.
fn source_towards(address: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((address, 9))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(source) => Ok(source),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

async fn list(netlink: &Handle) -> Result<Vec<Interface>, rtnetlink::Error> {
    let mut interfaces: Vec<Interface> = netlink
        .link()
        .get()
        .execute()
        .map_ok(|link| {
            let mut interface =
                Interface { index: link.header.index, name: String::new(), mtu: 0, addresses: Vec::new() };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => interface.name = name,
                    LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                    _ => {}
                }
            }
            interface
        })
        .try_collect()
        .await?;
    let mut addresses: Vec<(bool, u32, Ipv4Addr)> = netlink
        .address()
        .get()
        .execute()
        .try_filter_map(|message| async move { Ok(usable(&message)) })
        .try_collect()
        .await?;
    // A stable sort: wider scope first, then the kernel's order.
    addresses.sort_by_key(|(global, _, _)| !global);
    for (_, index, address) in addresses {
        if let Some(interface) = interfaces.iter_mut().find(|interface| interface.index == index) {
            interface.addresses.push(address);
        }
    }
    Ok(interfaces)
}

/// An IPv4 address that may carry the tunnel: whether its scope is global, its interface, itself.
fn usable(message: &AddressMessage) -> Option<(bool, u32, Ipv4Addr)> {
    if message.header.flags.contains(AddressHeaderFlags::Deprecated) {
        return None;
    }
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some((message.header.scope == AddressScope::Universe, message.header.index, local))
}

async fn default_interface(netlink: &Handle) -> Result<Option<u32>, rtnetlink::Error> {
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = netlink.route().get(query).execute().try_collect().await?;
    Ok(default_of(&routes))
}

/// The interface of the best default route. Other tables than the main one have default routes for some traffic only,
/// such as what a VPN client marks.
fn default_of(routes: &[RouteMessage]) -> Option<u32> {
    let metric = |route: &RouteMessage| {
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
    };
    let oif = |route: &RouteMessage| {
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    };
    let default = routes
        .iter()
        .filter(|route| {
            route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.destination_prefix_length == 0
                && oif(route).is_some()
        })
        .min_by_key(|route| metric(route).unwrap_or(0));
    default.and_then(oif)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<Interface> {
        let interface = |index, name: &str, addresses: &[[u8; 4]]| Interface {
            index,
            name: name.into(),
            mtu: 1500,
            addresses: addresses.iter().map(|address| Ipv4Addr::from(*address)).collect(),
        };
        vec![
            interface(1, "lo", &[[127, 0, 0, 1]]),
            interface(2, "eth0", &[[192, 168, 0, 1], [192, 168, 0, 7]]),
            interface(3, "eth1", &[[172, 16, 0, 1]]),
            interface(4, "bare0", &[]),
        ]
    }

    fn chosen(selection: &Selection) -> Result<(String, Ipv4Addr, Ipv4Addr), String> {
        pick(&interfaces(), selection, Some(3), |_| Err(io::ErrorKind::NetworkUnreachable.into()))
            .map(|underlay| (underlay.interface, underlay.address, underlay.public_ip))
            .map_err(|error| error.to_string())
    }

    fn named(names: &[&str]) -> Selection {
        Selection { interfaces: names.iter().map(|name| (*name).into()).collect(), ..Selection::default() }
    }

    #[test]
    fn the_first_name_or_address_that_exists_is_taken() {
        let eth0 = |last| Ok(("eth0".into(), [192, 168, 0, last].into(), [192, 168, 0, last].into()));
        assert_eq!(chosen(&named(&["eth7", "bare0", "eth0", "eth1"])), eth0(1));
        assert_eq!(chosen(&named(&["192.168.0.7"])), eth0(7));
    }

    #[test]
    fn a_pattern_is_tried_on_addresses_before_names() {
        let with =
            |pattern: &str| chosen(&Selection { patterns: vec![pattern.into()], ..Selection::default() });
        assert_eq!(with(r"^172\.").unwrap().0, "eth1");
        assert_eq!(with("eth").unwrap().0, "eth0");
        assert!(with("(").unwrap_err().starts_with("--iface-regex (: "));
    }

    #[test]
    fn what_comes_after_the_first_match_is_not_even_looked_at() {
        let hopeless = Selection {
            patterns: vec!["^eth1$".into(), "(".into()],
            can_reach: Some([203, 0, 113, 9].into()),
            ..named(&["eth9", "eth0"])
        };
        assert_eq!(chosen(&hopeless).unwrap().0, "eth0");
        let by_pattern = Selection { interfaces: vec!["eth9".into()], ..hopeless.clone() };
        assert_eq!(chosen(&by_pattern).unwrap().0, "eth1");
        let bad_pattern = Selection { patterns: vec!["(".into()], ..by_pattern.clone() };
        assert!(chosen(&bad_pattern).unwrap_err().starts_with("--iface-regex (: "));
        let by_reach = Selection { patterns: Vec::new(), ..by_pattern };
        assert!(chosen(&by_reach).unwrap_err().starts_with("--iface-can-reach 203.0.113.9: "));
        let reached = pick(&interfaces(), &by_reach, Some(2), |_| Ok([172, 16, 0, 1].into()));
        assert_eq!(reached.unwrap().interface, "eth1");
    }

    #[test]
    fn the_default_route_is_the_best_one_of_the_main_table() {
        let route = |table: u8, length, index, metric| {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::UNSPECIFIED, length)
                .output_interface(index)
                .priority(metric)
                .build();
            route.header.table = table;
            route
        };
        let (main, vpn) = (RouteHeader::RT_TABLE_MAIN, 51);
        let half = route(main, 1, 8, 0);
        let routes = [half, route(vpn, 0, 9, 0), route(main, 0, 3, 200), route(main, 0, 2, 100)];
        assert_eq!(default_of(&routes), Some(2));
        assert_eq!(default_of(&routes[..2]), None);
    }

    #[test]
    fn without_a_choice_the_public_address_or_the_default_route_decides() {
        assert_eq!(chosen(&Selection::default()).unwrap().0, "eth1");
        let public = Selection { public_ip: Some([192, 168, 0, 7].into()), ..Selection::default() };
        assert_eq!(chosen(&public).unwrap().0, "eth0");
        assert!(pick(&interfaces(), &Selection::default(), None, Ok).is_err());
    }

    #[test]
    fn a_translated_address_is_advertised_and_the_local_one_bound() {
        let selection = Selection { public_ip: Some([203, 0, 113, 9].into()), ..named(&["eth1"]) };
        assert_eq!(chosen(&selection), Ok(("eth1".into(), [172, 16, 0, 1].into(), [203, 0, 113, 9].into())));
    }

    #[test]
    fn an_address_that_others_cannot_reach_is_refused() {
        let loopback = chosen(&named(&["lo"])).unwrap_err();
        assert!(loopback.starts_with("other nodes cannot reach 127.0.0.1 on lo: "), "{loopback}");
        let translated = |public_ip| chosen(&Selection { public_ip: Some(public_ip), ..named(&["lo"]) });
        assert!(translated([203, 0, 113, 9].into()).unwrap_err().contains("127.0.0.1"));
        for advertised in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            let selection = Selection { public_ip: Some(advertised.into()), ..named(&["eth0"]) };
            let error = chosen(&selection).unwrap_err();
            assert!(error.contains(&Ipv4Addr::from(advertised).to_string()), "{error}");
        }
    }

    #[test]
    fn the_error_lists_what_there_is() {
        let error = chosen(&named(&["eth9"])).unwrap_err();
        assert_eq!(
            error,
            "no interface with an IPv4 address matches --iface eth9; there are lo (127.0.0.1), eth0 (192.168.0.1), \
             eth0 (192.168.0.7), eth1 (172.16.0.1)"
        );
    }
}

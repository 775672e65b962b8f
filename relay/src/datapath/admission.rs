//! Whether a packet out of a datagram may reach the TUN.
//!
//! The inner source must belong to the node that sent the datagram, by its lease; the inner destination must belong
//! here. The datagram's source port is not looked at: a translator between the nodes may change it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{counters::DropReason, routes::Routes};

/// Checks the three addresses of a datagram and its packet: the node it came from, inner source, inner destination.
///
/// # Errors
/// The reason to drop it under.
pub fn admit(
    routes: &Routes,
    own_subnet: Ipv4Net,
    node: Ipv4Addr,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<(), DropReason> {
    if is_martian(source) {
        return Err(DropReason::MartianSource);
    }
    match routes.lookup(source) {
        None => return Err(DropReason::UnknownSource),
        Some(owner) if owner != node => return Err(DropReason::SpoofedSource),
        Some(_) => {}
    }
    if own_subnet.contains(&destination) { Ok(()) } else { Err(DropReason::ForeignDestination) }
}

/// Whether no packet that crosses a network may have this source (RFC 1812 section 5.3.7).
#[must_use]
pub const fn is_martian(source: Ipv4Addr) -> bool {
    matches!(source.octets()[0], 0 | 127 | 224..=255)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

    fn admitted(node: Ipv4Addr, source: [u8; 4], destination: [u8; 4]) -> Result<(), DropReason> {
        let routes = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
        routes.apply(&[("10.5.17.0/24".parse().unwrap(), Some(NODE))], 1);
        admit(&routes, "10.5.56.0/24".parse().unwrap(), node, source.into(), destination.into())
    }

    #[test]
    fn containers_and_the_tun_address_of_the_leasing_node_are_admitted() {
        assert_eq!(admitted(NODE, [10, 5, 17, 2], [10, 5, 56, 2]), Ok(()));
        assert_eq!(admitted(NODE, [10, 5, 17, 0], [10, 5, 56, 0]), Ok(()));
    }

    #[test]
    fn a_node_speaks_for_its_own_subnet_only() {
        let stranger = Ipv4Addr::new(192, 168, 0, 9);
        assert_eq!(admitted(stranger, [10, 5, 17, 2], [10, 5, 56, 2]), Err(DropReason::SpoofedSource));
        assert_eq!(admitted(NODE, [10, 5, 18, 2], [10, 5, 56, 2]), Err(DropReason::UnknownSource));
        assert_eq!(admitted(NODE, [10, 5, 56, 3], [10, 5, 56, 2]), Err(DropReason::UnknownSource));
        assert_eq!(admitted(NODE, [192, 168, 0, 2], [10, 5, 56, 2]), Err(DropReason::UnknownSource));
    }

    #[test]
    fn nothing_is_carried_on_to_a_third_place() {
        for destination in
            [[10, 5, 18, 2], [127, 0, 0, 1], [8, 8, 8, 8], [224, 0, 0, 1], [255, 255, 255, 255]]
        {
            assert_eq!(admitted(NODE, [10, 5, 17, 2], destination), Err(DropReason::ForeignDestination));
        }
    }

    #[test]
    fn sources_that_may_cross_no_network_are_martian() {
        for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert_eq!(admitted(NODE, source, [10, 5, 56, 2]), Err(DropReason::MartianSource));
        }
    }
}

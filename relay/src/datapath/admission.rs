//! Whether a packet out of a datagram may reach the TUN.
//!
//! Three addresses decide: the outer source, which says what node speaks; the inner source, which must be that node's;
//! the inner destination, which must belong here. It is the ingress filter of RFC 2827, with the leases as the list of
//! who may use which source. The datagram's source port is not looked at: a translator between the nodes may change it.
//!
//! A node's addresses are those of its leased subnet and the one that its lease names. The second is what a program on
//! the node itself sends from when it answers a container here: the container's packet reached that address by the
//! plain way, the answer comes by the tunnel. It gives nobody an identity that he had not before: who can send
//! datagrams from an address could already use it, and the whole subnet leased to it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{counters::DropReason, routes::Routes};

/// What this node lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The subnet that this node leases: what is not for it has no business here.
    pub own_subnet: Ipv4Net,
    /// Whether datagrams of other nodes arrive from addresses that are not in their leases. The outer source proves
    /// nothing then, and whoever can send to the tunnel's port can use any node's container addresses.
    pub peers_behind_nat: bool,
}

impl Admission {
    /// Checks the addresses of a datagram and its packet: the `node` that it came from, inner source, inner
    /// destination.
    ///
    /// # Errors
    /// The reason to drop it under.
    pub fn check(
        &self,
        routes: &Routes,
        node: Ipv4Addr,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> Result<(), DropReason> {
        if is_martian(source) {
            return Err(DropReason::MartianSource);
        }
        if self.own_subnet.contains(&source) {
            return Err(DropReason::SpoofedSource);
        }
        match routes.lookup(source) {
            Some(owner) if owner == node || self.peers_behind_nat => {}
            Some(_) => return Err(DropReason::SpoofedSource),
            None if source == node && routes.is_node(node) => {}
            None => return Err(DropReason::UnknownSource),
        }
        if self.own_subnet.contains(&destination) { Ok(()) } else { Err(DropReason::ForeignDestination) }
    }
}

/// Whether no packet that crosses a network may have this source (RFC 1812 section 5.3.7).
#[must_use]
pub const fn is_martian(source: Ipv4Addr) -> bool {
    matches!(source.octets()[0], 0 | 127 | 224..=255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
    const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);
    const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 9);

    fn routes() -> Routes {
        let routes = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
        let lease = |subnet: &str, node| (subnet.parse().unwrap(), Some(node));
        routes.apply(&[lease("10.5.17.0/24", NODE), lease("10.5.18.0/24", THIRD)], 1);
        routes
    }

    fn admission(peers_behind_nat: bool) -> Admission {
        Admission { own_subnet: "10.5.56.0/24".parse().unwrap(), peers_behind_nat }
    }

    fn admitted(node: Ipv4Addr, source: [u8; 4], destination: [u8; 4]) -> Result<(), DropReason> {
        admission(false).check(&routes(), node, source.into(), destination.into())
    }

    fn admitted_behind_nat(node: Ipv4Addr, source: [u8; 4], destination: [u8; 4]) -> Result<(), DropReason> {
        admission(true).check(&routes(), node, source.into(), destination.into())
    }

    #[test]
    fn containers_and_the_tun_address_of_the_leasing_node_are_admitted() {
        assert_eq!(admitted(NODE, [10, 5, 17, 2], [10, 5, 56, 2]), Ok(()));
        assert_eq!(admitted(NODE, [10, 5, 17, 0], [10, 5, 56, 0]), Ok(()));
    }

    #[test]
    fn a_node_may_speak_with_the_address_in_its_lease_and_no_other_of_the_underlay() {
        assert_eq!(admitted(NODE, NODE.octets(), [10, 5, 56, 2]), Ok(()));
        assert_eq!(admitted(NODE, NODE.octets(), [10, 5, 18, 2]), Err(DropReason::ForeignDestination));
        assert_eq!(admitted(THIRD, NODE.octets(), [10, 5, 56, 2]), Err(DropReason::UnknownSource));
        assert_eq!(admitted(NODE, [192, 168, 0, 7], [10, 5, 56, 2]), Err(DropReason::UnknownSource));
        assert_eq!(admitted(STRANGER, STRANGER.octets(), [10, 5, 56, 2]), Err(DropReason::UnknownSource));
    }

    #[test]
    fn a_node_speaks_for_its_own_subnet_only() {
        assert_eq!(admitted(STRANGER, [10, 5, 17, 2], [10, 5, 56, 2]), Err(DropReason::SpoofedSource));
        assert_eq!(admitted(THIRD, [10, 5, 17, 2], [10, 5, 56, 2]), Err(DropReason::SpoofedSource));
        assert_eq!(admitted(NODE, [10, 5, 19, 2], [10, 5, 56, 2]), Err(DropReason::UnknownSource));
    }

    #[test]
    fn nobody_speaks_for_this_nodes_subnet() {
        for node in [NODE, STRANGER, Ipv4Addr::new(10, 5, 56, 3)] {
            for check in [admitted, admitted_behind_nat] {
                assert_eq!(check(node, [10, 5, 56, 3], [10, 5, 56, 2]), Err(DropReason::SpoofedSource));
            }
        }
    }

    #[test]
    fn nothing_is_carried_on_to_a_third_place() {
        for destination in
            [[10, 5, 18, 2], [127, 0, 0, 1], [8, 8, 8, 8], [224, 0, 0, 1], [255, 255, 255, 255]]
        {
            for check in [admitted, admitted_behind_nat] {
                assert_eq!(check(NODE, [10, 5, 17, 2], destination), Err(DropReason::ForeignDestination));
            }
        }
    }

    #[test]
    fn sources_that_may_cross_no_network_are_martian() {
        for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            for check in [admitted, admitted_behind_nat] {
                assert_eq!(check(NODE, source, [10, 5, 56, 2]), Err(DropReason::MartianSource));
            }
        }
    }

    #[test]
    fn behind_a_translator_a_node_is_known_by_its_containers_alone() {
        assert_eq!(admitted_behind_nat(STRANGER, [10, 5, 17, 2], [10, 5, 56, 2]), Ok(()));
        assert_eq!(admitted_behind_nat(STRANGER, [10, 5, 18, 0], [10, 5, 56, 0]), Ok(()));
        assert_eq!(admitted_behind_nat(NODE, NODE.octets(), [10, 5, 56, 2]), Ok(()));
        let unknown = Err(DropReason::UnknownSource);
        assert_eq!(admitted_behind_nat(STRANGER, [10, 5, 19, 2], [10, 5, 56, 2]), unknown);
        assert_eq!(admitted_behind_nat(STRANGER, STRANGER.octets(), [10, 5, 56, 2]), unknown);
        assert_eq!(admitted_behind_nat(STRANGER, NODE.octets(), [10, 5, 56, 2]), unknown);
    }

    /// Addresses in and around everything that has a meaning here.
    fn address() -> impl Strategy<Value = Ipv4Addr> {
        prop_oneof![
            (16u8..20, any::<u8>()).prop_map(|(third, last)| Ipv4Addr::new(10, 5, third, last)),
            any::<u8>().prop_map(|last| Ipv4Addr::new(10, 5, 56, last)),
            (1u8..10).prop_map(|last| Ipv4Addr::new(192, 168, 0, last)),
            any::<u32>().prop_map(Ipv4Addr::from_bits),
        ]
    }

    proptest! {
        #[test]
        fn what_is_admitted_is_a_nodes_own_and_for_this_subnet(
            node in address(), source in address(), destination in address(), peers_behind_nat: bool
        ) {
            let leased = |address: Ipv4Addr| match address.octets() {
                [10, 5, 17, _] => Some(NODE),
                [10, 5, 18, _] => Some(THIRD),
                _ => None,
            };
            let its_own = match leased(source) {
                Some(owner) => peers_behind_nat || owner == node,
                None => source == node && [NODE, THIRD].contains(&node),
            };
            let here = destination.octets()[..3] == [10, 5, 56];
            let answer = admission(peers_behind_nat).check(&routes(), node, source, destination);
            prop_assert_eq!(answer.is_ok(), its_own && here);
        }
    }
}

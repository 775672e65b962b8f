//! From the TUN to the underlay: what becomes of one packet.

use std::net::Ipv4Addr;

use super::{Verdict, counters::DropReason, routes::Routes, segment::Plan};
use crate::wire::{icmpv4::Error, ipv4::Packet, virtio};

/// Checks the packet in `bytes`, finds its node and lowers its TTL in place. The plan tells how many packets it is
/// on the wire, whatever becomes of it.
///
/// The route is looked up before the TTL is looked at, as flannel's proxy does: a packet with neither gets "net
/// unreachable" and nothing else. A rejected packet is left as it came, to be quoted.
pub fn decide(bytes: &mut [u8], offload: &virtio::Header, routes: &Routes) -> (Plan, Verdict<Ipv4Addr>) {
    let length = bytes.len();
    let mut packet = match Packet::new_checked(bytes) {
        Ok(packet) => packet,
        Err(malformed) => return (Plan::whole(length), Verdict::Drop(malformed.into())),
    };
    let Ok(plan) = Plan::new(&packet, offload) else {
        return (Plan::whole(length), Verdict::Drop(DropReason::BadOffload));
    };
    let Some(node) = routes.lookup(packet.destination()) else {
        return (plan, Verdict::Reject(DropReason::NoRoute, Error::NetUnreachable));
    };
    if packet.ttl() <= 1 {
        return (plan, Verdict::Reject(DropReason::TtlExpired, Error::TimeExceeded));
    }
    packet.decrement_ttl();
    (plan, Verdict::Forward(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{checksum, ipv4::test_packet};
    use proptest::prelude::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 2);
    const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 5, 99, 1);

    fn routes() -> Routes {
        let routes = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
        routes.apply(&[("10.5.17.0/24".parse().unwrap(), Some(NODE))], 1);
        routes
    }

    fn decide(bytes: &mut [u8], routes: &Routes) -> Verdict<Ipv4Addr> {
        super::decide(bytes, &virtio::Header::PLAIN, routes).1
    }

    #[test]
    fn a_routed_packet_loses_one_ttl_and_keeps_a_valid_header() {
        let mut bytes = test_packet(HERE, THERE, 64, 17, b"data");
        assert_eq!(decide(&mut bytes, &routes()), Verdict::Forward(NODE));
        assert_eq!(bytes[8], 63);
        assert_eq!(checksum::sum(&bytes[..20]), 0xffff);
        assert_eq!(&bytes[20..], b"data");
    }

    #[test]
    fn a_ttl_of_two_passes_and_one_or_zero_expires() {
        for (ttl, passes) in [(2, true), (1, false), (0, false)] {
            let mut bytes = test_packet(HERE, THERE, ttl, 17, b"data");
            let before = bytes.clone();
            let verdict = decide(&mut bytes, &routes());
            if passes {
                assert!(matches!(verdict, Verdict::Forward(_)));
            } else {
                assert_eq!(verdict, Verdict::Reject(DropReason::TtlExpired, Error::TimeExceeded));
                assert_eq!(bytes, before, "a rejected packet is quoted as it came");
            }
        }
    }

    #[test]
    fn a_missing_route_is_told_before_an_expired_ttl() {
        let mut bytes = test_packet(HERE, NOWHERE, 1, 17, b"data");
        assert_eq!(
            decide(&mut bytes, &routes()),
            Verdict::Reject(DropReason::NoRoute, Error::NetUnreachable)
        );
    }

    #[test]
    fn the_kernels_ipv6_messages_have_a_reason_of_their_own() {
        assert_eq!(decide(&mut [0x60; 48], &routes()), Verdict::Drop(DropReason::NotIpv4));
    }

    #[test]
    fn an_offload_header_that_does_not_fit_is_a_reason_of_its_own() {
        let mut bytes = test_packet(HERE, THERE, 64, 17, b"data");
        let offload = virtio::Header { gso: virtio::Gso::Tcp4, ..virtio::Header::PLAIN };
        let (plan, verdict) = super::decide(&mut bytes, &offload, &routes());
        assert_eq!((plan.count(), verdict), (1, Verdict::Drop(DropReason::BadOffload)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in any::<bool>(), header: [u8; 12]
        ) {
            if let (true, Some(first)) = (version, bytes.first_mut()) {
                *first = 0x45;
            }
            let before = bytes.clone();
            let (plan, verdict) = super::decide(&mut bytes, &virtio::Header::from_bytes(header), &routes());
            prop_assert!(plan.count() > 0);
            match verdict {
                Verdict::Forward(_) => prop_assert!(plan.octets() >= 20),
                Verdict::Drop(_) | Verdict::Reject(..) => prop_assert_eq!(bytes, before),
            }
        }
    }
}

//! From the TUN to the underlay: what becomes of one packet.

use std::net::Ipv4Addr;

use super::{Verdict, counters::DropReason, routes::Routes};
use crate::wire::{icmpv4::Error, ipv4::Packet};

/// A packet ready to be sent: the first `length` octets of the buffer, to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// The node that leases the destination's subnet.
    pub node: Ipv4Addr,
    /// Octets to send.
    pub length: usize,
}

/// Checks the packet in `bytes`, finds its node and lowers its TTL in place.
///
/// The route is looked up before the TTL is looked at, as flannel's proxy does: a packet with neither gets "net
/// unreachable" and nothing else. A rejected packet is left as it came, to be quoted.
pub fn decide(bytes: &mut [u8], routes: &Routes) -> Verdict<Send> {
    let mut packet = match Packet::new_checked(bytes) {
        Ok(packet) => packet,
        Err(malformed) => return Verdict::Drop(malformed.into()),
    };
    let Some(node) = routes.lookup(packet.destination()) else {
        return Verdict::Reject(DropReason::NoRoute, Error::NetUnreachable);
    };
    if packet.ttl() <= 1 {
        return Verdict::Reject(DropReason::TtlExpired, Error::TimeExceeded);
    }
    packet.decrement_ttl();
    Verdict::Forward(Send { node, length: packet.total_length() })
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

    #[test]
    fn a_routed_packet_loses_one_ttl_and_keeps_a_valid_header() {
        let mut bytes = test_packet(HERE, THERE, 64, 17, b"data");
        let whole = bytes.len();
        assert_eq!(decide(&mut bytes, &routes()), Verdict::Forward(Send { node: NODE, length: whole }));
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

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in any::<bool>()) {
            if let (true, Some(first)) = (version, bytes.first_mut()) {
                *first = 0x45;
            }
            let before = bytes.clone();
            match decide(&mut bytes, &routes()) {
                Verdict::Forward(send) => prop_assert!(send.length <= bytes.len()),
                Verdict::Drop(_) | Verdict::Reject(..) => prop_assert_eq!(bytes, before),
            }
        }
    }
}

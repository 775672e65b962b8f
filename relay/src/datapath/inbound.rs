//! From the underlay to the TUN: what becomes of one datagram.

use std::net::Ipv4Addr;

use super::{Verdict, admission::Admission, counters::DropReason, routes::Routes};
use crate::wire::{icmpv4::Error, ipv4::Packet};

/// A packet ready for the TUN: the first `length` octets of the buffer, padding cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver {
    /// Octets to write.
    pub length: usize,
}

/// Checks the packet in the datagram that came from `node`, whether it may enter, and lowers its TTL in place.
///
/// A rejected packet is left as it came, to be quoted.
pub fn decide(bytes: &mut [u8], node: Ipv4Addr, routes: &Routes, admission: &Admission) -> Verdict<Deliver> {
    let mut packet = match Packet::new_checked(bytes) {
        Ok(packet) => packet,
        Err(malformed) => return Verdict::Drop(malformed.into()),
    };
    if let Err(reason) = admission.check(routes, node, packet.source(), packet.destination()) {
        return Verdict::Drop(reason);
    }
    if packet.ttl() <= 1 {
        return Verdict::Reject(DropReason::TtlExpired, Error::TimeExceeded);
    }
    packet.decrement_ttl();
    Verdict::Forward(Deliver { length: packet.total_length() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{checksum, ipv4::test_packet};
    use proptest::prelude::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 2);
    const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);

    fn decide_here(bytes: &mut [u8], node: Ipv4Addr) -> Verdict<Deliver> {
        let routes = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
        routes.apply(&[("10.5.17.0/24".parse().unwrap(), Some(NODE))], 1);
        let admission = Admission { own_subnet: "10.5.56.0/24".parse().unwrap(), peers_behind_nat: false };
        decide(bytes, node, &routes, &admission)
    }

    #[test]
    fn an_admitted_packet_loses_one_ttl_and_its_padding() {
        let mut bytes = test_packet(REMOTE, LOCAL, 62, 1, b"echo");
        bytes.extend_from_slice(b"padding");
        assert_eq!(decide_here(&mut bytes, NODE), Verdict::Forward(Deliver { length: 24 }));
        assert_eq!(bytes[8], 61);
        assert_eq!(checksum::sum(&bytes[..20]), 0xffff);
    }

    #[test]
    fn an_expired_ttl_is_told_only_to_an_admitted_source() {
        let mut bytes = test_packet(REMOTE, LOCAL, 1, 1, b"echo");
        assert_eq!(
            decide_here(&mut bytes, NODE),
            Verdict::Reject(DropReason::TtlExpired, Error::TimeExceeded)
        );
        let stranger = Ipv4Addr::new(192, 168, 0, 9);
        assert_eq!(decide_here(&mut bytes, stranger), Verdict::Drop(DropReason::SpoofedSource));
    }

    #[test]
    fn a_ttl_of_zero_does_not_wrap() {
        let mut bytes = test_packet(REMOTE, LOCAL, 0, 1, b"echo");
        assert!(matches!(decide_here(&mut bytes, NODE), Verdict::Reject(DropReason::TtlExpired, _)));
        assert_eq!(bytes[8], 0);
    }

    #[test]
    fn a_corrupt_header_is_refused_before_its_addresses_are_believed() {
        let mut bytes = test_packet(REMOTE, LOCAL, 62, 1, b"echo");
        bytes[10] ^= 1;
        assert_eq!(decide_here(&mut bytes, NODE), Verdict::Drop(DropReason::BadHeaderChecksum));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Verdict::Forward(deliver) = decide_here(&mut bytes, NODE) {
                prop_assert!(deliver.length <= bytes.len());
            }
        }
    }
}

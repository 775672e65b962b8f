//! ICMP errors about packets that end in the relay: when they may be sent, and what they say.
//!
//! flannel's proxy writes its errors into the TUN with a local source, which Linux discards as martian. Here they
//! leave through a raw socket: the kernel routes them to the inner source and picks the address of that way as
//! their source, the bridge's towards a container of this node, the TUN's towards one of another.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    admission::is_martian,
    counters::IcmpSuppressed,
    rate::Flow,
    routes::{self, Routes},
};
use crate::wire::{
    checksum,
    icmpv4::{self, ERROR_HEADER, Error},
    ipv4::{self, MIN_HEADER, Packet},
    tcp, udp,
};

/// Octets of the longest error datagram (RFC 1812 section 4.3.2.3).
pub const MAX_DATAGRAM: usize = 576;

/// Precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

const TTL: u8 = 64;

/// Whose packets are answered with errors. An error goes to the source that the packet claims: about a packet with
/// somebody else's, it would be sent to one who has nothing to do with it.
#[derive(Debug, Clone, Copy)]
pub enum Audience<'a> {
    /// What came from the TUN: containers of this node, and the node itself.
    Own {
        /// The subnet that this node leases.
        subnet: Ipv4Net,
        /// The node's address on the underlay.
        address: Ipv4Addr,
        /// Where packets go.
        routes: &'a Routes,
    },
    /// What came from the underlay and was [admitted](super::admission).
    Admitted {
        /// The subnet that this node leases.
        subnet: Ipv4Net,
        /// The routes that it was admitted by.
        routes: &'a Routes,
    },
}

impl Audience<'_> {
    fn includes(self, source: Ipv4Addr) -> bool {
        match self {
            Self::Own { subnet, address, .. } => subnet.contains(&source) || address == source,
            Self::Admitted { .. } => true,
        }
    }

    /// Whether all hosts of a subnet have this address.
    fn is_broadcast(self, address: Ipv4Addr) -> bool {
        let (Self::Own { subnet, routes, .. } | Self::Admitted { subnet, routes }) = self;
        routes::is_broadcast(subnet, address) || routes.is_broadcast(address)
    }

    /// Whether this destination is a broadcast to all of the overlay's network, or the old form of one. It is one host's
    /// where a route leads to it: a subnet's first address is that of its node's tunnel device.
    fn is_whole_network(self, destination: Ipv4Addr, error: Error) -> bool {
        let (Self::Own { routes, .. } | Self::Admitted { routes, .. }) = self;
        let network = routes.network();
        error == Error::NetUnreachable
            && (destination == network.network() || destination == network.broadcast())
    }
}

/// A whole error datagram for an `IPPROTO_RAW` socket, and where it goes.
#[derive(Debug)]
pub struct Datagram {
    bytes: [u8; MAX_DATAGRAM],
    length: usize,
    about: Flow,
}

impl Datagram {
    /// The datagram. Its source, identification and header checksum are left to the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The rejected packet's source.
    pub fn destination(&self) -> Ipv4Addr {
        self.about.destination
    }

    /// What the rejected packet is one of.
    pub fn flow(&self) -> Flow {
        self.about
    }
}

fn flow<B: AsRef<[u8]>>(packet: &Packet<B>) -> Flow {
    let payload = packet.payload();
    let ports = match packet.protocol() {
        tcp::PROTOCOL | udp::PROTOCOL => payload.first_chunk().map_or(0, |ports| u32::from_be_bytes(*ports)),
        // The identifier of a question; about anything else there are no errors.
        icmpv4::PROTOCOL => payload.get(4..6).map_or(0, |id| u32::from(id[0]) << 8 | u32::from(id[1])),
        _ => 0,
    };
    Flow { destination: packet.source(), protocol: packet.protocol(), ports }
}

/// The error to send about `offender`.
///
/// # Errors
/// RFC 1122 section 3.2.2 and RFC 1812 section 4.3.2.7 forbid it: about an ICMP error, a fragment other than the first,
/// a packet to or from an address that is not one host's. Or the source is not of the `audience`.
pub fn error_about(
    offender: &[u8],
    error: Error,
    audience: Audience<'_>,
) -> Result<Datagram, IcmpSuppressed> {
    let packet = Packet::new_checked(offender).map_err(|_| IcmpSuppressed::Forbidden)?;
    let (source, destination) = (packet.source(), packet.destination());
    if packet.fragment_offset() != 0
        || is_martian(source)
        || matches!(destination.octets()[0], 224..=239 | 255)
        || audience.is_broadcast(source)
        || audience.is_broadcast(destination)
        || audience.is_whole_network(destination, error)
    {
        return Err(IcmpSuppressed::Forbidden);
    }
    if packet.protocol() == icmpv4::PROTOCOL
        && packet.payload().first().is_none_or(|kind| icmpv4::is_error_type(*kind))
    {
        return Err(IcmpSuppressed::Forbidden);
    }
    if !audience.includes(source) {
        return Err(IcmpSuppressed::ForeignSource);
    }

    let quote = packet.as_bytes();
    let quote = &quote[..quote.len().min(MAX_DATAGRAM - MIN_HEADER - ERROR_HEADER)];
    let length = MIN_HEADER + ERROR_HEADER + quote.len();
    let mut bytes = [0; MAX_DATAGRAM];
    bytes[..MIN_HEADER].copy_from_slice(&ipv4::raw_header(TOS, length as u16, TTL, icmpv4::PROTOCOL, source));
    let message = &mut bytes[MIN_HEADER..length];
    message[..ERROR_HEADER].copy_from_slice(&error.header());
    message[ERROR_HEADER..].copy_from_slice(quote);
    let sum = checksum::checksum(message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(Datagram { bytes, length, about: flow(&packet) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4::{test_packet, test_seal};
    use proptest::prelude::*;

    const SENDER: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);
    const ABSENT: Ipv4Addr = Ipv4Addr::new(10, 5, 99, 1);

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    /// Routes to 10.5.17.0/24, 10.5.56.0/24 and 10.5.255.254/31.
    fn routes() -> Routes {
        let routes = Routes::new(net("10.5.0.0/16"), 24);
        let changes = ["10.5.17.0/24", "10.5.56.0/24", "10.5.255.254/31"].map(|to| (net(to), Some(NODE)));
        routes.apply(&changes, 1);
        routes
    }

    /// The error about what came out of the TUN of the node with 10.5.56.0/24.
    fn here(packet: &[u8], error: Error) -> Result<Datagram, IcmpSuppressed> {
        let own = Audience::Own { subnet: net("10.5.56.0/24"), address: NODE, routes: &routes() };
        error_about(packet, error, own)
    }

    /// The error about what came from the underlay to the node with 10.5.99.0/24.
    fn there(packet: &[u8], error: Error) -> Result<Datagram, IcmpSuppressed> {
        error_about(packet, error, Audience::Admitted { subnet: net("10.5.99.0/24"), routes: &routes() })
    }

    fn answer_to(packet: &[u8]) -> Option<Datagram> {
        there(packet, Error::NetUnreachable).ok()
    }

    #[test]
    fn a_packet_from_all_hosts_of_a_subnet_gets_no_error() {
        let packet = |last| test_packet(Ipv4Addr::new(10, 5, 56, last), ABSENT, 64, 17, &[7; 8]);
        for (last, answered) in [(0, true), (1, true), (254, true), (255, false)] {
            assert_eq!(here(&packet(last), Error::TimeExceeded).is_ok(), answered, "{last}");
            assert_eq!(answer_to(&packet(last)).is_some(), answered, "{last}");
        }
    }

    #[test]
    fn a_packet_to_all_hosts_of_a_subnet_gets_no_error() {
        let packet = |to: [u8; 4]| test_packet(SENDER, to.into(), 64, 17, &[7; 8]);
        for (to, answered) in [
            ([10, 5, 17, 255], false),
            ([10, 5, 17, 254], true),
            ([10, 5, 98, 255], true),
            ([10, 5, 255, 255], true),
        ] {
            assert_eq!(here(&packet(to), Error::TimeExceeded).is_ok(), answered, "{to:?}");
        }
        for (last, answered) in [(255, false), (254, true), (0, true)] {
            assert_eq!(there(&packet([10, 5, 99, last]), Error::TimeExceeded).is_ok(), answered, "{last}");
        }
    }

    #[test]
    fn the_networks_first_and_last_address_are_answered_for_only_where_a_route_leads_to_them() {
        let to = |destination: [u8; 4], error| {
            here(&test_packet(SENDER, destination.into(), 64, 17, &[7; 8]), error).is_ok()
        };
        for ends in [[10, 5, 0, 0], [10, 5, 255, 255]] {
            assert!(!to(ends, Error::NetUnreachable));
            assert!(to(ends, Error::TimeExceeded));
        }
        assert!(to([10, 5, 98, 0], Error::NetUnreachable));
    }

    #[test]
    fn only_this_nodes_own_packets_out_of_the_tun_are_answered() {
        let answer = |source: [u8; 4]| {
            let packet = test_packet(source.into(), ABSENT, 64, 17, &[7; 8]);
            here(&packet, Error::NetUnreachable).map(|error| error.destination())
        };
        for source in [[10, 5, 56, 0], [10, 5, 56, 2], NODE.octets()] {
            assert_eq!(answer(source), Ok(source.into()));
        }
        for source in [[10, 5, 17, 2], [192, 168, 0, 2], [198, 51, 100, 1]] {
            assert_eq!(answer(source).unwrap_err(), IcmpSuppressed::ForeignSource);
        }
        assert_eq!(answer([127, 0, 0, 1]).unwrap_err(), IcmpSuppressed::Forbidden);
    }

    #[test]
    fn the_error_quotes_a_short_packet_whole_and_no_more() {
        let packet = test_packet(SENDER, ABSENT, 64, 17, b"sixteen octets..");
        let error = answer_to(&packet).unwrap();
        let bytes = error.as_bytes();
        assert_eq!(error.destination(), SENDER);
        assert_eq!(bytes.len(), 20 + 8 + packet.len());
        assert_eq!(&bytes[28..], &packet[..]);
        assert_eq!(&bytes[20..22], &[3, 0]);
        assert_eq!(checksum::sum(&bytes[20..]), 0xffff);
        assert_eq!((bytes[1], bytes[8], bytes[9]), (0xc0, 64, 1));
    }

    #[test]
    fn the_error_is_576_octets_at_most() {
        let packet = test_packet(SENDER, ABSENT, 64, 17, &[7; 1400]);
        let error = answer_to(&packet).unwrap();
        assert_eq!(error.as_bytes().len(), 576);
        assert_eq!(&error.as_bytes()[28..], &packet[..548]);
    }

    #[test]
    fn packets_are_of_one_flow_by_source_protocol_and_ports() {
        let flow = |protocol, payload: &[u8]| {
            let error = answer_to(&test_packet(SENDER, ABSENT, 64, protocol, payload)).unwrap();
            let Flow { destination, protocol, ports } = error.flow();
            assert_eq!(destination, SENDER);
            (protocol, ports)
        };
        assert_eq!(flow(17, &[0x9c, 0x40, 0, 53, 1, 2]), (17, 0x9c40_0035));
        assert_eq!(flow(6, &[0, 80, 0x9c, 0x40, 9, 9]), (6, 0x0050_9c40));
        assert_eq!(flow(17, &[1, 2, 3]), (17, 0));
        assert_eq!(flow(1, &[8, 0, 0xaa, 0xbb, 0x12, 0x34, 0, 1]), (1, 0x1234));
        assert_eq!(flow(47, &[1, 2, 3, 4, 5, 6]), (47, 0));
    }

    #[test]
    fn padding_is_not_quoted() {
        let mut packet = test_packet(SENDER, ABSENT, 64, 17, &[7; 8]);
        packet.extend_from_slice(&[0xee; 100]);
        assert_eq!(answer_to(&packet).unwrap().as_bytes().len(), 28 + 28);
    }

    #[test]
    fn fragmentation_needed_carries_the_mtu() {
        let packet = test_packet(SENDER, ABSENT, 64, 17, &[7; 8]);
        let error = here(&packet, Error::FragmentationNeeded { mtu: 1372 }).unwrap();
        assert_eq!(&error.as_bytes()[20..22], &[3, 4]);
        assert_eq!(&error.as_bytes()[26..28], &1372u16.to_be_bytes());
    }

    #[test]
    fn an_icmp_error_gets_no_error_and_an_echo_request_does() {
        for kind in 0..=255 {
            let packet = test_packet(SENDER, ABSENT, 64, 1, &[kind, 0, 0, 0, 0, 0, 0, 0]);
            let answered = answer_to(&packet).is_some();
            assert_eq!(answered, ![3, 4, 5, 11, 12].contains(&kind), "type {kind}");
        }
        assert!(answer_to(&test_packet(SENDER, ABSENT, 64, 1, &[])).is_none(), "type unknown");
    }

    #[test]
    fn the_first_fragment_is_answered_and_later_ones_are_not() {
        let mut packet = test_packet(SENDER, ABSENT, 64, 17, &[7; 16]);
        packet[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
        test_seal(&mut packet);
        assert!(answer_to(&packet).is_some());
        packet[6..8].copy_from_slice(&0x2001u16.to_be_bytes());
        test_seal(&mut packet);
        assert!(answer_to(&packet).is_none());
    }

    #[test]
    fn addresses_that_are_not_one_hosts_get_no_error() {
        for destination in [[224, 0, 0, 251], [239, 255, 255, 255], [255; 4]] {
            assert!(answer_to(&test_packet(SENDER, destination.into(), 64, 17, &[7; 8])).is_none());
        }
        for source in [[0, 0, 0, 0], [0, 0, 0, 9], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(answer_to(&test_packet(source.into(), ABSENT, 64, 17, &[7; 8])).is_none());
        }
    }

    proptest! {
        #[test]
        fn errors_about_arbitrary_bytes_never_panic_and_never_exceed_what_arrived(
            bytes in prop::collection::vec(any::<u8>(), 0..120)
        ) {
            if let Some(error) = answer_to(&bytes) {
                prop_assert!(error.as_bytes().len() <= bytes.len() + 28);
            }
        }
    }
}

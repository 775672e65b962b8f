//! Whatever the registry says, no packet goes round: what a node lets in, it does not send out again.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use relay::{
    datapath::{Verdict, admission::Admission, inbound, outbound, routes::Routes},
    lease::{self, Lease},
    network::Network,
    registry::{Batch, Entry, Event, table::LeaseTable},
    wire::{checksum, virtio},
};

const ME: Ipv4Addr = node(1);

const fn node(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, last)
}

fn packet(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A key that takes a part of 10.5.0.0/16, the whole or more, and its holder: this node among others.
fn lease() -> impl Strategy<Value = (String, Ipv4Addr)> {
    (0u32..=0xffff, 8u8..=31, 1u8..4).prop_map(|(low, length, holder)| {
        let mask = u32::MAX << (32 - u32::from(length));
        let base = Ipv4Addr::from_bits((0x0a05_0000 | low) & mask);
        (format!("{base}-{length}"), node(holder))
    })
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    let overlay = (0u32..=0xffff).prop_map(|low| Ipv4Addr::from_bits(0x0a05_0000 | low));
    prop_oneof![overlay, any::<u8>().prop_map(|last| Ipv4Addr::new(10, 5, 1, last)), (0u8..5).prop_map(node)]
}

proptest! {
    #[test]
    fn what_is_let_in_is_not_sent_out_and_this_nodes_subnet_is_nobody_elses(
        leases in prop::collection::vec(lease(), 0..12),
        packets in prop::collection::vec((address(), address(), 0u8..5), 1..40),
        peers_behind_nat: bool,
    ) {
        let network = Network::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let own_subnet = "10.5.1.0/24".parse().unwrap();
        let routes = Routes::new(network.prefix, network.subnet_len);
        let mut table = LeaseTable::new(network, Lease { subnet: own_subnet, public_ip: ME });
        for (revision, (key, holder)) in (1..).zip(leases) {
            let entry = Entry { key, value: lease::value(holder), mod_revision: revision, expires: true };
            let folded = table.apply_batch(&Batch { events: vec![Event::Put(entry)], revision });
            routes.apply(&folded.changes, revision);
        }
        let admission = Admission { own_subnet, peers_behind_nat };
        for (source, destination, from) in packets {
            let mut inner = packet(source, destination);
            let let_in = matches!(inbound::decide(&mut inner, node(from), &routes, &admission), Verdict::Forward(_));
            let mut inner = packet(source, destination);
            let (_, verdict) = outbound::decide(&mut inner, &virtio::Header::PLAIN, &routes);
            if let Verdict::Forward(next_hop) = verdict {
                prop_assert!(!let_in && next_hop != ME);
                prop_assert!(!own_subnet.contains(&destination), "{} is this node's", destination);
            }
        }
    }
}

//! Large packets all the way: cut on the one node, admitted and merged on the other.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{
    Verdict,
    admission::Admission,
    coalesce::Coalescer,
    inbound,
    kit::{defect, octets, seal_partly, tcp_packet, udp_packet},
    offload::TunOffload,
    outbound,
    routes::Routes,
    segment::Plan,
};
use crate::wire::{
    ipv4::Packet,
    tcp, udp,
    virtio::{Gso, Header},
};

const SENDER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

fn routes(subnet: &str, node: Ipv4Addr) -> Routes {
    let routes = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
    routes.apply(&[(subnet.parse().unwrap(), Some(node))], 1);
    routes
}

fn cut(packet: &[u8], offload: &Header) -> Vec<Vec<u8>> {
    let plan = Plan::new(&Packet::new_checked(packet).unwrap(), offload).unwrap();
    let mut segments = plan.segments(packet);
    let mut room = vec![0; 65_535];
    std::iter::from_fn(|| segments.write_next(&mut room).map(|length| room[..length].to_vec())).collect()
}

/// What the other node's device is given for a large packet.
fn carry(packet: &mut [u8], offload: &Header) -> Vec<(Header, Vec<u8>)> {
    let (plan, verdict) = outbound::decide(packet, offload, &routes("10.5.17.0/24", RECEIVER));
    assert_eq!(verdict, Verdict::Forward(RECEIVER));
    let there = routes("10.5.56.0/24", SENDER);
    let admission = Admission { own_subnet: "10.5.17.0/24".parse().unwrap(), peers_behind_nat: false };
    let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
    let mut written = Vec::new();
    let mut segments = plan.segments(packet);
    let mut room = vec![0; 65_535];
    while let Some(length) = segments.write_next(&mut room) {
        let datagram = &mut room[..length];
        let Verdict::Forward(deliver) = inbound::decide(datagram, SENDER, &there, &admission) else {
            panic!("not admitted");
        };
        coalescer.push(&datagram[..deliver.length], &mut |large| {
            written.push((large.offload, large.packet.to_vec()));
        });
    }
    coalescer.finish(&mut |large| written.push((large.offload, large.packet.to_vec())));
    written
}

/// Without TTL, checksums and the flags that belong to the first or the last segment only.
fn compared(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] = 0;
    packet[10..12].fill(0);
    match packet[9] {
        tcp::PROTOCOL => {
            packet[20..][tcp::CHECKSUM].fill(0);
            packet[20 + tcp::FLAGS] &= !(tcp::FIN | tcp::PSH | tcp::CWR);
        }
        _ => packet[20..][udp::CHECKSUM].fill(0),
    }
    packet
}

/// Whole, two hops older, and as they left the container.
fn check(packet: &[u8], offload: &Header, written: &[(Header, Vec<u8>)]) -> Result<(), TestCaseError> {
    let arrived: Vec<_> = written.iter().flat_map(|(offload, large)| cut(large, offload)).collect();
    let sent = cut(packet, offload);
    prop_assert_eq!(arrived.len(), sent.len());
    for (arrived, sent) in arrived.iter().zip(&sent) {
        prop_assert_eq!(defect(arrived), None);
        prop_assert_eq!(arrived[8], sent[8] - 2);
        prop_assert_eq!(compared(arrived), compared(sent));
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_large_tcp_packet_arrives_as_one_and_as_it_was(
        length in 2usize..60_000, segment in 1usize..1460, sequence in any::<u32>(), seed in 0usize..1000,
        flags in prop::sample::select(vec![0, tcp::PSH]),
    ) {
        prop_assume!(length > segment);
        let mut packet = tcp_packet(sequence, tcp::ACK | flags, &octets(length, seed));
        let offload = seal_partly(&mut packet, Gso::Tcp4, segment);
        let original = packet.clone();
        let written = carry(&mut packet, &offload);
        check(&original, &offload, &written)?;
        prop_assert_eq!(written.len(), 1);
        let (merged, large) = &written[0];
        prop_assert_eq!((merged.gso, usize::from(merged.segment)), (Gso::Tcp4, segment));
        prop_assert_eq!(large[20 + tcp::FLAGS], original[20 + tcp::FLAGS]);
        prop_assert_eq!(compared(large), compared(&original));
    }

    #[test]
    fn a_large_udp_packet_arrives_as_few_as_may_be_and_as_it_was(
        count in 2usize..200, segment in 1usize..300, short in 0usize..300, seed in 0usize..1000,
    ) {
        let length = count * segment - short.min(segment - 1);
        let mut packet = udp_packet(&octets(length, seed));
        let offload = seal_partly(&mut packet, Gso::Udp, segment);
        let original = packet.clone();
        let written = carry(&mut packet, &offload);
        check(&original, &offload, &written)?;
        prop_assert_eq!(written.len(), count.div_ceil(64));
        if count <= 64 {
            prop_assert_eq!(compared(&written[0].1), compared(&original));
        }
    }
}

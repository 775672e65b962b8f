//! The data path takes no memory per packet.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use relay::{
    datapath::{
        Verdict,
        admission::Admission,
        coalesce::Coalescer,
        icmp, inbound,
        offload::TunOffload,
        outbound,
        routes::Routes,
        runs::Runs,
        udp::{
            self,
            batch::{self, Arrivals},
        },
    },
    wire::icmpv4,
};

mod packet;

/// Counts what the current thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SEGMENT: usize = 1420;

#[test]
fn a_million_octets_through_both_directions_ask_for_no_memory() {
    let (sender, receiver) = (UdpSocket::bind((HERE, 0)).unwrap(), UdpSocket::bind((HERE, 0)).unwrap());
    let SocketAddr::V4(address) = receiver.local_addr().unwrap() else { panic!("bound to IPv4") };
    assert!(udp::enable_runs(&receiver).receive);
    let outward = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
    outward.apply(&[("10.5.17.0/24".parse().unwrap(), Some(HERE))], 1);
    let inward = Routes::new("10.5.0.0/16".parse().unwrap(), 24);
    inward.apply(&[("10.5.56.0/24".parse().unwrap(), Some(HERE))], 1);
    let admission = Admission { own_subnet: "10.5.17.0/24".parse().unwrap(), peers_behind_nat: false };

    let (offload, fresh) = packet::large(SEGMENT, 40);
    let mut packet = fresh.clone();
    let (mut runs, mut arrivals) = (Runs::new(true), Arrivals::new(batch::RECEIVE));
    let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
    let (mut sent, mut written, mut writes, mut answers) = (0, 0, 0, 0);

    let before = ASKED.get();
    for _ in 0..20 {
        packet.copy_from_slice(&fresh);
        let (plan, verdict) = outbound::decide(&mut packet, &offload, &outward);
        let Verdict::Forward(node) = verdict else { panic!("{verdict:?}") };
        let mut segments = plan.segments(&packet);
        while let Some(length) = segments.write_next(runs.room()) {
            runs.push(node, length);
        }
        sent += plan.count();
        let (buffer, waiting) = runs.waiting();
        assert_eq!(batch::send(&sender, address.port(), buffer, waiting).unwrap(), waiting.len());
        runs.clear();
        while written < sent {
            arrivals.receive(&receiver).unwrap();
            for (arrival, octets) in arrivals.iter_mut() {
                for datagram in batch::datagrams(octets, arrival.stride) {
                    let Verdict::Forward(deliver) =
                        inbound::decide(datagram, arrival.node, &inward, &admission)
                    else {
                        panic!("not admitted");
                    };
                    let packet = &datagram[..deliver.length];
                    let error = icmp::error_about(
                        packet,
                        icmpv4::Error::TimeExceeded,
                        icmp::Audience::Admitted { subnet: admission.own_subnet, routes: &inward },
                    );
                    answers += usize::from(error.is_ok());
                    coalescer.push(&datagram[..deliver.length], &mut |large| {
                        written += large.count;
                        writes += 1;
                    });
                }
            }
            coalescer.finish(&mut |large| {
                written += large.count;
                writes += 1;
            });
        }
    }
    let asked = ASKED.get() - before;

    assert_eq!((sent, written, answers), (800, 800, 800));
    assert!(writes < 100, "{writes} writes: large packets were merged");
    assert_eq!(asked, 0);
    drop(vec![0u8; 1]);
    assert!(ASKED.get() > before, "the allocator counts");
}

//! What one packet costs in user space, each step beside its bound: what touches every octet beside a copy of them, a
//! lookup beside the one load that it cannot do without.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    sync::atomic::{AtomicU64, Ordering},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use relay::{
    datapath::{coalesce::Coalescer, offload::TunOffload, routes::Routes, segment::Plan},
    wire::{checksum, ipv4::Packet},
};

#[path = "../tests/packet/mod.rs"]
mod packet;

const SEGMENT: usize = 1420;
const COUNT: usize = 44;

fn checksums(c: &mut Criterion) {
    for length in [20, 92, SEGMENT, COUNT * SEGMENT] {
        let (from, mut to) = (vec![0x5a; length], vec![0; length]);
        let mut group = c.benchmark_group(format!("checksum/{length}"));
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function("sum", |b| b.iter(|| checksum::sum(black_box(&from))));
        group
            .bench_function("copy-and-sum", |b| b.iter(|| checksum::copy_and_sum(black_box(&from), &mut to)));
        group.bench_function("copy", |b| b.iter(|| to.copy_from_slice(black_box(&from))));
    }
}

fn segments(c: &mut Criterion) {
    let (offload, packet) = packet::large(SEGMENT, COUNT);
    let plan = Plan::new(&Packet::new_checked(&packet[..]).expect("well formed"), &offload).expect("fits");
    let mut room = vec![0; plan.octets()];
    let mut group = c.benchmark_group("segment");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function("tcp-44", |b| {
        b.iter(|| {
            let (mut segments, mut at) = (plan.segments(black_box(&packet)), 0);
            while let Some(length) = segments.write_next(&mut room[at..]) {
                at += length;
            }
            at
        });
    });
    group.bench_function("copy", |b| b.iter(|| room[..packet.len()].copy_from_slice(black_box(&packet))));
}

fn coalescing(c: &mut Criterion) {
    let (offload, packet) = packet::large(SEGMENT, COUNT);
    let plan = Plan::new(&Packet::new_checked(&packet[..]).expect("well formed"), &offload).expect("fits");
    let mut segments = plan.segments(&packet);
    let mut room = vec![0; plan.octets()];
    let packets: Vec<Vec<u8>> =
        std::iter::from_fn(|| segments.write_next(&mut room).map(|length| room[..length].to_vec())).collect();
    let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
    let mut group = c.benchmark_group("coalesce");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function("tcp-44", |b| {
        b.iter(|| {
            let mut written = 0;
            for packet in &packets {
                coalescer.push(black_box(packet), &mut |large| written += large.packet.len());
            }
            coalescer.finish(&mut |large| written += large.packet.len());
            written
        });
    });
    let mut room = vec![0; packets.iter().map(Vec::len).sum()];
    group.bench_function("copy", |b| {
        b.iter(|| {
            let mut at = 0;
            for packet in &packets {
                room[at..at + packet.len()].copy_from_slice(black_box(packet));
                at += packet.len();
            }
            at
        });
    });
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    let table: Vec<AtomicU64> = (0..10_000).map(AtomicU64::new).collect();
    let mut at = 0u32;
    group.bench_function("load-10000", |b| {
        b.iter(|| {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            table[black_box((at >> 8) % 10_000) as usize].load(Ordering::Relaxed)
        });
    });
    for (name, odd) in [("flat", None), ("longest-prefix", Some("10.5.0.0/20"))] {
        let routes = Routes::new("10.0.0.0/8".parse().expect("a prefix"), 24);
        let node = Some(Ipv4Addr::new(192, 168, 0, 1));
        let lease = |n: u32| (format!("10.{}.{}.0/24", n >> 8, n & 255).parse().expect("a prefix"), node);
        routes.apply(&(0..10_000).map(lease).collect::<Vec<_>>(), 1);
        routes
            .apply(&odd.map(|net| (net.parse().expect("a prefix"), node)).into_iter().collect::<Vec<_>>(), 2);
        let mut at = 0u32;
        group.bench_function(format!("{name}-10000"), |b| {
            b.iter(|| {
                at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                routes.lookup(black_box(Ipv4Addr::from_bits(0x0a00_0000 + (at >> 8) % (10_000 << 8))))
            });
        });
    }
}

criterion_group!(datapath, checksums, segments, coalescing, lookups);
criterion_main!(datapath);

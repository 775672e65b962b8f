//! Which packets a packet socket records: classic BPF (linux/filter.h) on the packet as it passes the tap.
//!
//! Offsets count from the IP header, whatever link header there is before it (`SKF_NET_OFF`).

use std::ops::RangeInclusive;

use socket2::SockFilter;

use crate::packet::VXLAN_PORT;

/// Source ports of floods, UDP and TCP, which are not recorded packet by packet: no ring has room for them. They lie
/// outside of the range that kernels choose ports from.
pub const FLOOD_PORTS: RangeInclusive<u16> = 29_000..=29_999;

/// `lo` has this index in every namespace.
const LOOPBACK: u32 = 1;
const IPV4: u32 = libc::ETH_P_IP as u32;
const UDP: u32 = 17;
const TCP: u32 = 6;
/// The bits of the fragment field that are the offset.
const OFFSET: u32 = 0x1fff;
/// Octets from a tunnel datagram's UDP header to the protocol of the packet in it, and to that one's source port if its
/// header has no options.
const INNER_PROTOCOL: i32 = 8 + 9;
const INNER_PORT: i32 = 8 + 20;
/// Octets of a VXLAN header and of the Ethernet header in it, which that packet is behind in a VXLAN datagram.
const VXLAN: u32 = 8 + 14;

/// Everything but what passes `lo`: the lab's own questions to the daemons.
pub(super) const NOT_LOOPBACK: [SockFilter; 4] =
    [load(libc::BPF_W, ancillary(libc::SKF_AD_IFINDEX)), jump(libc::BPF_JEQ, LOOPBACK, 0, 1), DROP, KEEP];

/// The same without floods, in the tunnel (whose port is `port`) or outside of it, and without later fragments of UDP
/// and TCP, which have no port to tell them by.
pub(super) fn without_floods(port: u16) -> Vec<SockFilter> {
    let (first, last) = (u32::from(*FLOOD_PORTS.start()), u32::from(*FLOOD_PORTS.end()));
    // Jumps count the instructions that they skip: to KEEP, the last but one, or DROP, the last.
    vec![
        load(libc::BPF_W, ancillary(libc::SKF_AD_IFINDEX)),
        jump(libc::BPF_JEQ, LOOPBACK, 24, 0),
        load(libc::BPF_H, ancillary(libc::SKF_AD_PROTOCOL)),
        jump(libc::BPF_JEQ, IPV4, 0, 21),
        load(libc::BPF_B, network(9)),
        jump(libc::BPF_JEQ, UDP, 1, 0),
        jump(libc::BPF_JEQ, TCP, 0, 18),
        load(libc::BPF_H, network(6)),
        jump(libc::BPF_JSET, OFFSET, 17, 0),
        // X = length of the IP header
        filter(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, network(0)),
        load_beyond(libc::BPF_H, 0),
        jump(libc::BPF_JGE, first, 0, 1),
        jump(libc::BPF_JGT, last, 0, 13),
        load_beyond(libc::BPF_H, 2),
        jump(libc::BPF_JEQ, u32::from(port), 4, 0),
        jump(libc::BPF_JEQ, u32::from(VXLAN_PORT), 0, 9),
        // X = X + VXLAN
        filter(libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0),
        filter(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, 0, 0, VXLAN),
        filter(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        load_beyond(libc::BPF_B, INNER_PROTOCOL),
        jump(libc::BPF_JEQ, UDP, 1, 0),
        jump(libc::BPF_JEQ, TCP, 0, 3),
        load_beyond(libc::BPF_H, INNER_PORT),
        jump(libc::BPF_JGE, first, 0, 1),
        jump(libc::BPF_JGT, last, 0, 1),
        KEEP,
        DROP,
    ]
}

const DROP: SockFilter = filter(libc::BPF_RET | libc::BPF_K, 0, 0, 0);
const KEEP: SockFilter = filter(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX);

const fn ancillary(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

const fn network(offset: i32) -> u32 {
    (libc::SKF_NET_OFF + offset).cast_unsigned()
}

/// A = the field there. A packet that ends before it is dropped.
const fn load(size: u32, at: u32) -> SockFilter {
    filter(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at)
}

/// A = the field so far beyond the IP header. A packet that ends before it is dropped.
const fn load_beyond(size: u32, at: i32) -> SockFilter {
    filter(libc::BPF_LD | size | libc::BPF_IND, 0, 0, network(at))
}

const fn jump(how: u32, value: u32, yes: u8, no: u8) -> SockFilter {
    filter(libc::BPF_JMP | how | libc::BPF_K, yes, no, value)
}

const fn filter(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

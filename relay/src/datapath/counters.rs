//! What the data path counts: packets, octets, drops by reason, ICMP errors. Packets are counted as they are on the
//! wire: a large packet of 44 segments is 44 packets on the TUN as well.
//!
//! Each thread writes its own [`Direction`] and nobody else does, so a count is a relaxed load and store with no
//! locked instruction. Once traffic rests, `packets_in = packets_out + sum(drops)` in each direction.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::wire::icmpv4;

/// A count with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. To be called from one thread only.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// Why a packet was not passed on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason's name in `/metrics`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    Short "short" "Fewer octets than an IPv4 header has.",
    NotIpv4 "not-ipv4" "The version field is not 4; on the TUN these are the kernel's own IPv6 messages.",
    BadHeaderLength "bad-header-length" "The header length is under 20 octets or past the end of the packet.",
    BadTotalLength "bad-total-length" "The total length is smaller than the header or larger than what arrived.",
    BadHeaderChecksum "bad-header-checksum" "The IPv4 header checksum does not verify.",
    BadOffload "bad-offload-header" "The header with the kernel's offload request does not fit its packet.",
    NoRoute "no-route" "No lease covers the destination.",
    TtlExpired "ttl-expired" "The TTL ran out in the relay.",
    TooLong "too-long" "The underlay refuses a datagram of this length (EMSGSIZE).",
    SendFailed "send-failed" "The kernel refused to send the datagram: underlay down, no route to the node, or filtered.",
    MartianSource "martian-source" "The inner source is no unicast address that may cross a network.",
    UnknownSource "unknown-source" "The inner source is in no lease's subnet, nor the address of the node that sent the datagram.",
    SpoofedSource "spoofed-source" "The datagram came from another node than the one that leases the inner source, or the source is this node's.",
    ForeignDestination "foreign-destination" "The inner destination is not in this node's subnet.",
    CongestedNotCapable "congested-not-capable" "The datagram is marked as congested (CE) and the packet in it would not understand the mark (Not-ECT).",
    WriteFailed "write-failed" "The kernel refused the packet on the TUN: the device is down or out of memory.",
}

impl DropReason {
    /// Reasons that can occur from the TUN to the underlay.
    pub const OUTBOUND: &'static [Self] = &[
        Self::Short,
        Self::NotIpv4,
        Self::BadHeaderLength,
        Self::BadTotalLength,
        Self::BadHeaderChecksum,
        Self::BadOffload,
        Self::NoRoute,
        Self::TtlExpired,
        Self::TooLong,
        Self::SendFailed,
    ];

    /// Reasons that can occur from the underlay to the TUN.
    pub const INBOUND: &'static [Self] = &[
        Self::Short,
        Self::NotIpv4,
        Self::BadHeaderLength,
        Self::BadTotalLength,
        Self::BadHeaderChecksum,
        Self::MartianSource,
        Self::UnknownSource,
        Self::SpoofedSource,
        Self::ForeignDestination,
        Self::TtlExpired,
        Self::CongestedNotCapable,
        Self::WriteFailed,
    ];
}

/// Pairs of ECN fields, a packet's and its datagram's, that nothing in order produces (RFC 6040 section 4.2: "currently
/// unused"): something on the underlay rewrites the field, or a peer is out of order. The packets are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unexpected {
    /// ECT(0) or ECT(1) around Not-ECT.
    CapableOnNotCapable,
    /// ECT(0) around ECT(1).
    Capable0OnCapable1,
    /// ECT(1) around CE.
    Capable1OnCongested,
}

impl Unexpected {
    /// Every pair.
    pub const ALL: [Self; 3] =
        [Self::CapableOnNotCapable, Self::Capable0OnCapable1, Self::Capable1OnCongested];

    /// Its name in `/metrics`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CapableOnNotCapable => "ect-on-not-ect",
            Self::Capable0OnCapable1 => "ect0-on-ect1",
            Self::Capable1OnCongested => "ect1-on-ce",
        }
    }
}

/// Why an ICMP error was not sent although a packet was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpSuppressed {
    /// The rules of RFC 1122 section 3.2.2 forbid it.
    Forbidden,
    /// The packet's source is no address of this node, so an error might reach one who sent nothing.
    ForeignSource,
    /// The token bucket was empty.
    RateLimited,
    /// The kernel did not take it: no route to the source, or its queue was full.
    SendFailed,
}

impl IcmpSuppressed {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::Forbidden, Self::ForeignSource, Self::RateLimited, Self::SendFailed];

    /// The cause's name in `/metrics`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::ForeignSource => "foreign-source",
            Self::RateLimited => "rate-limited",
            Self::SendFailed => "send-failed",
        }
    }
}

/// Names of the ICMP errors in `/metrics`, in the order of [`Direction::icmp_sent`].
pub const ICMP_TYPES: [&str; 3] = ["net-unreachable", "time-exceeded", "fragmentation-needed"];

/// What one thread of the data path counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Direction {
    /// Packets taken in.
    pub packets_in: Counter,
    /// Octets taken in.
    pub bytes_in: Counter,
    /// Packets passed on.
    pub packets_out: Counter,
    /// Octets passed on.
    pub bytes_out: Counter,
    drops: [Counter; DropReason::ALL.len()],
    icmp_sent: [Counter; ICMP_TYPES.len()],
    icmp_suppressed: [Counter; IcmpSuppressed::ALL.len()],
    unexpected: [Counter; Unexpected::ALL.len()],
    /// Packets among those passed on that were longer than their path and went in fragments.
    pub fragmented: Counter,
}

impl Direction {
    /// The sum of several, as they are now.
    fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let total = Self::default();
        for part in parts {
            for (total, part) in total.all().zip(part.all()) {
                total.add(part.get());
            }
        }
        total
    }

    /// Every count, in one order.
    fn all(&self) -> impl Iterator<Item = &Counter> {
        // None is passed over: one that is added has to be named here.
        let Self {
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            drops,
            icmp_sent,
            icmp_suppressed,
            unexpected,
            fragmented,
        } = self;
        [packets_in, bytes_in, packets_out, bytes_out, fragmented]
            .into_iter()
            .chain(drops)
            .chain(icmp_sent)
            .chain(icmp_suppressed)
            .chain(unexpected)
    }

    /// Counts `packets` of `bytes` octets together taken in.
    pub fn received(&self, packets: usize, bytes: usize) {
        self.packets_in.add(packets as u64);
        self.bytes_in.add(bytes as u64);
    }

    /// Counts `packets` of `bytes` octets together passed on.
    pub fn passed(&self, packets: usize, bytes: usize) {
        self.packets_out.add(packets as u64);
        self.bytes_out.add(bytes as u64);
    }

    /// Counts `packets` that ended here.
    pub fn dropped(&self, reason: DropReason, packets: usize) {
        self.drops[reason as usize].add(packets as u64);
    }

    /// Packets that ended here for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// Counts an ICMP error that the kernel took.
    pub fn answered(&self, error: icmpv4::Error) {
        let index = match error {
            icmpv4::Error::NetUnreachable => 0,
            icmpv4::Error::TimeExceeded => 1,
            icmpv4::Error::FragmentationNeeded { .. } => 2,
        };
        self.icmp_sent[index].add(1);
    }

    /// ICMP errors sent, in the order of [`ICMP_TYPES`].
    pub fn icmp_sent(&self) -> [u64; ICMP_TYPES.len()] {
        self.icmp_sent.each_ref().map(Counter::get)
    }

    /// Counts an ICMP error that was not sent.
    pub fn suppressed(&self, cause: IcmpSuppressed) {
        self.icmp_suppressed[cause as usize].add(1);
    }

    /// Counts a packet whose ECN field and its datagram's do not go together.
    pub fn unexpected_ecn(&self, pair: Unexpected) {
        self.unexpected[pair as usize].add(1);
    }

    /// Packets whose ECN field and their datagram's made this pair.
    pub fn unexpected(&self, pair: Unexpected) -> u64 {
        self.unexpected[pair as usize].get()
    }

    /// ICMP errors that were not sent, in the order of [`IcmpSuppressed::ALL`].
    pub fn icmp_suppressed(&self) -> [u64; IcmpSuppressed::ALL.len()] {
        self.icmp_suppressed.each_ref().map(Counter::get)
    }
}

/// What the kernel does in bulk for the data path, as told in `/metrics`. Set at the start, lowered for good when the
/// kernel refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// Large TCP packets on the TUN.
    TunTcp,
    /// Large UDP packets on the TUN, as far as they are written: the kernel may still hand some out.
    TunUdp,
    /// Runs of datagrams sent.
    UdpSend,
    /// Runs of datagrams received.
    UdpReceive,
}

impl Bulk {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::TunTcp, Self::TunUdp, Self::UdpSend, Self::UdpReceive];

    /// Its name in `/metrics`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TunTcp => "tun-tcp",
            Self::TunUdp => "tun-udp",
            Self::UdpSend => "udp-send",
            Self::UdpReceive => "udp-receive",
        }
    }
}

/// What the two threads of a queue count.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// From the TUN to the underlay.
    pub outbound: Direction,
    /// From the underlay to the TUN.
    pub inbound: Direction,
}

/// All that the data path counts.
#[derive(Debug)]
pub struct Counters {
    bulk: [AtomicBool; Bulk::ALL.len()],
    lowered: [AtomicBool; Bulk::ALL.len()],
    /// Of each queue.
    pub queues: Box<[QueueCounters]>,
}

impl Counters {
    /// Counters of so many queues, all zero.
    #[must_use]
    pub fn new(queues: NonZeroUsize) -> Self {
        let queues = (0..queues.get()).map(|_| QueueCounters::default()).collect();
        Self { bulk: Default::default(), lowered: Default::default(), queues }
    }

    /// From the TUN to the underlay, all queues together: what they count now.
    #[must_use]
    pub fn outbound(&self) -> Direction {
        Direction::sum(self.queues.iter().map(|queue| &queue.outbound))
    }

    /// The same from the underlay to the TUN.
    #[must_use]
    pub fn inbound(&self) -> Direction {
        Direction::sum(self.queues.iter().map(|queue| &queue.inbound))
    }

    /// Records, at a start of the threads, whether the kernel offers a kind of bulk work. What was lowered stays so:
    /// most of what the kernel refuses it refuses only once it is tried, with every packet of the first large one.
    pub fn offered(&self, kind: Bulk, offered: bool) {
        let lowered = self.lowered[kind as usize].load(Relaxed);
        self.bulk[kind as usize].store(offered && !lowered, Relaxed);
    }

    /// Records that the kernel has refused a kind of bulk work: it is not in use for as long as the process lives.
    pub fn lower(&self, kind: Bulk) {
        self.lowered[kind as usize].store(true, Relaxed);
        self.bulk[kind as usize].store(false, Relaxed);
    }

    /// Whether a kind of bulk work is in use.
    pub fn in_use(&self, kind: Bulk) -> bool {
        self.bulk[kind as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_is_kebab_case_unique_explained_and_belongs_to_a_direction() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for reason in DropReason::ALL {
            assert!(reason.name().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            assert!(reason.help().ends_with('.'));
            assert!(DropReason::OUTBOUND.contains(reason) || DropReason::INBOUND.contains(reason));
        }
    }

    #[test]
    fn the_counts_of_all_queues_add_up() {
        let counters = Counters::new(NonZeroUsize::new(3).unwrap());
        for (queue, packets) in counters.queues.iter().zip([1, 10, 100]) {
            queue.outbound.received(packets, packets * 60);
            queue.inbound.dropped(DropReason::MartianSource, packets);
            queue.inbound.answered(icmpv4::Error::TimeExceeded);
        }
        assert_eq!((counters.outbound().packets_in.get(), counters.outbound().bytes_in.get()), (111, 6660));
        assert_eq!(counters.inbound().drops(DropReason::MartianSource), 111);
        assert_eq!(counters.inbound().icmp_sent(), [0, 3, 0]);
        assert_eq!(counters.inbound().packets_in.get(), 0);
    }

    #[test]
    fn what_was_lowered_is_not_in_use_again_after_another_start() {
        let counters = Counters::new(NonZeroUsize::MIN);
        for kind in Bulk::ALL {
            counters.offered(kind, true);
        }
        counters.lower(Bulk::UdpSend);
        for kind in Bulk::ALL {
            counters.offered(kind, true);
            assert_eq!(counters.in_use(kind), kind != Bulk::UdpSend);
        }
    }

    #[test]
    fn each_reason_has_its_own_count() {
        let direction = Direction::default();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            for _ in 0..=index {
                direction.dropped(*reason, 1);
            }
        }
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(direction.drops(*reason), index as u64 + 1);
        }
    }
}

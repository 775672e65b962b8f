//! Every number that is measured of an overlay.

use serde::Serialize;

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The higher.
    Higher,
    /// The lower.
    Lower,
    /// Neither: it explains others.
    Neither,
}

/// A kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name for programs.
    pub key: &'static str,
    /// What it is about, for people; metrics with the same follow each other.
    pub section: &'static str,
    /// Its name in the section.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which is better.
    pub better: Better,
}

const TCP: &str = "TCP, Gbit/s received";
const WRONG: &str = "TCP, what went wrong";
const FREE: &str = "UDP, loss-free (at most 1 of 1,000 lost), kpps at the socket";
const OVERLOAD: &str = "UDP of 64 octets, more than can be carried, kpps at the socket";
const SEGMENTED: &str = "UDP of 64 octets, the sender uses UDP_SEGMENT, kpps at the socket";
const LATENCY: &str = "Round trip of 64 octets, one under way, µs";
const BESIDE: &str = "Round trip beside a TCP stream, µs";
const COST: &str = "Processor time, seconds a Gbit of TCP";
const HELD: &str = "The overlay's processes, both nodes";

use Better::{Higher, Lower, Neither};

const fn metric(
    key: &'static str,
    section: &'static str,
    what: &'static str,
    unit: &'static str,
    better: Better,
) -> Metric {
    Metric { key, section, what, unit, better }
}

/// All of them, in the order of the table.
pub const METRICS: &[Metric] = &[
    metric("tcp_1", TCP, "1 stream", "Gbit/s", Higher),
    metric("tcp_4", TCP, "4 streams", "Gbit/s", Higher),
    metric("tcp_16", TCP, "16 streams", "Gbit/s", Higher),
    metric("tcp_1_reverse", TCP, "1 stream, other way", "Gbit/s", Higher),
    metric("tcp_4_reverse", TCP, "4 streams, other way", "Gbit/s", Higher),
    metric("tcp_16_reverse", TCP, "16 streams, other way", "Gbit/s", Higher),
    metric("tcp_1_both", TCP, "1 stream each way", "Gbit/s", Higher),
    metric("tcp_4_both", TCP, "4 streams each way", "Gbit/s", Higher),
    metric("tcp_16_both", TCP, "16 streams each way", "Gbit/s", Higher),
    metric("tcp_retransmits", WRONG, "segments sent again, all of the above", "", Lower),
    metric("tcp_checksum_errors", WRONG, "TcpInCsumErrors, both containers", "", Lower),
    metric("udp_free_64", FREE, "64 octets", "kpps", Higher),
    metric("udp_free_512", FREE, "512 octets", "kpps", Higher),
    metric("udp_free_1400", FREE, "1,400 octets", "kpps", Higher),
    metric("udp_over_64", OVERLOAD, "delivered, sender flat out", "kpps", Higher),
    metric("udp_over_64_sent", OVERLOAD, "  of how many sent", "kpps", Neither),
    metric("udp_best_64", OVERLOAD, "delivered, best of loss-free and 1, 1.5, 2, 3 x it", "kpps", Higher),
    metric("udp_triple_64", OVERLOAD, "delivered at 3 x loss-free", "kpps", Higher),
    metric("udp_triple_64_sent", OVERLOAD, "  of how many sent", "kpps", Neither),
    metric("udp_gso_free_64", SEGMENTED, "loss-free", "kpps", Higher),
    metric(
        "udp_gso_best_64",
        SEGMENTED,
        "delivered, best of loss-free and 1, 1.5, 2, 3 x it",
        "kpps",
        Higher,
    ),
    metric("udp_gso_triple_64", SEGMENTED, "delivered at 3 x loss-free", "kpps", Higher),
    metric("udp_gso_triple_64_sent", SEGMENTED, "  of how many sent", "kpps", Neither),
    metric("udp_gso_64", SEGMENTED, "delivered, sender flat out", "kpps", Higher),
    metric("udp_gso_64_sent", SEGMENTED, "  of how many sent", "kpps", Neither),
    metric("latency_p50", LATENCY, "p50", "µs", Lower),
    metric("latency_p99", LATENCY, "p99", "µs", Lower),
    metric("latency_p999", LATENCY, "p99.9", "µs", Lower),
    metric("loaded_p50", BESIDE, "p50", "µs", Lower),
    metric("loaded_p99", BESIDE, "p99", "µs", Lower),
    metric("loaded_p999", BESIDE, "p99.9", "µs", Lower),
    metric("cpu_process", COST, "the overlay's processes, 1 stream", "s/Gbit", Lower),
    metric("cpu_machine", COST, "the whole machine, 1 stream", "s/Gbit", Lower),
    metric("cpu_process_4", COST, "the overlay's processes, 4 streams", "s/Gbit", Lower),
    metric("cpu_machine_4", COST, "the whole machine, 4 streams", "s/Gbit", Lower),
    metric("rss_peak", HELD, "peak resident memory, the larger of both", "MiB", Lower),
    metric("idle_cpu", HELD, "processor time when idle, of one core", "%", Lower),
];

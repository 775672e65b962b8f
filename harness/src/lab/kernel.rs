//! What the kernels of a lab's hosts drop, and the wait until they have dealt with what they were given.

use std::collections::BTreeMap;
use std::fs;

use super::Lab;

/// Counters of packets that a kernel drops without a word to anybody, the most specific first (proc_pid_net(5), `snmp`
/// and `netstat`; meanings in RFC 4293 and the kernel's snmp_counter.rst).
const DROPS: [(&str, &str); 19] = [
    ("IpExt", "InCsumErrors"),
    ("IpExt", "InTruncatedPkts"),
    ("Udp", "InCsumErrors"),
    ("Icmp", "InCsumErrors"),
    ("Tcp", "InCsumErrors"),
    ("TcpExt", "IPReversePathFilter"),
    ("IpExt", "ReasmOverlaps"),
    ("Ip", "ReasmFails"),
    ("Ip", "InAddrErrors"),
    ("IpExt", "InNoRoutes"),
    ("Ip", "InHdrErrors"),
    ("Ip", "InDiscards"),
    ("Udp", "RcvbufErrors"),
    ("Icmp", "OutErrors"),
    ("Ip", "OutNoRoutes"),
    ("Ip", "OutDiscards"),
    ("Udp", "IgnoredMulti"),
    ("IpExt", "InMcastPkts"),
    ("IpExt", "InBcastPkts"),
];

/// Where a kernel shows its counters, to whom opens them in the namespace they are about.
pub(super) const COUNTERS: [&str; 2] = ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"];

/// Counters that also grow with packets that the kernel answers with an ICMP error.
const ANSWERED: [&str; 4] = ["InAddrErrors", "InNoRoutes", "InHdrErrors", "OutNoRoutes"];

/// Counters of packets for many. A kernel that has no use for one says no more of it than that it came.
const FOR_MANY: [&str; 3] = ["IgnoredMulti", "InMcastPkts", "InBcastPkts"];

/// What one host's kernel has dropped so far, by counter, in the order of [`DROPS`]; and how many ICMP errors it sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    drops: Vec<u64>,
    answered: u64,
}

/// What the kernels of all hosts have dropped so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelDrops(BTreeMap<String, Tally>);

impl Lab {
    /// What the kernels of all hosts have dropped so far. A host that cannot be asked has dropped nothing.
    pub fn kernel_drops(&self) -> KernelDrops {
        let tally = |text: &str| Tally {
            drops: DROPS.iter().map(|(protocol, name)| counter(text, protocol, name)).collect(),
            answered: counter(text, "Icmp", "OutTimeExcds") + counter(text, "Icmp", "OutDestUnreachs"),
        };
        KernelDrops(self.hosts().map(|host| (host.name().to_owned(), tally(&host.counters()))).collect())
    }
}

/// The counters that this machine's kernel has, as nstat(8) writes them: `IpReasmFails`, `TcpExtTCPSACKReorder`.
pub fn counters() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let text = COUNTERS.map(read).concat();
    let mut names: Vec<String> = Vec::new();
    for line in text.lines() {
        let Some((protocol, rest)) = line.split_once(':') else { continue };
        // The line of names; that of values follows.
        if rest.split_whitespace().any(|word| word.parse::<i64>().is_err()) {
            names.extend(rest.split_whitespace().map(|name| format!("{protocol}{name}")));
        }
    }
    names
}

impl Lab {
    /// A counter of a host's kernel by the name that nstat(8) gives it; none if it has none such.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn kernel_counter(&self, host: &str, name: &str) -> Result<Option<u64>, super::Error> {
        let text = self.host(host)?.counters();
        let protocols = text.lines().filter_map(|line| line.split_once(':').map(|(protocol, _)| protocol));
        let mut found = protocols.filter_map(|protocol| find(&text, protocol, name.strip_prefix(protocol)?));
        Ok(found.next())
    }

    /// A counter of a host's kernel, of `snmp` or `netstat`; 0 for a host that cannot be asked.
    pub fn kernel_count(&self, host: &str, protocol: &str, name: &str) -> u64 {
        self.host(host).map_or(0, |host| counter(&host.counters(), protocol, name))
    }
}

impl KernelDrops {
    /// Whether a kernel has dropped something since `earlier` that it sends no error about.
    pub fn silent_since(&self, earlier: &Self) -> bool {
        self.since(earlier, false).iter().any(|(_, name, _)| !ANSWERED.contains(name))
    }

    /// By how much each counter of each host grew since `earlier`: host, counter, growth. Those of packets for many are
    /// left out unless asked for.
    pub fn since(&self, earlier: &Self, for_many: bool) -> Vec<(String, &'static str, u64)> {
        let mut all = Vec::new();
        let none = Tally::default();
        for (host, now) in &self.0 {
            let before = earlier.0.get(host).unwrap_or(&none);
            let answered = now.answered.saturating_sub(before.answered);
            for (at, (_, name)) in DROPS.iter().enumerate() {
                let of = |tally: &Tally| tally.drops.get(at).copied().unwrap_or(0);
                let growth = of(now).saturating_sub(of(before));
                let growth = if ANSWERED.contains(name) { growth.saturating_sub(answered) } else { growth };
                if growth > 0 && (for_many || !FOR_MANY.contains(name)) {
                    all.push((host.clone(), *name, growth));
                }
            }
        }
        all
    }
}

/// Waits until no processor is still at work on a packet that was received before the call.
///
/// The kernel receives packets in RCU read-side sections, and `MEMBARRIER_CMD_GLOBAL` (membarrier(2)) ends when all
/// that had begun have ended. A kernel that has no such call, or is built for full tickless operation, is not waited for.
pub fn received_is_processed() {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "membarrier");
    }
}

/// A counter of `snmp` or `netstat`, which have a line of names and a line of values for each protocol.
pub(crate) fn counter(text: &str, protocol: &str, name: &str) -> u64 {
    find(text, protocol, name).unwrap_or(0)
}

fn find(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let (names, values) = (lines.next()?, lines.next()?);
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(found, _)| *found == name);
    found.and_then(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Ip: InHdrErrors InAddrErrors\nIp: 5 2\nIcmp: OutDestUnreachs OutTimeExcds\nIcmp: 1 3\n\
                        IpExt: InNoRoutes\nIpExt: 9\n";

    #[test]
    fn a_counter_is_read_by_its_name() {
        assert_eq!(counter(SNMP, "Ip", "InAddrErrors"), 2);
        assert_eq!(counter(SNMP, "IpExt", "InNoRoutes"), 9);
        assert_eq!(counter(SNMP, "Udp", "NoPorts"), 0);
    }

    #[test]
    fn what_was_answered_was_not_dropped_silently() {
        let drops = |csum, header, answered| {
            let mut drops = vec![0; DROPS.len()];
            (drops[0], drops[10]) = (csum, header);
            KernelDrops([("a".to_owned(), Tally { drops, answered })].into())
        };
        let (before, after) = (drops(1, 10, 4), drops(2, 13, 6));
        let expected = [("a".to_owned(), "InCsumErrors", 1), ("a".to_owned(), "InHdrErrors", 1)];
        assert_eq!(after.since(&before, false), expected);
        assert_eq!(after.since(&after, false), []);
    }
}

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
pub(super) const COUNTERS: [&str; 3] =
    ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat", "/proc/thread-self/net/dev"];

/// Which number in a line of `dev` counts the packets that a device dropped instead of sending them: TUN devices do when
/// their queue is full (`tun_net_xmit` in the kernel's drivers/net/tun.c). The first eight are of reception.
pub(super) const TX_DROPPED: usize = 11;
/// And those that it did not take: a veth does not while it is down, or what is longer than its MTU (`__is_skb_forwardable` in
/// the kernel's include/linux/netdevice.h), or when its processor's queue is full (`enqueue_to_backlog`).
const RX_DROPPED: usize = 3;

/// Counters that also grow with packets that the kernel answers with an ICMP error.
const ANSWERED: [&str; 4] = ["InAddrErrors", "InNoRoutes", "InHdrErrors", "OutNoRoutes"];

/// Counters of packets for many. A kernel that has no use for one says no more of it than that it came.
const FOR_MANY: [&str; 3] = ["IgnoredMulti", "InMcastPkts", "InBcastPkts"];

/// What one host's kernel has dropped so far, by counter, in the order of [`DROPS`], and by device, `flannel0 tx_dropped`; and
/// how many ICMP errors it sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    drops: Vec<u64>,
    devices: BTreeMap<String, u64>,
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
            devices: [("tx_dropped", TX_DROPPED), ("rx_dropped", RX_DROPPED)]
                .into_iter()
                .flat_map(|(name, column)| {
                    let drops = device_drops(text, column).into_iter();
                    // Named as ip-link(8) names the counter.
                    drops.map(move |(device, drops)| (format!("{device} {name}"), drops))
                })
                .collect(),
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
    /// Notes how many ICMP errors a host's daemon has sent so far: kernels count those of raw sockets with their own
    /// (`raw_send_hdrinc`), and have answered that much less themselves.
    pub fn note_sent_by_daemon(&mut self, host: &str, errors: u64) {
        if let Some(tally) = self.0.get_mut(host) {
            tally.answered = tally.answered.saturating_sub(errors);
        }
    }

    /// How many ICMP errors a host's kernel has sent so far, those of raw sockets among them.
    #[must_use]
    pub fn answered(&self, host: &str) -> u64 {
        self.0.get(host).map_or(0, |tally| tally.answered)
    }

    /// Whether a kernel has dropped something since `earlier` that it sends no error about.
    pub fn silent_since(&self, earlier: &Self) -> bool {
        let mut protocols = self.beside(earlier).flat_map(|(_, now, before)| now.protocols_since(before));
        protocols.any(|(name, _)| !ANSWERED.contains(&name) && !FOR_MANY.contains(&name))
    }

    /// By how much each counter of each host grew since `earlier`: host, counter, growth. Those of packets for many are
    /// left out unless asked for.
    pub fn since(&self, earlier: &Self, for_many: bool) -> Vec<(String, String, u64)> {
        let mut all = Vec::new();
        for (host, now, before) in self.beside(earlier) {
            let protocols = now.protocols_since(before).into_iter();
            let protocols = protocols.filter(|(name, _)| for_many || !FOR_MANY.contains(name));
            all.extend(protocols.map(|(name, growth)| (host.to_owned(), name.to_owned(), growth)));
            let devices = now.devices_since(before).into_iter();
            all.extend(devices.map(|(drops, growth)| (host.to_owned(), drops.to_owned(), growth)));
        }
        all
    }

    /// Each host's counters now and in `earlier`.
    fn beside<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = (&'a str, &'a Tally, &'a Tally)> {
        static NONE: Tally = Tally { drops: Vec::new(), devices: BTreeMap::new(), answered: 0 };
        self.0.iter().map(|(host, now)| (host.as_str(), now, earlier.0.get(host).unwrap_or(&NONE)))
    }
}

impl Tally {
    fn protocols_since(&self, before: &Self) -> Vec<(&'static str, u64)> {
        let answered = self.answered.saturating_sub(before.answered);
        let growth = |(at, (_, name)): (usize, &(&str, &'static str))| {
            let of = |tally: &Self| tally.drops.get(at).copied().unwrap_or(0);
            let growth = of(self).saturating_sub(of(before));
            (*name, if ANSWERED.contains(name) { growth.saturating_sub(answered) } else { growth })
        };
        DROPS.iter().enumerate().map(growth).filter(|(_, growth)| *growth > 0).collect()
    }

    fn devices_since(&self, before: &Self) -> Vec<(&str, u64)> {
        let growth = |(device, drops): (_, &u64)| {
            drops.saturating_sub(before.devices.get(device).copied().unwrap_or(0))
        };
        let grown = self.devices.iter().map(|(device, drops)| (device.as_str(), growth((device, drops))));
        grown.filter(|(_, growth)| *growth > 0).collect()
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

/// The devices of `dev`, which begins with a line of its own kind, and a column of it.
pub(super) fn device_drops(text: &str, column: usize) -> BTreeMap<String, u64> {
    let Some((_, dev)) = text.rsplit_once("Inter-|") else { return BTreeMap::new() };
    let count = |line: &str| {
        let (device, numbers) = line.split_once(':')?;
        Some((device.trim().to_owned(), numbers.split_whitespace().nth(column)?.parse().ok()?))
    };
    dev.lines().filter_map(count).collect()
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
    fn a_device_tells_what_it_dropped_instead_of_sending() {
        let dev = "Inter-|   Receive        |  Transmit\n face |bytes    packets errs drop\n    \
                   lo: 1 1 0 7 0 0 0 0 1 1 0 0 0 0 0 0\nflannel0: 1 1 0 0 0 0 0 0 9 9 0 25 0 0 0 0\n";
        let expected = [("flannel0".to_owned(), 25), ("lo".to_owned(), 0)];
        assert_eq!(device_drops(&format!("{SNMP}{dev}"), TX_DROPPED), expected.into());
        let expected = [("flannel0".to_owned(), 0), ("lo".to_owned(), 7)];
        assert_eq!(device_drops(&format!("{SNMP}{dev}"), RX_DROPPED), expected.into());
        assert_eq!(device_drops(SNMP, TX_DROPPED), BTreeMap::new());
    }

    #[test]
    fn what_was_answered_was_not_dropped_silently() {
        let drops = |csum, header, answered, queue| {
            let mut drops = vec![0; DROPS.len()];
            (drops[0], drops[10]) = (csum, header);
            let devices =
                [("flannel0 tx_dropped".to_owned(), queue), ("eth0 rx_dropped".to_owned(), 0)].into();
            KernelDrops([("a".to_owned(), Tally { drops, devices, answered })].into())
        };
        let (before, after) = (drops(1, 10, 4, 0), drops(2, 13, 6, 3));
        let expected = [("InCsumErrors", 1), ("InHdrErrors", 1), ("flannel0 tx_dropped", 3)];
        let expected = expected.map(|(name, growth)| ("a".to_owned(), name.to_owned(), growth));
        assert_eq!(after.since(&before, false), expected);
        assert_eq!(after.since(&after, false), []);
        assert!(after.silent_since(&before));
    }

    #[test]
    fn what_a_daemon_answered_a_kernel_did_not() {
        let drops = |header, answered| {
            let mut drops = vec![0; DROPS.len()];
            drops[10] = header;
            KernelDrops([("a".to_owned(), Tally { drops, answered, ..Tally::default() })].into())
        };
        let (before, mut after) = (drops(0, 0), drops(4, 6));
        assert_eq!(after.since(&before, false), []);
        after.note_sent_by_daemon("b", 5);
        after.note_sent_by_daemon("a", 5);
        assert_eq!(after.since(&before, false), [("a".to_owned(), "InHdrErrors".to_owned(), 3)]);
    }
}

//! What the kernel counts of this daemon: packets that it dropped before the daemon saw them, and what the process costs.
//!
//! Text of proc(5), read whenever somebody asks for `/metrics`. What cannot be read is left out.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Packets that the kernel sent to a device whose reader had no room for more: `drop` of the transmit half of
/// `/proc/net/dev`. None without such a device.
pub(super) fn dropped_by_device(device: &str) -> Option<u64> {
    transmit_drops(&fs::read_to_string("/proc/thread-self/net/dev").ok()?, device)
}

/// Datagrams that the kernel received for the sockets of a UDP port while they had no room for more, or that had a wrong
/// checksum: `drops` of `/proc/net/udp`, summed. None without such a socket.
pub(super) fn dropped_by_sockets(port: u16) -> Option<u64> {
    socket_drops(&fs::read_to_string("/proc/thread-self/net/udp").ok()?, port)
}

/// Octets of this process that are in memory now.
pub(super) fn resident_bytes() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Processor time in seconds that this process has taken so far, its own and the kernel's for it.
pub(super) fn processor_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    // Exact for 285 years.
    #[expect(clippy::cast_precision_loss)]
    Some(microseconds as f64 / 1e6)
}

/// File descriptors that this process has open.
pub(super) fn open_descriptors() -> Option<usize> {
    // The one that the directory is read by is not counted.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

fn transmit_drops(text: &str, device: &str) -> Option<u64> {
    let fields = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    // Eight fields of what was received; then bytes, packets, errs and drop of what was sent.
    fields.split_ascii_whitespace().nth(11)?.parse().ok()
}

fn socket_drops(text: &str, port: u16) -> Option<u64> {
    let mut sum = None;
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let bound = fields.nth(1).and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
        if bound == Some(port) {
            *sum.get_or_insert(0) += fields.next_back().and_then(|drops| drops.parse::<u64>().ok())?;
        }
    }
    sum
}

fn resident(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    1    0     0          0         0        0       0    0    2    0     0       0          0
flannel0: 142       3    0    4    0     0          0         0      300       5    0    7    0     0       0          0
flannel01: 14       3    0    4    0     0          0         0      300       5    0    9    0     0       0          0
";
    const UDP: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 010014AC:205D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0000000000000000 3
  101: 010014AC:205D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4243 2 0000000000000000 4
  102: 010014AC:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4244 2 0000000000000000 5
";

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        assert_eq!(transmit_drops(DEV, "flannel0"), Some(7));
        assert_eq!(transmit_drops(DEV, "flannel01"), Some(9));
        assert_eq!(transmit_drops(DEV, "flannel"), None);
        assert_eq!(transmit_drops("flannel0: 1 2", "flannel0"), None);
    }

    #[test]
    fn the_sockets_of_a_port_are_summed() {
        assert_eq!(socket_drops(UDP, 8285), Some(7));
        assert_eq!(socket_drops(UDP, 53), Some(5));
        assert_eq!(socket_drops(UDP, 54), None);
        assert_eq!(socket_drops("", 53), None);
    }

    #[test]
    fn memory_is_told_in_octets() {
        assert_eq!(resident("VmSize:\t  9000 kB\nVmRSS:\t    4096 kB\n"), Some(4_194_304));
        assert_eq!(resident("VmSize:\t  9000 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_asked() {
        assert!(resident_bytes().is_some_and(|octets| octets > 100_000));
        assert!(processor_seconds().is_some());
        assert!(open_descriptors().is_some_and(|count| count >= 3));
    }
}

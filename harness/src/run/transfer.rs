//! Carrying data in bulk, and judging by what arrives and by what everybody counted.

use std::collections::BTreeMap;

use super::{Runner, StepError};
use crate::overlay::{Counters, Way};
use crate::probe::Bulk;
use crate::suite::{Transfer, Transport};

/// Kernel counters that tell of segments that arrived damaged.
const DAMAGED: [(&str, &str); 2] = [("Tcp", "InCsumErrors"), ("Udp", "InCsumErrors")];
/// Of segments that overtook others, as their sender found out by what was acknowledged without being sent again
/// (`tcp_check_sack_reordering`). What the receiver counts, `TCPOFOQueue`, is as much about losses: a TUN drops what it
/// has no room for.
const REORDERED: [(&str, &str); 3] =
    [("TcpExt", "TCPSACKReorder"), ("TcpExt", "TCPRenoReorder"), ("TcpExt", "TCPTSReorder")];

impl Runner<'_> {
    pub(super) async fn transfer(&mut self, transfer: &Transfer) -> Result<(), StepError> {
        let to = self.address(&transfer.to)?;
        let unknown = || StepError::Word { word: transfer.to.to_string() };
        let receiver = self.map.host_of(to).ok_or_else(unknown)?.to_owned();
        let number = self.next_probe();
        let namespace = |host: &str| self.lab.host(host).map(|host| host.namespace.clone());
        let ends = (namespace(&transfer.from)?, namespace(&receiver)?);
        let open = match transfer.by {
            Transport::Tcp => Bulk::tcp,
            Transport::Udp => Bulk::udp,
        };
        let bulk = open([&ends.0, &ends.1], to, number, transfer.streams(), transfer.octets)?;
        let kernels = [transfer.from.to_string(), receiver];
        let count = |lab: &crate::lab::Lab| {
            let counters = DAMAGED.into_iter().chain(REORDERED);
            let all = counters.map(|(protocol, name)| {
                kernels.iter().map(|host| lab.kernel_count(host, protocol, name)).sum()
            });
            all.collect::<Vec<u64>>()
        };
        let daemons: BTreeMap<_, _> = self.lab.counters().await?.into_iter().collect();
        let before = count(&self.lab);

        self.lab.begin_flood()?;
        self.lab.note_unrecorded();
        let carried = tokio::task::spawn_blocking(move || bulk.carry()).await;
        let shortfall = carried.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        if let Some(shortfall) = shortfall {
            self.problem(format!("from {}, {shortfall}", kernels.join(" to ")));
        }

        let after = count(&self.lab);
        let overtaken = REORDERED.map(|counter| (counter, overtakings_of_kernels(transfer.streams())));
        let bounds = DAMAGED.map(|counter| (counter, 0)).into_iter().chain(overtaken);
        for (at, ((protocol, name), allowed)) in bounds.enumerate() {
            let growth = after.get(at).zip(before.get(at)).map_or(0, |(now, then)| now.saturating_sub(*then));
            if growth > allowed && !transfer.lossy {
                self.problem(format!(
                    "the kernels of {} counted {growth} {protocol} {name}",
                    kernels.join(" and ")
                ));
            }
        }
        if !self.streaming {
            self.end_floods().await?;
            for (node, now) in self.lab.counters().await? {
                if let Some(problem) =
                    daemons.get(&node).and_then(|before| unaccounted(before, &now, transfer.lossy))
                {
                    self.problem(format!("{node}'s relay: {problem}"));
                }
            }
        }
        Ok(())
    }
}

/// How many segments may overtake others with nobody to blame: a veth has a queue on each processor, and a busy machine
/// moves a sender from one to the other. What swaps packets by itself does so many more times.
fn overtakings_of_kernels(streams: u16) -> u64 {
    u64::from(streams / 10).max(3)
}

/// What a daemon did with packets but pass them on, or, if it is `lossy`, drop them.
fn unaccounted(before: &Counters, now: &Counters, lossy: bool) -> Option<String> {
    let since = |count: fn(&Counters) -> u64| count(now).saturating_sub(count(before));
    let dropped = |way| now.dropped(way).saturating_sub(before.dropped(way));
    let (outbound, inbound) = (dropped(Way::Outbound), dropped(Way::Inbound));
    let (read, sent) = (since(|counters| counters.device_read), since(|counters| counters.sent));
    let (received, written) =
        (since(|counters| counters.received), since(|counters| counters.device_written));
    let sound =
        (lossy || outbound + inbound == 0) && read == sent + outbound && received == written + inbound;
    (!sound).then(|| {
        let drops = now.drops_since(before).into_iter();
        let drops: String =
            drops.map(|(cause, count)| format!("; {count} {} {}", cause.way, cause.reason)).collect();
        format!(
            "of {read} packets {sent} were sent and {outbound} dropped, of {received} received {written} were written \
             and {inbound} dropped{drops}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::DropCause;

    #[test]
    fn what_a_daemon_dropped_is_told_with_its_reason() {
        let before = Counters { received: 10, device_written: 10, ..Counters::default() };
        let mut now = Counters { received: 15, device_written: 13, ..Counters::default() };
        let cause = DropCause { way: Way::Inbound, reason: "bad-length".to_owned() };
        now.drops.insert(cause, 2);
        assert_eq!(unaccounted(&before, &now, true), None);
        assert_eq!(
            unaccounted(&before, &now, false).unwrap(),
            "of 0 packets 0 were sent and 0 dropped, of 5 received 3 were written and 2 dropped; 2 inbound bad-length"
        );
    }
}

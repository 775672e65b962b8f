//! Carrying data in bulk, and judging by what arrives and by what everybody counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Runner, StepError};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::overlay::{Counters, Way};
use crate::probe::Bulk;
use crate::suite::{Transfer, Transport};

mod resent;

/// Kernel counters that tell of segments that arrived damaged.
const DAMAGED: [(&str, &str); 2] = [("Tcp", "InCsumErrors"), ("Udp", "InCsumErrors")];
/// Of segments that overtook others, as their sender found out by what was acknowledged without being sent again
/// (`tcp_check_sack_reordering`). What the receiver counts, `TCPOFOQueue`, is as much about losses: a TUN drops what it
/// has no room for.
const REORDERED: [(&str, &str); 3] =
    [("TcpExt", "TCPSACKReorder"), ("TcpExt", "TCPRenoReorder"), ("TcpExt", "TCPTSReorder")];

/// Data that is to be carried.
pub(super) struct Haul {
    by: Transport,
    to: Ipv4Addr,
    number: u32,
    streams: u16,
    octets: u32,
    lossy: bool,
    throughout: bool,
    /// The sender's and the receiver's.
    ends: [Namespace; 2],
}

impl Haul {
    /// Whether packets of it may be lost.
    pub(super) fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// Whether it is to go on until others have ended.
    pub(super) fn goes_throughout(&self) -> bool {
        self.throughout
    }

    /// Opens the sockets, carries the data, for as long as it `goes_on` if it is such a one, and tells what was wrong with what
    /// arrived, if anything.
    pub(super) async fn carry(&self, goes_on: &Arc<AtomicBool>) -> Result<Option<String>, StepError> {
        let open = match self.by {
            Transport::Tcp => Bulk::tcp,
            Transport::Udp => Bulk::udp,
        };
        let [from, to] = &self.ends;
        let bulk = open([from, to], self.to, self.number, self.streams, self.octets)?;
        let goes_on = if self.throughout { goes_on.clone() } else { Arc::default() };
        let carried = tokio::task::spawn_blocking(move || bulk.carry(&goes_on)).await;
        let shortfall = carried.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        Ok(shortfall.map(|shortfall| format!("from {} to {}, {shortfall}", from.name(), to.name())))
    }
}

/// What the kernels at the ends of some hauls counted before.
pub(super) struct Toll {
    hosts: Vec<String>,
    streams: Vec<u16>,
    /// Of each of them, in the order of [`DAMAGED`] and [`REORDERED`].
    before: Vec<Vec<u64>>,
}

impl Toll {
    /// That of the hauls whose packets may not be lost; at hosts of others nobody could tell whose were damaged.
    pub(super) fn of(lab: &Lab, hauls: &[&Haul]) -> Self {
        let ends = |hauls: Vec<&&Haul>| -> BTreeSet<String> {
            hauls.iter().flat_map(|haul| &haul.ends).map(|host| host.name().to_owned()).collect()
        };
        let (lossy, sound): (Vec<&&Haul>, Vec<&&Haul>) = hauls.iter().partition(|haul| haul.lossy);
        let streams = sound.iter().map(|haul| haul.streams).collect();
        let hosts: Vec<String> = ends(sound).difference(&ends(lossy)).cloned().collect();
        let before = Self::count(lab, &hosts);
        Self { hosts, streams, before }
    }

    fn count(lab: &Lab, hosts: &[String]) -> Vec<Vec<u64>> {
        let of = |host: &String| {
            let counters = DAMAGED.into_iter().chain(REORDERED);
            counters.map(|(protocol, name)| lab.kernel_count(host, protocol, name)).collect()
        };
        hosts.iter().map(of).collect()
    }

    /// What they have counted since that they should not have.
    pub(super) fn problems(&self, lab: &Lab) -> Vec<String> {
        let overtakings = self.streams.iter().map(|streams| overtakings_of_kernels(*streams)).sum();
        let bounds = DAMAGED.map(|counter| (counter, 0)).into_iter();
        let bounds = bounds.chain(REORDERED.map(|counter| (counter, overtakings)));
        let now = Self::count(lab, &self.hosts);
        let grown = |at: usize| -> Vec<u64> {
            let at = |counts: &Vec<u64>| counts.get(at).copied().unwrap_or(0);
            now.iter().zip(&self.before).map(|(now, before)| at(now).saturating_sub(at(before))).collect()
        };
        let grown = bounds.enumerate().map(|(at, (counter, allowed))| (grown(at), counter, allowed));
        let exceeded = grown.filter(|(grown, _, allowed)| grown.iter().sum::<u64>() > *allowed);
        let told = |(grown, (protocol, name), _): (Vec<u64>, _, _)| {
            let kernels = self.hosts.iter().zip(grown).filter(|(_, grown)| *grown > 0);
            let kernels =
                kernels.map(|(host, grown)| format!("{host}'s kernel counted {grown} {protocol} {name}"));
            kernels.collect::<Vec<_>>().join(", ")
        };
        exceeded.map(told).collect()
    }
}

impl Runner<'_> {
    pub(super) async fn transfer(&mut self, transfer: &Transfer) -> Result<(), StepError> {
        let haul = self.haul(transfer)?;
        let daemons: BTreeMap<_, _> = self.lab.counters().await?.into_iter().collect();
        let toll = Toll::of(&self.lab, &[&haul]);
        let resent = self.resent(&[&haul]).await?;
        self.lab.begin_flood()?;
        self.lab.note_unrecorded();
        let shortfall = haul.carry(&Arc::default()).await?;
        for problem in shortfall.into_iter().chain(toll.problems(&self.lab)) {
            self.problem(problem);
        }
        if !self.streaming {
            self.end_floods().await?;
        }
        self.judge_resent(resent.as_ref()).await?;
        if !self.streaming {
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

    /// What is to carry a transfer's data.
    pub(super) fn haul(&mut self, transfer: &Transfer) -> Result<Haul, StepError> {
        let to = self.address(&transfer.to)?;
        let unknown = || StepError::Word { word: transfer.to.to_string() };
        let receiver = self.map.host_of(to).ok_or_else(unknown)?.to_owned();
        let namespace = |host: &str| self.lab.host(host).map(|host| host.namespace.clone());
        let ends = [namespace(&transfer.from)?, namespace(&receiver)?];
        let number = self.next_probe();
        let Transfer { by, octets, lossy, throughout, .. } = *transfer;
        Ok(Haul { by, to, number, streams: transfer.streams(), octets, lossy, throughout, ends })
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

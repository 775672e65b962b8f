//! Whether the segments that TCP had to send again were lost where somebody counted it.
//!
//! Interfaces are not tallied while data is carried in bulk. A relay that loses segments and counts them as passed would look
//! like a sound one, but for what the senders' kernels find out from what is acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Haul;
use crate::capture::frame::now;
use crate::flow::{Dropped, Fault, FaultPlace, Place};
use crate::lab::Lab;
use crate::lab::kernel::KernelDrops;
use crate::overlay::Counters;
use crate::run::observe::drops;
use crate::run::{Runner, StepError};
use crate::suite::Transport;
use crate::wait;

/// Segments that a sender took for lost and sent again (`tcp_xmit_retransmit_queue`). `RetransSegs` has probes in it as
/// well, which a sender sends when nothing has been acknowledged for some milliseconds: a busy machine makes it do so.
const RESENT: [&str; 1] = ["TCPFastRetrans"];
/// Of all that a sender sent again, what its receiver said that it had already: it had come late.
const NEEDLESS: [&str; 1] = ["TCPDSACKRecvSegs"];
/// How often a receiver had that to say, and how often its sender heard it. Of several in a row only the last is sent.
const SAID: [&str; 2] = ["TCPDSACKOldSent", "TCPDSACKOfoSent"];
const HEARD: [&str; 2] = ["TCPDSACKRecv", "TCPDSACKOfoRecv"];
/// What kernels drop at a socket that has no room or no memory for it.
const NO_ROOM: [&str; 8] = [
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPOFODrop",
    "TCPZeroWindowDrop",
    "RcvPruned",
    "OfoPruned",
    "ListenDrops",
    "PFMemallocDrop",
];
/// How many segments or datagrams, at most, a kernel handles as one packet, and drops and counts as one
/// (`UDP_MAX_SEGMENTS`; of TCP's no more fit into 64 KiB).
const RUN: u64 = 128;
/// What accounts for a loss may be counted after the data has come. Only what fails a case takes as long.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// What was counted before some hauls of segments that are sent again, and of all that may be why.
pub(in crate::run) struct Resent {
    senders: BTreeSet<String>,
    /// The senders and the receivers.
    ends: BTreeSet<String>,
    /// Segments that may be sent again for no reason that anybody knows.
    slack: u64,
    began: Duration,
    before: Counts,
    kernels: KernelDrops,
    relays: BTreeMap<String, Counters>,
    shaped: usize,
}

/// What kernels count of it.
struct Counts {
    /// By sender.
    resent: BTreeMap<String, u64>,
    needless: u64,
    said: u64,
    heard: u64,
    /// By host and counter.
    no_room: BTreeMap<(String, String), u64>,
}

/// What was counted meanwhile.
#[derive(Default)]
struct Account {
    /// By sender.
    resent: Vec<(String, u64)>,
    slack: u64,
    needless: u64,
    /// How often a receiver said that something was needless, and nobody heard it.
    unheard: u64,
    dropped: Vec<Dropped>,
}

impl Resent {
    fn of(runner: &Runner<'_>, hauls: &[&Haul], relays: BTreeMap<String, Counters>) -> Option<Self> {
        let lossy: BTreeSet<String> =
            hauls.iter().filter(|haul| haul.lossy).flat_map(|haul| names(haul)).collect();
        // Kernels do not say of which connection a segment was.
        let apart = |haul: &&&Haul| names(haul).iter().all(|end| !lossy.contains(end));
        let tcp = hauls.iter().filter(|haul| haul.by == Transport::Tcp && !haul.lossy);
        let tcp: Vec<&&Haul> = tcp.filter(apart).collect();
        // Where daemons count nothing, nobody can account for a loss.
        if tcp.is_empty() || runner.lab.counts_nothing().is_some() {
            return None;
        }
        let senders = tcp.iter().map(|haul| haul.ends[0].name().to_owned()).collect();
        let ends = tcp.iter().flat_map(|haul| names(haul)).collect();
        Some(Self {
            slack: tcp.iter().map(|haul| super::overtakings_of_kernels(haul.streams)).sum(),
            began: now(),
            before: Counts::of(&runner.lab, &senders, &ends),
            kernels: runner.kernel_drops(),
            shaped: runner.lab.shaped_so_far(),
            senders,
            ends,
            relays,
        })
    }

    fn account(&self, runner: &Runner<'_>, relays: &BTreeMap<String, Counters>) -> Account {
        let Self { senders, ends, before, .. } = self;
        let now = Counts::of(&runner.lab, senders, ends);
        let said = now.said.saturating_sub(before.said);
        let kernel = |((host, reason), count): ((String, String), u64)| Dropped {
            host,
            place: Place::Kernel,
            reason,
            count,
        };
        let mut dropped = drops(&self.relays, relays);
        dropped.extend(runner.dropped_by_kernels(&self.kernels, false));
        dropped.extend(grown(&now.no_room, &before.no_room).into_iter().map(kernel));
        for drop in runner.lab.shaped_since(self.shaped) {
            let (host, reason) = (drop.frame.point.host.clone(), drop.cause.name().to_owned());
            dropped.push(Dropped { host, place: Place::Shaper, reason, count: 1 });
        }
        Account {
            resent: grown(&now.resent, &before.resent),
            slack: self.slack,
            needless: now.needless.saturating_sub(before.needless),
            unheard: said.saturating_sub(now.heard.saturating_sub(before.heard)),
            dropped,
        }
    }

    /// Whether something on the way was broken on purpose meanwhile, which loses what it loses.
    fn met(&self, runner: &Runner<'_>) -> bool {
        let topology = &runner.lab.topology;
        let nodes = self.ends.iter().filter_map(|end| Some(topology.container(end)?.node.clone()));
        let way: BTreeSet<String> = self.ends.iter().cloned().chain(nodes).collect();
        // A machine may be a router.
        let is_on_it = |host: &String| {
            way.contains(host) || topology.machines.iter().any(|machine| machine.name == *host)
        };
        let meets = |fault: &Fault| match &fault.place {
            FaultPlace::Toward(to) => is_on_it(&fault.host) && is_on_it(to),
            _ => is_on_it(&fault.host),
        };
        runner.faults_since(self.began).any(meets)
    }
}

impl Counts {
    fn of(lab: &Lab, senders: &BTreeSet<String>, ends: &BTreeSet<String>) -> Self {
        let tcp = |host: &String, names: &[&str]| -> u64 {
            names.iter().map(|name| lab.kernel_count(host, "TcpExt", name)).sum()
        };
        let at_ends = |names: &[&str]| -> u64 { ends.iter().map(|host| tcp(host, names)).sum() };
        let of_ends = ends.iter().flat_map(|host| NO_ROOM.map(|name| (host, name)));
        let no_room = of_ends.map(|(host, name)| ((host.clone(), name.to_owned()), tcp(host, &[name])));
        Self {
            resent: senders.iter().map(|host| (host.clone(), tcp(host, &RESENT))).collect(),
            needless: at_ends(&NEEDLESS),
            said: at_ends(&SAID),
            heard: at_ends(&HEARD),
            no_room: no_room.collect(),
        }
    }
}

impl Account {
    /// What is wrong, if more was sent again than there is a reason for.
    fn problem(&self) -> Option<String> {
        let Self { resent, slack, needless, unheard, dropped } = self;
        let segments = |drop: &Dropped| match drop.place {
            // A relay counts packets as they are on the wire.
            Place::RelayOutbound | Place::RelayInbound => drop.count,
            Place::Kernel | Place::Shaper => drop.count.saturating_mul(RUN),
        };
        let lost: u64 = dropped.iter().map(segments).sum();
        let explained = slack + needless + unheard.saturating_mul(RUN) + lost;
        if resent.iter().map(|(_, count)| count).sum::<u64>() <= explained {
            return None;
        }
        let resent = resent
            .iter()
            .map(|(host, count)| format!("{host}'s kernel counted {count} TcpExt {}", RESENT[0]));
        let mut known: Vec<String> = Vec::new();
        known.extend(dropped.iter().map(|Dropped { host, place, reason, count }| {
            format!("{host}'s {} dropped {count} ({reason})", place.name())
        }));
        known.extend((*needless > 0).then(|| format!("{needless} had only come late")));
        let known = if known.is_empty() {
            "no drop was counted anywhere".to_owned()
        } else {
            format!("what is known cannot be all of them: {}", known.join(", "))
        };
        let resent = resent.collect::<Vec<_>>().join(", ");
        Some(format!("{resent}: segments were lost on the way, and {known}"))
    }
}

impl Runner<'_> {
    /// What is counted now of segments that are sent again, if there are hauls of which none may be lost.
    pub(in crate::run) async fn resent(&self, hauls: &[&Haul]) -> Result<Option<Resent>, StepError> {
        Ok(Resent::of(self, hauls, self.counters_now().await?))
    }

    /// Notes it if segments were lost since that nobody knows of.
    pub(in crate::run) async fn judge_resent(&mut self, resent: Option<&Resent>) -> Result<(), StepError> {
        let Some(resent) = resent.filter(|resent| !resent.met(self)) else { return Ok(()) };
        let looked = wait::until("losses to be accounted for", COUNTED_WITHIN, async || {
            match self.counters_now().await {
                Ok(relays) => resent.account(self, &relays).problem().map_or(Ok(Ok(())), Err),
                Err(error) => Ok(Err(error)),
            }
        });
        match looked.await {
            Ok(looked) => looked?,
            Err(vain) => self.problem(vain.last.unwrap_or_default()),
        }
        Ok(())
    }
}

/// The sender and the receiver.
fn names(haul: &Haul) -> [String; 2] {
    haul.ends.each_ref().map(|end| end.name().to_owned())
}

/// What is higher now than before, with by how much.
fn grown<K: Ord + Clone>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let growth = |(key, count): (&K, &u64)| {
        let growth = count.saturating_sub(before.get(key).copied().unwrap_or(0));
        (growth > 0).then(|| (key.clone(), growth))
    };
    now.iter().filter_map(growth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(resent: u64) -> Account {
        Account { resent: vec![("c1".to_owned(), resent)], slack: 3, ..Account::default() }
    }

    fn dropped(place: Place, count: u64) -> Vec<Dropped> {
        vec![Dropped { host: "a".to_owned(), place, reason: "flannel0 tx_dropped".to_owned(), count }]
    }

    #[test]
    fn a_loss_that_nobody_counted_is_told() {
        assert_eq!(account(3).problem(), None);
        assert_eq!(
            account(160).problem().unwrap(),
            "c1's kernel counted 160 TcpExt TCPFastRetrans: segments were lost on the way, and no drop was counted anywhere"
        );
    }

    #[test]
    fn a_drop_in_a_kernel_may_be_a_run_of_segments_and_one_in_a_relay_is_a_segment() {
        let told =
            |place, count, resent| Account { dropped: dropped(place, count), ..account(resent) }.problem();
        assert_eq!(told(Place::Kernel, 1, 130), None);
        assert_eq!(
            told(Place::Kernel, 1, 132).unwrap(),
            "c1's kernel counted 132 TcpExt TCPFastRetrans: segments were lost on the way, and what is known cannot be \
             all of them: a's kernel dropped 1 (flannel0 tx_dropped)"
        );
        assert_eq!(told(Place::RelayInbound, 7, 10), None);
        assert!(told(Place::RelayInbound, 7, 11).is_some());
    }

    #[test]
    fn what_came_late_was_not_lost() {
        assert_eq!(Account { needless: 44, ..account(47) }.problem(), None);
        assert!(Account { needless: 44, ..account(48) }.problem().is_some());
        assert_eq!(Account { unheard: 1, ..account(44) }.problem(), None);
    }
}

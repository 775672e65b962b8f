//! When everything sent has come to rest, and whether the daemons' counts agree with what the interfaces saw.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use ipnet::Ipv4Net;

use super::{Error, INTERFACE, Lab, kernel};
use crate::capture::frame::Direction;
use crate::overlay::{self, Counters, Way};
use crate::wait;

/// For the last packets in flight to be forwarded, or dropped, by every daemon.
const QUIET_WITHIN: Duration = Duration::from_secs(5);

/// A request, its reply, and an error about that, which a shaper may each hold.
const MAX_ROUNDS: u32 = 3;

/// From where a daemon and its node's interfaces are compared: when it was started, or when they last disagreed, so that
/// one missing packet is told once.
#[derive(Debug, Clone, Default)]
pub(super) struct Baseline {
    seen: Seen,
    counters: Counters,
}

/// What a node's interfaces and kernel counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    to_device: u64,
    /// Packets that the device dropped: its queue was full, as where the daemon has had no processor for some time.
    queue_full: u64,
    from_device: u64,
    datagrams_out: u64,
    datagrams_in: u64,
    /// Datagrams, the tunnel's or not, that the kernel gave to no socket, or that a full one had no room for.
    undeliverable: u64,
    /// Packets received that were joined to the one before them.
    joined: u64,
}

/// What came of the wait for one daemon.
enum Quiet {
    /// It has dealt with all that was seen, and counts this.
    Counted(Seen, Counters),
    /// It counts nothing.
    Uncounted,
    /// Something does not add up, from where all is as it is `now`.
    Not { what: String, now: Box<Baseline> },
}

/// A daemon's counts do not add up, or do not agree with its interfaces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("packets are not conserved on {node}: {what}")]
pub struct Breach {
    /// The node.
    pub node: String,
    /// The two sides of the equation that does not hold.
    pub what: String,
}

impl Lab {
    /// Waits until every daemon has dealt with every packet that its interfaces gave it, and every shaper with what it had
    /// taken in, and returns the daemons' counters.
    ///
    /// What a probe caused is then all recorded: nothing is under way any more.
    ///
    /// # Errors
    /// When a daemon cannot be asked. The inner [`Breach`] is a verdict on the overlay: after five seconds packets
    /// are still missing.
    pub async fn quiet(&mut self) -> Result<Result<Vec<(String, Counters)>, Breach>, Error> {
        let mut rounds = 1..=MAX_ROUNDS;
        loop {
            self.wait_for_shapers().await?;
            let quiet = self.daemons_quiet().await?;
            // What a shaper lets go may set off more; under a stream there is always more.
            if rounds.next().is_none() || self.shapers_rest() {
                return Ok(quiet);
            }
        }
    }

    async fn daemons_quiet(&mut self) -> Result<Result<Vec<(String, Counters)>, Breach>, Error> {
        self.expect_running()?;
        // All at once: a lab of many nodes waits for the slowest, and not for each.
        let asked = self.daemons.keys().filter(|node| !self.silent.contains(*node));
        let asked = try_join_all(asked.map(|node| self.daemon_quiet(node))).await?;
        let mut all = Vec::new();
        let mut breach = None;
        for (node, quiet) in asked {
            match quiet {
                Quiet::Counted(seen, counters) => {
                    self.rested.insert(node.clone(), Baseline { seen, counters: counters.clone() });
                    all.push((node, counters));
                }
                Quiet::Uncounted => {}
                Quiet::Not { what, now } => {
                    self.baselines.insert(node.clone(), *now);
                    self.rested.remove(&node);
                    breach.get_or_insert(Breach { node, what });
                }
            }
        }
        Ok(breach.map_or(Ok(all), Err))
    }

    /// Waits until one daemon has dealt with what its interfaces gave it.
    async fn daemon_quiet(&self, node: &str) -> Result<(String, Quiet), Error> {
        let name = node.to_owned();
        let daemon = self.daemon(node)?;
        let Some(attachment) = self.attachments.get(node) else { return Ok((name, Quiet::Uncounted)) };
        let baseline = self.baselines.get(node).cloned().unwrap_or_default();
        let rested = self.rested.get(node).filter(|_| self.unrecorded == 0);
        let mut last = String::new();
        let waited = wait::until("the daemons to be quiet", QUIET_WITHIN, async || {
            let now = match self.seen(node, &attachment.device) {
                Ok(seen) => seen,
                Err(error) => return Ok(Err(error)),
            };
            // Where no packet was seen since, nothing can have been counted: most nodes of a large lab are not asked.
            if let Some(rested) = rested.filter(|rested| rested.seen == now) {
                return Ok(Ok(Some((now, rested.counters.clone()))));
            }
            let seen = now.since(baseline.seen);
            let counters = match daemon.counters().await {
                Ok(Some(counters)) => counters,
                Ok(None) => return Ok(Ok(None)),
                Err(error) => return Ok(Err(error.into())),
            };
            match disagreement(&counters, &baseline.counters, &seen, self.unrecorded) {
                None => Ok(Ok(Some((now, counters)))),
                Some(what) => {
                    last.clone_from(&what);
                    Err(what)
                }
            }
        });
        let quiet = match waited.await {
            Ok(Ok(Some((seen, counters)))) => Quiet::Counted(seen, counters),
            Ok(Ok(None)) => Quiet::Uncounted,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let seen = self.seen(node, &attachment.device)?;
                let counters = daemon.counters().await?.unwrap_or_default();
                Quiet::Not { what: last, now: Box::new(Baseline { seen, counters }) }
            }
        };
        Ok((name, quiet))
    }

    /// Looks whether daemons run.
    ///
    /// # Errors
    /// When one has ended that no step has ended.
    pub fn expect_running(&mut self) -> Result<(), Error> {
        for (node, daemon) in &mut self.daemons {
            if let Some(status) = daemon.exited() {
                let (node, trace) = (node.clone(), daemon.trace().into());
                return Err(overlay::Error::Exited { node, status, when: "while the case ran", trace }.into());
            }
        }
        Ok(())
    }

    /// The counters of every daemon that has such, as they are now.
    ///
    /// # Errors
    /// When a daemon cannot be asked.
    pub async fn counters(&self) -> Result<Vec<(String, Counters)>, Error> {
        let asked = self.answering().map(async |(node, daemon)| {
            Ok::<_, Error>(daemon.counters().await?.map(|counters| (node.clone(), counters)))
        });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// The counters of a node's daemon, if one runs that has such and can be asked.
    pub async fn counters_of(&self, node: &str) -> Option<Counters> {
        let (_, daemon) = self.answering().find(|(name, _)| *name == node)?;
        daemon.counters().await.ok().flatten()
    }

    /// What a node's daemon has counted of each of its metrics that count, if one runs that has such and can be asked.
    pub async fn totals_of(&self, node: &str) -> Option<BTreeMap<String, f64>> {
        let (_, daemon) = self.answering().find(|(name, _)| *name == node)?;
        daemon.totals().await.ok()
    }

    /// Where the daemons that can be asked send what is for each subnet.
    pub async fn routes(&self) -> Vec<(String, Result<BTreeMap<Ipv4Net, Ipv4Addr>, overlay::Error>)> {
        join_all(self.answering().map(async |(node, daemon)| (node.clone(), daemon.routes().await))).await
    }

    /// Whether every daemon at rest has passed on or dropped all that it took in: what can be told of packets that no
    /// interface is recorded to have seen.
    pub(super) async fn conserved_within(&self) -> Result<Result<(), Breach>, Error> {
        for (node, counters) in self.counters().await? {
            let before = self.baselines.get(&node).map(|baseline| &baseline.counters);
            let equations = within(&counters, before.unwrap_or(&Counters::default()));
            if let Some(broken) = equations.iter().find(|equation| !equation.holds(0, 0)) {
                return Ok(Err(Breach { node, what: broken.to_string() }));
            }
        }
        Ok(Ok(()))
    }

    /// Compares every daemon and its interfaces from here on.
    pub(super) async fn rebase(&mut self) -> Result<(), Error> {
        for (node, counters) in self.counters().await? {
            let device = self.attachments.get(&node).map_or("", |attachment| &attachment.device);
            let seen = self.seen(&node, device)?;
            // What was not recorded has not shown there.
            self.rested.remove(&node);
            self.baselines.insert(node, Baseline { seen, counters });
        }
        Ok(())
    }

    /// Notes that a host was made to send a tunnel datagram that is none of its daemon's.
    pub fn note_injected(&mut self, host: &str) {
        *self.injected.entry(host.to_owned()).or_default() += 1;
    }

    /// Notes that a host is to take in a tunnel datagram that is not for it, and so not for its daemon.
    pub fn note_astray(&mut self, host: &str) {
        *self.astray.entry(host.to_owned()).or_default() += 1;
    }

    fn astray(&self, host: &str) -> u64 {
        self.astray.get(host).copied().unwrap_or(0)
    }

    fn injected(&self, host: &str) -> u64 {
        self.injected.get(host).copied().unwrap_or(0)
    }

    /// What a node's interfaces and kernel have counted so far.
    pub(super) fn baseline(&self, node: &str) -> Result<Baseline, Error> {
        let device = self.attachments.get(node).map_or("", |attachment| &attachment.device);
        Ok(Baseline { seen: self.seen(node, device)?, counters: Counters::default() })
    }

    fn seen(&self, node: &str, device: &str) -> Result<Seen, Error> {
        let counters = self.host(node)?.counters();
        let count = |protocol, name| kernel::counter(&counters, protocol, name);
        let tally = |interface, direction| self.recorder.tally(node, interface, direction);
        Ok(Seen {
            to_device: tally(device, Direction::Out).frames,
            queue_full: kernel::device_drops(&counters, kernel::TX_DROPPED).get(device).copied().unwrap_or(0),
            from_device: tally(device, Direction::In).frames,
            datagrams_out: tally(INTERFACE, Direction::Out).datagrams.saturating_sub(self.injected(node)),
            datagrams_in: tally(INTERFACE, Direction::In).datagrams.saturating_sub(self.astray(node)),
            undeliverable: count("Udp", "NoPorts") + count("Udp", "InErrors") + count("Ip", "ReasmFails"),
            joined: tally(INTERFACE, Direction::In).joined,
        })
    }
}

impl Seen {
    fn since(self, earlier: Self) -> Self {
        Self {
            to_device: self.to_device.saturating_sub(earlier.to_device),
            queue_full: self.queue_full.saturating_sub(earlier.queue_full),
            from_device: self.from_device.saturating_sub(earlier.from_device),
            datagrams_out: self.datagrams_out.saturating_sub(earlier.datagrams_out),
            datagrams_in: self.datagrams_in.saturating_sub(earlier.datagrams_in),
            undeliverable: self.undeliverable.saturating_sub(earlier.undeliverable),
            joined: self.joined.saturating_sub(earlier.joined),
        }
    }
}

/// A daemon's totals since a baseline.
struct Totals {
    device_read: u64,
    sent: u64,
    received: u64,
    device_written: u64,
}

impl Totals {
    fn since(now: &Counters, before: &Counters) -> Self {
        Self {
            device_read: now.device_read.saturating_sub(before.device_read),
            sent: now.sent.saturating_sub(before.sent),
            received: now.received.saturating_sub(before.received),
            device_written: now.device_written.saturating_sub(before.device_written),
        }
    }
}

/// Two counts that are to be the same.
struct Equation {
    left: u64,
    what: &'static str,
    right: u64,
    /// What the right side counts.
    other: &'static str,
}

impl Equation {
    /// Whether it holds, though the left side may exceed the right by `more`, or the right the left by `less`.
    fn holds(&self, more: u64, less: u64) -> bool {
        self.left <= self.right + more && self.right <= self.left + less
    }
}

impl std::fmt::Display for Equation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}, but {} {}", self.left, self.what, self.right, self.other)
    }
}

/// What must hold of a daemon's counters by themselves, since `before`.
fn within(counters: &Counters, before: &Counters) -> [Equation; 2] {
    let dropped = |way| counters.dropped(way).saturating_sub(before.dropped(way));
    let (outbound, inbound) = (dropped(Way::Outbound), dropped(Way::Inbound));
    let counters = Totals::since(counters, before);
    [
        Equation {
            left: counters.device_read,
            what: "packets that it read",
            right: counters.sent + outbound,
            other: "those it sent or dropped",
        },
        Equation {
            left: counters.received,
            what: "datagrams that it received",
            right: counters.device_written + inbound,
            other: "those it wrote or dropped",
        },
    ]
}

/// The first equation between a daemon's counters and its interfaces that does not hold. The daemon may have counted up
/// to `unrecorded` packets that its interfaces have not.
fn disagreement(counters: &Counters, before: &Counters, seen: &Seen, unrecorded: u64) -> Option<String> {
    let equal = within(counters, before);
    let counters = Totals::since(counters, before);
    // Before its socket was open, and when it was full, the kernel kept datagrams from the daemon, and counted them; and
    // one that a fragment is missing of is none. A run of them counts once.
    let undeliverable = if seen.undeliverable > 0 { seen.undeliverable + seen.joined } else { 0 };
    let kept = seen.datagrams_in.saturating_sub(counters.received).min(undeliverable);
    let refused = seen.to_device.saturating_sub(counters.device_read).min(seen.queue_full);
    let taken_in = [
        Equation {
            left: seen.to_device,
            what: "packets sent to its device",
            right: counters.device_read + refused,
            other: "packets that it read, or that found its device's queue full",
        },
        Equation {
            left: seen.datagrams_in,
            what: "datagrams received by eth0",
            right: counters.received + kept,
            other: "those it received",
        },
    ];
    let given_out = [
        Equation {
            left: counters.sent,
            what: "datagrams that it sent",
            right: seen.datagrams_out,
            other: "datagrams sent by eth0",
        },
        Equation {
            left: counters.device_written,
            what: "packets that it wrote",
            right: seen.from_device,
            other: "packets received from its device",
        },
    ];
    let taken_in = taken_in.iter().filter(|equation| !equation.holds(0, unrecorded));
    let equal = equal.iter().filter(|equation| !equation.holds(0, 0));
    let given_out = given_out.iter().filter(|equation| !equation.holds(unrecorded, 0));
    taken_in.chain(equal).chain(given_out).next().map(Equation::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_devices_queue_full_is_accounted_for_and_no_more_than_that() {
        let counters = Counters { device_read: 3, sent: 3, ..Counters::default() };
        let disagreement = |queue_full| {
            let seen = Seen { to_device: 5, queue_full, datagrams_out: 3, ..Seen::default() };
            disagreement(&counters, &Counters::default(), &seen, 0)
        };
        assert_eq!(disagreement(2), None);
        assert_eq!(disagreement(9), None);
        let expected =
            "5 packets sent to its device, but 4 packets that it read, or that found its device's queue full";
        assert_eq!(disagreement(1).as_deref(), Some(expected));
    }
}

//! What one relay costs etcd: octets on its link, and what an idle one uses.

use std::time::Duration;

use super::leases::{self, BATCH, Leases};
use super::{Error, MEASURED, process};
use crate::bench::figure::{Aim, Figure};
use crate::bench::machine::{Usage, Wire};
use crate::lab::registry::{lease_key, registry};
use crate::lab::{Lab, Workshop};
use crate::topology::Topology;

/// The life of leases that are renewed while somebody watches: the relay renews at a tenth.
const SHORT_LIVED: Duration = Duration::from_secs(20);
/// Events that are counted, each in a watch response of its own.
const EVENTS: u32 = 500;
/// Between two of them.
const APART: Duration = Duration::from_millis(4);
/// For how long renewals are counted.
const RENEWING: Duration = Duration::from_secs(20);

/// What an idle relay did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    span: Duration,
    used: Usage,
    wire: Wire,
}

impl Idle {
    pub(super) fn figures(&self) -> Vec<Figure> {
        let seconds = self.span.as_secs_f64();
        let share = |time: Duration| time.as_secs_f64() / seconds * 100.0;
        vec![
            Figure::new("idle_cpu_percent", "CPU of an idle relay, of one core", share(self.used.cpu), "%")
                .aim(Aim::AtMost(0.1)),
            Figure::new(
                "idle_children_percent",
                "  of the programs that it runs, beside",
                share(self.used.children),
                "%",
            ),
            Figure::new(
                "idle_wakeups",
                "  times a second that it gets a processor",
                self.used.slices as f64 / seconds,
                "1/s",
            ),
        ]
    }

    /// Octets a second, received and sent.
    pub(super) fn wire_per_second(&self) -> (f64, f64) {
        let seconds = self.span.as_secs_f64();
        (self.wire.received as f64 / seconds, self.wire.sent as f64 / seconds)
    }
}

/// Watches the relay for a while in which nothing happens.
pub(super) async fn idle(lab: &mut Lab, span: Duration) -> Result<Idle, Error> {
    let process = process(lab, MEASURED)?;
    let namespace = lab.host(MEASURED)?.namespace.clone();
    let (used, wire) = (Usage::of(process)?, Wire::of(&namespace)?);
    tokio::time::sleep(span).await;
    Ok(Idle { span, used: Usage::of(process)?.since(used), wire: Wire::of(&namespace)?.since(wire) })
}

/// Octets that a relay received and sent for an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    /// In a watch response of its own.
    pub(super) single: (f64, f64),
    /// In one with others: [`BATCH`] a transaction.
    pub(super) batched: (f64, f64),
}

/// Changes leases one by one, then many at once.
pub(super) async fn event(lab: &Lab, leases: &Leases) -> Result<Event, Error> {
    let namespace = &lab.host(MEASURED)?.namespace;
    let mut client = lab.client().await?;
    let mut ticks = tokio::time::interval(APART);
    let events = EVENTS.min(leases.count);
    let before = Wire::of(namespace)?;
    for n in 0..events {
        ticks.tick().await;
        leases::put(&mut client, Leases::subnet(n), Leases::owner(n, 7)).await?;
    }
    ticks.tick().await;
    let single = per(Wire::of(namespace)?.since(before), events);
    let before = Wire::of(namespace)?;
    for first in (0..leases.count).step_by(BATCH as usize) {
        ticks.tick().await;
        leases::commit(&mut client, leases.change(first, 7)).await?;
    }
    ticks.tick().await;
    Ok(Event { single, batched: per(Wire::of(namespace)?.since(before), leases.count) })
}

fn per(wire: Wire, count: u32) -> (f64, f64) {
    (wire.received as f64 / f64::from(count), wire.sent as f64 / f64::from(count))
}

/// Lets a relay renew its lease often, and returns the octets that it received and sent for each time, the event that
/// tells it of its own renewal included.
pub(super) async fn renewal(
    workshop: &Workshop,
    mut topology: Topology,
    idle: (f64, f64),
) -> Result<(f64, f64), Error> {
    let subnet = topology.node(MEASURED).map(|node| node.subnet).unwrap_or_default();
    topology.flags.push(format!("--subnet-lease-ttl={}", SHORT_LIVED.as_secs()));
    let lab = Lab::build(workshop, topology).await?;
    let namespace = lab.host(MEASURED)?.namespace.clone();
    let mut client = lab.client().await?;
    let mut version = async || {
        let found = client.get(lease_key(subnet), None).await.map_err(registry("reading a lease"))?;
        Ok::<_, Error>(found.kvs().first().map_or(0, |pair| pair.version()))
    };
    let (first, before) = (version().await?, Wire::of(&namespace)?);
    tokio::time::sleep(RENEWING).await;
    let (last, wire) = (version().await?, Wire::of(&namespace)?.since(before));
    // Whoever holds a namespace keeps its file mounted.
    drop((namespace, client));
    lab.end().await;
    let renewals = last - first;
    if renewals < 1 {
        return Err(Error::Wrong(format!(
            "no renewal in {} s of a lease that lives {} s",
            RENEWING.as_secs(),
            SHORT_LIVED.as_secs()
        )));
    }
    let each = |octets: u64, idle: f64| (octets as f64 - idle * RENEWING.as_secs_f64()) / renewals as f64;
    Ok((each(wire.received, idle.0), each(wire.sent, idle.1)))
}

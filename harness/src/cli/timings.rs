//! `harness run --timings`: what labs cost, as medians of ten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Usage, say};
use crate::etcd::Kind;
use crate::lab::{Lab, Workshop};
use crate::topology::Topology;

/// Labs that are built and ended for each figure.
const ROUNDS: usize = 10;

/// Prints what a lab of two nodes costs with each kind of etcd, and each case, the slowest first.
pub(super) fn print(workshop: &Workshop, cases: &[(String, Duration)]) -> Result<(), Usage> {
    say!("\ntwo nodes with a container each, up and down, median of {ROUNDS}");
    let topology = Topology::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wired = runtime.block_on(median(async || wired(workshop, &topology).await))?;
    say!("  {:>8.1} ms  without etcd and relays", milliseconds(wired));
    for (kind, name) in [(Kind::Process, "etcd as a process"), (Kind::Container, "etcd as a container")] {
        let workshop = Workshop { etcd: kind, ..workshop.clone() };
        match runtime.block_on(median(async || built(&workshop, &topology).await)) {
            Ok(took) => say!("  {:>8.1} ms  with {name} and relays", milliseconds(took)),
            Err(Usage(why)) => {
                say!("         -     with {name}: {}", why.lines().next().unwrap_or_default())
            }
        }
    }
    let mut rounds: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (name, took) in cases {
        rounds.entry(name).or_default().push(*took);
    }
    let count = rounds.values().map(Vec::len).max().unwrap_or(0);
    let mut cases: Vec<(&str, Duration)> =
        rounds.into_iter().map(|(name, all)| (name, middle(all))).collect();
    cases.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    say!("cases, from start to verdict, median of {count}, the slowest first");
    for (name, took) in cases {
        say!("  {:>8.1} ms  {name}", milliseconds(took));
    }
    Ok(())
}

async fn wired(workshop: &Workshop, topology: &Topology) -> Result<(), Usage> {
    Lab::wire(workshop, topology.clone()).await?.end().await;
    Ok(())
}

async fn built(workshop: &Workshop, topology: &Topology) -> Result<(), Usage> {
    Lab::build(workshop, topology.clone()).await?.end().await;
    Ok(())
}

async fn median(mut round: impl AsyncFnMut() -> Result<(), Usage>) -> Result<Duration, Usage> {
    let mut all = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round().await?;
        all.push(start.elapsed());
    }
    Ok(middle(all))
}

fn middle(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

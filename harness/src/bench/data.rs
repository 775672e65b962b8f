//! What the data path carries: overlays measured in turns, in labs of two nodes with a container each.
//!
//! A round measures every overlay once, each in a fresh lab. What is compared is compared within a round, because the
//! machine's speed changes from one minute to the next.

mod cell;
mod load;
pub mod metric;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use self::cell::Samples;
use self::report::Report;
use super::machine::Machine;
use super::progress::Progress;
use super::{Error, system};
use crate::lab::{Lab, Workshop};
use crate::overlay::Overlay;
use crate::topology::Topology;

/// An overlay that is measured.
#[derive(Clone)]
pub struct Contender {
    /// Its name in the results.
    pub name: String,
    /// The overlay.
    pub overlay: Arc<dyn Overlay>,
    /// Further flags for its daemons.
    pub flags: Vec<String>,
    /// Whether it needs etcd.
    pub registered: bool,
}

/// The name of the overlay that others are compared with.
pub const REFERENCE: &str = "vxlan";
/// The name of plain routes.
pub const PLAIN: &str = "plain";
/// The name of the relay as it comes.
pub const RELAY: &str = "relay";
/// The name of the relay without offloads.
pub const NO_OFFLOAD: &str = "relay none";

/// A kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Measure {
    /// Round trips, alone and beside a TCP stream.
    Latency,
    /// Streams, and their cost.
    Tcp,
    /// Loads of datagrams.
    Udp,
}

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is measured, beside memory and what an idle overlay uses.
    pub measures: Vec<Measure>,
    /// Times that each overlay is measured.
    pub rounds: u32,
    /// For each TCP figure.
    pub tcp: Duration,
    /// For each load of UDP.
    pub udp: Duration,
    /// Round trips.
    pub round_trips: usize,
    /// For how long nothing is sent, to see what an idle overlay uses.
    pub idle: Duration,
}

/// Measures all contenders.
///
/// # Errors
/// When one cannot be measured.
pub fn run(workshop: &Workshop, contenders: &[Contender], plan: &Plan) -> Result<Report, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting the event loop"))?;
    let machine = Machine::look();
    let progress = Progress::start();
    let mut all: Vec<Vec<Samples>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=plan.rounds {
        for (contender, samples) in contenders.iter().zip(&mut all) {
            let say = |what: &str| {
                progress.say(&format!("round {round} of {}, {}: {what}", plan.rounds, contender.name));
            };
            let workshop =
                Workshop { overlay: contender.overlay.clone(), recorded: false, ..workshop.clone() };
            samples.push(runtime.block_on(one(&workshop, contender, plan, &say))?);
        }
    }
    let names = contenders.iter().map(|contender| contender.name.clone());
    Ok(Report::new(machine, plan.rounds, names.zip(all).collect()))
}

async fn one(
    workshop: &Workshop,
    contender: &Contender,
    plan: &Plan,
    say: &dyn Fn(&str),
) -> Result<Samples, Error> {
    let mut topology = Topology { flags: contender.flags.clone(), ..Topology::default() };
    if !contender.registered {
        topology.members.clear();
    }
    say("building the lab");
    let mut lab = Lab::build(workshop, topology).await?;
    let samples = cell::measure(&mut lab, plan, say).await;
    lab.end().await;
    samples
}

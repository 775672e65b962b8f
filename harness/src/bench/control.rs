//! What the control plane costs: from a lease in etcd to the packets that it lets pass.
//!
//! The lab has two nodes with the relay, `a` and `b`, a host `peer` without one that leases are written for, and etcd.

mod cost;
mod first_packet;
mod leases;
mod scale;
mod start;
mod updates;

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Serialize;

use self::leases::Leases;
use super::Error;
use super::figure::{Aim, Figure, Section};
use super::machine::{Machine, Memory};
use super::progress::Progress;
use crate::lab::{Lab, Workshop};
use crate::topology::{Container, Node, Topology};

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Leases that etcd has before anything is measured.
    pub leases: u32,
    /// Leases that are added one by one, and whose first packets are awaited.
    pub added: u32,
    /// Starts with all leases present.
    pub starts: u32,
    /// For how long an idle relay is watched.
    pub idle: Duration,
    /// Updates of leases a second.
    pub rate: u32,
    /// For how long.
    pub sustained: Duration,
    /// The size of the cluster whose cost is computed.
    pub cluster: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// How etcd ran.
    pub etcd: String,
    /// The figures.
    pub sections: Vec<Section>,
}

/// The node that is measured.
const MEASURED: &str = "a";
/// The other node with a relay.
const OTHER: &str = "b";
/// The host without one.
const PEER: &str = "peer";

/// Measures the workshop's overlay, which is the relay.
///
/// # Errors
/// When a part cannot be measured, or the relay does not do what is measured: it loses packets of nodes whose leases
/// stay, or its table is not what etcd has.
pub fn run(workshop: &Workshop, plan: &Plan) -> Result<Report, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(super::system("starting the event loop"))?;
    let machine = Machine::look();
    let workshop = Workshop { recorded: false, ..workshop.clone() };
    let sections = runtime.block_on(sections(&workshop, plan))?;
    Ok(Report { machine, etcd: workshop.etcd.to_string(), sections })
}

async fn sections(workshop: &Workshop, plan: &Plan) -> Result<Vec<Section>, Error> {
    let progress = Progress::start();
    progress.say("building the lab");
    let mut lab = Lab::build(workshop, topology()).await?;
    let leases = Leases::new(plan.leases);
    progress.say(&format!("putting {} leases", plan.leases));
    leases.put_all(&lab).await?;

    let (starts, list) = start::measure(&mut lab, plan, &progress).await?;
    let memory = Memory::of(process(&mut lab, MEASURED)?)?;
    progress.say(&format!("watching an idle relay for {} s", plan.idle.as_secs()));
    let idle = cost::idle(&mut lab, plan.idle).await?;
    let packets = first_packet::measure(&lab, plan.added, &progress).await?;
    progress.say("counting what an event costs on the wire");
    let event = cost::event(&lab, &leases).await?;
    let updated = updates::measure(&mut lab, &leases, plan, &progress).await?;
    let after = Memory::of(process(&mut lab, MEASURED)?)?;
    lab.end().await;

    progress.say("counting what a renewal costs on the wire");
    let renewal = cost::renewal(workshop, alone(), idle.wire_per_second()).await?;

    let held = Section {
        title: format!("Held by a relay with {} leases", plan.leases),
        figures: vec![
            Figure::new("rss_mib", "resident memory", memory.now, "MiB").aim(Aim::AtMost(32.0)),
            Figure::new("rss_peak_mib", "  at most, the updates included", after.peak, "MiB"),
        ]
        .into_iter()
        .chain(idle.figures())
        .collect(),
    };
    let costs = scale::Costs { list, idle, event, renewal };
    let mut sections = vec![packets, starts];
    sections.extend(updated);
    sections.extend([held, costs.section(), costs.of_cluster(plan.cluster)]);
    Ok(sections)
}

/// Two nodes with the relay and a container each, and the host that other leases name.
fn topology() -> Topology {
    let mut topology = alone();
    topology.nodes.push(node(OTHER, 2, true));
    topology.nodes.push(node(PEER, 3, false));
    topology.containers = [("c1", MEASURED, 1), ("c2", OTHER, 2)]
        .map(|(name, node, n)| Container {
            name: name.to_owned(),
            node: node.to_owned(),
            address: Ipv4Addr::new(10, 0, n, 2),
        })
        .into();
    topology
}

/// One node with the relay.
fn alone() -> Topology {
    Topology {
        network: leases::NETWORK,
        config: format!(
            "{{\"Network\":\"{}\",\"SubnetLen\":{},\"Backend\":{{\"Type\":\"udp\"}}}}",
            leases::NETWORK,
            leases::SUBNET_LEN
        ),
        nodes: vec![node(MEASURED, 1, true)],
        containers: Vec::new(),
        ..Topology::default()
    }
}

fn node(name: &str, n: u8, starts: bool) -> Node {
    Node {
        name: name.to_owned(),
        address: Ipv4Addr::new(172, 20, 0, n),
        subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, n, 0), leases::SUBNET_LEN),
        starts,
    }
}

/// The relay's process on a node.
fn process(lab: &mut Lab, node: &str) -> Result<u32, Error> {
    let mut daemons = lab.daemons();
    let found = daemons.find_map(|(name, daemon)| (name == node).then(|| daemon.processes()));
    let process = found.and_then(|processes| processes.first().copied());
    process.ok_or_else(|| Error::Wrong(format!("no daemon runs on {node}")))
}

//! `harness bench`: measuring, with a table for people and JSON for programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Parts, SUCCESS, Usage, say};
use crate::bench::data::{self, Contender, Measure};
use crate::bench::{control, figure};
use crate::overlay::Overlay;
use crate::overlay::plain::Plain;
use crate::overlay::relay::Relay;
use crate::overlay::vxlan::Vxlan;
use crate::owner;

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    data_path: DataPath,
}

#[derive(Debug, Subcommand)]
enum What {
    /// From a lease in etcd to the packets that it lets pass; starts, updates, memory, and what a cluster costs etcd
    ControlPlane(ControlPlane),
    /// TCP, UDP, round trips and their cost, beside the kernel's VXLAN and plain routes (without a word: this)
    DataPath(DataPath),
}

/// Flags of `bench data-path`. A run takes about a minute for each round and overlay.
#[derive(Debug, Clone, Args)]
struct DataPath {
    #[command(flatten)]
    parts: Parts,
    /// Overlays to measure, of: relay, vxlan, plain, "relay none" (without offloads)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = [data::RELAY, data::REFERENCE, data::PLAIN, data::NO_OFFLOAD])]
    overlays: Vec<String>,
    /// What to measure of them
    #[arg(long, value_name = "KINDS", value_delimiter = ',', default_values = ["latency", "tcp", "udp"])]
    measure: Vec<Measure>,
    /// Another relay program to measure beside; more than once for more
    #[arg(long, value_name = "PATH")]
    also: Vec<PathBuf>,
    /// A flanneld to measure beside, with its UDP backend; what it sends before it knows its peers is lost
    #[arg(long, value_name = "PATH")]
    flanneld: Option<PathBuf>,
    /// Times that each overlay is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds for each figure of TCP
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    tcp: u64,
    /// Milliseconds for each load of UDP
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    udp: u64,
    /// Round trips for each figure of latency
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    round_trips: u32,
    /// Write all figures, round by round, to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures into this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Flags of `bench control-plane`. Small numbers make a run that only shows that it works.
#[derive(Debug, Args)]
struct ControlPlane {
    #[command(flatten)]
    parts: Parts,
    /// Leases present in etcd
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=40_000))]
    leases: u32,
    /// Leases put one by one, whose first packets are awaited
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    added: u32,
    /// Starts of a relay with all leases present
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
    /// Seconds for which an idle relay is watched
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle: u64,
    /// Updates of leases a second
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    updates: u32,
    /// Seconds for which leases are updated
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    updating: u64,
    /// Nodes of the cluster whose cost is computed
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    cluster: u32,
    /// Write the figures to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures what was asked for.
pub(super) fn bench(bench: &Bench) -> Result<u8, Usage> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this harness is a debug build, and slow: measure with `cargo build --release`");
    }
    match &bench.what {
        Some(What::ControlPlane(flags)) => control_plane(flags),
        Some(What::DataPath(flags)) => data_path(flags),
        None => data_path(&bench.data_path),
    }
}

fn data_path(flags: &DataPath) -> Result<u8, Usage> {
    let contenders = contenders(flags)?;
    let workshop = flags.parts.workshop()?;
    let plan = data::Plan {
        measures: flags.measure.clone(),
        rounds: flags.rounds,
        tcp: Duration::from_secs(flags.tcp),
        udp: Duration::from_millis(flags.udp),
        round_trips: flags.round_trips as usize,
        idle: Duration::from_secs(2),
    };
    let report = data::run(&workshop, &contenders, &plan)?;
    say!("{}, at the end {:.1}", report.machine, report.load_at_the_end);
    say!("{}", report.table().trim_end());
    write_json(flags.json.as_deref(), &report)?;
    if let Some(file) = &flags.svg {
        write(file, &report.chart())?;
    }
    Ok(SUCCESS)
}

/// The overlays that were asked for.
fn contenders(flags: &DataPath) -> Result<Vec<Contender>, Usage> {
    let relay = Relay::new(flags.parts.program()?);
    let contender = |name: &str, overlay: Arc<dyn Overlay>, registered| Contender {
        name: name.to_owned(),
        overlay,
        flags: Vec::new(),
        registered,
    };
    let named = flags.overlays.iter().map(|name| match name.as_str() {
        data::RELAY => Ok(contender(name, Arc::new(relay.clone()), true)),
        data::NO_OFFLOAD => {
            let flags = vec!["--offload=none".to_owned()];
            Ok(Contender { flags, ..contender(name, Arc::new(relay.clone()), true) })
        }
        data::REFERENCE => Ok(contender(name, Arc::new(Vxlan), false)),
        data::PLAIN => Ok(contender(name, Arc::new(Plain), false)),
        _ => Err(Usage(format!("there is no overlay `{name}`: see `harness bench --help`"))),
    });
    let canonical = |path: &PathBuf| {
        fs::canonicalize(path)
            .map_err(|error| Usage(format!("there is no program at {}: {error}", path.display())))
    };
    let also = flags.also.iter().map(|path| {
        let relay = Relay::new(canonical(path)?);
        Ok(contender(&path.display().to_string(), Arc::new(relay), true))
    });
    let flanneld = flags.flanneld.iter().map(|path| {
        let flanneld = Relay::flanneld(canonical(path)?);
        Ok(contender("flanneld", Arc::new(flanneld), true))
    });
    named.chain(also).chain(flanneld).collect()
}

fn control_plane(flags: &ControlPlane) -> Result<u8, Usage> {
    let workshop = flags.parts.workshop()?;
    let plan = control::Plan {
        leases: flags.leases,
        added: flags.added,
        starts: flags.starts,
        idle: Duration::from_secs(flags.idle),
        rate: flags.updates,
        sustained: Duration::from_secs(flags.updating),
        cluster: flags.cluster,
    };
    let report = control::run(&workshop, &plan)?;
    say!("{}\netcd as {}", report.machine, report.etcd);
    say!("{}", figure::table(&report.sections).trim_end());
    write_json(flags.json.as_deref(), &report)?;
    Ok(SUCCESS)
}

fn write_json(file: Option<&Path>, report: &impl Serialize) -> Result<(), Usage> {
    let Some(file) = file else { return Ok(()) };
    write(file, &(serde_json::to_string_pretty(report)? + "\n"))
}

fn write(file: &Path, text: &str) -> Result<(), Usage> {
    fs::write(file, text).map_err(|error| Usage(format!("writing {}: {error}", file.display())))?;
    owner::give_back(file);
    Ok(())
}

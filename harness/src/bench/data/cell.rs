//! One overlay, measured once.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::load::{self, Loads, Rates};
use super::{Error, Measure, Plan};
use crate::bench::machine::{Memory, Usage, busy};
use crate::bench::statistics::Sorted;
use crate::bench::traffic::blast::Load;
use crate::bench::traffic::iperf::{Done, Streams, Way};
use crate::bench::traffic::ping_pong::{self, Responder};
use crate::bench::traffic::sink::Sink;
use crate::lab::{Lab, kernel};
use crate::netns::Namespace;

/// A value for each metric that the overlay has, by key.
pub(super) type Samples = BTreeMap<&'static str, f64>;

/// The container that sends.
const FROM: &str = "c1";
/// The container that receives.
const TO: &str = "c2";
/// Round trips alone end after this long, however many there were.
const ALONE_WITHIN: Duration = Duration::from_secs(30);
/// Beside a TCP stream, round trips end after this long, however many there were.
const LOADED_WITHIN: Duration = Duration::from_secs(4);

/// Further attempts at a figure of TCP.
const TRIES: u32 = 3;

/// What streams carried.
struct Carried {
    done: Done,
    /// Processor time of the overlay's processes meanwhile.
    used: Duration,
    /// And of the whole machine.
    machine: Duration,
}

struct Cell<'a> {
    plan: &'a Plan,
    from: Namespace,
    to: Namespace,
    address: Ipv4Addr,
    processes: Vec<u32>,
    samples: Samples,
}

/// Measures the overlay that runs in the lab.
pub(super) async fn measure(lab: &mut Lab, plan: &Plan, say: &dyn Fn(&str)) -> Result<Samples, Error> {
    let address = lab.topology.container(TO).map_or(Ipv4Addr::UNSPECIFIED, |container| container.address);
    let mut cell = Cell {
        plan,
        from: lab.host(FROM)?.namespace.clone(),
        to: lab.host(TO)?.namespace.clone(),
        address,
        processes: lab.daemons().flat_map(|(_, daemon)| daemon.processes()).collect(),
        samples: Samples::new(),
    };
    // Nothing else of this process is to be done meanwhile, so it may as well block.
    say("idle");
    cell.idle()?;
    for measure in &plan.measures {
        match measure {
            Measure::Latency => {
                say("round trips");
                cell.round_trips()?;
            }
            Measure::Tcp => {
                say("TCP");
                cell.tcp()?;
            }
            Measure::Udp => {
                say("UDP");
                cell.udp()?;
            }
        }
    }
    cell.memory()?;
    Ok(cell.samples)
}

impl Cell<'_> {
    fn put(&mut self, key: &'static str, value: f64) {
        self.samples.insert(key, value);
    }

    /// What the overlay's processes have used so far.
    fn used(&self) -> Result<Duration, Error> {
        self.processes.iter().map(|process| Ok(Usage::of(*process)?.cpu)).sum()
    }

    fn idle(&mut self) -> Result<(), Error> {
        let before = self.used()?;
        std::thread::sleep(self.plan.idle);
        let used = self.used()?.saturating_sub(before);
        if !self.processes.is_empty() {
            self.put("idle_cpu", used.as_secs_f64() / self.plan.idle.as_secs_f64() * 100.0);
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<(), Error> {
        let all = self.processes.iter().map(|process| Ok(Memory::of(*process)?.peak));
        let all: Sorted = all.collect::<Result<Vec<f64>, Error>>()?.into_iter().collect();
        if !self.processes.is_empty() {
            self.put("rss_peak", all.max());
        }
        Ok(())
    }

    fn round_trips(&mut self) -> Result<(), Error> {
        let _responder = Responder::start(&self.to)?;
        let alone = ping_pong::round_trips(&self.from, self.address, self.plan.round_trips, ALONE_WITHIN)?;
        self.put("latency_p50", alone.median());
        self.put("latency_p99", alone.quantile(0.99));
        self.put("latency_p999", alone.quantile(0.999));
        let stream = self.streams(1, Way::Forward, LOADED_WITHIN + Duration::from_secs(2))?;
        // The stream's own start is not what is of interest.
        std::thread::sleep(Duration::from_secs(1));
        let loaded = ping_pong::round_trips(&self.from, self.address, self.plan.round_trips, LOADED_WITHIN)?;
        stream.end()?;
        self.put("loaded_p50", loaded.median());
        self.put("loaded_p99", loaded.quantile(0.99));
        self.put("loaded_p999", loaded.quantile(0.999));
        Ok(())
    }

    fn streams(&self, count: u32, way: Way, span: Duration) -> Result<Streams, Error> {
        Streams::start(&self.from, (&self.to, self.address), count, way, span.as_secs().max(1))
    }

    /// What streams carry, and what that takes; measured anew if iperf3 fails: on a busy machine its two ends lose each
    /// other.
    fn carried(&self, count: u32, way: Way, span: Duration) -> Result<Carried, Error> {
        let mut tries = 1..=TRIES;
        loop {
            let (used, machine) = (self.used()?, busy()?);
            match self.streams(count, way, span)?.end() {
                Ok(done) => {
                    let used = self.used()?.saturating_sub(used);
                    return Ok(Carried { done, used, machine: busy()?.saturating_sub(machine) });
                }
                Err(error) if tries.next().is_some() => tracing::warn!(%error, "measuring TCP once more"),
                Err(error) => return Err(error),
            }
        }
    }

    fn tcp(&mut self) -> Result<(), Error> {
        // Warms up what is cold: caches, the clock of an idle processor.
        self.carried(1, Way::Forward, Duration::from_secs(1))?;
        let errors = self.checksum_errors()?;
        let mut again = 0;
        for (count, keys) in [
            (1, ["tcp_1", "tcp_1_reverse", "tcp_1_both"]),
            (4, ["tcp_4", "tcp_4_reverse", "tcp_4_both"]),
            (16, ["tcp_16", "tcp_16_reverse", "tcp_16_both"]),
        ] {
            for (key, way) in keys.into_iter().zip([Way::Forward, Way::Reverse, Way::Both]) {
                let Carried { done, used, machine } = self.carried(count, way, self.plan.tcp)?;
                again += done.retransmits;
                self.put(key, done.gigabits_per_second);
                match key {
                    "tcp_1" => self.cost(("cpu_process", used), ("cpu_machine", machine), done),
                    "tcp_4" => self.cost(("cpu_process_4", used), ("cpu_machine_4", machine), done),
                    _ => {}
                }
            }
        }
        self.put("tcp_retransmits", again as f64);
        let errors = self.checksum_errors()?.saturating_sub(errors);
        self.put("tcp_checksum_errors", errors as f64);
        Ok(())
    }

    /// Segments that the containers' kernels found damaged so far.
    fn checksum_errors(&self) -> Result<u64, Error> {
        let of = |namespace: &Namespace| {
            let text =
                namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default())?;
            Ok::<_, Error>(kernel::counter(&text, "Tcp", "InCsumErrors"))
        };
        Ok(of(&self.from)? + of(&self.to)?)
    }

    /// Processor time for what a stream carried.
    fn cost(&mut self, process: (&'static str, Duration), machine: (&'static str, Duration), done: Done) {
        if !self.processes.is_empty() {
            self.put(process.0, process.1.as_secs_f64() / done.gigabits);
        }
        self.put(machine.0, machine.1.as_secs_f64() / done.gigabits);
    }

    fn udp(&mut self) -> Result<(), Error> {
        let (from, to) = (self.from.clone(), self.to.clone());
        let sink = Sink::start(&to)?;
        let loads = Loads { from: &from, to: self.address, sink: &sink, span: self.plan.udp };
        for (size, key) in [(64, "udp_free_64"), (512, "udp_free_512"), (1400, "udp_free_1400")] {
            let load = Load { size, rate: None, segmented: false };
            let flat_out = loads.rates(load)?;
            let free = loads.loss_free(load, flat_out.sent.max(flat_out.delivered))?;
            self.put(key, free / 1e3);
            if size == 64 {
                self.delivered(flat_out, "udp_over_64", "udp_over_64_sent");
                let (best, triple) = beyond(&loads, load, free)?;
                self.put("udp_best_64", best / 1e3);
                self.delivered(triple, "udp_triple_64", "udp_triple_64_sent");
            }
        }
        let load = Load { size: 64, rate: None, segmented: true };
        let flat_out = loads.rates(load)?;
        let free = loads.loss_free(load, flat_out.sent.max(flat_out.delivered))?;
        self.put("udp_gso_free_64", free / 1e3);
        let (best, triple) = beyond(&loads, load, free)?;
        self.put("udp_gso_best_64", best / 1e3);
        self.delivered(triple, "udp_gso_triple_64", "udp_gso_triple_64_sent");
        self.delivered(flat_out, "udp_gso_64", "udp_gso_64_sent");
        Ok(())
    }

    fn delivered(&mut self, rates: Rates, delivered: &'static str, sent: &'static str) {
        self.put(delivered, rates.delivered / 1e3);
        self.put(sent, rates.sent / 1e3);
    }
}

/// What is delivered of more than passes without loss: the best of some loads, and what is left of three times as much.
fn beyond(loads: &Loads<'_>, load: Load, free: f64) -> Result<(f64, Rates), Error> {
    // On a machine that is too busy no rate passed at all.
    let unit = free.max(load::LOWEST);
    let at = |times: f64| loads.rates(Load { rate: Some(unit * times), ..load });
    let (once, more, twice, triple) = (at(1.0)?, at(1.5)?, at(2.0)?, at(3.0)?);
    let best = [once, more, twice, triple].iter().map(|rates| rates.delivered).fold(free, f64::max);
    Ok((best, triple))
}

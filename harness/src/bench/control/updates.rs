//! Leases that change by the thousand, while other nodes' packets are forwarded.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::{join, try_join_all};
use tokio::time::MissedTickBehavior;

use super::leases::{self, BATCH, Leases};
use super::{Error, MEASURED, Plan, process};
use crate::bench::figure::{Aim, Figure, Section};
use crate::bench::machine::{self, Usage};
use crate::bench::progress::Progress;
use crate::bench::statistics::Sorted;
use crate::bench::traffic::flow::{Fared, Flow};
use crate::lab::Lab;

/// Connections to etcd that large transactions are spread over.
const CONNECTIONS: u32 = 8;
/// Connections to etcd that put one lease at a time.
const SINGLE_CONNECTIONS: u32 = 64;
/// Packets a second between nodes whose leases stay as they are.
const FLOW_RATE: u32 = 1000;
/// How often the relay is asked which revision it knows.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// For the relay to know a change; one that it does not is found when the tables are compared.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// How the changes are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// [`BATCH`] a transaction.
    Batched,
    /// One a request.
    Single,
}

/// What a run of updates showed.
struct Run {
    /// Changes that etcd took, and in how long.
    made: u32,
    took: Duration,
    /// How long after etcd's answers the relay knew, in ms.
    behind: Sorted,
    fared: Fared,
    used: Usage,
    /// The share of the whole machine that was busy.
    busy: f64,
}

/// Puts changes in large transactions, then one by one.
pub(super) async fn measure(
    lab: &mut Lab,
    leases: &Leases,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Section>, Error> {
    let seconds = plan.sustained.as_secs();
    let mut sections = Vec::new();
    for kind in [Kind::Batched, Kind::Single] {
        let how = match kind {
            Kind::Batched => format!("in transactions of {BATCH} on {CONNECTIONS} connections"),
            Kind::Single => format!("one by one on {SINGLE_CONNECTIONS} connections"),
        };
        progress.say(&format!("{} updates a second for {seconds} s, {how}", plan.rate));
        let run = run(lab, leases, plan, kind).await?;
        let title = format!("{} updates a second asked for, for {seconds} s, {how}", plan.rate);
        sections.push(run.section(title, kind, plan));
    }
    Ok(sections)
}

impl Run {
    fn section(&self, title: String, kind: Kind, plan: &Plan) -> Section {
        let achieved = f64::from(self.made) / self.took.as_secs_f64();
        let per_update = self.used.cpu.as_secs_f64() * 1e6 / f64::from(self.made);
        let share = self.used.cpu.as_secs_f64() / self.took.as_secs_f64() * 100.0;
        let lost = Figure::new("flow_lost", "packets lost between other nodes", self.fared.lost as f64, "");
        let reached = Figure::new("updates_per_second", "updates that etcd took", achieved, "1/s");
        // etcd at one put a request is what it is; the aim is on what the relay bears.
        let reached = match kind {
            Kind::Batched => reached.aim(Aim::AtLeast(f64::from(plan.rate) * 0.99)),
            Kind::Single => reached,
        };
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        let figures = vec![
            reached,
            lost.aim(Aim::AtMost(0.0)),
            Figure::new("flow_sent", "  of how many sent", self.fared.sent as f64, ""),
            Figure::new(
                "flow_gap_ms",
                "  longest time without one arriving",
                milliseconds(self.fared.longest_gap),
                "ms",
            ),
            Figure::new(
                "behind_p50_ms",
                "known after etcd's answer (a look each 10 ms), p50",
                self.behind.median(),
                "ms",
            ),
            Figure::new(
                "behind_max_ms",
                "                                              max",
                self.behind.max(),
                "ms",
            ),
            Figure::new("update_cpu_us", "one relay's CPU an update", per_update, "µs"),
            Figure::new("updates_cpu_percent", "one relay's share of a core", share, "%"),
            Figure::new("machine_busy_percent", "the whole machine's cores busy", self.busy, "%"),
        ];
        Section { title, figures }
    }
}

/// The revisions that etcd has answered with, and when, until the relay knows them.
type Answers = RefCell<Vec<(i64, Instant)>>;

async fn run(lab: &mut Lab, leases: &Leases, plan: &Plan, kind: Kind) -> Result<Run, Error> {
    let process = process(lab, MEASURED)?;
    let (batch, connections) = match kind {
        Kind::Batched => (BATCH, CONNECTIONS),
        Kind::Single => (1, SINGLE_CONNECTIONS),
    };
    let to = lab.topology.container("c2").map_or(Ipv4Addr::UNSPECIFIED, |container| container.address);
    let flow = Flow::start(&lab.host("c1")?.namespace, (&lab.host("c2")?.namespace, to), FLOW_RATE)?;
    let (used, busy) = (Usage::of(process)?, machine::busy()?);
    let start = Instant::now();
    let generator = Generator {
        leases: *leases,
        batch,
        rate: plan.rate,
        until: start + plan.sustained,
        start,
        next: Cell::new(0),
        answers: RefCell::default(),
    };
    let over = Cell::new(false);
    let writers = async {
        let done = try_join_all((0..connections).map(|_| generator.write(lab))).await;
        over.set(true);
        done.map(|made| (made.into_iter().sum::<u32>(), start.elapsed()))
    };
    let (made, behind) = join(writers, sample(lab, &generator.answers, &over)).await;
    let (made, took) = made?;
    let used = Usage::of(process)?.since(used);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let busy = (machine::busy()?.saturating_sub(busy)).as_secs_f64() / took.as_secs_f64() / cores * 100.0;
    let fared = flow.end()?;
    compare_tables(lab).await?;
    Ok(Run { made, took, behind: behind?, fared, used, busy })
}

struct Generator {
    leases: Leases,
    batch: u32,
    rate: u32,
    start: Instant,
    until: Instant,
    next: Cell<u32>,
    answers: Answers,
}

impl Generator {
    /// Writes changes when their time has come, over a connection of its own. Returns how many leases were changed.
    async fn write(&self, lab: &Lab) -> Result<u32, Error> {
        let mut client = lab.client().await?;
        let mut made = 0;
        loop {
            let number = self.next.replace(self.next.get() + 1);
            let due = Duration::from_secs_f64(f64::from(number * self.batch) / f64::from(self.rate));
            let due = self.start + due;
            // Behind its time it does not wait, but it does end.
            if due >= self.until || Instant::now() >= self.until {
                return Ok(made);
            }
            tokio::time::sleep_until(due.into()).await;
            let per_pass = self.leases.count.div_ceil(self.batch).max(1);
            let (generation, first) = (1 + number / per_pass, number % per_pass * self.batch);
            let revision = match self.batch {
                1 => {
                    let owner = Leases::owner(first, generation);
                    leases::put(&mut client, Leases::subnet(first), owner).await?
                }
                _ => leases::commit(&mut client, self.leases.change(first, generation)).await?,
            };
            self.answers.borrow_mut().push((revision, Instant::now()));
            made += self.batch.min(self.leases.count - first);
        }
    }
}

/// Asks the relay again and again which revision it knows. For each of etcd's answers: how long after it, in ms, the
/// relay first said that it knew. A relay that does not answer does not know.
async fn sample(lab: &Lab, answers: &Answers, over: &Cell<bool>) -> Result<Sorted, Error> {
    let mut behind = Vec::new();
    let mut ticks = tokio::time::interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !over.get() || !answers.borrow().is_empty() {
        ticks.tick().await;
        let known = revision(lab).await?;
        let now = Instant::now();
        answers.borrow_mut().retain(|(revision, answered)| {
            let unknown = *revision > known;
            if !unknown {
                behind.push(now.saturating_duration_since(*answered).as_secs_f64() * 1e3);
            }
            unknown && answered.elapsed() < KNOWN_WITHIN
        });
    }
    Ok(behind.into_iter().collect())
}

/// The revision that the measured relay's routes reflect.
async fn revision(lab: &Lab) -> Result<i64, Error> {
    let all = lab.counters().await?;
    let found = all.into_iter().find(|(node, _)| node == MEASURED);
    Ok(found.map_or(0, |(_, counters)| counters.revision))
}

/// Fails unless the relay's routes are etcd's leases, all but its own.
async fn compare_tables(lab: &mut Lab) -> Result<(), Error> {
    let own = lab.topology.node(MEASURED).map(|node| node.subnet);
    let mut expected = BTreeMap::new();
    for lease in lab.leases().await? {
        expected.extend(lease.route().filter(|(subnet, _)| Some(*subnet) != own));
    }
    for (node, daemon) in lab.daemons() {
        if node == MEASURED {
            let routes = daemon.routes().await?;
            let wrong = expected.iter().filter(|(subnet, owner)| routes.get(subnet) != Some(owner)).count();
            if wrong > 0 || routes.len() != expected.len() {
                let (has, wanted) = (routes.len(), expected.len());
                return Err(Error::Wrong(format!(
                    "its {has} routes are not etcd's {wanted}: {wrong} differ"
                )));
            }
        }
    }
    Ok(())
}

//! Branches of steps that are done at once.
//!
//! What branches send is sent by futures of their own, which know nothing of the lab; the one branch that may need the lab
//! has it meanwhile. What became of all probes is judged once, when everything has come to rest: a packet is told from
//! those of other branches by its marker, and what was dropped meanwhile is shared out among those that were lost. Whether
//! packets are conserved is judged once as well, around all branches.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::flood::Deluge;
use super::observe::{LOOK_AFTER, drops, icmp_sent};
use super::shape::{self, Shares};
use super::stream::{Before, Pinger, Pool};
use super::transfer::{Haul, Toll};
use super::{Runner, StepError, heading, indented};
use crate::flow::{Answer, IcmpSent, Probe};
use crate::netns::Namespace;
use crate::probe::{Listener, Sender, Shot};
use crate::suite::{Parallel, Step, Stream, Sweep};

/// A step that is to be done in a branch.
enum Work<'s> {
    /// It is prose, and stands in its heading.
    Nothing,
    /// It has to do with the lab as a whole.
    Lab(&'s Step),
    Probes(Option<Sweep>, Vec<Volley>),
    Stream(&'s Stream, Box<Pinger>),
    Flood(Deluge),
    Transfer(Haul),
}

/// A probe that is to be sent.
struct Volley {
    label: String,
    shot: Shot,
    namespace: Namespace,
    listener: Option<Rc<Listener>>,
}

/// A step that was done.
enum Done<'s> {
    /// What it added to the text.
    Text(String),
    Probes(Option<Sweep>, Vec<Seen>),
    Stream(&'s Stream, Box<Pinger>),
    /// What is wrong with what was sent in bulk, or arrived of it.
    Bulk(Option<String>),
}

/// A probe that was sent, and what its sockets received.
struct Seen {
    label: String,
    sender: Sender,
    answers: Vec<Answer>,
    number: u32,
    received: u32,
    listener: Option<Rc<Listener>>,
}

/// What branches know of each other.
struct Block {
    /// How long an answer is waited for now.
    patience: Cell<Duration>,
    /// The first failure: which branch, which of its steps, and why.
    failure: RefCell<Option<(usize, usize, StepError)>>,
    failed: Notify,
    /// Branches that are waited for by what goes on until they have ended.
    awaited: Cell<usize>,
    /// Whether there still are any.
    goes_on: Arc<AtomicBool>,
}

impl Block {
    fn new(patience: Duration, awaited: usize) -> Self {
        Self {
            patience: Cell::new(patience),
            failure: RefCell::default(),
            failed: Notify::new(),
            awaited: Cell::new(awaited),
            goes_on: Arc::new(AtomicBool::new(awaited > 0)),
        }
    }

    /// One of the branches that are waited for has ended.
    fn ended(&self) {
        self.awaited.set(self.awaited.get().saturating_sub(1));
        self.goes_on.fetch_and(self.awaited.get() > 0, Ordering::Relaxed);
    }

    fn fail(&self, branch: usize, step: usize, error: StepError) {
        self.failure.borrow_mut().get_or_insert((branch, step, error));
        self.failed.notify_waiters();
        self.goes_on.store(false, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Does what sends, or leaves off as soon as another branch has failed: then there is nothing done.
    async fn unless_failed<T>(&self, sending: impl Future<Output = T>) -> Option<T> {
        let failed = self.failed.notified();
        if self.has_failed() {
            return None;
        }
        tokio::select! {
            done = sending => Some(done),
            () = failed => None,
        }
    }
}

impl Volley {
    /// Sends the probe, and waits until something is known of it, or it is too late.
    async fn fire(self, block: &Block) -> Result<Seen, StepError> {
        let Self { label, shot, namespace, listener } = self;
        let (sender, refused) = Sender::shoot(&namespace, &shot)?;
        let answers = Vec::from_iter(refused);
        let mut seen = Seen { label, sender, answers, number: shot.number, received: 0, listener };
        let start = Instant::now();
        while seen.is_silent() && start.elapsed() < block.patience.get() {
            if let Ok(answer) = tokio::time::timeout(LOOK_AFTER, seen.sender.answer()).await {
                seen.answers.push(answer?);
            }
            seen.hear()?;
        }
        Ok(seen)
    }
}

impl Done<'_> {
    /// The probes that were sent.
    fn probes(&self) -> Vec<Probe> {
        match self {
            Self::Probes(_, seen) => seen.iter().map(|seen| seen.sender.probe.clone()).collect(),
            Self::Stream(_, pinger) => pinger.probes().cloned().collect(),
            Self::Text(_) | Self::Bulk(_) => Vec::new(),
        }
    }
}

impl Seen {
    /// Whether nothing has come of it.
    fn is_silent(&self) -> bool {
        self.answers.is_empty() && self.received == 0
    }

    /// Takes what waits at the sockets.
    fn hear(&mut self) -> Result<(), StepError> {
        if let Some(listener) = &self.listener {
            self.received += listener.received(self.number);
        }
        while let Some(answer) = self.sender.answer_now()? {
            self.answers.push(answer);
        }
        Ok(())
    }
}

impl<'s> Work<'s> {
    fn haul(&self) -> Option<&Haul> {
        match self {
            Self::Transfer(haul) => Some(haul),
            _ => None,
        }
    }

    /// Does it, with the lab if it needs that. Nothing if another branch has failed.
    async fn perform(
        self,
        branch: usize,
        block: &Block,
        runner: Option<&mut Runner<'_>>,
    ) -> Result<Option<Done<'s>>, StepError> {
        let done = match self {
            Self::Nothing => Done::Text(String::new()),
            Self::Lab(step) => match runner {
                Some(runner) => Done::Text(runner.perform_in_branch(branch, step, block).await?),
                None => {
                    let what = "another branch has the lab".to_owned();
                    return Err(crate::lab::Error::State { what }.into());
                }
            },
            Self::Probes(sweep, volleys) => {
                let firing = async {
                    let mut seen = Vec::new();
                    for volley in volleys {
                        seen.push(volley.fire(block).await?);
                    }
                    Ok::<_, StepError>(seen)
                };
                let Some(seen) = block.unless_failed(firing).await else { return Ok(None) };
                Done::Probes(sweep, seen?)
            }
            Self::Stream(stream, pinger) => {
                let flowing = pinger.flow(stream, &block.patience);
                let Some(pinger) = block.unless_failed(flowing).await else { return Ok(None) };
                Done::Stream(stream, pinger?.into())
            }
            Self::Flood(deluge) => {
                let Some(poured) = block.unless_failed(deluge.pour(|| ())).await else { return Ok(None) };
                Done::Bulk(poured?)
            }
            // Its threads would go on without it.
            Self::Transfer(haul) => Done::Bulk(haul.carry(&block.goes_on).await?),
        };
        Ok(Some(done))
    }
}

/// Does a branch's steps, one after the other, until one fails or another branch has failed.
async fn branch<'s>(
    number: usize,
    works: Vec<Work<'s>>,
    block: &Block,
    mut runner: Option<&mut Runner<'_>>,
) -> Vec<Done<'s>> {
    let mut all = Vec::new();
    let throughout = goes_throughout(&works);
    for (at, work) in works.into_iter().enumerate() {
        if block.has_failed() {
            break;
        }
        match work.perform(number, block, runner.as_deref_mut()).await {
            Ok(done) => all.extend(done),
            Err(error) => block.fail(number, at, error),
        }
    }
    if !throughout {
        block.ended();
    }
    all
}

/// Whether a branch goes on until the others have ended.
fn goes_throughout(works: &[Work<'_>]) -> bool {
    works.iter().filter_map(Work::haul).any(Haul::goes_throughout)
}

impl Runner<'_> {
    pub(super) async fn parallel(&mut self, parallel: &Parallel) -> Result<(), StepError> {
        let mut works = Vec::new();
        for steps in &parallel.branches {
            works.push(steps.iter().map(|step| self.work(step)).collect::<Result<Vec<_>, _>>()?);
        }
        let hauls: Vec<&Haul> = works.iter().flatten().filter_map(Work::haul).collect();
        let toll = Toll::of(&self.lab, &hauls);
        let resent = self.resent(&hauls).await?;
        let floods = works.iter().flatten().any(|work| matches!(work, Work::Flood(_)));
        // What floods lose nobody follows, and what else may be lost is not told from the rest.
        let followed = !floods && !hauls.iter().any(|haul| haul.is_lossy());
        let recorded = !floods && hauls.is_empty();
        if !recorded {
            self.lab.begin_flood()?;
            self.lab.note_unrecorded();
        }
        let before = self.before();

        let mut branches = self.run_branches(parallel, works).await?;

        self.end_floods().await?;
        self.settle().await?;
        self.await_stragglers(&mut branches, &before).await?;
        for problem in toll.problems(&self.lab) {
            self.problem(problem);
        }
        self.judge_resent(resent.as_ref()).await?;
        let probes: Vec<Probe> = branches.iter().flatten().flat_map(Done::probes).collect();
        let shaped = self.lab.shaped_since(before.shaped);
        let frames = self.lab.recorder.since(before.position);
        let mut sorted = shape::sort(&probes, frames, shaped, self.map.port);
        let mut pool = Pool {
            relays: drops(&before.counters, &self.counters),
            kernels: self.dropped_by_kernels(&before.kernels, false),
            errors: icmp_sent(&before.counters, &self.counters),
        };
        for ((number, steps), done) in (1..).zip(&parallel.branches).zip(branches) {
            self.line(format!("\nbranch {number}"));
            for (at, (step, done)) in steps.iter().zip(done).enumerate() {
                self.within = Some(place(number, step));
                let apart = if at == 0 { "" } else { "\n" };
                self.line(format!("{apart}{}", indented(&heading(step))));
                self.show_done(done, &mut sorted, &mut pool)?;
            }
        }
        self.within = None;
        if followed {
            for drop in &pool.relays {
                let (host, reason, count) = (&drop.host, &drop.reason, drop.count);
                self.problem(format!(
                    "{host}'s relay dropped {count} packets ({reason}) that are no probe's"
                ));
            }
        }
        if recorded {
            for IcmpSent { host, name, count } in &pool.errors {
                self.problem(format!(
                    "{host}'s relay counted {count} ICMP errors ({name}) that were not recorded"
                ));
            }
        }
        Ok(())
    }

    /// Waits on for probes of which nothing has come, where nothing accounts for that. What was broken meanwhile had them
    /// given up soon, wherever they were.
    async fn await_stragglers(
        &mut self,
        branches: &mut [Vec<Done<'_>>],
        before: &Before,
    ) -> Result<(), StepError> {
        let until = Instant::now() + self.overtime(before.began);
        for done in branches.iter_mut().flatten() {
            match done {
                Done::Stream(_, pinger) => self.await_late(pinger, before, until).await?,
                Done::Probes(_, all) => {
                    for seen in all {
                        self.await_straggler(seen, before, until).await?;
                    }
                }
                Done::Text(_) | Done::Bulk(_) => {}
            }
        }
        Ok(())
    }

    async fn await_straggler(
        &mut self,
        seen: &mut Seen,
        before: &Before,
        until: Instant,
    ) -> Result<(), StepError> {
        seen.hear()?;
        let probe = self.with_source(seen.sender.probe.clone());
        let received = seen.listener.as_ref().map(|_| 0);
        if !seen.is_silent() || !self.may_be_late(&probe, received, before, until).await? {
            return Ok(());
        }
        while seen.is_silent() && Instant::now() < until {
            tokio::time::sleep(LOOK_AFTER).await;
            seen.hear()?;
        }
        self.settle().await
    }

    /// Does all branches at once. The first that fails ends those that send, and what cannot be ended is awaited.
    async fn run_branches<'s>(
        &mut self,
        parallel: &'s Parallel,
        works: Vec<Vec<Work<'s>>>,
    ) -> Result<Vec<Vec<Done<'s>>>, StepError> {
        let awaited = works.iter().filter(|works| !goes_throughout(works)).count();
        let block = Block::new(self.answered_within(), awaited);
        self.streaming = true;
        let mut lab = Some(&mut *self);
        let mut running = Vec::new();
        for (number, works) in works.into_iter().enumerate() {
            // One branch at most: reading the suite file has seen to that.
            let needs_lab = works.iter().any(|work| matches!(work, Work::Lab(_)));
            let runner = if needs_lab { lab.take() } else { None };
            running.push(branch(number, works, &block, runner));
        }
        let done = futures_util::future::join_all(running).await;
        self.streaming = false;
        let Some((number, at, source)) = block.failure.into_inner() else { return Ok(done) };
        let step = parallel.branches.get(number).and_then(|steps| steps.get(at));
        let place = step.map_or(String::new(), |step| place(number + 1, step));
        Err(StepError::Within { place, source: source.into() })
    }

    /// What is to be done for a step of a branch, as things are before any branch begins.
    fn work<'s>(&mut self, step: &'s Step) -> Result<Work<'s>, StepError> {
        Ok(match step {
            Step::Ping(ping) => {
                let shots = self.pings(ping)?;
                Work::Probes(ping.sweep(), self.volleys(shots)?)
            }
            Step::Udp(udp) => {
                let shots = self.datagrams(udp)?;
                Work::Probes(udp.sweep(), self.volleys(shots)?)
            }
            Step::Stream(stream) => Work::Stream(stream, self.pinger(stream)?.into()),
            Step::Flood(flood) => Work::Flood(self.deluge(flood)?),
            Step::Transfer(transfer) => Work::Transfer(self.haul(transfer)?),
            Step::Say(_) => Work::Nothing,
            step => Work::Lab(step),
        })
    }

    fn volleys(&mut self, shots: Vec<(String, Shot)>) -> Result<Vec<Volley>, StepError> {
        let volley = |(label, shot): (String, Shot)| {
            let listener = self.listener(&shot)?;
            let namespace = self.lab.host(&shot.from)?.namespace.clone();
            Ok(Volley { label, shot, namespace, listener })
        };
        shots.into_iter().map(volley).collect()
    }

    /// Shows what a step has shown, and judges what became of what it sent.
    fn show_done(&mut self, done: Done<'_>, sorted: &mut Shares, pool: &mut Pool) -> Result<(), StepError> {
        match done {
            Done::Text(text) => self.text.push_str(&text),
            Done::Bulk(shortfall) => shortfall.into_iter().for_each(|shortfall| self.problem(shortfall)),
            Done::Stream(stream, pinger) => self.conclude(stream, *pinger, sorted, pool)?,
            Done::Probes(sweep, all) => {
                let mut rows = Vec::new();
                for mut seen in all {
                    seen.hear()?;
                    let Seen { label, sender, answers, received, listener, .. } = seen;
                    let probe = self.with_source(sender.probe);
                    let journey = self.account_for(probe, answers, listener.map(|_| received), sorted, pool);
                    for _ in &journey.flows {
                        self.numbering.give();
                    }
                    self.judge(&journey);
                    rows.push((label, journey));
                }
                self.show(sweep, &rows);
            }
        }
        Ok(())
    }

    /// Does a step that needs the lab, and returns what it adds to the text.
    async fn perform_in_branch(
        &mut self,
        branch: usize,
        step: &Step,
        block: &Block,
    ) -> Result<String, StepError> {
        self.within = Some(place(branch + 1, step));
        self.begin_inner(step);
        let start = self.text.len();
        let done = Box::pin(self.step(step)).await;
        self.within = None;
        block.patience.set(self.answered_within());
        // What it has said of a step that could not be done belongs below no other branch's.
        let text = self.text.split_off(start);
        done?;
        Ok(text)
    }
}

/// A step of a branch, for messages.
fn place(branch: usize, step: &Step) -> String {
    format!("branch {branch}, `{}`", step.title())
}

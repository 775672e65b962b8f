//! Pinging steadily while other steps change the lab.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::observe::{ANSWERED_WITHIN, drops};
use super::shape::Shares;
use super::step::echo_id;
use super::{Runner, StepError};
use crate::capture::frame::now;
use crate::capture::recorder::Position;
use crate::flow::{
    self, Answer, Disorder, Dropped, IcmpSent, Journey, Key, Map, Numbering, Observation, Part, Probe,
    Summary,
};
use crate::lab::kernel::KernelDrops;
use crate::overlay::Counters;
use crate::probe::{Echoes, Shot, ShotKind};
use crate::suite::Stream;

/// The least number of probes that precede the first inner step, and that follow the last one.
const MARGIN: u32 = 5;
/// How long a stream's first probe goes ahead of the others. On its way hosts learn each other's link addresses, and meanwhile
/// a kernel lets later packets overtake those that wait for it (`neigh_update`): no fault of an overlay.
const AHEAD: Duration = Duration::from_millis(500);
/// A stream ends by itself after as many probes, whatever its steps do.
const MAX_PROBES: u32 = 20_000;

/// A steady stream of echo requests.
pub(super) struct Pinger {
    /// All of them but what tells one from the other.
    shot: Shot,
    every: Duration,
    first_number: u32,
    /// How many it sends; none for as many as it takes.
    count: Option<u32>,
    echoes: Echoes,
    /// Whether it ended for having sent [`MAX_PROBES`].
    exhausted: bool,
}

/// How things stood before many probes were sent.
pub(super) struct Before {
    pub(super) counters: BTreeMap<String, Counters>,
    pub(super) kernels: KernelDrops,
    pub(super) position: Position,
    pub(super) shaped: usize,
    pub(super) began: Duration,
}

/// How far a stream has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Requests sent.
    sent: Cell<u32>,
    /// Whether any of them was answered.
    answered: Cell<bool>,
    /// Set when it is to end: how long the last reply is waited for.
    ending: Cell<Option<Duration>>,
}

impl Progress {
    /// Waits until the stream flows. Where something is broken already there may never be an answer: it is waited for
    /// `patience` at most.
    async fn flows(&self, start: Instant, every: Duration, patience: Duration) {
        let flows = || self.sent.get() >= MARGIN && self.answered.get();
        while !flows() && (self.sent.get() < MARGIN || start.elapsed() < patience) {
            tokio::time::sleep(every).await;
        }
    }
}

impl Pinger {
    /// Sends for as long as a stream lasts that has no steps of its own.
    pub(super) async fn flow(self, stream: &Stream, patience: &Cell<Duration>) -> Result<Self, StepError> {
        let (every, endless, progress) = (self.every, self.count.is_none(), Progress::default());
        let lasting = async {
            if endless {
                let start = Instant::now();
                progress.flows(start, every, patience.get()).await;
                tokio::time::sleep(stream.lasts().saturating_sub(start.elapsed())).await;
            }
            progress.ending.set(Some(patience.get()));
        };
        let (pinger, ()) = futures_util::future::join(self.run(&progress), lasting).await;
        pinger
    }

    /// The probes that it has sent so far.
    pub(super) fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.echoes.sent().iter().map(|(probe, _)| probe)
    }

    /// Its last probe, if that has no answer yet.
    fn unanswered(&self) -> Option<Probe> {
        let (probe, answers) = self.echoes.sent().last()?;
        answers.is_empty().then(|| probe.clone())
    }

    /// Sends so many, or until it is to end, and then waits for the last reply.
    async fn run(mut self, progress: &Progress) -> Result<Self, StepError> {
        let Progress { sent, answered, ending } = progress;
        let mut ticks = tokio::time::interval(self.every);
        let mut after = 0;
        while sent.get() < self.count.unwrap_or(MAX_PROBES) && (self.count.is_some() || after < MARGIN) {
            ticks.tick().await;
            self.shot.number = self.first_number + sent.get();
            self.shot.kind = echo(self.shot.number, sent.get());
            self.echoes.send(&self.shot)?;
            sent.set(sent.get() + 1);
            if sent.get() == 1 {
                self.echoes.await_last(AHEAD).await?;
                ticks.reset();
            }
            self.echoes.take_answers()?;
            answered.set(self.echoes.answered() > 0);
            after += u32::from(ending.get().is_some());
        }
        self.exhausted = self.count.is_none() && after < MARGIN;
        self.echoes.await_last(ending.get().unwrap_or(ANSWERED_WITHIN)).await?;
        Ok(self)
    }
}

/// The echo request of a probe's number, after so many of its stream.
fn echo(number: u32, sent: u32) -> ShotKind {
    ShotKind::Echo { id: echo_id(number), seq: u16::try_from(sent + 1).unwrap_or(u16::MAX) }
}

/// What daemons and kernels counted while many probes were under way, and no probe has been found to be yet.
pub(super) struct Pool {
    pub(super) relays: Vec<Dropped>,
    pub(super) kernels: Vec<Dropped>,
    /// ICMP errors that daemons counted; none where nobody asks for those that were not recorded.
    pub(super) errors: Vec<IcmpSent>,
}

impl Pool {
    /// Puts together what became of a probe, and takes the drops that account for it, and the errors about it, out of the
    /// pool. Which of several probes a drop was cannot be told, but where it was, and how many there were.
    pub(super) fn account_for(
        &mut self,
        map: &Map,
        mut observation: Observation,
        numbering: &Numbering,
    ) -> Journey {
        observation.icmp_sent = std::mem::take(&mut self.errors);
        let mut journey = self.explain(map, observation, numbering);
        self.errors = std::mem::take(&mut journey.unseen);
        journey
    }

    fn explain(&mut self, map: &Map, mut observation: Observation, numbering: &Numbering) -> Journey {
        let reconstruct =
            |observation: &Observation| Journey::reconstruct(map, observation, &mut numbering.clone());
        let alone = reconstruct(&observation);
        if alone.flows.iter().all(|flow| flow.verdict.is_delivered()) {
            return alone;
        }
        let own = observation.dropped.len();
        for pool in [&mut self.relays, &mut self.kernels] {
            observation.dropped.truncate(own);
            observation.dropped.append(pool);
            let mut journey = reconstruct(&observation);
            // What is left of the pool, which the ping's own drops come before.
            let left =
                journey.unattributed.split_off(alone.unattributed.len().min(journey.unattributed.len()));
            *pool = left;
            if !journey.is_unexplained() {
                return journey;
            }
        }
        alone
    }
}

impl Runner<'_> {
    pub(super) async fn stream(&mut self, stream: &Stream) -> Result<(), StepError> {
        let pinger = self.pinger(stream)?;
        let every = pinger.every;
        let before = self.before();
        let progress = Progress::default();
        let steps = async {
            let done = self.inner_steps(stream, &progress, every).await;
            progress.ending.set(Some(self.answered_within()));
            done
        };
        // Either one's failure ends both: the steps wait for the stream, and the stream for them.
        let (mut pinger, ()) = futures_util::future::try_join(pinger.run(&progress), steps).await?;
        self.settle().await?;
        let until = Instant::now() + self.overtime(before.began);
        self.await_late(&mut pinger, &before, until).await?;
        let probes: Vec<Probe> = pinger.probes().cloned().collect();
        let shaped = self.lab.shaped_since(before.shaped);
        let frames = self.lab.recorder.since(before.position);
        let mut sorted = super::shape::sort(&probes, frames, shaped, self.map.port);
        let mut pool = Pool {
            relays: drops(&before.counters, &self.counters),
            kernels: self.dropped_by_kernels(&before.kernels, false),
            errors: Vec::new(),
        };
        self.conclude(stream, pinger, &mut sorted, &mut pool)
    }

    /// How things stand now.
    pub(super) fn before(&self) -> Before {
        Before {
            counters: self.counters.clone(),
            kernels: self.kernel_drops(),
            position: self.lab.recorder.position(),
            shaped: self.lab.shaped_so_far(),
            began: now(),
        }
    }

    /// Waits on, `until` then, for the reply to a stream's last probe, if nothing accounts for it that there is none.
    pub(super) async fn await_late(
        &mut self,
        pinger: &mut Pinger,
        before: &Before,
        until: Instant,
    ) -> Result<(), StepError> {
        pinger.echoes.take_answers()?;
        let Some(probe) = pinger.unanswered() else { return Ok(()) };
        if self.may_be_late(&probe, None, before, until).await? {
            pinger.echoes.await_last(until.saturating_duration_since(Instant::now())).await?;
            self.settle().await?;
        }
        Ok(())
    }

    /// Whether it is not `until` then yet, and something may still come of a probe: nothing accounts for what became of it.
    pub(super) async fn may_be_late(
        &self,
        probe: &Probe,
        received: Option<u32>,
        before: &Before,
        until: Instant,
    ) -> Result<bool, StepError> {
        if Instant::now() >= until {
            return Ok(false);
        }
        let shaped = self.lab.shaped_since(before.shaped);
        let frames = self.lab.recorder.since(before.position);
        let mut own = super::shape::sort(std::slice::from_ref(probe), frames, shaped, self.map.port);
        let (frames, dropped) = own.remove(&probe.number).unwrap_or_default();
        let faults = self.faults_met(&frames);
        let (probe, answers, icmp_sent) = (probe.clone(), Vec::new(), Vec::new());
        let seen = Observation { probe, frames, dropped, icmp_sent, faults, answers, received };
        Ok(!self.is_accounted_for(seen, &before.counters, &before.kernels).await?)
    }

    /// What is to send a stream.
    pub(super) fn pinger(&mut self, stream: &Stream) -> Result<Pinger, StepError> {
        let to = self.address(&stream.to)?;
        let every = Duration::from_millis(stream.every_ms.into());
        let first_number = self.probes + 1;
        let shot = Shot {
            number: first_number,
            from: stream.from.to_string(),
            to,
            ttl: 64,
            size: stream.size(),
            df: false,
            tos: 0,
            kind: echo(first_number, 0),
        };
        let echoes = Echoes::open(&self.lab.host(&stream.from)?.namespace, &shot)?;
        let count = stream.count.map(u32::from);
        // Probes of other steps meanwhile have numbers of their own.
        self.probes += MAX_PROBES;
        Ok(Pinger { shot, every, first_number, count, echoes, exhausted: false })
    }

    /// Does the steps once the stream flows, and lets it flow for as long as it is to last.
    async fn inner_steps(
        &mut self,
        stream: &Stream,
        progress: &Progress,
        every: Duration,
    ) -> Result<(), StepError> {
        if stream.count.is_some() {
            return Ok(());
        }
        let start = Instant::now();
        progress.flows(start, every, self.answered_within()).await;
        self.streaming = true;
        for step in &stream.during {
            self.begin_inner(step);
            self.line(format!("  $ {}", step.title()));
            self.do_inner(step).await?;
        }
        self.streaming = false;
        tokio::time::sleep(stream.lasts().saturating_sub(start.elapsed())).await;
        Ok(())
    }

    /// Notes losses and drops that nothing accounts for.
    fn judge_stream(&mut self, journeys: &[Journey]) {
        let (lost, copied): (Vec<&Journey>, Vec<&Journey>) = journeys
            .iter()
            .filter(|journey| journey.is_unexplained())
            .partition(|journey| journey.flows.iter().any(|flow| flow.verdict.is_unexplained()));
        let unrecorded = journeys.iter().find(|journey| journey.is_unrecorded(&self.map));
        let from_nowhere =
            journeys.iter().find(|journey| journey.is_from_nowhere() && !copied.contains(journey));
        for journey in &copied {
            self.judge(journey);
        }
        for journey in unrecorded.into_iter().chain(from_nowhere) {
            self.judge_recording(journey);
        }
        for journey in journeys {
            self.note_lost(journey);
        }
        for journey in journeys.iter().filter(|journey| !journey.unattributed.is_empty()) {
            let ladder = journey.ladder(&self.map);
            self.problem(format!("a drop was counted that lost nothing:\n{}", ladder.trim_end()));
        }
        if let Some(first) = lost.first() {
            let (lost, ladder) = (lost.len(), first.ladder(&self.map));
            let why = self.why_dropped(first);
            self.problem(format!(
                "{lost} pings of the stream were lost, and nothing was counted where they were lost; the first:\n{}{why}",
                ladder.trim_end()
            ));
        }
    }

    /// Notes for the recording which packets are those of a ping that got lost. The others speak for themselves.
    fn note_lost(&mut self, journey: &Journey) {
        let Key::Echo { seq, .. } = journey.probe.key else { return };
        if journey.flows.iter().all(|flow| flow.verdict.is_delivered()) {
            return;
        }
        for flow in &journey.flows {
            let what = match flow.part {
                Part::Request => "request",
                Part::Reply => "reply",
                Part::Error { .. } => "error",
            };
            self.notes.extend(flow.notes(&format!("stream {what} {seq}")));
        }
    }

    /// Shows where packets overtook each other between hosts. That they do so within one is a problem.
    fn show_disorder(&mut self, journeys: &[Journey]) {
        for (part, what) in [(Part::Request, "requests"), (Part::Reply, "replies")] {
            for Disorder { from, to, by } in flow::disorders(journeys, part) {
                match by {
                    Some(host) => {
                        self.problem(format!("{host} changed the order of {what} from {from} to {to}"));
                    }
                    None => self.block(&format!("{what} changed their order from {from} to {to}")),
                }
            }
        }
    }

    /// What became of one of many probes: its share of what was recorded, and of what was counted meanwhile.
    pub(super) fn account_for(
        &self,
        probe: Probe,
        answers: Vec<Answer>,
        received: Option<u32>,
        sorted: &mut Shares,
        pool: &mut Pool,
    ) -> Journey {
        let (frames, dropped) = sorted.remove(&probe.number).unwrap_or_default();
        let faults = self.faults_met(&frames);
        let observation =
            Observation { faults, frames, dropped, icmp_sent: Vec::new(), answers, received, probe };
        let mut journey = pool.account_for(&self.map, observation, &self.numbering);
        self.blame(&mut journey);
        journey
    }

    /// Shows which paths the stream took, and judges its losses.
    pub(super) fn conclude(
        &mut self,
        stream: &Stream,
        mut pinger: Pinger,
        sorted: &mut Shares,
        pool: &mut Pool,
    ) -> Result<(), StepError> {
        pinger.echoes.take_answers()?;
        if pinger.exhausted {
            self.problem(format!(
                "the stream ended after {MAX_PROBES} pings, before its steps did: send fewer a second, or let it last less long"
            ));
        }
        let mut journeys = Vec::new();
        for (probe, answers) in pinger.echoes.into_sent() {
            journeys.push(self.account_for(probe, answers, None, sorted, pool));
        }
        self.judge_stream(&journeys);
        let summary = Summary::new(&self.map, &journeys);
        self.block(&summary.text(stream.count.is_some()));
        self.show_disorder(&journeys);
        let lost = summary.lost;
        let unanswered = journeys.iter().filter(|journey| journey.answers.is_empty()).count();
        if let Some(most) = stream.max_unanswered.filter(|most| unanswered > usize::from(*most)) {
            let sent = journeys.len();
            self.problem(format!(
                "{unanswered} of {sent} pings were not answered at all; the case allows {most}"
            ));
        }
        if lost > usize::from(stream.max_lost) {
            let sent = journeys.len();
            self.problem(format!(
                "{lost} of {sent} pings were lost; the case allows {}{}",
                stream.max_lost,
                summary.causes_in_words()
            ));
        }
        Ok(())
    }
}

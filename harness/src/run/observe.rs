//! Sending one probe, and seeing all that comes of it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Runner, StepError};
use crate::capture::recorder::Position;
use crate::flow::{Answer, Dropped, IcmpSent, Journey, Observation, Place, Probe, Verdict};
use crate::lab::kernel::KernelDrops;
use crate::overlay::{Counters, Way};
use crate::probe::{Listener, Sender, Shot, ShotKind};

/// How long a probe of which nothing is heard is waited for, on a machine that may have much else to do. Only what fails
/// a case takes as long.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// The same while something is broken on purpose, and silence is likely what the case is about: unless what became of the
/// probe so far is nothing that the fault accounts for.
const ANSWERED_WITHIN_A_FAULT: Duration = Duration::from_secs(1);
/// The same where daemons count nothing: for what a kernel may yet say of a datagram that a fragment is missing of.
const ANSWERED_WITHOUT_COUNTS: Duration = Duration::from_secs(2);
/// How long to wait for an answer before the daemons are asked whether they dropped it.
pub(super) const LOOK_AFTER: Duration = Duration::from_millis(10);

impl Runner<'_> {
    /// The next echo request's shape, of this probe number.
    pub(super) fn next_probe(&mut self) -> u32 {
        self.probes += 1;
        self.probes
    }

    /// Sends a probe and follows it and all that it causes.
    pub(super) async fn follow(&mut self, shot: &Shot) -> Result<Journey, StepError> {
        let kernels = self.kernel_drops();
        let mut observation = self.observe(shot, &kernels).await?;
        let first = Journey::reconstruct(&self.map, &observation, &mut self.numbering.clone());
        // Kernels count more than what is lost, so they are asked only about what nobody else accounts for.
        if first.is_unexplained() {
            observation.dropped.extend(self.dropped_by_kernels(&kernels, false));
        }
        let mut journey = Journey::reconstruct(&self.map, &observation, &mut self.numbering);
        journey.unattributed.retain(|drop| drop.place != Place::Kernel);
        self.blame(&mut journey);
        self.judge(&journey);
        Ok(journey)
    }

    /// What kernels have dropped so far.
    pub(super) fn kernel_drops(&self) -> KernelDrops {
        let mut drops = self.lab.kernel_drops();
        for (node, counters) in &self.counters {
            drops.note_sent_by_daemon(node, counters.icmp.values().sum());
        }
        for (node, past) in &self.past {
            drops.note_sent_by_daemon(node, past.icmp_unknown);
        }
        drops
    }

    /// What kernels have dropped without a word since `before`. Packets for many are left out unless asked for.
    pub(super) fn dropped_by_kernels(&self, before: &KernelDrops, for_many: bool) -> Vec<Dropped> {
        let drops = self.kernel_drops().since(before, for_many).into_iter();
        let dropped = |(host, reason, count)| Dropped { host, place: Place::Kernel, reason, count };
        drops.map(dropped).collect()
    }

    async fn observe(&mut self, shot: &Shot, kernels: &KernelDrops) -> Result<Observation, StepError> {
        let namespace = self.lab.host(&shot.from)?.namespace.clone();
        let listener = self.listener(shot)?;
        let position = self.lab.recorder.position();
        let shaped = self.lab.shaped_so_far();
        let (sender, refused) = Sender::shoot(&namespace, shot)?;
        let mut answers = Vec::from_iter(refused);
        if answers.is_empty() {
            answers.extend(self.outcome(&sender, listener.as_deref(), position, shaped, kernels).await?);
        }
        let before = self.counters.clone();
        self.settle().await?;
        while let Some(answer) = sender.answer_now()? {
            answers.push(answer);
        }
        let probe = self.with_source(sender.probe);
        let frames = self.lab.recorder.since(position);
        let mut dropped = drops(&before, &self.counters);
        let shaped = self.lab.shaped_since(shaped);
        if !shaped.is_empty() {
            let probes = std::slice::from_ref(&probe);
            let sorted = super::shape::sort(probes, frames.clone(), shaped, self.map.port);
            dropped.extend(sorted.into_values().flat_map(|(_, dropped)| dropped));
        }
        Ok(Observation {
            frames,
            dropped,
            icmp_sent: icmp_sent(&before, &self.counters),
            faults: self.faults(),
            answers,
            received: listener.map(|listener| listener.received(shot.number)),
            probe,
        })
    }

    /// A probe with a source, even if its kernel found no way, and so none: its host is named by its own address.
    pub(super) fn with_source(&self, mut probe: Probe) -> Probe {
        if probe.source.is_unspecified() {
            probe.source = self.lab.topology.address_of(&probe.from).unwrap_or(probe.source);
        }
        probe
    }

    /// A socket that receives the probe, if it is for one.
    pub(super) fn listener(&mut self, shot: &Shot) -> Result<Option<Rc<Listener>>, StepError> {
        let ShotKind::Udp { port, listen: true, .. } = shot.kind else { return Ok(None) };
        let Some(host) = self.map.host_of(shot.to).map(str::to_owned) else { return Ok(None) };
        self.listener_at(&host, port).map(Some)
    }

    /// The socket that receives what is sent to a host's port.
    pub(super) fn listener_at(&mut self, host: &str, port: u16) -> Result<Rc<Listener>, StepError> {
        let key = (host.to_owned(), port);
        if let Some(listener) = self.listeners.get(&key) {
            return Ok(listener.clone());
        }
        let listener = Rc::new(Listener::open(&self.lab.host(host)?.namespace, port)?);
        self.listeners.insert(key, listener.clone());
        Ok(listener)
    }

    /// Waits until it is known what became of a probe: an answer, an arrival, or a drop that was counted.
    async fn outcome(
        &self,
        sender: &Sender,
        listener: Option<&Listener>,
        position: Position,
        shaped: usize,
        kernels: &KernelDrops,
    ) -> Result<Option<Answer>, StepError> {
        let start = Instant::now();
        let arrival = async {
            match listener {
                Some(listener) => listener.arrival().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(arrival);
        let (soon, late) = (self.answered_within(), self.patience(ANSWERED_WITHIN));
        while start.elapsed() < late {
            tokio::select! {
                answer = tokio::time::timeout(LOOK_AFTER, sender.answer()) => match answer {
                    Ok(answer) => return Ok(Some(answer?)),
                    Err(_) if self.lab.shaped_so_far() > shaped => return Ok(None),
                    Err(_) if self.was_dropped_silently().await? => return Ok(None),
                    Err(_) if self.kernel_drops().silent_since(kernels) => return Ok(None),
                    Err(_) if self.was_told_to_a_node(sender, position) => return Ok(None),
                    Err(_) => {}
                },
                () = &mut arrival => return Ok(None),
            }
            if start.elapsed() >= soon {
                let seen = self.so_far(sender, position, listener.map(|_| 0));
                if self.is_accounted_for(seen, &self.counters, kernels).await? {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Whether all losses of a probe are accounted for, of what was seen so far: by what is broken on purpose, or by what
    /// was counted since.
    pub(super) async fn is_accounted_for(
        &self,
        mut seen: Observation,
        before: &BTreeMap<String, Counters>,
        kernels: &KernelDrops,
    ) -> Result<bool, StepError> {
        let now = self.counters_now().await?;
        seen.dropped.extend(drops(before, &now));
        seen.dropped.extend(self.dropped_by_kernels(kernels, false));
        seen.icmp_sent = icmp_sent(before, &now);
        let mut journey = Journey::reconstruct(&self.map, &seen, &mut self.numbering.clone());
        self.blame(&mut journey);
        Ok(!journey.is_unexplained())
    }

    /// How long an answer is waited for now, of which nothing says that it may still come.
    pub(super) fn answered_within(&self) -> Duration {
        if self.faults().is_empty() { self.patience(ANSWERED_WITHIN) } else { ANSWERED_WITHIN_A_FAULT }
    }

    /// How much longer an answer may be waited for that was not awaited long: something has been broken on purpose since `began`.
    pub(super) fn overtime(&self, began: Duration) -> Duration {
        if self.faults_since(began).next().is_none() {
            return Duration::ZERO;
        }
        self.patience(ANSWERED_WITHIN).saturating_sub(ANSWERED_WITHIN_A_FAULT)
    }

    /// How long silence is waited for that would otherwise take `usual`: where no daemon tells of what it drops, silence is
    /// all that there is, and fails no case.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        if self.lab.counts_nothing().is_some() { usual.min(ANSWERED_WITHOUT_COUNTS) } else { usual }
    }

    /// Accounts for what was lost in a daemon that counts nothing.
    pub(super) fn blame(&self, journey: &mut Journey) {
        if let Some(overlay) = self.lab.counts_nothing() {
            journey.blame_daemons(&format!("{overlay} counts no losses"));
        }
    }

    /// Whether a daemon has dropped something since the lab was last quiet, and sent no ICMP error about it that
    /// might still arrive.
    async fn was_dropped_silently(&self) -> Result<bool, StepError> {
        let mut dropped = false;
        for (node, counters) in self.counted(self.lab.counters().await?) {
            let before = self.counters.get(&node).cloned().unwrap_or_default();
            if !counters.icmp_since(&before).is_empty() {
                return Ok(false);
            }
            dropped |= !counters.drops_since(&before).is_empty();
        }
        Ok(dropped)
    }

    /// Whether the datagram around a probe was dropped on the underlay, and the node that sent it has the ICMP error: of
    /// that the probe's sender hears nothing.
    fn was_told_to_a_node(&self, sender: &Sender, position: Position) -> bool {
        let seen = self.so_far(sender, position, None);
        let journey = Journey::reconstruct(&self.map, &seen, &mut self.numbering.clone());
        let dropped = journey.request().is_some_and(|flow| matches!(flow.verdict, Verdict::Dropped { .. }));
        dropped && journey.flows.iter().any(|flow| matches!(flow.verdict, Verdict::Received { .. }))
    }

    /// What was seen so far of a probe that nobody has answered.
    fn so_far(&self, sender: &Sender, position: Position, received: Option<u32>) -> Observation {
        Observation {
            frames: self.lab.recorder.since(position),
            dropped: Vec::new(),
            icmp_sent: Vec::new(),
            faults: self.faults(),
            answers: Vec::new(),
            received,
            probe: self.with_source(sender.probe.clone()),
        }
    }

    /// Waits until the lab is quiet, and notes the daemons' counters. That it does not become quiet is a problem of the
    /// overlay's.
    pub(super) async fn settle(&mut self) -> Result<(), StepError> {
        match self.lab.quiet().await? {
            Ok(running) => self.note_counted(running),
            Err(breach) => {
                self.problem(breach.to_string());
                self.note_counted(self.lab.counters().await?);
            }
        }
        Ok(())
    }
}

/// By how much each drop counter grew. Daemons that were not there before began at zero.
pub(super) fn drops(before: &BTreeMap<String, Counters>, now: &BTreeMap<String, Counters>) -> Vec<Dropped> {
    let mut all = Vec::new();
    for (host, counters) in now {
        let before = before.get(host).cloned().unwrap_or_default();
        all.extend(counters.drops_since(&before).into_iter().map(|(cause, count)| Dropped {
            host: host.clone(),
            place: match cause.way {
                Way::Outbound => Place::RelayOutbound,
                Way::Inbound => Place::RelayInbound,
            },
            reason: cause.reason,
            count,
        }));
    }
    all
}

/// How many ICMP errors each daemon counted as sent, by type.
pub(super) fn icmp_sent(
    before: &BTreeMap<String, Counters>,
    now: &BTreeMap<String, Counters>,
) -> Vec<IcmpSent> {
    let mut all = Vec::new();
    for (host, counters) in now {
        let before = before.get(host).cloned().unwrap_or_default();
        let sent = counters.icmp_since(&before).into_iter();
        all.extend(sent.map(|(name, count)| IcmpSent { host: host.clone(), name, count }));
    }
    all
}

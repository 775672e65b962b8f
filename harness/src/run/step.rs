//! What each step does, and what it adds to the snapshot.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::FutureExt;

use super::{Runner, StepError, indented};
use crate::flow::{self, Answer, Cell, Journey, Matrix, Mesh};
use crate::packet::icmp::Kind;
use crate::probe::{Shot, ShotKind};
use crate::suite::{
    By, LEADER, Ping, Repeat, Shape, Step, SubnetFile, Sweep, Text, Traceroute, Udp, WaitRoute,
};
use crate::wait;

/// What is sent where nothing is said of it.
const PLAIN: Shape = Shape { ttl: 64, size: 56, df: false, tos: 0 };
/// How long a node's file is waited for.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// The lowest port that traceroute(8) sends to; no socket listens there.
const TRACEROUTE_PORT: u16 = 33_434;

impl Runner<'_> {
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), StepError> {
        let began = crate::capture::frame::now();
        let done = self.perform(step).await;
        self.note_faults(began);
        done
    }

    /// Each step's future is boxed: side by side they would take a third of a megabyte of the stack, and as much again for a
    /// step within a step.
    async fn perform(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Say(_) => {}
            Step::Ping(ping) => {
                let shots = self.pings(ping)?;
                self.probe(ping.sweep(), shots).boxed_local().await?;
            }
            Step::PingAll(_) => self.ping_all().boxed_local().await?,
            Step::Udp(udp) => {
                let shots = self.datagrams(udp)?;
                self.probe(udp.sweep(), shots).boxed_local().await?;
            }
            Step::Flood(flood) => self.flood(flood).boxed_local().await?,
            Step::Transfer(transfer) => self.transfer(transfer).boxed_local().await?,
            Step::Inject(inject) => self.inject(inject).boxed_local().await?,
            Step::Traceroute(traceroute) => self.traceroute(traceroute).boxed_local().await?,
            Step::Stream(stream) => self.stream(stream).boxed_local().await?,
            Step::PutLease(lease) => {
                let (subnet, owner) = (self.subnet(&lease.subnet)?, self.address(&lease.owner)?);
                let seen_by = names(lease.seen_by.as_deref());
                self.lab.put_lease(subnet, owner, lease.expires_s, seen_by.as_deref()).boxed_local().await?;
            }
            Step::DeleteLease(lease) => {
                let subnet = self.subnet(&lease.subnet)?;
                self.lab
                    .delete_lease(subnet, names(lease.seen_by.as_deref()).as_deref())
                    .boxed_local()
                    .await?;
            }
            Step::PutKey(put) => self.lab.put_key(&put.key, &put.value).boxed_local().await?,
            Step::StartRelay(start) => self.start_relay(start).boxed_local().await?,
            Step::WaitReady(relay) => self.wait_ready(&relay.node).boxed_local().await?,
            Step::StopRelay(relay) => self.stop_relay(&relay.node).boxed_local().await?,
            Step::KillRelay(relay) => self.kill_relay(&relay.node).boxed_local().await?,
            Step::WaitEnd(relay) => {
                self.wait_end(&relay.node).boxed_local().await?;
            }
            Step::PauseRelay(relay) => self.pause_relay(&relay.node, true).boxed_local().await?,
            Step::ResumeRelay(relay) => self.pause_relay(&relay.node, false).boxed_local().await?,
            Step::Expect(expect) => self.expect(expect).boxed_local().await?,
            Step::ExpectLog(expect) => self.expect_log(expect).await?,
            Step::ExpectMetric(expect) => self.expect_metric(expect).boxed_local().await?,
            Step::StartEtcd(etcd) => self.set_member(etcd.member(), true).boxed_local().await?,
            Step::StopEtcd(etcd) => self.set_member(etcd.member(), false).boxed_local().await?,
            Step::SaveEtcd(etcd) => self.lab.save_member(etcd.member()).boxed_local().await?,
            Step::RestoreEtcd(etcd) => self.lab.restore_member(etcd.member()).boxed_local().await?,
            Step::CompactEtcd(_) => self.lab.compact().boxed_local().await?,
            Step::Link(link) => self.link(link).boxed_local().await?,
            Step::Readdress(readdress) => self.readdress(readdress).boxed_local().await?,
            Step::Cut(cut) => self.lab.cut(cut.pairs()).boxed_local().await?,
            Step::Heal(heal) => self.lab.heal(heal.pairs()).boxed_local().await?,
            Step::Shape(shaping) => self.shape(shaping).boxed_local().await?,
            Step::Unshape(unshaping) => self.unshape(&unshaping.host).boxed_local().await?,
            Step::Exec(exec) => self.exec(exec).boxed_local().await?,
            Step::Listen(listen) => self.listen(listen)?,
            Step::Repeat(repeat) => self.repeat(repeat).boxed_local().await?,
            Step::Parallel(parallel) => self.parallel(parallel).boxed_local().await?,
            Step::WaitRoute(wait) => self.wait_route(wait).boxed_local().await?,
            Step::Leases(_) => self.leases().boxed_local().await?,
            Step::SubnetFile(file) => self.subnet_file(file).boxed_local().await?,
        }
        Ok(())
    }

    /// Starts or stops an etcd member; `leader` is the one that leads, or led when it was stopped.
    async fn set_member(&mut self, member: &str, up: bool) -> Result<(), StepError> {
        let name = match member {
            LEADER if up => self.stopped_leader.take().unwrap_or_default(),
            LEADER => {
                let leader = self.lab.leader().await?;
                self.stopped_leader.insert(leader).clone()
            }
            name => name.to_owned(),
        };
        Ok(self.lab.set_member(&name, up).await?)
    }

    pub(super) fn address(&self, word: &str) -> Result<Ipv4Addr, StepError> {
        self.lab.topology.address_of(word).ok_or_else(|| unknown(word))
    }

    fn subnet(&self, word: &str) -> Result<ipnet::Ipv4Net, StepError> {
        self.lab.topology.subnet_of(word).ok_or_else(|| unknown(word))
    }

    /// Sends probes one after the other, and shows each or all of them.
    async fn probe(&mut self, sweep: Option<Sweep>, shots: Vec<(String, Shot)>) -> Result<(), StepError> {
        let mut rows = Vec::new();
        for (label, shot) in shots {
            rows.push((label, self.follow(&shot).await?));
        }
        self.show(sweep, &rows);
        Ok(())
    }

    /// The probes of a `ping`, with what their rows are called.
    pub(super) fn pings(&mut self, ping: &Ping) -> Result<Vec<(String, Shot)>, StepError> {
        let to = self.address(&ping.to)?;
        let shapes = ping.shapes();
        let shapes = shapes.iter().flat_map(|shape| std::iter::repeat_n(*shape, ping.count().into()));
        let shot = |(shape, seq)| {
            let id = ping.id.unwrap_or_else(|| echo_id(self.probes));
            let shot = self.shot(&ping.from, to, shape, ShotKind::Echo { id, seq });
            (label(ping.sweep(), shape), shot)
        };
        Ok(shapes.zip(1..).map(shot).collect())
    }

    /// The same of a `udp`.
    pub(super) fn datagrams(&mut self, udp: &Udp) -> Result<Vec<(String, Shot)>, StepError> {
        let to = self.address(&udp.to)?;
        let kind = ShotKind::Udp { source: udp.source_port, port: udp.port, listen: true };
        let shot = |shape| (label(udp.sweep(), shape), self.shot(&udp.from, to, shape, kind));
        Ok(udp.shapes().into_iter().map(shot).collect())
    }

    async fn ping_all(&mut self) -> Result<(), StepError> {
        let containers = self.lab.topology.containers.clone();
        let mut mesh = Mesh::new();
        for from in &containers {
            for to in containers.iter().filter(|to| to.name != from.name) {
                let kind = ShotKind::Echo { id: echo_id(self.probes), seq: 1 };
                let journey = self.shoot(&from.name, to.address, PLAIN, kind).await?;
                mesh.push(&self.map, &format!("{} > {}", from.name, to.name), &journey);
            }
        }
        self.block(&mesh.to_string());
        Ok(())
    }

    async fn traceroute(&mut self, traceroute: &Traceroute) -> Result<(), StepError> {
        let to = self.address(&traceroute.to)?;
        let mut hops = Vec::new();
        for ttl in 1..=traceroute.max {
            let kind = match traceroute.by {
                By::Udp => {
                    ShotKind::Udp { source: None, port: TRACEROUTE_PORT + u16::from(ttl) - 1, listen: false }
                }
                By::Icmp => ShotKind::Echo { id: echo_id(self.probes), seq: ttl.into() },
            };
            let shape = Shape { ttl, ..PLAIN };
            let journey = self.shoot(&traceroute.from, to, shape, kind).await?;
            let (text, arrived) = self.hop(&journey, to);
            let damage: String = journey.damage().iter().map(|what| format!("; {what}")).collect();
            hops.push(format!("{ttl:>4}  {text}{damage}"));
            if arrived {
                break;
            }
        }
        self.block(&hops.join("\n"));
        Ok(())
    }

    /// A line of a traceroute, and whether it is the last.
    fn hop(&self, journey: &Journey, to: Ipv4Addr) -> (String, bool) {
        let told = journey.answers.iter().map(|answer| match answer {
            Answer::NotSent { why } => (format!("not sent: {why}"), true),
            Answer::Reply { from, .. } => (format!("{}  reply", self.map.label(*from)), true),
            Answer::Error { kind, from } => {
                let text = format!("{}  {kind}", self.map.label(*from));
                (text, *kind != Kind::TIME_EXCEEDED || *from == to)
            }
        });
        let (texts, last): (Vec<String>, Vec<bool>) = told.unzip();
        if texts.is_empty() { ("*".to_owned(), false) } else { (texts.join(" and "), last[0]) }
    }

    async fn shoot(
        &mut self,
        from: &str,
        to: Ipv4Addr,
        shape: Shape,
        kind: ShotKind,
    ) -> Result<Journey, StepError> {
        let shot = self.shot(from, to, shape, kind);
        self.follow(&shot).await
    }

    fn shot(&mut self, from: &str, to: Ipv4Addr, shape: Shape, kind: ShotKind) -> Shot {
        let number = self.next_probe();
        let Shape { ttl, size, df, tos } = shape;
        Shot { number, from: from.to_owned(), to, ttl, size, df, tos, kind }
    }

    /// Shows probes as ladders, or as a matrix if they are a sweep.
    pub(super) fn show(&mut self, sweep: Option<Sweep>, rows: &[(String, Journey)]) {
        match sweep {
            None => {
                for (_, journey) in rows {
                    let ladder = journey.ladder(&self.map);
                    self.block(&ladder);
                }
            }
            Some(Sweep::Ttl) => self.matrix(Cell::Ttl, rows),
            Some(Sweep::Size) => self.matrix(Cell::Pieces, rows),
            Some(Sweep::Tos) => self.matrix(Cell::Tos, rows),
        }
    }

    fn matrix(&mut self, cell: Cell, rows: &[(String, Journey)]) {
        let mut matrix = Matrix::new(cell);
        for (label, journey) in rows {
            matrix.push(&self.map, label, journey);
        }
        self.block(&matrix.to_string());
    }

    /// Does the steps as often as is asked. What a round adds to the text beyond the first is only compared.
    async fn repeat(&mut self, repeat: &Repeat) -> Result<(), StepError> {
        let numbering = self.numbering.clone();
        let start = self.text.len();
        let mut first = String::new();
        for round in 1..=repeat.times {
            self.numbering = numbering.clone();
            let rounds = format!("round {round}");
            self.inner(&repeat.steps)
                .await
                .map_err(|source| StepError::Within { place: rounds, source: source.into() })?;
            let text = self.text.split_off(start);
            match round {
                1 => first = text,
                _ if text != first => {
                    let differences = flow::differences(&first, &text, &[]);
                    let differences =
                        differences.map_or(String::new(), |differences| differences.to_string());
                    self.problem(format!("round {round} differs from the first:\n{differences}"));
                    break;
                }
                _ => {}
            }
        }
        self.text.push_str(&first);
        Ok(())
    }

    /// Does the steps that a step has in it.
    pub(super) async fn inner(&mut self, steps: &[Step]) -> Result<(), StepError> {
        for step in steps {
            if !self.streaming {
                self.settle().await?;
            }
            self.begin_inner(step);
            self.line(format!("\n  $ {}", step.title()));
            self.do_inner(step).await?;
        }
        Ok(())
    }

    /// Does a step that another has in it, and names it where something is wrong.
    pub(super) async fn do_inner(&mut self, step: &Step) -> Result<(), StepError> {
        let place = format!("its `{}`", step.title());
        let outer = self.within.clone();
        self.within = Some(outer.as_ref().map_or(place.clone(), |outer| format!("{outer}, {place}")));
        let done = Box::pin(self.step(step)).await;
        self.within = outer;
        done.map_err(|source| StepError::Within { place, source: source.into() })
    }

    async fn wait_route(&mut self, wait: &WaitRoute) -> Result<(), StepError> {
        let subnet = self.subnet(&wait.to)?;
        let owner = wait.via.as_ref().map(|via| self.address(via)).transpose()?;
        let within = Duration::from_millis(wait.within_ms.into());
        Ok(self.lab.wait_for_route(&wait.node, subnet, owner, within).await?)
    }

    async fn leases(&mut self) -> Result<(), StepError> {
        let leases = self.lab.leases().await?;
        let mut text = String::new();
        for lease in leases {
            let stays = if lease.expires { "" } else { "  (does not expire)" };
            let _ = writeln!(text, "  {}{stays}\n    {}", lease.key, lease.value);
        }
        self.block(if text.is_empty() { "  none" } else { &text });
        Ok(())
    }

    async fn subnet_file(&mut self, file: &SubnetFile) -> Result<(), StepError> {
        let path = self.lab.dir().join(file.node.as_str()).join("subnet.env");
        let awaited = format!("subnet.env of {} to have what is awaited", file.node);
        let look = async || {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => indented(&text),
                Err(error) => format!("  {}", error.kind()),
            };
            let right = file.until.as_ref().is_none_or(|until| text.contains(until.as_str()));
            if right { Ok(text) } else { Err(format!("it has:\n{}", text.trim_end())) }
        };
        let text = wait::until(&awaited, WRITTEN_WITHIN, look).await;
        let text = text.map_err(|error| self.lab.waited_in_vain(&file.node, error))?;
        self.block(&text);
        Ok(())
    }
}

/// An identifier that no other probe of the case has had lately.
pub(super) fn echo_id(probes: u32) -> u16 {
    // The low bits of a number below 65,536 are the number.
    (probes & 0xffff) as u16
}

/// What a row of a sweep is called.
fn label(sweep: Option<Sweep>, shape: Shape) -> String {
    match sweep {
        Some(Sweep::Ttl) => format!("ttl {}", shape.ttl),
        Some(Sweep::Size) => format!("size {}", shape.size),
        Some(Sweep::Tos) => format!("tos {:#04x}", shape.tos),
        None => String::new(),
    }
}

/// Words as they are.
fn names(words: Option<&[Text]>) -> Option<Vec<String>> {
    Some(words?.iter().map(Text::to_string).collect())
}

fn unknown(word: &str) -> StepError {
    StepError::Word { word: word.to_owned() }
}

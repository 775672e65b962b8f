//! Running a case: its lab is built, its steps are done one by one, and what was seen becomes the snapshot's text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::flow::{Journey, Map, Note, Numbering};
use crate::lab::{self, Lab, Workshop};
use crate::overlay::{self, Counters};
use crate::probe::{self, Listener};
use crate::suite::{Case, Step};
use crate::wait;

mod counted;
mod expect;
mod faults;
mod flood;
mod host;
mod inject;
mod observe;
mod parallel;
mod relay;
mod shape;
mod step;
mod stream;
mod timeline;
mod transfer;

pub use timeline::Begun;

/// What came of a case, before its snapshot is looked at.
#[derive(Debug)]
pub struct Run {
    /// What the snapshot is to say: all steps with their flows.
    pub text: String,
    /// What is wrong in itself, whatever the snapshot says: losses without a cause, packets not conserved, bounds
    /// exceeded.
    pub problems: Vec<String>,
    /// What is still there of the lab after its end.
    pub leaks: Vec<String>,
    /// How long each part took.
    pub timings: Timings,
}

/// How long the parts of a run took.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// From nothing to a lab whose daemons are ready.
    pub build: Duration,
    /// All steps.
    pub steps: Duration,
    /// From there until everything is gone.
    pub down: Duration,
}

/// Why a case could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its lab.
    #[error("building the lab: {0}")]
    Build(#[source] lab::Error),
    /// Its steps do not end.
    #[error("the steps did not end within {} s{}", .within.as_secs(), at.as_ref().map_or(String::new(), |at| format!("; under way was {at}")))]
    Endless {
        /// How long they had.
        within: Duration,
        /// The step that was under way.
        at: Option<String>,
    },
    /// One of its steps.
    #[error("step {number}, `{title}`: {source}")]
    Step {
        /// Which, from 1.
        number: usize,
        /// Its title.
        title: String,
        /// What went wrong.
        source: StepError,
    },
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A probe.
    #[error(transparent)]
    Probe(#[from] probe::Error),
    /// A word that names nothing in this lab. Reading the suite file should have said so.
    #[error("`{word}` is neither a host of this lab nor an address")]
    Word {
        /// The word.
        word: String,
    },
    /// A step that it has in it.
    #[error("{place}: {source}")]
    Within {
        /// Which: by its title, and that of a branch by the branch's number, from 1.
        place: String,
        /// What went wrong.
        source: Box<StepError>,
    },
}

impl Error {
    /// Whether the case asks for something that the overlay does not have.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        match self {
            Self::Build(source) => source.is_lack(),
            Self::Step { source, .. } => source.is_lack(),
            Self::Endless { .. } => false,
        }
    }
}

impl StepError {
    fn is_lack(&self) -> bool {
        match self {
            Self::Lab(source) => source.is_lack(),
            Self::Within { source, .. } => source.is_lack(),
            Self::Probe(_) | Self::Word { .. } => false,
        }
    }

    /// Whether a daemon could not be asked.
    fn is_about_a_query(&self) -> bool {
        match self {
            Self::Lab(lab::Error::Overlay(overlay::Error::Query { .. })) => true,
            Self::Within { source, .. } => source.is_about_a_query(),
            _ => false,
        }
    }
}

/// How long a daemon may take to end that answers no more, as after a panic of a thread.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// A case while it runs.
pub struct Runner<'a> {
    /// Its lab. After a failure it is still there to be looked at.
    pub lab: Lab,
    case: &'a Case,
    map: Map,
    numbering: Numbering,
    /// Probes sent so far.
    probes: u32,
    /// What each node's daemons had counted when the lab was last quiet, or the last of them could last be asked.
    counters: BTreeMap<String, Counters>,
    /// As much of that as those counted that steps have ended, and what else they did.
    past: BTreeMap<String, counted::Past>,
    /// The sockets that receive UDP probes, by host and port. They stay open: to bind a port again at once may fail
    /// while a process that another case has just forked still has a copy of the old socket.
    listeners: BTreeMap<(String, u16), Rc<Listener>>,
    /// Links that a step has set down, by host.
    down: Vec<String>,
    /// Whether a stream flows, or several steps are under way at once, so that the lab is never quiet.
    streaming: bool,
    /// The step within the case's step that is under way, or judged, and its branch.
    within: Option<String>,
    /// Nodes whose relay a step has paused.
    paused: Vec<String>,
    /// The etcd member that led when a step stopped it.
    stopped_leader: Option<String>,
    /// What was broken on purpose, and when.
    episodes: Vec<faults::Episode>,
    /// The steps that were begun, in order.
    begun: Vec<Begun>,
    text: String,
    problems: Vec<String>,
    /// What recorded packets are to the flows.
    notes: Vec<Note>,
}

impl<'a> Runner<'a> {
    /// Builds the hosts and links of the case's lab. Nothing runs in it yet.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn wire(workshop: &Workshop, case: &'a Case) -> Result<Self, Error> {
        let lab = Lab::wire(workshop, case.topology.clone()).await.map_err(Error::Build)?;
        let map = Map::new(&case.topology, device(&lab));
        Ok(Self {
            lab,
            case,
            map,
            numbering: Numbering::default(),
            probes: 0,
            counters: BTreeMap::new(),
            past: BTreeMap::new(),
            listeners: BTreeMap::new(),
            down: Vec::new(),
            streaming: false,
            within: None,
            paused: Vec::new(),
            stopped_leader: None,
            episodes: Vec::new(),
            begun: Vec::new(),
            text: String::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// Starts what runs in the lab from the start.
    ///
    /// # Errors
    /// When something does not start. How far it came is then there to be looked at.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.lab.start().await.map_err(Error::Build)?;
        self.map = Map::new(&self.case.topology, device(&self.lab));
        for node in self.case.topology.nodes.iter().filter(|node| node.starts) {
            self.name_attached(&node.name);
        }
        self.note_faults(Duration::ZERO);
        Ok(())
    }

    /// Does all steps, telling `progress` of each as it begins, and what it has added to the text when it is done.
    ///
    /// # Errors
    /// When one cannot be done. What was seen until then is in [`Runner::text`].
    pub async fn steps(&mut self, mut progress: impl FnMut(usize, &Step, Option<&str>)) -> Result<(), Error> {
        let error = |index: usize, step: &Step| {
            let (number, title) = (index + 1, step.title());
            move |source| Error::Step { number, title, source }
        };
        for (index, step) in self.case.steps.iter().enumerate() {
            progress(index, step, None);
            let before = self.text.len();
            // What a daemon that ends by itself leaves undone is no breach.
            if !matches!(step, Step::WaitEnd(_))
                && let Err(failed) = self.settle().await
            {
                return Err(error(index, step)(self.cause_of(failed).await));
            }
            self.begin(index + 1, step);
            self.heading(step);
            let done = match self.step(step).await {
                Ok(()) => self.end_floods().await,
                Err(error) => Err(error),
            };
            let done = match done {
                Err(error) if !matches!(step, Step::WaitEnd(_)) => Err(self.cause_of(error).await),
                done => done,
            };
            let done = done.map_err(error(index, step));
            progress(index, step, self.text.get(before..));
            done?;
        }
        // What the last step caused has to add up as well.
        if let Some((index, last)) = self.case.steps.iter().enumerate().next_back()
            && let Err(failed) = self.settle().await
        {
            return Err(error(index, last)(self.cause_of(failed).await));
        }
        Ok(())
    }

    /// Why a step failed: that a daemon has ended by itself, if one has, and not what came of that.
    async fn cause_of(&mut self, error: StepError) -> StepError {
        if error.is_lack() {
            return error;
        }
        let within = if error.is_about_a_query() { ENDS_WITHIN } else { Duration::ZERO };
        let ended =
            wait::until("a daemon to end by itself", within, async || match self.lab.expect_running() {
                Err(ended) => Ok(ended),
                Ok(()) => Err(String::new()),
            });
        ended.await.map_or(error, StepError::Lab)
    }

    /// Waits until floods are over, and notes what does not add up after them.
    async fn end_floods(&mut self) -> Result<(), StepError> {
        if let Err(breach) = self.lab.end_floods().await? {
            self.problem(breach.to_string());
        }
        Ok(())
    }

    /// Ends the lab. `build` and `steps` are how long these took.
    pub async fn end(self, build: Duration, steps: Duration) -> Run {
        let start = Instant::now();
        let Self { lab, text, problems, .. } = self;
        let leaks = lab.down().await;
        Run { text, problems, leaks, timings: Timings { build, steps, down: start.elapsed() } }
    }

    /// What the snapshot is to say, so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lab's addresses by name.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// What is wrong in itself, so far.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// What recorded packets are to the flows, so far.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    fn heading(&mut self, step: &Step) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(heading(step));
    }

    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// Adds a block of text, set apart by an empty line.
    fn block(&mut self, text: &str) {
        self.text.push('\n');
        self.line(text);
    }

    /// Notes what is wrong in itself, and in which step.
    fn problem(&mut self, problem: impl Into<String>) {
        let mut problem = problem.into();
        if let Some(within) = &self.within {
            problem = format!("{within}: {problem}");
        }
        self.problems.push(match self.begun.last() {
            Some(Begun { number, title, .. }) => format!("step {number}, `{title}`: {problem}"),
            None => problem,
        });
    }

    /// Notes what a journey has that nothing accounts for, and what was counted that no packet accounts for.
    fn judge(&mut self, journey: &Journey) {
        self.notes.extend(journey.notes());
        if journey.is_open() {
            let mut text = "a loss, or a count, that nothing accounts for:\n".to_owned();
            let _ = write!(text, "{}{}", journey.ladder(&self.map).trim_end(), self.why_dropped(journey));
            self.problem(text);
        }
        self.judge_recording(journey);
    }

    /// Notes that a packet arrived, or came from somewhere, and no interface recorded that.
    fn judge_recording(&mut self, journey: &Journey) {
        if journey.is_unrecorded(&self.map) {
            let text = journey.ladder(&self.map);
            self.problem(format!("it arrived, and no interface recorded it:\n{}", text.trim_end()));
        }
        if journey.is_from_nowhere() {
            let text = journey.ladder(&self.map);
            let why = if self.lab.is_flooded() {
                ". What goes beside bulk data, on the same way, may be in one run with them (UDP_SEGMENT), which is not recorded: \
                 give the bulk data another pair of nodes, or the lab `flags = [\"--offload=none\"]`"
            } else {
                ""
            };
            self.problem(format!("a packet came from nowhere{why}:\n{}", text.trim_end()));
        }
    }

    /// What the kernel says of drops at the time of a loss that nothing accounts for: a hint, as it may be of another packet.
    fn why_dropped(&self, journey: &Journey) -> String {
        let dropped = journey.last_seen().and_then(|moment| self.lab.dropped_after(moment));
        let told =
            |dropped| format!("\nthis machine's kernel dropped, soon after it was last seen: {dropped}");
        dropped.map_or_else(String::new, told)
    }

    /// From now on the addresses that a node and its containers have by its lease are printed by their names.
    fn name_attached(&mut self, node: &str) {
        if let (Some(node), Some(attachment)) = (self.lab.topology.node(node), self.lab.attachment(node)) {
            self.map.insert_node(node, &attachment.device, &self.lab.topology.bridge);
        }
        for container in self.lab.topology.containers_of(node) {
            self.map.insert(container.address, &container.name, &container.name);
        }
    }
}

/// What stands above what a step adds to the text.
pub(crate) fn heading(step: &Step) -> String {
    match step {
        Step::Say(prose) => prose.trim().to_owned(),
        _ => format!("$ {}", step.title()),
    }
}

/// What a program or a file says, as it stands in the snapshot.
fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |text, line| text + "  " + line + "\n")
}

/// The name of the overlay's device, which all nodes share unless a case does something to one of them. Without one it is
/// printed as if there were relay's.
fn device(lab: &Lab) -> &str {
    let nodes = lab.topology.nodes.iter();
    let mut devices = nodes.filter_map(|node| Some(lab.attachment(&node.name)?.device.as_str()));
    devices.find(|device| *device != lab::INTERFACE).unwrap_or("flannel0")
}

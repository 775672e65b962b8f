//! A case from its file to its verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::lab::Workshop;
use crate::overlay::relay::RELAY;
use crate::report;
use crate::run::{Run, Runner, Timings};
use crate::snapshot::{self, Comparison};
use crate::standstill;
use crate::suite::{self, Case, Found, Step};

/// The steps of a case, all together. Each wait has a deadline of its own; this one is for what nobody thought of.
const ENDED_WITHIN: Duration = Duration::from_secs(300);

/// How a case ended.
#[derive(Debug)]
pub enum Verdict {
    /// Everything is as the snapshot says.
    Passed,
    /// Something is not as it should be: what, as a text of some lines.
    Failed(String),
    /// The overlay is another than relay, and nothing is wrong in itself: what it does otherwise than relay's snapshot says.
    Differs(String),
    /// The overlay is another than relay, and does not have what the case asks for: what.
    Unfit(String),
    /// The file does not describe a case: why.
    Invalid(String),
    /// It proves nothing, twice: the recording was incomplete, or the machine stood still. The first line says why.
    Inconclusive(String),
}

/// What came of a case.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// What the snapshot is compared with, as far as it got.
    pub text: String,
    /// How long its parts took, if it ran to its end.
    pub timings: Option<Timings>,
    /// Why it ran a second time, if it did.
    pub repeated: Option<String>,
}

/// What is told of a case while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// The lab is being built.
    Building,
    /// A step begins.
    Step {
        /// Which, from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// The step.
        step: &'a Step,
    },
    /// It has failed, and its lab is kept until a line is read from standard input.
    Kept {
        /// What is said of the failure.
        report: &'a str,
        /// The lab as a drawing, and how to get into its hosts.
        lab: &'a str,
    },
    /// A step is done, or could not be.
    Seen {
        /// What it has added to the text.
        text: &'a str,
    },
}

/// What is done with a case that fails.
#[derive(Debug, Clone, Copy)]
pub struct OnFailure<'a> {
    /// Where its report goes, with the whole recording.
    pub reports: &'a Path,
    /// Whether the report of an earlier run stays when the case passes.
    pub keep_report: bool,
    /// Whether its lab is kept until a line is read from standard input, for somebody to look around.
    pub keep_lab: bool,
}

/// Runs the case of a suite file and compares it with its snapshot.
pub fn execute(
    workshop: &Workshop,
    found: &Found,
    on_failure: OnFailure<'_>,
    mut tell: impl FnMut(Event<'_>),
) -> Outcome {
    let case = match Case::load(&found.path) {
        Ok(case) => case,
        Err(error) => return Outcome::without_run(Verdict::Invalid(render(&error))),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Outcome::without_run(Verdict::Failed(format!("starting the event loop: {error}")));
        }
    };
    let directory = on_failure.reports.join(&found.name);
    let on_failure = OnFailure { reports: &directory, ..on_failure };
    let mut once = || {
        let began = Instant::now();
        let attempt = AssertUnwindSafe(|| runtime.block_on(attempt(workshop, &case, on_failure, &mut tell)));
        // insta panics where it cannot write, as on a full disk: that is this case's failure and no other's.
        catch_unwind(attempt).unwrap_or_else(|panic| {
            let why = panic.downcast_ref::<String>().map(String::as_str);
            let why = why.or(panic.downcast_ref::<&str>().copied()).unwrap_or("its message is no text");
            let failed = Verdict::Failed(format!("the harness panicked: {why}"));
            Outcome::without_run(failed.unless_it_stood_still(began))
        })
    };
    let mut outcome = once();
    if let Verdict::Inconclusive(why) = &outcome.verdict {
        // The next attempt takes its report away.
        tracing::warn!(case = found.name, "run again: {why}");
        let why = why.lines().next().unwrap_or_default().to_owned();
        outcome = Outcome { repeated: Some(why), ..once() };
    }
    outcome
}

impl Verdict {
    /// That a case fails proves nothing if the machine has stood still since it began: deadlines and leases go on.
    fn unless_it_stood_still(self, began: Instant) -> Self {
        match (standstill::longest_since(began), self) {
            (Some(stood), Self::Failed(why) | Self::Differs(why)) => Self::Inconclusive(format!(
                "this machine stood still for {:.1} s\n\n{why}",
                stood.as_secs_f64()
            )),
            (_, verdict) => verdict,
        }
    }
}

impl Outcome {
    fn without_run(verdict: Verdict) -> Self {
        Self { verdict, text: String::new(), timings: None, repeated: None }
    }
}

async fn attempt(
    workshop: &Workshop,
    case: &Case,
    on_failure: OnFailure<'_>,
    tell: &mut impl FnMut(Event<'_>),
) -> Outcome {
    tell(Event::Building);
    let start = Instant::now();
    let mut runner = match Runner::wire(workshop, case).await {
        Ok(runner) => runner,
        Err(error) => {
            let failed = Verdict::Failed(error.to_string());
            return Outcome::without_run(failed.unless_it_stood_still(start));
        }
    };
    let started = runner.start().await;
    let build = start.elapsed();
    let done = match started {
        Ok(()) => do_steps(&mut runner, case, tell).await,
        Err(error) => Err(error),
    };
    let steps = start.elapsed().saturating_sub(build);
    let overlay = workshop.overlay.name();
    let verdict = judge(&mut runner, case, overlay, done.err(), on_failure).await;
    // Before anybody looks at a lab that is kept, for as long as that takes.
    let mut verdict = verdict.unless_it_stood_still(start);
    if on_failure.keep_lab
        && let Verdict::Failed(report) = &verdict
    {
        let lab = format!("{}\n{}", runner.lab.drawing(), runner.lab.ways_in());
        tell(Event::Kept { report, lab: &lab });
        let line = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        if !matches!(line.await, Ok(Ok(1..))) {
            tracing::warn!("standard input is at its end: the lab is not kept");
        }
    }
    let ending = Instant::now();
    let Run { text, timings, leaks, .. } = runner.end(build, steps).await;
    if !leaks.is_empty() {
        let left = format!("the case left behind:\n  {}", leaks.join("\n  "));
        verdict = match verdict {
            Verdict::Passed => Verdict::Failed(left).unless_it_stood_still(ending),
            Verdict::Failed(why) => Verdict::Failed(format!("{}\n\n{left}", why.trim_end())),
            other => other,
        };
    }
    Outcome { verdict, text, timings: Some(timings), repeated: None }
}

/// Does a case's steps, telling of each.
async fn do_steps(
    runner: &mut Runner<'_>,
    case: &Case,
    tell: &mut impl FnMut(Event<'_>),
) -> Result<(), crate::run::Error> {
    let of = case.steps.len();
    let steps = runner.steps(|index, step, seen| {
        tell(match seen {
            None => Event::Step { number: index + 1, of, step },
            Some(text) => Event::Seen { text },
        });
    });
    let done = tokio::time::timeout(ENDED_WITHIN, steps).await;
    match done {
        Ok(done) => done,
        Err(_) => {
            let at = runner.begun().last().map(ToString::to_string);
            Err(crate::run::Error::Endless { within: ENDED_WITHIN, at })
        }
    }
}

/// What is to be said of a case whose steps are done, or could not be.
async fn judge(
    runner: &mut Runner<'_>,
    case: &Case,
    overlay: &str,
    error: Option<crate::run::Error>,
    on_failure: OnFailure<'_>,
) -> Verdict {
    let unrecorded = runner.lab.recorder.lost() + runner.lab.missed_by_shapers();
    if unrecorded > 0 {
        return Verdict::Inconclusive(format!(
            "the kernel had no room for {unrecorded} packets of the recording, or of a shaper; it ran with too much \
             beside it"
        ));
    }
    // In the order in which it happened: what ended the case last.
    let mut findings = runner.problems().to_vec();
    findings.extend(error.as_ref().map(ToString::to_string));
    if overlay == RELAY {
        findings.extend(report::unprovoked(runner, case));
    }
    if let Some(error) = error.as_ref().filter(|error| error.is_lack())
        && runner.problems().is_empty()
        && overlay != RELAY
    {
        report::discard(on_failure.reports);
        return Verdict::Unfit(error.to_string());
    }
    let sound = findings.is_empty();
    let comparison = match &error {
        // What was seen until then is no new truth to be reviewed, and may tell what led there.
        Some(_) if overlay == RELAY => {
            let comparison = snapshot::compare_so_far(case, runner.text());
            if matches!(comparison, Comparison::Differs { .. }) {
                findings.push("what was seen until then differs from its snapshot".to_owned());
            }
            comparison
        }
        Some(_) => Comparison::Same,
        // Snapshots are relay's: what another does is none to be reviewed.
        None if overlay != RELAY => {
            findings.extend(snapshot::contrast(case, runner.text(), overlay));
            Comparison::Same
        }
        None => {
            let comparison = snapshot::compare(case, runner.text(), sound);
            let told = match &comparison {
                Comparison::Same => None,
                Comparison::New { pending } => Some(("it has no snapshot yet", pending)),
                Comparison::Differs { pending, .. } => Some(("it differs from its snapshot", pending)),
            };
            findings
                .extend(told.map(|(what, pending)| format!("{what}{}", review(pending.as_deref(), sound))));
            comparison
        }
    };
    if findings.is_empty() {
        if !on_failure.keep_report {
            report::discard(on_failure.reports);
        }
        return Verdict::Passed;
    }
    let ended_early = error.is_some();
    let report = report::write(runner, case, &findings, &comparison, ended_early, on_failure.reports).await;
    if sound && overlay != RELAY { Verdict::Differs(report) } else { Verdict::Failed(report) }
}

fn review(pending: Option<&Path>, sound: bool) -> String {
    match pending {
        _ if !sound => "; what is seen in a case that fails is not accepted".to_owned(),
        Some(_) => "; look at the new text with `cargo insta review`".to_owned(),
        None => String::new(),
    }
}

/// A suite file's mistakes as miette draws them.
pub fn render(error: &suite::Error) -> String {
    let mut text = String::new();
    let handler = miette::GraphicalReportHandler::new();
    if handler.render_report(&mut text, error).is_err() {
        text = error.to_string();
    }
    text
}

/// How many cases run at once unless somebody says otherwise: three a processor, for a case waits most of the time.
pub fn usual_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) * 3
}

/// Where reports of failures are kept: below the `target` directory that this program was built in, else below the
/// current one.
pub fn failures_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|path| path.ends_with("target")).map(Path::to_owned);
    target.unwrap_or_else(|| PathBuf::from("target")).join("failures")
}

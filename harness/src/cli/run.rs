//! `harness run`: cases side by side, with progress while they run and a summary when they have.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use owo_colors::{OwoColorize, Stream};

use super::{FAILED, Run, SUCCESS, Usage, discover, interrupt, say, say_part, timings};
use crate::case::{self, Event, OnFailure, Outcome, Verdict};
use crate::flow;
use crate::lab::Workshop;
use crate::lock::lock;
use crate::suite::{Case, Found};

/// What `run` prints while cases run, by one thread at a time.
struct Screen {
    /// The cases that have ended, of all rounds.
    ended: Vec<Ended>,
    /// Whether all has been told.
    summed_up: bool,
    /// What each running case is doing, if somebody looks.
    doing: BTreeMap<String, String>,
    interactive: bool,
    /// Columns of the terminal that the status line has now.
    drawn: bool,
    width: usize,
    verbose: bool,
    /// What a case sees is printed as it sees it: only one runs at a time.
    live: bool,
    /// Where reports of failures are kept.
    reports: PathBuf,
    /// When the first case began.
    start: Instant,
}

/// How many of the cases that took longest are named.
const SLOWEST: usize = 5;
/// How long another thread may take to print.
const LOCKED_WITHIN: Duration = Duration::from_secs(1);

/// A case that has ended.
struct Ended {
    name: String,
    outcome: Outcome,
    took: Duration,
}

/// Runs the cases below `run.paths`. The status is 0 only if all passed.
pub(super) fn run(run: &Run) -> Result<u8, Usage> {
    let found = discover(&run.paths)?;
    for node in run.parts.flagged_nodes() {
        // What is wrong with one that cannot be read it tells itself.
        let may_have =
            |found: &Found| Case::load(&found.path).map_or(true, |case| case.topology.node(node).is_some());
        if !found.iter().any(may_have) {
            return Err(Usage(format!("no case that is to be run has a node `{node}` for its --relay-flag")));
        }
    }
    let jobs = if run.keep { 1 } else { run.jobs.map_or_else(case::usual_jobs, NonZero::get) };
    let jobs = jobs.clamp(1, found.len().max(1));
    let failures = run.failures.clone().unwrap_or_else(case::failures_directory);
    let workshop = run.choice.workshop(&run.parts)?;
    let count = found.len();
    let cases = if count == 1 { "case" } else { "cases" };
    let overlay = workshop.overlay.name();
    let on = if run.choice.is_relay() { String::new() } else { format!(" with {overlay}") };
    say!("{count} {cases}{on}, etcd as {} ({})", workshop.etcd, workshop.reason);
    let width = found.iter().map(|found| found.name.len()).max().unwrap_or(0);
    let screen = Arc::new(Mutex::new(Screen {
        ended: Vec::new(),
        summed_up: false,
        doing: BTreeMap::new(),
        interactive: std::io::stdout().is_terminal(),
        drawn: false,
        width,
        verbose: run.verbose,
        live: run.verbose && jobs == 1,
        reports: failures.clone(),
        start: Instant::now(),
    }));
    tell_when_interrupted(screen.clone())?;
    for round in 0..run.repeat {
        // What an earlier round was about is not taken away by one that passes.
        let on_failure = OnFailure { reports: &failures, keep_report: round > 0, keep_lab: run.keep };
        run_all(&workshop, &found, on_failure, jobs, &screen, run.fail_fast);
    }
    lock(&screen).clear();
    if run.timings {
        let all: Vec<(String, Duration)> =
            lock(&screen).ended.iter().map(|case| (case.name.clone(), case.took)).collect();
        timings::print(&workshop, &all)?;
    }
    Ok(lock(&screen).summary())
}

/// Runs every case once, `jobs` at a time. If one fails and `stop` is set, the program ends: what is left of the labs goes
/// with it.
fn run_all(
    workshop: &Workshop,
    found: &[Found],
    on_failure: OnFailure<'_>,
    jobs: usize,
    screen: &Mutex<Screen>,
    stop: bool,
) {
    let queue: Mutex<VecDeque<&Found>> = Mutex::new(found.iter().collect());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(found) = lock(&queue).pop_front() else { break };
                    let start = Instant::now();
                    let outcome = case::execute(workshop, found, on_failure, |event| {
                        lock(screen).event(&found.name, &event);
                    });
                    let case = Ended { name: found.name.clone(), outcome, took: start.elapsed() };
                    let mut screen = lock(screen);
                    let failed = matches!(case.outcome.verdict, Verdict::Failed(_) | Verdict::Invalid(_));
                    screen.ended(case);
                    if failed && stop {
                        screen.end_early("ended with the first failure");
                        std::process::exit(FAILED.into());
                    }
                }
            });
        }
    });
}

/// Has a signal that ends the program tell what is known of the cases by then. Their labs go with it.
fn tell_when_interrupted(screen: Arc<Mutex<Screen>>) -> std::io::Result<()> {
    interrupt::end_with(move || {
        if let Some(mut screen) = lock_soon(&screen) {
            screen.end_early("interrupted");
            // Held until the end, so that nothing is said of cases that break now.
            std::mem::forget(screen);
        }
    })
}

/// Locks it, unless somebody keeps it: one who prints where nobody reads.
fn lock_soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let start = Instant::now();
    loop {
        match mutex.try_lock() {
            Ok(locked) => return Some(locked),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() > LOCKED_WITHIN => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCKED_WITHIN / 100),
        }
    }
}

impl Screen {
    fn event(&mut self, name: &str, event: &Event<'_>) {
        let doing = match event {
            Event::Building => {
                if self.live {
                    self.clear();
                    say!("{name}");
                }
                "building the lab".to_owned()
            }
            Event::Seen { text } => {
                if self.live {
                    self.clear();
                    say_part!("{}", indent(&coloured(text)));
                }
                return;
            }
            Event::Kept { report, lab } => {
                self.clear();
                say!("{name}\n{}", indent(&coloured(report)));
                say!("{lab}Enter ends the lab and goes on; Ctrl-C ends all.");
                self.doing.insert(name.to_owned(), "FAILED, and its lab was kept".to_owned());
                return;
            }
            Event::Step { number, of, step } => format!("step {number}/{of} {}", step.title()),
        };
        self.doing.insert(name.to_owned(), doing);
        self.draw();
    }

    /// Draws the status line: what runs now. Without a terminal there is none.
    fn draw(&mut self) {
        if !self.interactive {
            return;
        }
        let columns = terminal_columns().unwrap_or(80);
        let doing = self.doing.iter().map(|(name, doing)| format!("{name}: {doing}"));
        let line: String =
            doing.collect::<Vec<_>>().join("   ").chars().take(columns.saturating_sub(1)).collect();
        say_part!("\r\x1b[2K{}", line.dimmed());
        self.drawn = true;
    }

    fn clear(&mut self) {
        if self.drawn {
            say_part!("\r\x1b[2K");
            self.drawn = false;
        }
    }

    /// Tells how a case ended, and keeps it.
    fn ended(&mut self, case: Ended) {
        self.clear();
        self.doing.remove(&case.name);
        let word = match &case.outcome.verdict {
            Verdict::Passed => "ok".if_supports_color(Stream::Stdout, |text| text.green()).to_string(),
            Verdict::Failed(_) => "FAILED".if_supports_color(Stream::Stdout, |text| text.red()).to_string(),
            Verdict::Differs(_) => {
                "differs".if_supports_color(Stream::Stdout, |text| text.yellow()).to_string()
            }
            Verdict::Unfit(_) => "unfit".if_supports_color(Stream::Stdout, |text| text.dimmed()).to_string(),
            Verdict::Invalid(_) => "INVALID".if_supports_color(Stream::Stdout, |text| text.red()).to_string(),
            Verdict::Inconclusive(_) => {
                "INCONCLUSIVE".if_supports_color(Stream::Stdout, |text| text.yellow()).to_string()
            }
        };
        let again = case.outcome.repeated.as_ref().map(|why| format!("  (ran again: {why})"));
        let again = again.unwrap_or_default();
        say!("{:<width$}  {word}  {:.2} s{again}", case.name, case.took.as_secs_f64(), width = self.width);
        if self.verbose && !self.live && !case.outcome.text.is_empty() {
            say!("{}", indent(&coloured(&case.outcome.text)));
        }
        match &case.outcome.verdict {
            Verdict::Passed => {}
            Verdict::Failed(why)
            | Verdict::Differs(why)
            | Verdict::Unfit(why)
            | Verdict::Invalid(why)
            | Verdict::Inconclusive(why) => {
                say!("{}", indent(&coloured(why)));
            }
        }
        self.ended.push(case);
        self.draw();
    }

    /// Prints why not all cases were run, and what came of those that were.
    fn end_early(&mut self, why: &str) {
        if self.summed_up {
            return;
        }
        self.clear();
        say!("{why}");
        for (name, doing) in &self.doing {
            say!("  not finished: {name}, {doing}");
        }
        self.summary();
    }

    /// Prints how it went, and returns the exit status.
    fn summary(&mut self) -> u8 {
        self.summed_up = true;
        // By name, and of each the first round first.
        self.ended.sort_by(|one, other| one.name.cmp(&other.name));
        let varied = varied(&self.ended);
        for text in &varied {
            say!("{text}");
        }
        summary(&self.ended, varied.len(), self.start.elapsed(), &self.reports)
    }
}

/// What is to be said of cases whose text is not the same in each round.
fn varied(all: &[Ended]) -> Vec<String> {
    let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
    let mut varied = Vec::new();
    for case in all {
        let first = texts.entry(&case.name).or_insert(&case.outcome.text);
        if let Some(differences) = flow::differences(first, &case.outcome.text, &[]) {
            varied.push(format!("{} varied from one run to another\n{differences}", case.name));
        }
    }
    varied
}

/// Ladders and tables in colour, where the terminal has it.
pub(super) fn coloured(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| flow::paint(text)).to_string()
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}\n")).collect()
}

/// Prints how it went, and returns the exit status.
fn summary(all: &[Ended], varied: usize, took: Duration, reports: &Path) -> u8 {
    let count =
        |wanted: fn(&Verdict) -> bool| all.iter().filter(|case| wanted(&case.outcome.verdict)).count();
    let passed = count(|verdict| matches!(verdict, Verdict::Passed));
    let inconclusive = count(|verdict| matches!(verdict, Verdict::Inconclusive(_)));
    let different = count(|verdict| matches!(verdict, Verdict::Differs(_)));
    let unfit = count(|verdict| matches!(verdict, Verdict::Unfit(_)));
    let failed = all.len() - passed - inconclusive - different - unfit;
    let bad = failed + inconclusive + different + unfit + varied;
    if all.len() > SLOWEST * 2 {
        let mut slowest: Vec<&Ended> = all.iter().collect();
        slowest.sort_by_key(|case| std::cmp::Reverse(case.took));
        let slowest = slowest.iter().take(SLOWEST);
        let slowest = slowest.map(|case| format!("{} {:.1} s", case.name, case.took.as_secs_f64()));
        say!("slowest: {}", slowest.collect::<Vec<_>>().join(", "));
    }
    let bad_cases = all.iter().filter(|case| !matches!(case.outcome.verdict, Verdict::Passed));
    let reported =
        |case: &Ended| !matches!(case.outcome.verdict, Verdict::Passed) && reports.join(&case.name).is_dir();
    let (reported, others): (Vec<&Ended>, Vec<&Ended>) = bad_cases.partition(|case| reported(case));
    for (cases, heading) in
        [(reported, format!("reports: {}", reports.display())), (others, "without a report:".to_owned())]
    {
        if !cases.is_empty() {
            say!("{heading}");
        }
        for case in cases {
            say!("  {}", case.name);
        }
    }
    let mut line = format!("{passed} passed, {failed} failed");
    if different > 0 {
        line += &format!(", {different} different from relay");
    }
    if unfit > 0 {
        line += &format!(", {unfit} that ask for what it does not have");
    }
    if inconclusive > 0 {
        line += &format!(", {inconclusive} inconclusive");
    }
    if varied > 0 {
        line += &format!(", {varied} varied");
    }
    say!("{line}  in {:.1} s", took.as_secs_f64());
    if bad == 0 { SUCCESS } else { FAILED }
}

fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

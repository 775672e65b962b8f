//! The command line of `harness`.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::case;
use crate::overlay::relay::Asked;
use crate::snapshot;
use crate::suite::{self, Case, Found};

mod bench;
mod interrupt;
mod parts;
mod record;
mod run;
mod timings;
mod up;

/// Prints to standard output, which whoever reads it may close.
macro_rules! say_part {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let mut output = std::io::stdout().lock();
        let _ = write!(output, $($part)*).and_then(|()| output.flush());
    }};
}

/// Prints a line to standard output, which whoever reads it may close.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($part)*);
    }};
}

use parts::{Choice, Parts};
use {say, say_part};

/// A conformance lab for overlays, made of Linux network namespaces.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run suite files and compare what they show with their snapshots
    Run(Run),
    /// Do steps given as words, print what they show, and write it down as a suite file with its snapshot
    Record(Box<record::Record>),
    /// Read suite files and say what is wrong with them, running nothing
    Check {
        /// Suite files, directories of them, or names of cases as reports have them
        #[arg(default_value = "suites", value_parser = suite_file)]
        paths: Vec<PathBuf>,
        /// The relay program that is asked about flags, metrics and network configs [default: as for `run`]
        #[arg(long, env = "RELAY", value_name = "PATH")]
        relay: Option<PathBuf>,
    },
    /// Build the lab of a suite file, say how to get into its nodes, and hold it until Ctrl-C
    Up {
        /// The suite file, or the name of its case; without one, two nodes with a container each
        #[arg(value_parser = suite_file)]
        file: Option<PathBuf>,
        #[command(flatten)]
        parts: Parts,
        #[command(flatten)]
        choice: Choice,
    },
    /// Print the index of all cases as Markdown: what each shows, and where it comes from
    Index {
        /// Suite files, directories of them, or names of cases as reports have them
        #[arg(default_value = "suites", value_parser = suite_file)]
        paths: Vec<PathBuf>,
    },
    /// Measure the control plane and the data path
    Bench(Box<bench::Bench>),
    /// Print the JSON schema of suite files, for editors
    Schema {
        /// Print the keys of the lab and of all steps as Markdown tables instead
        #[arg(long)]
        markdown: bool,
    },
}

/// Flags of `run`.
#[derive(Debug, Args)]
struct Run {
    /// Suite files, directories of them, or names of cases as reports have them
    #[arg(default_value = "suites", value_parser = suite_file)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    choice: Choice,
    /// Cases that run at once [default: three for each core]
    #[arg(long, short)]
    jobs: Option<NonZero<usize>>,
    /// Print what each case sees, with `--jobs 1` as it sees it
    #[arg(long, short)]
    verbose: bool,
    /// Run all of it N times and demand the same text each time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// End with the first case that fails, and leave the others undone
    #[arg(long, conflicts_with = "keep")]
    fail_fast: bool,
    /// Print how long labs take to build and end, and each case
    #[arg(long)]
    timings: bool,
    /// Keep the lab of a case that fails until Enter is pressed, to look around in it; cases run one by one then
    #[arg(long, conflicts_with = "jobs")]
    keep: bool,
    /// Where reports of failures go [default: target/failures]
    #[arg(long, value_name = "DIR")]
    failures: Option<PathBuf>,
}

fn suite_file(word: &str) -> Result<PathBuf, Infallible> {
    Ok(suite::named(word))
}

/// Why a command could not begin.
#[derive(Debug)]
struct Usage(String);

impl<E: std::fmt::Display> From<E> for Usage {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Everything passed, or was done.
const SUCCESS: u8 = 0;
/// A case failed, or a suite file is invalid.
const FAILED: u8 = 1;
/// The command could not begin: flags, privilege, missing programs.
const UNUSABLE: u8 = 2;

/// Does what the command line says. To be called before any thread is started.
pub fn run(cli: Cli) -> ExitCode {
    snapshot::configure();
    let filter = EnvFilter::try_from_env("HARNESS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    let done = match cli.command {
        Command::Run(run) => run::run(&run),
        Command::Record(record) => record::record(&record),
        Command::Check { paths, relay } => check(&paths, relay.as_deref()),
        Command::Up { file, parts, choice } => up::up(file.as_deref(), &parts, &choice),
        Command::Index { paths } => index(&paths),
        Command::Bench(bench) => bench::bench(&bench),
        Command::Schema { markdown } => schema(markdown),
    };
    match done {
        Ok(status) => status.into(),
        Err(Usage(why)) => {
            eprintln!("error: {}", why.trim_end());
            UNUSABLE.into()
        }
    }
}

/// The suite files among and below some paths.
fn discover(paths: &[PathBuf]) -> Result<Vec<Found>, Usage> {
    suite::discover(paths).map_err(|error| Usage(render(error)))
}

fn render(error: impl miette::Diagnostic + Send + Sync + 'static) -> String {
    format!("{:?}", miette::Report::new(error)).trim_start().to_owned()
}

fn check(paths: &[PathBuf], relay: Option<&Path>) -> Result<u8, Usage> {
    let found = discover(paths)?;
    let named = relay.is_some();
    let mut relay = parts::relay(relay).map_err(|Usage(why)| why).and_then(Asked::new);
    if let (true, Err(why)) = (named, &relay) {
        return Err(Usage(why.clone()));
    }
    let mut mistaken = 0;
    let mut valid = Vec::new();
    for file in &found {
        let checked = Case::load(&file.path).and_then(|case| asked(&case, &mut relay));
        match checked {
            Ok(()) => valid.push(file.clone()),
            Err(error) => {
                mistaken += 1;
                eprintln!("{}", case::render(&error));
            }
        }
    }
    if let Err(why) = relay {
        eprintln!(
            "what only relay knows was not checked, flags, metrics and network configs: {}",
            why.trim_end()
        );
    }
    let orphans = snapshot::orphans(&found, paths);
    for orphan in &orphans {
        eprintln!("{}: a snapshot without a suite file: remove it, or bring its case back", orphan.display());
    }
    let missing = snapshot::missing(&valid);
    for file in &missing {
        eprintln!("{}: it has no snapshot yet: run it, and look at what it shows", file.display());
    }
    let (checked, left, bare) = (found.len(), orphans.len(), missing.len());
    say!(
        "{checked} suite files checked, {mistaken} with mistakes, {bare} without a snapshot, {left} snapshots without a \
         suite file"
    );
    // One that was just written has none yet.
    Ok(if mistaken + left == 0 { SUCCESS } else { FAILED })
}

/// Asks relay about a case, as long as it answers.
fn asked(case: &Case, relay: &mut Result<Asked, String>) -> Result<(), suite::Error> {
    let Ok(program) = relay else { return Ok(()) };
    case.ask(program).unwrap_or_else(|why| {
        *relay = Err(why);
        Ok(())
    })
}

fn index(paths: &[PathBuf]) -> Result<u8, Usage> {
    let found = discover(paths)?;
    let text = suite::index(&found).map_err(|error| Usage(case::render(&error)))?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(SUCCESS)
}

fn schema(markdown: bool) -> Result<u8, Usage> {
    let text = if markdown {
        format!("{}\n{}", suite::lab_reference(), suite::steps_reference())
    } else {
        serde_json::to_string_pretty(&suite::schema())? + "\n"
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(SUCCESS)
}

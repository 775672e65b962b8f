//! `harness record`: a suite file and its snapshot from a command.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::run::coloured;
use super::{Choice, FAILED, Parts, SUCCESS, Usage, say, say_part};
use crate::case::{self, Event, OnFailure, Verdict};
use crate::owner;
use crate::reaper::Reaper;
use crate::snapshot;
use crate::suite::{self, Case, Found};

/// Flags of `record`.
#[derive(Debug, Args)]
pub(super) struct Record {
    /// The suite file to write, `suites/ping/far.toml`; without one only what is seen is printed
    #[arg(long, short = 'o', value_name = "FILE")]
    to: Option<PathBuf>,
    /// What the case shows, in a sentence
    #[arg(long, default_value = "What happens here?", value_name = "TEXT")]
    about: String,
    /// A key of the lab: `nodes=["a", "b", "c"]`, `etcd=3`; may be repeated
    #[arg(long = "lab", value_name = "KEY=VALUE")]
    lab: Vec<String>,
    /// Write over a suite file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    choice: Choice,
    /// Steps as in a suite file: a name, the values of its required keys, `--key value` for others; `then` between
    /// two, as in `ping c1 c2 --ttl 3 then leases`. A list or a table is one word of TOML:
    /// `inject c1 --into eth0 --packet '{ from = "c2", to = "b" }'`,
    /// `parallel '[[{ ping = { from = "c1", to = "c2" } }], [{ ping = { from = "c2", to = "c1" } }]]'`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "STEP")]
    steps: Vec<String>,
}

/// The name of the suite file that is not to be kept.
const DRAFT: &str = "case.toml";

/// Does the steps in a lab, prints what they show, and keeps both for review.
pub(super) fn record(record: &Record) -> Result<u8, Usage> {
    if record.to.is_some() && !record.choice.is_relay() {
        return Err("--to writes a snapshot, and snapshots are relay's: leave out --to, or --overlay".into());
    }
    let text = suite::compose(&record.about, &record.lab, &record.steps)?;
    let path = record.to.as_deref().unwrap_or(Path::new(DRAFT));
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Err(Usage(format!("{} is no name of a suite file: it has to end in .toml", path.display())));
    }
    if !record.force && record.to.is_some() && path.exists() {
        return Err(Usage(format!("{} is there already; --force writes over it", path.display())));
    }
    // Before it is written anywhere: what is wrong leaves nothing behind.
    Case::from_octets(path, text.clone().into())
        .map_err(|error| Usage(format!("these words make no case:\n\n{}", case::render(&error))))?;
    snapshot::accept();
    let workshop = record.choice.workshop(&record.parts)?;
    let directory = Reaper::get()?.directory()?;
    let draft = directory.path().join(DRAFT);
    let path = record.to.as_deref().unwrap_or(&draft);
    write(path, &text)?;
    let reports = directory.path().join("failures");
    let on_failure = OnFailure { reports: &reports, keep_report: false, keep_lab: false };
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let found = Found { name, path: path.to_owned() };
    let outcome = case::execute(&workshop, &found, on_failure, |event| {
        if let Event::Seen { text } = event {
            say_part!("{}", coloured(text));
        }
    });
    match outcome.verdict {
        Verdict::Passed | Verdict::Differs(_) => {}
        Verdict::Failed(why) | Verdict::Unfit(why) | Verdict::Invalid(why) | Verdict::Inconclusive(why) => {
            say!("\n{}", why.trim_end());
            // What has just been named is to be looked at.
            directory.keep();
            return Ok(FAILED);
        }
    }
    if let Some(path) = &record.to {
        say!("\nsuite file  {}\nsnapshot    {}", path.display(), path.with_extension("snap").display());
    }
    Ok(SUCCESS)
}

fn write(path: &Path, text: &str) -> Result<(), Usage> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)
            .map_err(|error| format!("creating {}: {error}", directory.display()))?;
    }
    fs::write(path, text).map_err(|error| format!("writing {}: {error}", path.display()))?;
    owner::give_back(path);
    Ok(())
}

//! Suite files as tests of `cargo test`: each a test named by its path, with all that libtest's flags do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::case::{self, OnFailure, Verdict};
use crate::lab::Workshop;
use crate::overlay::relay::Relay;
use crate::reaper;
use crate::snapshot;
use crate::suite::{self, Found};

/// Runs the suite files below `suites` with the relay `program` as tests. This is a test target's whole `main`.
///
/// The environment variable `HARNESS_ETCD` says how etcd runs: `auto` (the default), `process` or `container`.
/// `RELAY` names another relay program.
pub fn main(suites: &Path, program: &Path) -> ExitCode {
    reaper::serve_if_asked();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert_with(case::usual_jobs);
    let found = match suite::discover(&[suites.to_owned()]) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            return ExitCode::FAILURE;
        }
    };
    // Before the sandbox: its mounts may hide where this program is.
    let failures = case::failures_directory();
    let workshop = if arguments.list { None } else { Some(workshop(program)) };
    let workshop = match workshop.transpose() {
        Ok(workshop) => workshop.map(Arc::new),
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let trials = found.into_iter().map(|found| trial(found, workshop.clone(), failures.clone()));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Enters the sandbox: nothing may have started a thread before.
fn workshop(program: &Path) -> Result<Workshop, String> {
    snapshot::configure();
    let etcd = match std::env::var("HARNESS_ETCD") {
        Ok(kind) => kind.parse().map_err(|why| format!("HARNESS_ETCD: {why}"))?,
        Err(_) => crate::etcd::Kind::Auto,
    };
    let program = std::env::var_os("RELAY").map_or_else(|| program.to_owned(), PathBuf::from);
    let workshop = Workshop::new(Arc::new(Relay::new(program)), etcd).map_err(|error| error.to_string())?;
    eprintln!("etcd as {} ({})", workshop.etcd, workshop.reason);
    Ok(workshop)
}

fn trial(found: Found, workshop: Option<Arc<Workshop>>, failures: PathBuf) -> Trial {
    let name = found.name.clone();
    Trial::test(name, move || {
        let workshop = workshop.ok_or_else(|| Failed::from("a listed test does not run"))?;
        let on_failure = OnFailure { reports: &failures, keep_report: false, keep_lab: false };
        let outcome = case::execute(&workshop, &found, on_failure, |_| {});
        if let Some(why) = &outcome.repeated {
            eprintln!("{} ran again: {why}", found.name);
        }
        match outcome.verdict {
            Verdict::Passed => Ok(()),
            Verdict::Failed(why) | Verdict::Differs(why) | Verdict::Unfit(why) | Verdict::Invalid(why) => {
                Err(Failed::from(why))
            }
            Verdict::Inconclusive(why) => Err(Failed::from(format!("inconclusive: {why}"))),
        }
    })
}

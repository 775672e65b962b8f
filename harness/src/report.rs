//! What is left of a case that failed: the first difference, the state of every node, and the whole recording.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::capture::pcapng;
use crate::flow;
use crate::owner;
use crate::run::{Runner, heading};
use crate::snapshot::Comparison;
use crate::suite::Case;

mod nodes;
mod trouble;

/// Writes the report's files to `directory` while the lab still runs, and returns what is to be said at once. `comparison` is
/// of the case's text with its snapshot, or of as much of both as there is of a case that `ended_early`.
pub async fn write(
    runner: &mut Runner<'_>,
    case: &Case,
    findings: &[String],
    comparison: &Comparison,
    ended_early: bool,
    directory: &Path,
) -> String {
    let (is_new, expected, pending) = match comparison {
        Comparison::Same => (false, None, None),
        Comparison::New { pending } => (true, None, pending.as_deref()),
        Comparison::Differs { expected, pending } => (false, Some(expected.as_str()), pending.as_deref()),
    };
    let mut text = format!("{}\n\n", case.about);
    for finding in findings {
        let _ = writeln!(text, "{finding}\n");
    }
    let actual = runner.text().to_owned();
    let headings: Vec<String> = case.steps.iter().map(|step| first_line(&heading(step))).collect();
    let differences = expected.and_then(|expected| flow::differences(expected, &actual, &headings));
    if let Some(differences) = differences {
        let title = differences
            .extent
            .first_step
            .and_then(|number| Some((number, case.steps.get(number - 1)?.title())));
        let place = title.map_or(String::new(), |(number, title)| format!(", in step {number}, `{title}`"));
        let _ = writeln!(text, "first difference{place}\n  {}", indent(&differences.to_string()));
    }
    let nodes = nodes::describe(runner).await;
    // Nobody has seen it yet.
    if is_new && !actual.is_empty() {
        let _ = writeln!(text, "{}\n", actual.trim_end());
    }
    let logs = logs(runner);
    for (node, log) in &logs {
        if let Some(trouble) = trouble::of(runner, &case.steps, node, log) {
            let _ = writeln!(text, "trouble in {node}.log{trouble}");
        }
    }
    let _ = writeln!(text, "suite file  {}", case.path.display());
    if let Some(pending) = pending {
        let _ = writeln!(text, "new text    {}", pending.display());
    }
    let mut files = vec![("actual.txt".to_owned(), actual), ("nodes.txt".to_owned(), nodes)];
    if let Some(expected) = expected {
        files.push(("side_by_side.txt".to_owned(), flow::side_by_side(expected, runner.text())));
        files.push(("expected.txt".to_owned(), expected.to_owned()));
    }
    files.extend(logs.into_iter().map(|(node, log)| (format!("{node}.log"), log)));
    files.push(("report.txt".to_owned(), text.clone()));
    match save(runner, directory, files) {
        Ok(()) => {
            if ended_early && !runner.text().is_empty() {
                let _ = writeln!(text, "seen so far {}", directory.join("actual.txt").display());
            }
            let _ = writeln!(text, "report      {}", directory.display());
            let _ = writeln!(text, "recording   {}", directory.join("recording.pcapng").display());
        }
        Err(why) => {
            let _ = writeln!(text, "the report is incomplete: {why}");
        }
    }
    text
}

/// The errors that daemons logged and the case does not provoke: each node's, if it has any.
pub fn unprovoked(runner: &Runner<'_>, case: &Case) -> Vec<String> {
    logs(runner).iter().filter_map(|(node, log)| trouble::unprovoked(case, node, log)).collect()
}

/// Removes the report of an earlier failure.
pub fn discard(directory: &Path) {
    // Most cases never had one.
    let _ = fs::remove_dir_all(directory);
}

fn save(runner: &Runner<'_>, directory: &Path, files: Vec<(String, String)>) -> Result<(), String> {
    discard(directory);
    fs::create_dir_all(directory).map_err(|error| format!("creating {}: {error}", directory.display()))?;
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    let recording =
        pcapng::write(&directory.join("recording.pcapng"), &runner.lab.recorder.all(), runner.notes());
    if let Some(failures) = directory.ancestors().find(|path| path.ends_with("failures")) {
        owner::give_back(failures);
    }
    recording.map_err(|error| error.to_string())
}

/// The log of every node's daemons, by the node's name.
fn logs(runner: &Runner<'_>) -> Vec<(String, String)> {
    let nodes = runner.lab.topology.nodes.iter();
    nodes.map(|node| (node.name.clone(), runner.lab.log(&node.name))).collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ") + "\n"
}

//! The reviewed text of a case, kept by insta beside its suite file: `across_nodes.toml`, `across_nodes.snap`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use similar::TextDiff;

use crate::flow;
use crate::owner;
use crate::suite::{Case, Found};

/// Lines that are the same in both texts, around those that differ.
const CONTEXT: usize = 3;

/// How a case's text relates to its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// They are the same.
    Same,
    /// There is no snapshot yet. The new text waits for review.
    New {
        /// Where it waits, unless insta was told to write nothing.
        pending: Option<PathBuf>,
    },
    /// They differ. The new text waits for review.
    Differs {
        /// The reviewed text.
        expected: String,
        /// Where the new one waits, unless insta was told to write nothing.
        pending: Option<PathBuf>,
    },
}

/// Leaves the verdict to [`compare`]: insta shall write what is pending, and neither print nor panic.
///
/// `INSTA_UPDATE` works as ever.
pub fn configure() {
    let root = std::env::var_os("INSTA_WORKSPACE_ROOT").unwrap_or_else(|| workspace_root().into_os_string());
    let settings =
        [("INSTA_FORCE_PASS", "1".into()), ("INSTA_OUTPUT", "none".into()), ("INSTA_WORKSPACE_ROOT", root)];
    for (name, value) in settings {
        // SAFETY: called first thing in `main`, when no other thread can read the environment.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Has insta accept whatever is seen, for one who looks at it right now.
pub fn accept() {
    // SAFETY: as for [`configure`].
    unsafe { std::env::set_var("INSTA_UPDATE", "always") };
}

/// What paths in snapshots are relative to: the nearest directory upwards with a `Cargo.lock`, else the current one.
/// insta would ask cargo, which need not be there where suites run.
fn workspace_root() -> PathBuf {
    let current = std::env::current_dir().unwrap_or_default();
    current.ancestors().find(|path| path.join("Cargo.lock").exists()).unwrap_or(&current).to_owned()
}

/// Compares a case's text with its snapshot, and leaves what is new or different for `cargo insta review`. What is seen in a
/// case that is not `sound` is not accepted, whatever `INSTA_UPDATE` says.
pub fn compare(case: &Case, text: &str, sound: bool) -> Comparison {
    let stem = case.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // insta takes a relative directory for one below this source file.
    let beside = case.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = fs::canonicalize(beside).unwrap_or(beside.to_owned());
    let accepted = directory.join(format!("{stem}.snap"));
    let pending = directory.join(format!("{stem}.snap.new"));
    let expected = read(&accepted);
    let accepts = matches!(std::env::var("INSTA_UPDATE").as_deref(), Ok("always" | "1" | "force"));
    if !sound && accepts {
        return match expected {
            Some(expected) if expected == text.trim_end() => Comparison::Same,
            Some(expected) => Comparison::Differs { expected, pending: None },
            None => Comparison::New { pending: None },
        };
    }
    if expected.as_deref() == Some(text.trim_end()) {
        let _ = fs::remove_file(&pending);
    }

    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(&directory);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(case.about.as_str());
    settings.set_input_file(&case.path);
    settings.bind(|| insta::assert_snapshot!(stem, text));

    owner::give_back(&accepted);
    let pending = pending.exists().then(|| {
        owner::give_back(&pending);
        pending
    });
    // Read again: insta may have been told to accept.
    match read(&accepted) {
        Some(now) if now == text.trim_end() => {
            // What an earlier run left, and insta was now told to accept.
            if let Some(pending) = pending {
                let _ = fs::remove_file(pending);
            }
            Comparison::Same
        }
        Some(expected) => Comparison::Differs { expected, pending },
        None => Comparison::New { pending },
    }
}

/// Compares the text of a case that did not come to its end with its snapshot, as far as both go: steps may be new. Nothing
/// is written.
pub fn compare_so_far(case: &Case, text: &str) -> Comparison {
    let Some(expected) = read(&case.path.with_extension("snap")) else {
        return Comparison::New { pending: None };
    };
    let lines = |text: &str| text.lines().filter(|line| !line.trim().is_empty()).count();
    let both = lines(&expected).min(lines(text));
    let expected = first_lines(&expected, both);
    match flow::first_difference(&expected, &first_lines(text, both)) {
        Some(_) => Comparison::Differs { expected, pending: None },
        None => Comparison::Same,
    }
}

/// As much of a text as has so many lines that are not blank.
fn first_lines(text: &str, mut count: usize) -> String {
    let first = text.lines().take_while(|line| {
        let is_within = count > 0;
        count -= usize::from(is_within && !line.trim().is_empty());
        is_within
    });
    first.collect::<Vec<_>>().join("\n")
}

/// What the text of a case with another overlay than relay has otherwise than the case's snapshot, which is relay's; none
/// if nothing. Nothing is written, whatever `INSTA_UPDATE` says.
pub fn contrast(case: &Case, text: &str, overlay: &str) -> Option<String> {
    let path = case.path.with_extension("snap");
    let Some(expected) = read(&path) else {
        return Some(format!("{overlay} is compared with nothing: the case has no snapshot"));
    };
    let (expected, actual) = (expected + "\n", text.trim_end().to_owned() + "\n");
    if expected == actual {
        return None;
    }
    let diff = TextDiff::from_lines(&expected, &actual);
    let mut diff = diff.unified_diff();
    let diff =
        diff.context_radius(CONTEXT).header(&format!("relay  {}", path.display()), overlay).to_string();
    Some(format!("{overlay} does otherwise than relay\n\n{}", diff.trim_end()))
}

/// Snapshots that belong to no suite file, left behind when a case was renamed or removed: beside the suite files `found`,
/// and below the directories among `paths`, where there may be no suite file left.
pub fn orphans(found: &[Found], paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories: BTreeSet<PathBuf> =
        found.iter().filter_map(|found| found.path.parent()).map(Path::to_owned).collect();
    paths.iter().filter(|path| path.is_dir()).for_each(|path| with_all_below(path, &mut directories));
    let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten();
    let snapshots = entries.flatten().map(|entry| entry.path());
    let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "snap");
    let orphans = snapshots.filter(is_snapshot).filter(|path| !path.with_extension("toml").exists());
    orphans.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Suite files without a snapshot: what they show was never looked at.
pub fn missing(found: &[Found]) -> Vec<&Path> {
    let files = found.iter().map(|found| found.path.as_path());
    files.filter(|path| !path.with_extension("snap").exists()).collect()
}

fn with_all_below(directory: &Path, all: &mut BTreeSet<PathBuf>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    // A link may lead back up.
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.for_each(|entry| with_all_below(&entry.path(), all));
    all.insert(directory.to_owned());
}

/// The text of a snapshot file, without the header that insta puts before it.
fn read(path: &Path) -> Option<String> {
    let file = fs::read_to_string(path).ok()?;
    let (_, body) = file.strip_prefix("---\n")?.split_once("\n---\n")?;
    Some(body.trim_end().to_owned())
}

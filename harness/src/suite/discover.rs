//! Which suite files there are, and what their cases are called.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use miette::Diagnostic;
use thiserror::Error;

/// The file that marks the directory which the names of cases begin below.
const MARK: &str = "suite.schema.json";

/// A suite file, not yet read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The case's name: its path below the suites' directory, without extension, as in `ping/across_nodes`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// Why suite files cannot be found.
#[derive(Debug, Error, Diagnostic)]
pub enum DiscoverError {
    /// A path cannot be looked at, or a directory not listed.
    #[error("cannot look for suite files in {}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
        /// What to do about it.
        #[help]
        help: Option<String>,
    },
    /// A file was named that is no suite file.
    #[error("{} is not a suite file", path.display())]
    #[diagnostic(help("a suite file's name ends in .toml"))]
    NotASuiteFile {
        /// The file.
        path: PathBuf,
    },
    /// A path holds no suite file.
    #[error("there are no suite files under {}", path.display())]
    #[diagnostic(help("a suite file's name ends in .toml; hidden directories and `target` are passed over"))]
    Empty {
        /// The path.
        path: PathBuf,
    },
    /// Two files give their cases one name.
    #[error("{} and {} are both the case `{name}`", first.display(), second.display())]
    #[diagnostic(help("put them under one directory with a {MARK}, or run them one after the other"))]
    SameName {
        /// The name.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// The file or directory that a word names: a path, or what reports call a case, as `ping/across_nodes`, or a directory of
/// cases below `suites`. A word that names nothing is taken for a path.
#[must_use]
pub fn named(word: &str) -> PathBuf {
    let path = PathBuf::from(word);
    let below = Path::new("suites").join(word);
    let file = |path: &Path| PathBuf::from(format!("{}.toml", path.display()));
    [&path, &file(&path), &below, &file(&below)]
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or(&path)
        .clone()
}

/// Finds every suite file among and under these files and directories, in the order of their cases' names.
///
/// Names are counted from the nearest directory above that holds a `suite.schema.json`, so that a case has one name from
/// wherever it is run; without such, from the directory given. Symbolic links to directories are not followed.
///
/// # Errors
///
/// When a path does not exist, cannot be listed or has no suite file under it, and when two files give one name.
pub fn discover(roots: &[PathBuf]) -> Result<Vec<Found>, DiscoverError> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for root in roots {
        let metadata = std::fs::metadata(root).map_err(|source| unreadable(root, source))?;
        let mut paths = Vec::new();
        if metadata.is_dir() {
            list(root, &mut paths)?;
        } else if is_toml(root) {
            paths.push(root.clone());
        } else {
            return Err(DiscoverError::NotASuiteFile { path: root.clone() });
        }
        if paths.is_empty() {
            return Err(DiscoverError::Empty { path: root.clone() });
        }
        let given = if metadata.is_dir() {
            root.as_path()
        } else {
            root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        };
        for path in paths {
            let name = name(&path, given)?;
            if let Some(first) = found.get(&name) {
                if same_file(first, &path) {
                    continue;
                }
                return Err(DiscoverError::SameName { name, first: first.clone(), second: path });
            }
            found.insert(name, path);
        }
    }
    Ok(found.into_iter().map(|(name, path)| Found { name, path }).collect())
}

/// Collects the suite files under a directory.
fn list(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), DiscoverError> {
    let failed = |source| unreadable(directory, source);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().map_err(failed)?;
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() {
            if name != "target" {
                list(&path, paths)?;
            }
        } else if is_toml(&path) && name != "Cargo.toml" {
            paths.push(path);
        }
    }
    Ok(())
}

/// What the case in a file is called, which was found under the path given.
fn name(path: &Path, given: &Path) -> Result<String, DiscoverError> {
    let whole = |path: &Path| std::path::absolute(path).map_err(|source| unreadable(path, source));
    let (path, given) = (whole(path)?, whole(given)?);
    let marked = path.ancestors().skip(1).find(|directory| directory.join(MARK).is_file());
    let below = path.strip_prefix(marked.unwrap_or(&given)).unwrap_or(&path).with_extension("");
    let parts = below.components().filter(|part| matches!(part, Component::Normal(_)));
    Ok(parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"))
}

fn is_toml(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("toml"))
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn unreadable(path: &Path, source: std::io::Error) -> DiscoverError {
    let help = match source.kind() {
        std::io::ErrorKind::NotFound => Some("give a path, or the name of a case below `suites`"),
        std::io::ErrorKind::PermissionDenied => Some("make it readable to the user that the harness runs as"),
        _ => None,
    };
    DiscoverError::Unreadable { path: path.to_owned(), source, help: help.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files in it.
    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        directory
    }

    fn names(roots: &[PathBuf]) -> Vec<String> {
        discover(roots).unwrap().into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn suite_files_are_found_at_any_depth_in_the_order_of_their_names() {
        let files = ["ttl/b.toml", "ping/z.toml", "ping/deep/a.toml", "a.toml"];
        let passed_over = ["Cargo.toml", ".git/x.toml", "target/debug/y.toml", ".hidden.toml", "ping/z.snap"];
        let directory = directory(&[&files[..], &passed_over].concat());
        assert_eq!(names(&[directory.path().into()]), ["a", "ping/deep/a", "ping/z", "ttl/b"]);
    }

    #[test]
    fn a_case_has_one_name_from_wherever_it_is_run() {
        let directory = directory(&[MARK, "ping/a.toml", "ping/b.toml"]);
        let (below, file) = (directory.path().join("ping"), directory.path().join("ping/../ping/a.toml"));
        assert_eq!(names(std::slice::from_ref(&below)), ["ping/a", "ping/b"]);
        assert_eq!(names(&[directory.path().into(), below]), ["ping/a", "ping/b"]);
        assert_eq!(names(&[directory.path().join("ping/a.toml")]), ["ping/a"]);
        assert_eq!(discover(std::slice::from_ref(&file)).unwrap()[0].path, file);
    }

    #[test]
    fn a_path_that_does_not_exist_is_an_error() {
        assert!(matches!(discover(&["/nonexistent".into()]), Err(DiscoverError::Unreadable { .. })));
    }

    #[test]
    fn a_path_without_suite_files_is_an_error() {
        let directory = directory(&["Cargo.toml"]);
        assert!(matches!(discover(&[directory.path().into()]), Err(DiscoverError::Empty { .. })));
    }

    #[test]
    fn a_file_of_another_kind_is_an_error() {
        let directory = directory(&["notes.md"]);
        let found = discover(&[directory.path().join("notes.md")]);
        assert!(matches!(found, Err(DiscoverError::NotASuiteFile { .. })));
    }

    #[test]
    fn a_word_may_leave_out_the_extension() {
        let directory = directory(&["ping/a.toml", "ping.toml"]);
        let word = |name: &str| named(directory.path().join(name).to_str().unwrap());
        assert_eq!(word("ping/a"), directory.path().join("ping/a.toml"));
        assert_eq!(
            word("ping"),
            directory.path().join("ping"),
            "the directory, which is there as it is named"
        );
        assert_eq!(word("b"), directory.path().join("b"));
    }

    #[test]
    fn two_files_with_one_name_are_an_error() {
        let (one, other) = (directory(&["a.toml"]), directory(&["a.toml"]));
        let found = discover(&[one.path().into(), other.path().into()]);
        assert!(matches!(found, Err(DiscoverError::SameName { name, .. }) if name == "a"));
    }
}

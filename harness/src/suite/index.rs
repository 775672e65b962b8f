//! The index of all cases, for people: `docs/cases.md`.

use std::fmt::Write;

use super::{Case, Error, Found};

const HEAD: &str = "\
# Cases

Every case under `suites/`, with what it shows and where it comes from; its flows are in the `.snap` beside it. This page is
made by `harness index > docs/cases.md`, and a test keeps it current.
";

/// Markdown of the index of some suite files: a table for each directory.
///
/// # Errors
/// When a suite file is wrong.
pub fn index(found: &[Found]) -> Result<String, Error> {
    let mut text = format!("{HEAD}\n{} cases.\n", found.len());
    let mut suite = "";
    for found in found {
        let (directory, name) = found.name.rsplit_once('/').unwrap_or(("", &found.name));
        if directory != suite {
            suite = directory;
            let _ = write!(text, "\n## {suite}\n\n| case | shows | source |\n|-|-|-|\n");
        }
        let case = Case::load(&found.path)?;
        let source = case.source.unwrap_or_default();
        let link = format!("[{name}](../suites/{}.toml)", found.name);
        let _ = writeln!(text, "| {link} | {} | {} |", cell(&case.about), cell(&source));
    }
    Ok(text)
}

/// Text as it can stand in a table's cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::suite::discover;

    #[test]
    fn the_index_of_the_cases_is_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = discover(&[root.join("suites")]).unwrap();
        let stored = std::fs::read_to_string(root.join("docs/cases.md")).unwrap();
        assert!(stored == index(&found).unwrap(), "it is not: run `harness index > docs/cases.md`");
    }

    #[test]
    fn every_case_has_its_snapshot() {
        let roots = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../suites")];
        let found = discover(&roots).unwrap();
        assert_eq!(crate::snapshot::orphans(&found, &roots), Vec::<std::path::PathBuf>::new());
        assert_eq!(crate::snapshot::missing(&found), Vec::<&std::path::Path>::new());
    }

    #[test]
    fn a_bar_does_not_end_a_cell() {
        assert_eq!(cell("a |\n b"), "a \\| b");
    }
}

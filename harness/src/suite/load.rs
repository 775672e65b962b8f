//! From a file to a case.

use std::io::ErrorKind;
use std::path::Path;

use miette::NamedSource;
use toml::de::DeTable;

use super::file::File;
use super::mistake::{Error, Mistake};
use super::{Case, check, structure};
use crate::topology;

/// The shortest suite file: what to write where there is nothing.
const EXAMPLE: &str = r#"the shortest suite file is
    about = "A ping crosses from one node to another."
    steps = [{ ping = { from = "c1", to = "c2" } }]"#;

/// A suite file of more octets than this was not written by a person.
const LONGEST: u64 = 1 << 20;

impl Case {
    /// Reads and checks a suite file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, and when it is wrong: then with every mistake found, each with its place.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::from_octets(path, read(path)?)
    }

    /// Checks what was read from a suite file.
    pub(crate) fn from_octets(path: &Path, octets: Vec<u8>) -> Result<Self, Error> {
        let (text, broken) = match String::from_utf8(octets) {
            Ok(text) => (text, None),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(at))
            }
        };
        let parsed = match broken {
            Some(at) => {
                let wrong = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
                let mistake = Mistake::new(wrong, "the file is not UTF-8 text", "not UTF-8");
                Err(vec![mistake.help("TOML is UTF-8: save the file with that encoding")])
            }
            None => Self::parse(path, &text),
        };
        parsed.map_err(|mistakes| shown(path, text, mistakes))
    }

    /// Checks a suite file's text.
    fn parse(path: &Path, text: &str) -> Result<Self, Vec<Mistake>> {
        if text.trim_start_matches('\u{feff}').trim().is_empty() {
            return Err(vec![Mistake::new(0..0, "the suite file is empty", "nothing here").help(EXAMPLE)]);
        }
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(errors.iter().map(not_toml).collect());
        }
        let mistakes = structure::check(&document);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let file: File = toml::from_str(text).map_err(|error| vec![not_understood(&error)])?;
        let (topology, mut mistakes) = topology::settle(&file.lab);
        mistakes.extend(check::check(&file, &document, &topology));
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let File { about, source, provokes, lab, steps } = file;
        let (about, source) = (about.to_string(), source.map(|source| source.to_string()));
        Ok(Self { path: path.to_owned(), about, source, lab, topology, provokes, steps })
    }
}

/// The mistakes in a file that was read before, and that is sound in itself.
pub(super) fn mistaken(path: &Path, mistakes: Vec<Mistake>) -> Error {
    match read(path) {
        Ok(octets) => shown(path, String::from_utf8_lossy(&octets).into_owned(), mistakes),
        Err(error) => error,
    }
}

/// Mistakes in the order of the text that they are in.
fn shown(path: &Path, text: String, mut mistakes: Vec<Mistake>) -> Error {
    mistakes.sort_by_key(Mistake::offset);
    let mistakes = mistakes.into_iter().map(|mistake| mistake.shown_in(&text)).collect();
    Error::Mistakes { text: NamedSource::new(path.display().to_string(), text), mistakes }
}

/// Reads a file, unless it is of a kind or size that no suite file is.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let error = |source: std::io::Error, help: Option<&str>| Error::Read {
        path: path.to_owned(),
        source,
        help: help.map(str::to_owned),
    };
    let failed = |source: std::io::Error| {
        let help = match source.kind() {
            ErrorKind::NotFound => {
                Some("check the path: it is taken from the directory that the command runs in")
            }
            ErrorKind::PermissionDenied => {
                Some("make the file readable to the user that the harness runs as")
            }
            _ => None,
        };
        error(source, help)
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let help = "name a file in it, or let all suite files in it be found";
        return Err(error(ErrorKind::IsADirectory.into(), Some(help)));
    }
    if !metadata.is_file() {
        let help = "a suite file is an ordinary file";
        return Err(error(ErrorKind::Unsupported.into(), Some(help)));
    }
    if metadata.len() > LONGEST {
        let help = "a suite file describes one case, and has at most 1 MiB";
        return Err(error(ErrorKind::FileTooLarge.into(), Some(help)));
    }
    std::fs::read(path).map_err(failed)
}

/// A mistake in the TOML itself.
fn not_toml(error: &toml::de::Error) -> Mistake {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let mistake = Mistake::new(error.span().unwrap_or(0..0), format!("not TOML: {message}"), "here");
    if message.contains("duplicate key") {
        return mistake.help("a key stands once in its table: take one of the two out");
    }
    mistake
        .help("strings stand in double quotes, lists in [ ], tables in { } on one line or under a [header]")
}

/// A mistake that only the types' own deserializers see.
fn not_understood(error: &toml::de::Error) -> Mistake {
    Mistake::new(error.span().unwrap_or(0..0), error.message().to_owned(), "not understood")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = include_str!("../../../suites/churn/lease_moves.toml");

    fn kind(path: &Path) -> ErrorKind {
        match Case::load(path) {
            Err(Error::Read { source, help, .. }) => {
                assert!(help.is_some(), "says what to do about {source}");
                source.kind()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_readable_file_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        symlink("/nonexistent", path("dangling.toml")).unwrap();
        std::fs::File::create(path("large.toml")).unwrap().set_len(LONGEST + 1).unwrap();
        assert_eq!(kind(directory.path()), ErrorKind::IsADirectory);
        assert_eq!(kind(&path("none.toml")), ErrorKind::NotFound);
        assert_eq!(kind(&path("dangling.toml")), ErrorKind::NotFound);
        assert_eq!(kind(&path("large.toml")), ErrorKind::FileTooLarge);
        assert_eq!(kind(Path::new("/dev/zero")), ErrorKind::Unsupported);
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
        let windows = format!("\u{feff}{}", WHOLE.replace('\n', "\r\n"));
        let read = |text: &str| Case::from_octets(Path::new("case.toml"), text.into()).unwrap();
        let titles = |case: Case| case.steps.iter().map(super::super::Step::title).collect::<Vec<_>>();
        assert_eq!(titles(read(&windows)), titles(read(WHOLE)));
    }

    #[test]
    fn what_is_left_out_is_the_common_lab() {
        let text = "about = 'x'\nsteps = [{ ping-all = {} }]";
        let case = Case::from_octets(Path::new("case.toml"), text.into()).unwrap();
        assert_eq!(case.lab, super::super::Lab::default());
        assert_eq!(case.source, None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_every_mistake_lies_within_the_text(
            cut in 0..WHOLE.len(), length in 0..40usize, put in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let mut octets = WHOLE.as_bytes().to_vec();
            octets.splice(cut..(cut + length).min(WHOLE.len()), put);
            if let Err(error) = Case::from_octets(Path::new("case.toml"), octets) {
                let mut text = String::new();
                let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none());
                prop_assert!(handler.without_syntax_highlighting().render_report(&mut text, &error).is_ok());
                // What the handler says of a label whose place is not in the text.
                prop_assert!(!text.contains("Failed to read contents"), "{text}");
            }
        }
    }
}

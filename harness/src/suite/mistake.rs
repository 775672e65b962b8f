//! What is wrong with a suite file, shown where it is wrong.

use std::ops::Range;
use std::path::PathBuf;

use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

/// Why a suite file cannot be used.
#[derive(Debug, Error, Diagnostic)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the suite file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
        /// What to do about it.
        #[help]
        help: Option<String>,
    },
    /// It says what cannot be meant: every such place, in the order of the file.
    #[error("{} in the suite file {}", counted(mistakes.len()), text.name())]
    Mistakes {
        /// The file's text, named by its path.
        #[source_code]
        text: NamedSource<String>,
        /// What is wrong with it.
        #[related]
        mistakes: Vec<Mistake>,
    },
}

/// One thing that is wrong in a suite file.
#[derive(Debug, Clone, PartialEq, Eq, Error, Diagnostic)]
#[error("{message}")]
pub struct Mistake {
    message: String,
    #[label("{label}")]
    span: SourceSpan,
    label: String,
    #[help]
    help: Option<String>,
}

impl Mistake {
    /// States in `message` what is wrong, and in `label` what is underlined.
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { message: message.into(), span: span.into(), label: label.into(), help: None }
    }

    /// Says what to write instead.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Offset of the first octet underlined.
    pub(super) fn offset(&self) -> usize {
        self.span.offset()
    }
}

fn counted(mistakes: usize) -> String {
    if mistakes == 1 { "a mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

/// `did you mean …?` where a known name is near to what was written, and in any case all that are known.
pub(crate) fn suggest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str, IntoIter: Clone>,
    what: &str,
) -> String {
    let known = known.into_iter();
    let distance = |name: &str| strsim::damerau_levenshtein(&written.to_lowercase(), name);
    let near = known.clone().min_by_key(|name| distance(name)).filter(|name| {
        let apart = distance(name);
        apart <= 1 + written.len().max(name.len()) / 4 && apart < name.len()
    });
    let all = known.collect::<Vec<_>>().join(", ");
    let all = if all.is_empty() { format!("there are no {what}") } else { format!("{what}: {all}") };
    match near {
        Some(near) => format!("did you mean `{near}`? ({all})"),
        None => all,
    }
}

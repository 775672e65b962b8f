//! What is wrong with a suite file, shown where it is wrong.

use std::ops::Range;
use std::path::PathBuf;

use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

/// A line of more octets than this would hide what is underlined in it.
const LONGEST_LINE: usize = 1000;

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
    span: Option<SourceSpan>,
    label: String,
    #[help]
    help: Option<String>,
}

impl Mistake {
    /// States in `message` what is wrong, and in `label` what is underlined.
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { message: message.into(), span: Some(span.into()), label: label.into(), help: None }
    }

    /// Says what to write instead.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Offset of the first octet underlined.
    pub(super) fn offset(&self) -> usize {
        self.span.map_or(0, |span| span.offset())
    }

    /// Says in words where it is, instead of showing it, if the line is too long to be shown.
    #[must_use]
    pub(super) fn shown_in(self, text: &str) -> Self {
        let Some((before, after)) = text.split_at_checked(self.offset()) else { return self };
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = before.len() + after.find('\n').unwrap_or(after.len());
        if end - start <= LONGEST_LINE {
            return self;
        }
        let (line, column) = (1 + before.matches('\n').count(), 1 + before[start..].chars().count());
        Self { message: format!("line {line}, column {column}: {}", self.message), span: None, ..self }
    }
}

fn counted(mistakes: usize) -> String {
    if mistakes == 1 { "a mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

/// The known name that is nearest to what was written, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&written.to_lowercase(), name);
    let (apart, name) =
        known.into_iter().map(|name| (distance(name), name)).min_by_key(|(apart, _)| *apart)?;
    (apart <= 1 + written.len().max(name.len()) / 4 && apart < name.len()).then_some(name)
}

/// `did you mean …?` where a known name is near to what was written, and in any case all that are known.
pub(crate) fn suggest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>, what: &str) -> String {
    let known: Vec<_> = known.into_iter().filter(|name| !name.is_empty()).collect();
    let all = match known.as_slice() {
        [] => format!("there are no {what}"),
        known => format!("{what}: {}", known.join(", ")),
    };
    let many = known.len() > LISTED_BESIDE;
    match nearest(written, known) {
        Some(near) if many => format!("did you mean `{near}`?"),
        Some(near) => format!("did you mean `{near}`? ({all})"),
        None => all,
    }
}

/// How many names are listed beside the nearest one; more would hide it.
const LISTED_BESIDE: usize = 12;

#[cfg(test)]
pub(super) mod tests;

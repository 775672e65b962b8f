//! Measuring overlays in a lab that is not recorded: what the control plane and the data path cost.
//!
//! Nothing here is a verdict on a machine or a moment: what is compared is measured in one run, in turns.

mod chart;
pub mod control;
pub mod data;
pub mod figure;
pub mod machine;
mod progress;
mod statistics;
mod traffic;

use std::io;

use crate::wait::TimedOut;
use crate::{lab, netns, overlay};

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A namespace of it.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// What was awaited did not come.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// A socket or file.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// The cause.
        source: io::Error,
    },
    /// What was measured is not what was meant to be.
    #[error("{0}")]
    Wrong(String),
}

impl From<lab::host::Error> for Error {
    fn from(error: lab::host::Error) -> Self {
        Self::Lab(error.into())
    }
}

impl From<overlay::Error> for Error {
    fn from(error: overlay::Error) -> Self {
        Self::Lab(error.into())
    }
}

/// Says what was being done when the system refused.
fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    |source| Error::System { doing, source }
}

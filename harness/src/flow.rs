//! From a recording to the story it tells: where each packet went, how it changed at each hop, how it ended.
//!
//! What happened to one probe is an [`Observation`]; [`Journey::reconstruct`] turns it into [`Flow`]s, one for the
//! request, its reply and each ICMP error. A flow is printed as a *ladder*, one line a hop; many probes are compared
//! in a [`Matrix`], and a steady stream of them becomes a [`Summary`] of the paths it took.
//!
//! Hops come in path order, which the topology settles; timestamps decide between candidates that it allows.

mod defect;
mod difference;
mod extent;
mod hop;
mod journey;
mod judge;
mod ladder;
mod map;
mod matrix;
mod mesh;
mod notes;
mod observation;
mod order;
mod paint;
mod side_by_side;
mod sort;
mod stream;
#[cfg(test)]
mod tests;
mod verdict;
mod walk;

pub use difference::{Difference, first_difference};
pub use extent::{Differences, Extent, differences};
pub use hop::{Hop, Sighting};
pub use journey::{Branch, Flow, Journey, Numbering, Origin};
pub use map::Map;
pub(crate) use matrix::align;
pub use matrix::{Cell, Matrix};
pub use mesh::Mesh;
pub use notes::Note;
pub use observation::{
    Answer, Crafted, Dropped, Fault, FaultPlace, IcmpSent, Key, Observation, Place, Probe,
};
pub use order::{Disorder, disorders};
pub use paint::{Ink, paint, spans};
pub use side_by_side::side_by_side;
pub use sort::{Part, Quoted, Sorted, fingerprint, sort};
pub use stream::{Epoch, Paths, Summary};
pub use verdict::{End, Verdict};

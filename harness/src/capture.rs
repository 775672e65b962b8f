//! Recording of every packet at every interface of interest.

pub mod frame;
pub mod pcapng;
pub mod recorder;
mod ring;
pub mod run;
mod slot;
pub mod socket;

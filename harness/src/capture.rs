//! Recording of every packet at every interface of interest.

pub mod frame;
pub mod pcapng;
pub mod recorder;
mod ring;
mod slot;
pub mod socket;

//! Recording of every packet at every interface of interest.

mod filter;
pub mod frame;
pub mod pcapng;
pub mod recorder;
mod ring;
pub mod run;
mod slot;
pub mod socket;

pub use filter::FLOOD_PORTS;

//! An overlay daemon: flannel's UDP backend with etcd v3.
//!
//! A packet's way through it:
//!
//! ```text
//! container → bridge → kernel route → TUN → datapath::outbound → UDP socket → underlay
//! underlay → UDP socket → datapath::inbound → TUN → kernel route → bridge → container
//! ```
//!
//! The control plane (registry, lease, health) is tokio; the data path is two plain threads. They
//! meet in [`datapath::routes::Routes`] and [`datapath::counters::Counters`], nowhere else.

pub mod cli;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod host;
pub mod http;
pub mod lease;
pub mod network;
pub mod registry;
pub mod underlay;
pub mod wire;

pub use cli::main;

//! A conformance lab for overlays, made of Linux network namespaces.

pub mod bench;
pub mod capture;
pub mod case;
pub mod cli;
pub mod etcd;
pub mod flow;
pub mod lab;
pub mod libtest;
mod lock;
pub mod netlink;
pub mod netns;
pub mod overlay;
mod owner;
pub mod packet;
pub mod probe;
pub mod reaper;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod snapshot;
mod socket;
mod standstill;
pub mod suite;
pub mod topology;
pub mod wait;

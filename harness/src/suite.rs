//! Suite files: what people write, read and checked before any lab is built.
//!
//! A file is read in three passes, each of which tells every mistake that it finds: the TOML itself; the keys and types,
//! against the schema that is generated from the types here; then names, addresses and what steps can be done at all.

mod check;
mod compose;
mod discover;
mod file;
mod index;
mod load;
mod mistake;
mod refusal;
mod schema;
mod step;
mod structure;
mod text;
mod title;

use std::path::PathBuf;

pub use check::own_flag;
pub use compose::compose;
pub use discover::{DiscoverError, Found, discover, named};
pub use file::Lab;
pub use index::index;
pub(crate) use mistake::suggest;
pub use mistake::{Error, Mistake};
pub use schema::{lab_reference, schema, steps_reference};
pub use step::{
    By, CompactEtcd, Cut, DeleteLease, Envelope, Etcd, Exec, Expect, ExpectLog, ExpectMetric, Flood, Growth,
    Heal, Inject, Injected, LEADER, Leases, Link, LinkState, Listen, Outcome, Packet, Parallel, Ping,
    PingAll, PutKey, PutLease, Readdress, Relay, Repeat, Shape, Shaping, StartRelay, Step, Stream,
    SubnetFile, Sweep, TUNNEL, Toward, Traceroute, Transfer, Transport, Udp, Unshaping, Variant, WaitRoute,
};
pub(crate) use text::hexadecimal;
pub use text::{Pairs, Run, Text, Values};

use crate::topology::Topology;

/// A case, ready to run: every name in its steps is one of its topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The suite file.
    pub path: PathBuf,
    /// What the case shows.
    pub about: String,
    /// Where it comes from.
    pub source: Option<String>,
    /// The lab as the file says it.
    pub lab: Lab,
    /// The lab with every name and address settled.
    pub topology: Topology,
    /// Parts of the errors that daemons may log.
    pub provokes: Vec<Text>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

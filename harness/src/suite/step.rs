//! The steps of a case.

use std::slice;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::text::{Text, Values};

mod cut;
mod expect;
mod flood;
mod host;
mod inject;
mod parallel;
mod registry;
mod relay;
mod shape;
mod transfer;

pub use cut::{Cut, Heal};
pub use expect::{Expect, Growth};
pub use flood::Flood;
pub(super) use flood::MAX_SECONDS;
pub use host::{Exec, Link, LinkState, Listen, Readdress};
pub use inject::{Envelope, Inject, Injected, Packet, TUNNEL, Variant};
pub use parallel::Parallel;
pub use registry::{CompactEtcd, DeleteLease, Etcd, LEADER, Leases, PutKey, PutLease};
pub use relay::{ExpectLog, ExpectMetric, Outcome, Relay, StartRelay, WaitRoute};
pub use shape::{Shaping, Toward, Unshaping};
pub use transfer::{Transfer, Transport};

/// TTL of a probe that says nothing else.
const TTL: u8 = 64;
/// Octets of a probe's payload that says nothing else: ping(8)'s.
const SIZE: u16 = 56;
/// The largest payload: an IPv4 packet of 65,535 octets less its header and that of ICMP or UDP.
pub(super) const MAX_SIZE: u16 = 65507;

/// One thing that is done in the lab.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A paragraph for the snapshot, in its place among the steps.
    Say(Text),
    /// Sends ICMP echo requests and follows each, and its reply, through the lab.
    Ping(Ping),
    /// One ping from every container to every other.
    PingAll(PingAll),
    /// Sends one UDP datagram to a socket that listens there, if `to` is a host of the lab, and follows it.
    Udp(Udp),
    /// Sends a packet that no socket would, built field by field, and follows it.
    Inject(Box<Inject>),
    /// Sends many UDP datagrams, which nobody follows one by one: they are in no recording, and what becomes of them is
    /// told by what the daemons count, and by what becomes of others meanwhile.
    Flood(Flood),
    /// Sends data over sockets, and fails unless it arrives as it was sent, each stream's at its own socket: with UDP
    /// nothing lost and in order, with TCP no segment overtaken, with a wrong checksum, or lost where nobody counted it; and
    /// no relay dropped any of it. The packets are in no recording. What else goes the same way meanwhile may be in one run
    /// with them (UDP_SEGMENT), and then in none, either, which fails the case: let it be of other nodes, or give the lab
    /// `flags = ["--offload=none"]`.
    Transfer(Transfer),
    /// Sends probes with TTL 1, 2, … until one arrives: who answers for each hop.
    Traceroute(Traceroute),
    /// Writes a lease to etcd, in the place of whatever has its key, and waits until every running relay knows it.
    PutLease(PutLease),
    /// Deletes a lease from etcd, and waits until every running relay knows.
    DeleteLease(DeleteLease),
    /// Writes any key below the overlay's prefix in etcd, and waits until every running relay has seen it.
    PutKey(PutKey),
    /// Starts a node's relay, and waits until it is ready and all running relays know of its lease.
    StartRelay(StartRelay),
    /// Waits until a relay is ready that was started with `outcome = "running"`.
    WaitReady(Relay),
    /// Ends a node's relay with SIGTERM, and waits for its exit.
    StopRelay(Relay),
    /// Ends a node's relay with SIGKILL.
    KillRelay(Relay),
    /// Waits until a node's relay has ended by itself.
    WaitEnd(Relay),
    /// Stops the process of a node's relay with SIGSTOP: it is there, and does nothing.
    PauseRelay(Relay),
    /// Lets it go on.
    ResumeRelay(Relay),
    /// Starts an etcd member that was stopped, on the data it had.
    StartEtcd(Etcd),
    /// Stops an etcd member.
    StopEtcd(Etcd),
    /// Keeps a copy of the data of an etcd member that was stopped.
    SaveEtcd(Etcd),
    /// Puts a stopped etcd member back to what it knew when it was saved, as from a backup. Of a cluster all members have to
    /// go back together.
    RestoreEtcd(Etcd),
    /// Has etcd forget all history before its present revision.
    CompactEtcd(CompactEtcd),
    /// Sets a host's `eth0` up or down.
    Link(Link),
    /// Stops all traffic between hosts over the underlay but ARP, both ways, while their links stay up.
    Cut(Cut),
    /// Undoes cuts.
    Heal(Heal),
    /// Makes a host's link to the underlay slow, narrow or lossy. ARP passes at once and untouched.
    Shape(Shaping),
    /// Makes it good again, and shows why datagrams were dropped. What was held is sent at once.
    Unshape(Unshaping),
    /// Gives a node another address on the underlay in the place of the one it has.
    Readdress(Readdress),
    /// Runs a program in a host: with its network, but with this machine's files and processes.
    Exec(Exec),
    /// Opens a UDP socket in a host that has a port from then on.
    Listen(Listen),
    /// Does steps several times. What they show must be the same every time, and is shown once.
    Repeat(Repeat),
    /// Does steps at once, in two branches or more, and ends when all of these have. What each branch shows is shown under
    /// its number, in this order, whoever was first. Branches send; one of them may also change and ask the lab. Packets of a
    /// program that it runs with `exec` are no probe's: the case fails if a relay drops any.
    Parallel(Parallel),
    /// Pings at a steady pace while other steps run, and shows how the way of the pings changes.
    Stream(Stream),
    /// Waits until a node sends a subnet's packets to another node, or no longer sends them anywhere.
    WaitRoute(WaitRoute),
    /// Does steps, and fails unless they keep within bounds of time, or counters grow as they are to meanwhile, or come to it
    /// within 5 s. What the steps show is shown; what was measured is not, but for a bound that was not kept.
    Expect(Expect),
    /// Fails unless a relay's log has lines with a text in them, or gets them within 5 s.
    ExpectLog(ExpectLog),
    /// Fails unless a relay's metric has a value within bounds.
    ExpectMetric(ExpectMetric),
    /// Shows the leases in etcd.
    Leases(Leases),
    /// Shows a node's `subnet.env`.
    SubnetFile(SubnetFile),
}

impl Step {
    /// The steps that it has in it, in rows of which each is done in order.
    pub fn inner(&self) -> &[Vec<Self>] {
        match self {
            Self::Stream(stream) => slice::from_ref(&stream.during),
            Self::Repeat(repeat) => slice::from_ref(&repeat.steps),
            Self::Expect(expect) => slice::from_ref(&expect.steps),
            Self::Parallel(parallel) => &parallel.branches,
            _ => &[],
        }
    }
}

/// Keys of `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ping {
    /// The container or node that pings.
    pub from: Text,
    /// The container, node or address that is pinged.
    pub to: Text,
    /// How many requests, one after the other.
    #[schemars(range(min = 1, max = 1000), extend("default" = 1))]
    pub count: Option<u16>,
    /// TTL of the requests. There is no 0: no socket sends it.
    #[schemars(range(min = 1, max = 255), extend("default" = 64))]
    pub ttl: Option<u8>,
    /// Octets of payload, after the ICMP header.
    #[schemars(range(min = 0, max = 65507), extend("default" = 56))]
    pub size: Option<u16>,
    /// TOS octet of the requests: DSCP and ECN.
    #[schemars(range(min = 0, max = 255), extend("default" = 0))]
    pub tos: Option<u8>,
    /// Identifier of the requests. Left out: one that no other has.
    #[schemars(range(min = 0, max = 65535))]
    pub id: Option<u16>,
    /// Whether the requests forbid fragmentation.
    #[serde(default)]
    pub df: bool,
    /// One request with each of these TTLs, shown as a matrix: `[1, 2, 64]` or `["1-8", 64]`.
    #[serde(default)]
    #[schemars(schema_with = "ttls")]
    pub ttls: Option<Values>,
    /// One request with each of these payload sizes, shown as a matrix: `[0, 1, 1444]` or `["0-3", "1440-1444"]`.
    #[serde(default)]
    #[schemars(schema_with = "sizes")]
    pub sizes: Option<Values>,
    /// One request with each of these TOS octets, shown as a matrix: `[0, 184]` or `["0-255"]`.
    #[serde(default)]
    #[schemars(schema_with = "octets")]
    pub toses: Option<Values>,
}

/// Keys of `udp`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Udp {
    /// The container or node that sends.
    pub from: Text,
    /// The container, node or address that is sent to.
    pub to: Text,
    /// The port it is sent to.
    #[serde(default = "Udp::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The port it is sent from. Left out: one that the kernel chooses.
    #[schemars(range(min = 1, max = 65535))]
    pub source_port: Option<u16>,
    /// TTL of the datagram. There is no 0: no socket sends it.
    #[schemars(range(min = 1, max = 255), extend("default" = 64))]
    pub ttl: Option<u8>,
    /// Octets of payload, after the UDP header.
    #[schemars(range(min = 0, max = 65507), extend("default" = 56))]
    pub size: Option<u16>,
    /// TOS octet of the datagram: DSCP and ECN.
    #[schemars(range(min = 0, max = 255), extend("default" = 0))]
    pub tos: Option<u8>,
    /// Whether the datagram forbids fragmentation.
    #[serde(default)]
    pub df: bool,
    /// One datagram with each of these TTLs, shown as a matrix: `[1, 2, 64]` or `["1-8", 64]`.
    #[serde(default)]
    #[schemars(schema_with = "ttls")]
    pub ttls: Option<Values>,
    /// One datagram with each of these payload sizes, shown as a matrix: `[0, 1, 1444]` or `["0-3", "1440-1444"]`.
    #[serde(default)]
    #[schemars(schema_with = "sizes")]
    pub sizes: Option<Values>,
    /// One datagram with each of these TOS octets, shown as a matrix: `[0, 184]` or `["0-255"]`.
    #[serde(default)]
    #[schemars(schema_with = "octets")]
    pub toses: Option<Values>,
}

/// What one probe looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its TTL, 1 to 255.
    pub ttl: u8,
    /// Octets of payload, 0 to 65,507.
    pub size: u16,
    /// Whether it forbids fragmentation.
    pub df: bool,
    /// Its TOS octet.
    pub tos: u8,
}

/// What differs between the probes of a step that is shown as a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Their TTL.
    Ttl,
    /// The size of their payload.
    Size,
    /// Their TOS octet.
    Tos,
}

impl Ping {
    /// How many requests there are in each shape.
    pub fn count(&self) -> u16 {
        self.count.unwrap_or(1)
    }

    /// The shapes that it sends, in this order.
    pub fn shapes(&self) -> Vec<Shape> {
        self.probe().shapes()
    }

    /// What differs between them, if it is a sweep.
    pub fn sweep(&self) -> Option<Sweep> {
        self.probe().sweep()
    }

    pub(super) fn probe(&self) -> Probe<'_> {
        let Self { ttl, size, df, tos, ttls, sizes, toses, .. } = self;
        let [ttls, sizes, toses] = [ttls, sizes, toses].map(Option::as_ref);
        Probe { ttl: *ttl, size: *size, df: *df, tos: *tos, ttls, sizes, toses }
    }
}

impl Udp {
    /// The shapes that it sends, in this order.
    pub fn shapes(&self) -> Vec<Shape> {
        self.probe().shapes()
    }

    /// What differs between them, if it is a sweep.
    pub fn sweep(&self) -> Option<Sweep> {
        self.probe().sweep()
    }

    /// The port that is sent to by default.
    pub(super) fn port() -> u16 {
        7777
    }

    pub(super) fn probe(&self) -> Probe<'_> {
        let Self { ttl, size, df, tos, ttls, sizes, toses, .. } = self;
        let [ttls, sizes, toses] = [ttls, sizes, toses].map(Option::as_ref);
        Probe { ttl: *ttl, size: *size, df: *df, tos: *tos, ttls, sizes, toses }
    }
}

/// What `ping` and `udp` have in common.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) ttl: Option<u8>,
    pub(super) size: Option<u16>,
    pub(super) df: bool,
    pub(super) tos: Option<u8>,
    pub(super) ttls: Option<&'a Values>,
    pub(super) sizes: Option<&'a Values>,
    pub(super) toses: Option<&'a Values>,
}

impl Probe<'_> {
    fn sweep(self) -> Option<Sweep> {
        let kinds = [(self.ttls, Sweep::Ttl), (self.sizes, Sweep::Size), (self.toses, Sweep::Tos)];
        kinds.into_iter().find_map(|(values, sweep)| values.map(|_| sweep))
    }

    fn shapes(self) -> Vec<Shape> {
        let one = Shape {
            ttl: self.ttl.unwrap_or(TTL),
            size: self.size.unwrap_or(SIZE),
            df: self.df,
            tos: self.tos.unwrap_or(0),
        };
        let octets = |values: &Values| -> Vec<u8> {
            values.iter().filter_map(|value| u8::try_from(value).ok()).collect()
        };
        if let Some(ttls) = self.ttls.map(octets) {
            ttls.into_iter().map(|ttl| Shape { ttl, ..one }).collect()
        } else if let Some(sizes) = self.sizes {
            sizes.iter().map(|size| Shape { size, ..one }).collect()
        } else if let Some(toses) = self.toses.map(octets) {
            toses.into_iter().map(|tos| Shape { tos, ..one }).collect()
        } else {
            vec![one]
        }
    }

    /// The part of the title that says how its probes differ from the default.
    pub(super) fn knobs(self) -> Vec<String> {
        let mut knobs = Vec::new();
        knobs.extend(self.ttl.filter(|ttl| *ttl != TTL).map(|ttl| format!("ttl {ttl}")));
        knobs.extend(self.ttls.map(|ttls| format!("ttls {ttls}")));
        knobs.extend(self.size.filter(|size| *size != SIZE).map(|size| format!("size {size}")));
        knobs.extend(self.sizes.map(|sizes| format!("sizes {sizes}")));
        knobs.extend(self.tos.filter(|tos| *tos != 0).map(|tos| format!("tos {tos:#04x}")));
        knobs.extend(self.toses.map(|toses| format!("toses {toses}")));
        knobs.extend(self.df.then(|| "df".to_owned()));
        knobs
    }
}

/// `ping-all` has no keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PingAll {}

/// Keys of `traceroute`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Traceroute {
    /// The container or node that asks.
    pub from: Text,
    /// The container, node or address at the end of the way.
    pub to: Text,
    /// What the probes are.
    #[serde(default)]
    pub by: By,
    /// The highest TTL.
    #[serde(default = "Traceroute::max")]
    #[schemars(range(min = 1, max = 64))]
    pub max: u8,
}

impl Traceroute {
    pub(super) fn max() -> u8 {
        16
    }
}

/// What traceroute's probes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// UDP datagrams to ports from 33434, as traceroute(8) sends.
    #[default]
    Udp,
    /// Echo requests.
    Icmp,
}

/// Keys of `stream`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stream {
    /// The container or node that pings.
    pub from: Text,
    /// The container, node or address that is pinged.
    pub to: Text,
    /// Milliseconds from one ping to the next.
    #[serde(default = "Stream::every_ms")]
    #[schemars(range(min = 1, max = 1000))]
    pub every_ms: u16,
    /// Octets of payload, after the ICMP header.
    #[schemars(range(min = 0, max = 1400), extend("default" = 56))]
    pub size: Option<u16>,
    /// How many pings may stay without a reply before the case fails.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    pub max_lost: u16,
    /// How many pings may stay without a reply and without an ICMP error before the case fails. Left out: any.
    #[schemars(range(min = 0, max = 65535))]
    pub max_unanswered: Option<u16>,
    /// How many pings there are. Left out: as many as `lasts-ms` and `during` take. With it the text tells how many were
    /// lost, and why.
    #[schemars(range(min = 1, max = 10000))]
    pub count: Option<u16>,
    /// Milliseconds that the stream lasts at least.
    #[schemars(range(min = 1, max = 120000))]
    pub lasts_ms: Option<u32>,
    /// The steps that run meanwhile. The stream ends after the last of them.
    #[serde(default)]
    pub during: Vec<Step>,
}

impl Stream {
    /// How long it lasts at least.
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.lasts_ms.unwrap_or(0).into())
    }

    /// Octets of payload of each ping.
    pub fn size(&self) -> u16 {
        self.size.unwrap_or(SIZE)
    }

    /// What its title says of the size.
    pub(super) fn size_knob(&self) -> Option<String> {
        self.size.filter(|size| *size != SIZE).map(|size| format!("size {size}"))
    }

    pub(super) fn every_ms() -> u16 {
        10
    }
}

/// Keys of `repeat`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Repeat {
    /// How often.
    #[schemars(range(min = 2, max = 10000))]
    pub times: u16,
    /// What is done each time.
    #[schemars(length(min = 1))]
    pub steps: Vec<Step>,
}

/// Keys of `subnet-file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SubnetFile {
    /// The node.
    pub node: Text,
    /// Waits until the file has this in it, for at most 10 s.
    pub until: Option<Text>,
}

fn ttls(_: &mut SchemaGenerator) -> Schema {
    values(1, u8::MAX.into())
}

fn sizes(_: &mut SchemaGenerator) -> Schema {
    values(0, MAX_SIZE)
}

fn octets(_: &mut SchemaGenerator) -> Schema {
    values(0, u8::MAX.into())
}

fn values(minimum: u16, maximum: u16) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                { "type": "integer", "minimum": minimum, "maximum": maximum },
                { "type": "string", "pattern": r"^\s*\d+\s*-\s*\d+\s*$" }
            ]
        }
    })
}

//! What stands in a suite file, as it is written: no name resolved, no address settled.

use schemars::JsonSchema;
use serde::Deserialize;

use super::step::Step;
use super::text::{Pairs, Text};
use crate::topology::Masquerade;

/// One case: what it shows, the lab it needs, and what is done there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(title = "A suite file", inline)]
pub(super) struct File {
    /// What the case shows, in a sentence or two: the first thing that a reader of the snapshot reads.
    pub(super) about: Text,
    /// Where the case comes from: a test of another project, a section of an RFC, a bug report.
    pub(super) source: Option<Text>,
    /// Parts of the errors that the case provokes: `["lease not written"]`. Any other line of level ERROR in a daemon's log
    /// fails the case; a panic always does.
    #[serde(default)]
    pub(super) provokes: Vec<Text>,
    /// The nodes, containers and etcd members. Left out: two nodes, `a` and `b`, with a container each.
    #[serde(default)]
    pub(super) lab: Lab,
    /// What is done, in this order.
    #[schemars(length(min = 1))]
    pub(super) steps: Vec<Step>,
}

/// The nodes, containers and etcd members of a case, and the networks that join them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Lab {
    /// The machines that run the overlay's daemon.
    #[schemars(length(min = 1))]
    pub nodes: Vec<Text>,
    /// The containers, each with its node: `{ c1 = "a", c2 = "b" }`. Left out: one on each node, `c1`, `c2`, ….
    /// The first of a node has the subnet's address + 2, the next + 3; the bridge has + 1.
    pub containers: Option<Pairs>,
    /// The overlay's network, from which each node leases a subnet.
    pub network: Text,
    /// The subnets of nodes that are to lease another than the default. That is the network's n-th /24 for the n-th
    /// node, from 1: the zeroth is never leased.
    pub subnets: Pairs,
    /// The network that joins the nodes. They have .1, .2, … in it; etcd members have .254, .253, … (in a /24).
    pub underlay: Text,
    /// MTU of the underlay, in octets. The overlay's is 28 less.
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: u32,
    /// How many etcd members there are: `etcd`, or `etcd1`, `etcd2`, … if several.
    #[schemars(range(min = 1, max = 7))]
    pub etcd: u8,
    /// The bridge that a node's containers are attached to.
    pub bridge: Text,
    /// What a node does to the source address of packets that leave its containers' subnet.
    pub masquerade: Masquerade,
    /// The nodes whose relay runs when the first step begins. Left out: all.
    pub started: Option<Vec<Text>>,
    /// Machines on the underlay that have no part in the overlay: clients, routers, intruders. They have .240, .239, …
    /// in it (in a /24), forward packets, and have no route but to the underlay.
    pub machines: Vec<Text>,
    /// Flags that every relay is started with, beside those that the lab needs: `["--ip-masq"]`.
    pub flags: Vec<Text>,
    /// The network's configuration in etcd, as JSON. Left out: the lab's `network`, with the length of its nodes'
    /// subnets and the UDP backend.
    pub config: Option<Text>,
}

impl Default for Lab {
    fn default() -> Self {
        Self {
            nodes: vec!["a".into(), "b".into()],
            containers: None,
            network: "10.5.0.0/16".into(),
            subnets: Pairs::default(),
            underlay: "172.20.0.0/24".into(),
            mtu: 1500,
            etcd: 1,
            bridge: "cni0".into(),
            masquerade: Masquerade::None,
            started: None,
            machines: Vec::new(),
            flags: Vec::new(),
            config: None,
        }
    }
}

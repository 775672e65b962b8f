//! A lab of two nodes, and frames as its interfaces would record them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::frame::{Cast, Direction, Frame, Link, Point, Role};
use crate::flow::*;
use crate::packet::build::Build;
use crate::packet::icmp::Kind;
use crate::packet::marker;
use crate::topology::{Container, Masquerade, Node, Topology};

pub(super) const A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
pub(super) const B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
pub(super) const A_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 0);
pub(super) const A_BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 1);
pub(super) const B_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 0);
pub(super) const C1: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);
pub(super) const C2: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 2);
pub(super) const C3: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 3);
pub(super) const PORT: u16 = 8285;

pub(super) fn topology() -> Topology {
    let node = |name: &str, address, subnet: &str| Node {
        name: name.to_owned(),
        address,
        subnet: subnet.parse().unwrap(),
        starts: true,
    };
    let container =
        |name: &str, node: &str, address| Container { name: name.to_owned(), node: node.to_owned(), address };
    Topology {
        network: "10.5.0.0/16".parse().unwrap(),
        underlay: "192.168.0.0/24".parse().unwrap(),
        mtu: 1500,
        port: PORT,
        bridge: "cni0".to_owned(),
        masquerade: Masquerade::None,
        nodes: vec![node("a", A, "10.5.56.0/24"), node("b", B, "10.5.17.0/24")],
        containers: vec![container("c1", "a", C1), container("c3", "a", C3), container("c2", "b", C2)],
        members: Vec::new(),
        machines: Vec::new(),
        flags: Vec::new(),
        config: String::new(),
    }
}

pub(super) fn map() -> Map {
    Map::new(&topology(), "flannel0")
}

/// The probe that `ping` makes.
pub(super) fn probe(ttl: u8, size: u16) -> Probe {
    Probe {
        number: 1,
        from: "c1".to_owned(),
        source: C1,
        to: C2,
        ttl,
        size,
        df: false,
        key: Key::Echo { id: 77, seq: 1 },
    }
}

pub(super) fn ping(ttl: u8, size: usize) -> Build {
    Build::echo(C1, C2, false, 77, 1, &marker::encode(1, size)).ttl(ttl)
}

pub(super) fn pong(ttl: u8, size: usize) -> Build {
    Build::echo(C2, C1, true, 77, 1, &marker::encode(1, size)).ttl(ttl)
}

/// A recording in the making. Points are written as they are printed: `a eth0 >`.
#[derive(Debug, Clone)]
pub(super) struct Recording {
    pub(super) observation: Observation,
    clock: u64,
}

impl Recording {
    pub(super) fn of(probe: Probe) -> Self {
        let observation = Observation {
            probe,
            frames: Vec::new(),
            dropped: Vec::new(),
            icmp_sent: Vec::new(),
            faults: Vec::new(),
            answers: Vec::new(),
            received: None,
        };
        Self { observation, clock: 1_000 }
    }

    /// Goes on at a time, in microseconds.
    pub(super) fn at(mut self, clock: u64) -> Self {
        self.clock = clock;
        self
    }

    /// Records a packet at a point, a microsecond after the one before.
    pub(super) fn seen(self, place: &str, packet: &Build) -> Self {
        self.octets(place, &packet.octets())
    }

    /// Records what need not be a packet.
    pub(super) fn octets(mut self, place: &str, packet: &[u8]) -> Self {
        let parts: Vec<&str> = place.split(' ').collect();
        let (host, interface, sign) = (parts[0], parts[1], parts[2]);
        let role = match interface {
            "eth0" if host.starts_with('c') => Role::Container,
            "eth0" => Role::Underlay,
            "cni0" => Role::Bridge,
            _ => Role::Tunnel,
        };
        let link = if role == Role::Tunnel { Link::Ip } else { Link::Ethernet };
        let mut octets = Vec::new();
        if link == Link::Ethernet {
            octets.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        }
        octets.extend_from_slice(packet);
        self.clock += 1;
        self.observation.frames.push(Frame {
            point: Arc::new(Point { host: host.to_owned(), interface: interface.to_owned(), role }),
            direction: if sign == "<" { Direction::In } else { Direction::Out },
            cast: Cast::Host,
            at: Duration::from_micros(self.clock),
            link,
            wire_len: u32::try_from(octets.len()).unwrap(),
            octets,
            checksum_pending: false,
        });
        self
    }

    /// Notes whom the frame was for that was recorded last.
    pub(super) fn cast(mut self, cast: Cast) -> Self {
        self.observation.frames.last_mut().unwrap().cast = cast;
        self
    }

    /// Records a packet in a tunnel datagram.
    pub(super) fn tunnelled(self, place: &str, from: Ipv4Addr, to: Ipv4Addr, packet: &Build) -> Self {
        self.seen(place, &Build::udp((from, PORT), (to, PORT), &packet.octets()))
    }

    /// A packet's whole way from c1 to c2, four TTLs down.
    pub(super) fn there(self, packet: &Build) -> Self {
        let ttl = packet.header.time_to_live;
        let at = |less: u8| packet.clone().ttl(ttl - less);
        self.seen("c1 eth0 >", packet)
            .seen("a cni0 <", packet)
            .seen("a flannel0 >", &at(1))
            .tunnelled("a eth0 >", A, B, &at(2))
            .tunnelled("b eth0 <", A, B, &at(2))
            .seen("b flannel0 <", &at(3))
            .seen("b cni0 >", &at(4))
            .seen("c2 eth0 <", &at(4))
    }

    /// A packet's whole way from c2 to c1.
    pub(super) fn back(self, packet: &Build) -> Self {
        let ttl = packet.header.time_to_live;
        let at = |less: u8| packet.clone().ttl(ttl - less);
        self.seen("c2 eth0 >", packet)
            .seen("b cni0 <", packet)
            .seen("b flannel0 >", &at(1))
            .tunnelled("b eth0 >", B, A, &at(2))
            .tunnelled("a eth0 <", B, A, &at(2))
            .seen("a flannel0 <", &at(3))
            .seen("a cni0 >", &at(4))
            .seen("c1 eth0 <", &at(4))
    }

    pub(super) fn replied(mut self, ttl: u8) -> Self {
        self.observation.answers.push(Answer::Reply { from: self.observation.probe.to, ttl: Some(ttl) });
        self
    }

    pub(super) fn refused(mut self, kind: Kind, from: Ipv4Addr) -> Self {
        self.observation.answers.push(Answer::Error { kind, from });
        self
    }

    pub(super) fn dropped(mut self, host: &str, place: Place, reason: &str) -> Self {
        let is_it = |drop: &&mut Dropped| drop.host == host && drop.place == place && drop.reason == reason;
        match self.observation.dropped.iter_mut().find(is_it) {
            Some(drop) => drop.count += 1,
            None => {
                let (host, reason) = (host.to_owned(), reason.to_owned());
                self.observation.dropped.push(Dropped { host, place, reason, count: 1 });
            }
        }
        self
    }

    pub(super) fn journey(&self) -> Journey {
        Journey::reconstruct(&map(), &self.observation, &mut Numbering::default())
    }

    pub(super) fn ladder(&self) -> String {
        self.journey().ladder(&map())
    }
}

/// Compares text whose expectation begins on a line of its own.
#[track_caller]
pub(super) fn assert_text(actual: &str, expected: &str) {
    let expected = expected.strip_prefix('\n').unwrap_or(expected);
    assert!(actual == expected, "@@@\n{actual}@@@ is not what was expected:\n{expected}");
}

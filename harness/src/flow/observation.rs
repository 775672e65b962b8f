//! What is known about one probe once the lab is quiet again.

use std::net::Ipv4Addr;

use crate::capture::frame::Frame;
use crate::packet::icmp::Kind;

/// A packet that was sent to see what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The number in its marker, unique in a case.
    pub number: u32,
    /// The host that sent it.
    pub from: String,
    /// The address it was sent from.
    pub source: Ipv4Addr,
    /// The address it was sent to.
    pub to: Ipv4Addr,
    /// Time to live that it was sent with.
    pub ttl: u8,
    /// Length of its payload in octets, transport header not counted.
    pub size: u16,
    /// Don't fragment.
    pub df: bool,
    /// What tells it where no marker can.
    pub key: Key,
}

impl Probe {
    /// Whether it was built field by field. No socket of its sender's waits for what comes of it.
    #[must_use]
    pub fn is_crafted(&self) -> bool {
        matches!(self.key, Key::Crafted(_))
    }

    /// Whether it was built field by field, and is such that the kernel that it is for answers it.
    #[must_use]
    pub fn is_answerable(&self) -> bool {
        matches!(self.key, Key::Crafted(Crafted { answerable: true, .. }))
    }
}

/// What a probe is, and what tells it from others where its payload is too short for a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// An ICMP echo request.
    Echo {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
    /// A UDP datagram.
    Udp {
        /// Port that it was sent from: ephemeral, not printed.
        source: u16,
        /// Port that it was sent to.
        destination: u16,
    },
    /// A packet built field by field.
    Crafted(Crafted),
}

/// What tells a packet that was built field by field, where its marker does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crafted {
    /// The number in its marker: another probe's, if both are fragments of one datagram.
    pub marker: u32,
    /// Identification in its header, which no router changes, together with its protocol.
    pub id: u16,
    /// IANA's protocol number.
    pub protocol: u8,
    /// The port that its tunnel datagram was sent from, if it was sent in one.
    pub outer: Option<u16>,
    /// Of its octets ([`fingerprint`](super::fingerprint)), for one that is too short for anything else.
    pub fingerprint: u64,
    /// Whether the kernel that it is for answers it, if nothing is wrong with it: a whole echo request.
    pub answerable: bool,
}

/// Everything seen, counted and received while one probe was on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The probe.
    pub probe: Probe,
    /// What all points recorded meanwhile, in any order. Frames of other traffic are left aside.
    pub frames: Vec<Frame>,
    /// By how much drop counters grew.
    pub dropped: Vec<Dropped>,
    /// ICMP errors that relays counted as sent.
    pub icmp_sent: Vec<IcmpSent>,
    /// What was broken on purpose.
    pub faults: Vec<Fault>,
    /// What the sender's socket received, in order. Empty: nothing.
    pub answers: Vec<Answer>,
    /// How often the receiver's socket received the probe; none if only its kernel listens (which answers echoes).
    pub received: Option<u32>,
}

/// An increase of a drop counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The host that dropped.
    pub host: String,
    /// What part of it.
    pub place: Place,
    /// The counter's name: a relay's reason (`no-route`) or a kernel's counter (`InAddrErrors`).
    pub reason: String,
    /// By how much it grew.
    pub count: u64,
}

/// What part of a host handles packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The relay, between the tunnel device and the UDP socket.
    RelayOutbound,
    /// The relay, between the UDP socket and the tunnel device.
    RelayInbound,
    /// The kernel.
    Kernel,
    /// The shaper between the host and the underlay.
    Shaper,
}

impl Place {
    /// `relay`, `kernel` or `shaper`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RelayOutbound | Self::RelayInbound => "relay",
            Self::Kernel => "kernel",
            Self::Shaper => "shaper",
        }
    }
}

/// ICMP errors that a relay counted as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IcmpSent {
    /// The relay's node.
    pub host: String,
    /// The counter's label: `time-exceeded`.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// Something broken on purpose, which explains losses where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The host that has it.
    pub host: String,
    /// What part of the host's packets it can explain the loss of.
    pub place: FaultPlace,
    /// What it is, for the verdict: `relay stopped`, `link down`.
    pub what: String,
}

/// What a fault can explain the loss of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FaultPlace {
    /// What its relay had yet to handle.
    Relay,
    /// What its kernel had yet to give to the overlay's device.
    Device,
    /// What was on the underlay from or to it.
    Underlay,
    /// What it sent over the underlay to this host.
    Toward(String),
    /// What it had, and what was sent to it, anywhere.
    Host,
}

/// What the sender's socket received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The receiver's reply.
    Reply {
        /// Who sent it, as the socket saw it.
        from: Ipv4Addr,
        /// Its TTL, if the socket was asked for it.
        ttl: Option<u8>,
    },
    /// An ICMP error.
    Error {
        /// Type and code.
        kind: Kind,
        /// Who sent it, as the socket saw it.
        from: Ipv4Addr,
    },
    /// The kernel would not send the probe at all.
    NotSent {
        /// Why: `message too long`.
        why: String,
    },
}

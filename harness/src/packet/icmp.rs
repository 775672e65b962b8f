//! ICMP (RFC 792, RFC 1191, RFC 1812).

use super::{Checksum, Ipv4, Reading, be16, marker, marker::Marked, transport::Segment};

/// An ICMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Icmp {
    /// An echo request or reply.
    Echo {
        /// Whether it is a reply.
        reply: bool,
        /// Identifier. Volatile, and rewritten by masquerading.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// The marker in its payload.
        marked: Option<Marked>,
        /// The message's checksum.
        checksum: Checksum,
    },
    /// An error, which quotes the packet that it is about.
    Error {
        /// What went wrong.
        kind: Kind,
        /// Next hop's MTU in octets, of a fragmentation-needed (RFC 1191).
        mtu: Option<u16>,
        /// The packet that it is about, as far as it is quoted.
        quote: Option<Box<Ipv4>>,
        /// The message's checksum.
        checksum: Checksum,
    },
    /// Anything else.
    Other {
        /// Type and code.
        kind: Kind,
        /// The message's checksum.
        checksum: Checksum,
    },
}

/// Type and code of an ICMP message. Displayed by name: `net-unreachable`, `time-exceeded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
}

impl Kind {
    /// Destination unreachable: fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: Self = Self { kind: 3, code: 4 };
    /// Destination unreachable: network.
    pub const NET_UNREACHABLE: Self = Self { kind: 3, code: 0 };
    /// Destination unreachable: port.
    pub const PORT_UNREACHABLE: Self = Self { kind: 3, code: 3 };
    /// Time to live exceeded in transit.
    pub const TIME_EXCEEDED: Self = Self { kind: 11, code: 0 };

    /// Whether messages of this type quote a packet (RFC 1122, section 3.2.2).
    #[must_use]
    pub fn is_error(self) -> bool {
        matches!(self.kind, 3 | 4 | 5 | 11 | 12)
    }

    /// The name in use, if there is one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match (self.kind, self.code) {
            (0, 0) => "echo-reply",
            (3, 0) => "net-unreachable",
            (3, 1) => "host-unreachable",
            (3, 2) => "protocol-unreachable",
            (3, 3) => "port-unreachable",
            (3, 4) => "fragmentation-needed",
            (3, 5) => "source-route-failed",
            (3, 6) => "net-unknown",
            (3, 7) => "host-unknown",
            (3, 9) => "net-prohibited",
            (3, 10) => "host-prohibited",
            (3, 11) => "net-tos-unreachable",
            (3, 12) => "host-tos-unreachable",
            (3, 13) => "admin-prohibited",
            (4, 0) => "source-quench",
            (5, _) => "redirect",
            (8, 0) => "echo-request",
            (11, 0) => "time-exceeded",
            (11, 1) => "reassembly-timeout",
            (12, _) => "parameter-problem",
            _ => return None,
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("type {} code {}", self.kind, self.code)),
        }
    }
}

impl Icmp {
    pub(super) fn parse(segment: Segment<'_>, reading: Reading) -> Option<Self> {
        let body = segment.body;
        let kind = Kind { kind: *body.first()?, code: *body.get(1)? };
        let (high, low, rest) = (be16(body, 4)?, be16(body, 6)?, body.get(8..)?);
        let checksum = if segment.verify { Checksum::over(&[body]) } else { Checksum::Unverified };
        Some(match kind {
            Kind { kind: 0 | 8, code: 0 } => {
                Self::Echo { reply: kind.kind == 0, id: high, seq: low, marked: marker::read(rest), checksum }
            }
            _ if kind.is_error() && !reading.quoted => Self::Error {
                kind,
                mtu: (kind == Kind::FRAGMENTATION_NEEDED).then_some(low),
                quote: Ipv4::parse(rest, reading.inside_quote()).map(Box::new),
                checksum,
            },
            _ => Self::Other { kind, checksum },
        })
    }

    pub(super) fn checksum(&self) -> Checksum {
        match self {
            Self::Echo { checksum, .. } | Self::Error { checksum, .. } | Self::Other { checksum, .. } => {
                *checksum
            }
        }
    }
}

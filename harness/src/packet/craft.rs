//! Packets built field by field, right or wrong.
//!
//! A defect is the only thing wrong with a packet: a header that lies about its length has the checksum that goes with
//! the lie.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::checksum::Sum16BitWords;

use super::icmp::Kind;
use super::{Ipv4, marker, pseudo_header};

/// IANA's numbers.
const ICMP: u8 = 1;
const UDP: u8 = 17;
/// Octets of an IPv4 header without options.
const HEADER_LEN: usize = 20;
/// What follows a packet that should end.
const JUNK: u8 = 0xee;
/// The port that a datagram is from which an ICMP error is about.
const QUOTED_PORT: u16 = 4242;

/// An IPv4 packet in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Craft {
    /// Who sends it, by its header.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// What it carries.
    pub carries: Carries,
    /// Octets of payload, after the header of what it carries.
    pub size: u16,
    /// Time to live.
    pub ttl: u8,
    /// The traffic class octet.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Options, a multiple of four octets, at most 40.
    pub options: Vec<u8>,
    /// The fragment that is sent of it; none for all of it.
    pub fragment: Option<Slice>,
    /// What is wrong with it.
    pub defects: Defects,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// An echo request.
    Echo {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
    /// Another ICMP message, with code 0. An error quotes a UDP datagram of the destination's.
    Icmp {
        /// Its type.
        kind: u8,
    },
    /// A UDP datagram.
    Udp {
        /// The port that it is from.
        source: u16,
        /// The port that it is for.
        destination: u16,
    },
    /// The payload with no header before it.
    Other {
        /// IANA's protocol number.
        protocol: u8,
    },
}

/// A part of a datagram's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Where it begins, in octets; a multiple of eight.
    pub offset: u16,
    /// How long it is; none if it goes to the end.
    pub size: Option<u16>,
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defects {
    /// The version that the header states.
    pub version: Option<u8>,
    /// The header length that it states, in words of four octets.
    pub header_length: Option<u8>,
    /// The total length that it states.
    pub total_length: Option<u16>,
    /// Its checksum does not match.
    pub checksum: bool,
    /// The checksum of what it carries does not match.
    pub inner_checksum: bool,
    /// How many octets are left of it.
    pub truncate_to: Option<u16>,
    /// How many octets of junk follow it.
    pub trailing: u16,
}

impl Carries {
    /// IANA's protocol number.
    #[must_use]
    pub fn protocol(self) -> u8 {
        match self {
            Self::Echo { .. } | Self::Icmp { .. } => ICMP,
            Self::Udp { .. } => UDP,
            Self::Other { protocol } => protocol,
        }
    }
}

impl Craft {
    /// Takes over what the header says of a packet that is given as octets, so that it is known by it.
    pub fn take_header(&mut self, header: &Ipv4) {
        (self.source, self.destination) = (header.source, header.destination);
        (self.ttl, self.id) = (header.ttl, header.id);
        self.carries = Carries::Other { protocol: header.protocol };
        self.size = header.len.saturating_sub(28);
    }

    /// Its octets, with a marker of this number where there is room for one.
    #[must_use]
    pub fn octets(&self, number: u32) -> Vec<u8> {
        let body = self.body(number);
        let (offset, part, more) = match self.fragment {
            None => (0, body.as_slice(), false),
            Some(Slice { offset, size }) => {
                let rest = body.get(usize::from(offset)..).unwrap_or_default();
                let part = rest.get(..usize::from(size.unwrap_or(u16::MAX))).unwrap_or(rest);
                (offset, part, part.len() < rest.len())
            }
        };
        let mut packet = self.header(part.len(), offset, more);
        packet.extend_from_slice(part);
        self.seal(&mut packet);
        if let Some(len) = self.defects.truncate_to {
            packet.truncate(len.into());
        }
        packet.resize(packet.len() + usize::from(self.defects.trailing), JUNK);
        packet
    }

    /// The header with its lies, and without its checksum.
    fn header(&self, payload_len: usize, offset: u16, more: bool) -> Vec<u8> {
        let len = HEADER_LEN + self.options.len();
        let Defects { version, header_length, total_length, .. } = self.defects;
        let words = header_length.unwrap_or(u8::try_from(len / 4).unwrap_or(15));
        let total = total_length.unwrap_or(u16::try_from(len + payload_len).unwrap_or(u16::MAX));
        let fragment = u16::from(more) << 13 | offset >> 3;
        let mut header = vec![version.unwrap_or(4) << 4 | words & 0x0f, self.tos];
        header.extend([total, self.id, fragment].map(u16::to_be_bytes).concat());
        header.extend([self.ttl, self.carries.protocol(), 0, 0]);
        header.extend([self.source.octets(), self.destination.octets()].concat());
        header.extend_from_slice(&self.options);
        header
    }

    /// Sets the header's checksum, over as many octets as the header says that it has.
    fn seal(&self, packet: &mut [u8]) {
        let len = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
        let header = packet.get(..len.max(HEADER_LEN)).unwrap_or(packet);
        let sum = checksum(&[header]);
        put(packet, 10, if self.defects.checksum { sum ^ 0x0101 } else { sum });
    }

    /// What the datagram carries, all of it.
    fn body(&self, number: u32) -> Vec<u8> {
        let payload = marker::encode(number, self.size.into());
        let mut body = match self.carries {
            Carries::Echo { id, seq } => icmp(8, [id, seq], &payload),
            Carries::Icmp { kind } if (Kind { kind, code: 0 }).is_error() => {
                icmp(kind, [0, 0], &self.quoted(&payload))
            }
            Carries::Icmp { kind } => icmp(kind, [0, 0], &payload),
            Carries::Udp { source, destination } => {
                udp((self.source, source), (self.destination, destination), &payload)
            }
            Carries::Other { .. } => payload,
        };
        let checksum_at = match self.carries.protocol() {
            ICMP => Some(2),
            UDP => Some(6),
            _ => None,
        };
        if let Some(octet) =
            checksum_at.filter(|_| self.defects.inner_checksum).and_then(|at| body.get_mut(at))
        {
            *octet ^= 1;
        }
        body
    }

    /// The datagram that an error is about: one that the packet's destination might have sent to its source.
    fn quoted(&self, payload: &[u8]) -> Vec<u8> {
        let quoted = Self {
            source: self.destination,
            destination: self.source,
            carries: Carries::Other { protocol: UDP },
            options: Vec::new(),
            fragment: None,
            defects: Defects::default(),
            ..self.clone()
        };
        let (from, to) = (quoted.source, quoted.destination);
        let body = udp((from, QUOTED_PORT), (to, QUOTED_PORT), payload);
        let mut packet = quoted.header(body.len(), 0, false);
        packet.extend(body);
        quoted.seal(&mut packet);
        packet
    }
}

/// A UDP datagram with its IPv4 header, TTL 64, in one piece.
#[must_use]
pub fn datagram(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    id: u16,
    tos: u8,
    payload: &[u8],
) -> Vec<u8> {
    let outer = Craft {
        source: *source.ip(),
        destination: *destination.ip(),
        carries: Carries::Udp { source: source.port(), destination: destination.port() },
        size: 0,
        ttl: 64,
        tos,
        id,
        options: Vec::new(),
        fragment: None,
        defects: Defects::default(),
    };
    let body = udp((*source.ip(), source.port()), (*destination.ip(), destination.port()), payload);
    let mut packet = outer.header(body.len(), 0, false);
    packet.extend(body);
    outer.seal(&mut packet);
    packet
}

fn icmp(kind: u8, [high, low]: [u16; 2], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend([high, low].map(u16::to_be_bytes).concat());
    message.extend_from_slice(rest);
    let sum = checksum(&[&message]);
    put(&mut message, 2, sum);
    message
}

fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut datagram = [from.1, to.1, len, 0].map(u16::to_be_bytes).concat();
    datagram.extend_from_slice(payload);
    let sum = checksum(&[&pseudo_header(from.0, to.0, UDP, len), &datagram]);
    // Zero would say that there is none (RFC 768).
    put(&mut datagram, 6, if sum == 0 { 0xffff } else { sum });
    datagram
}

/// RFC 1071 over all `parts`, each but the last of an even length, whose checksum field is zero.
fn checksum(parts: &[&[u8]]) -> u16 {
    let sum = parts.iter().fold(Sum16BitWords::new(), |sum, part| sum.add_slice(part));
    sum.ones_complement().to_be()
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    if let Some(field) = octets.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::capture::frame::{Cast, Direction, Frame, Link, Point, Role};
    use crate::packet::{Checksum, Fragment, Icmp, Ipv4, Packet, Payload, Tunnelled, Udp};

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 2);
    const TO: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 2);

    fn craft(carries: Carries) -> Craft {
        Craft {
            source: FROM,
            destination: TO,
            carries,
            size: 56,
            ttl: 64,
            tos: 0,
            id: 7,
            options: Vec::new(),
            fragment: None,
            defects: Defects::default(),
        }
    }

    fn echo() -> Craft {
        craft(Carries::Echo { id: 1, seq: 2 })
    }

    fn read(octets: Vec<u8>) -> Packet {
        let point = Point { host: "a".into(), interface: "flannel0".into(), role: Role::Tunnel };
        let frame = Frame {
            point: Arc::new(point),
            direction: Direction::Out,
            cast: Cast::Host,
            at: Duration::ZERO,
            link: Link::Ip,
            wire_len: octets.len() as u32,
            octets,
            checksum_pending: false,
        };
        Packet::parse(&frame, 8285)
    }

    fn packet(octets: Vec<u8>) -> Ipv4 {
        read(octets).ipv4().cloned().unwrap()
    }

    #[test]
    fn what_is_built_right_is_read_back() {
        let all = [
            Carries::Echo { id: 1, seq: 2 },
            Carries::Icmp { kind: 13 },
            Carries::Icmp { kind: 3 },
            Carries::Udp { source: 5, destination: 6 },
        ];
        for carries in all {
            let built = packet(Craft { tos: 0xb9, ttl: 0, options: vec![1; 8], ..craft(carries) }.octets(77));
            assert_eq!((built.source, built.destination, built.protocol), (FROM, TO, carries.protocol()));
            assert_eq!(
                (built.ttl, built.tos, built.id, built.options.len(), built.trailing),
                (0, 0xb9, 7, 8, 0)
            );
            assert_eq!((built.checksum, built.transport_checksum()), (Checksum::Good, Checksum::Good));
            let marked = if carries == (Carries::Icmp { kind: 13 }) { None } else { Some(77) };
            assert_eq!(built.marker(), marked, "{carries:?}");
        }
    }

    #[test]
    fn an_error_quotes_what_its_receiver_might_have_sent() {
        let Payload::Icmp(Icmp::Error { quote: Some(quote), .. }) =
            packet(craft(Carries::Icmp { kind: 11 }).octets(1)).payload
        else {
            panic!("no error");
        };
        assert_eq!((quote.source, quote.destination), (TO, FROM));
    }

    #[test]
    fn a_datagram_carries_the_packet() {
        let outer = packet(datagram(
            SocketAddrV4::new(TO, 50),
            SocketAddrV4::new(FROM, 8285),
            9,
            0,
            &echo().octets(3),
        ));
        let Payload::Udp(Udp {
            source: 50,
            tunnelled: Tunnelled::Packet(inner),
            checksum: Checksum::Good,
            ..
        }) = outer.payload
        else {
            panic!("{outer:?}");
        };
        assert_eq!(inner.marker(), Some(3));
    }

    #[test]
    fn fragments_make_up_the_datagram() {
        let whole = craft(Carries::Udp { source: 5, destination: 6 });
        let slice =
            |offset, size| Craft { fragment: Some(Slice { offset, size }), ..whole.clone() }.octets(1);
        let parts = [slice(0, Some(24)), slice(24, Some(24)), slice(48, None)];
        let body: Vec<u8> = parts.iter().flat_map(|part| part[20..].to_vec()).collect();
        assert_eq!(body, whole.octets(1)[20..]);
        let fragments = parts.map(|part| packet(part).fragment.unwrap());
        let expected = [(0, true), (24, true), (48, false)].map(|(offset, more)| Fragment { offset, more });
        assert_eq!(fragments, expected);
    }

    #[test]
    fn a_defect_is_the_only_thing_wrong() {
        let wrong = |defects| Craft { defects, ..echo() }.octets(1);
        let header_sum = |octets: &[u8], len| checksum(&[&octets[..len]]);
        let short = wrong(Defects { header_length: Some(4), ..Defects::default() });
        assert_eq!((short[0], header_sum(&short, 20)), (0x44, 0));
        let long = wrong(Defects { header_length: Some(15), ..Defects::default() });
        assert_eq!((long[0], header_sum(&long, 60)), (0x4f, 0));
        let total = wrong(Defects { total_length: Some(9999), ..Defects::default() });
        assert_eq!((&total[2..4], header_sum(&total, 20)), (&9999u16.to_be_bytes()[..], 0));
        let version = wrong(Defects { version: Some(15), ..Defects::default() });
        assert_eq!((version[0], header_sum(&version, 20)), (0xf5, 0));
        let bad = packet(wrong(Defects { checksum: true, ..Defects::default() }));
        assert_eq!((bad.checksum, bad.transport_checksum()), (Checksum::Bad, Checksum::Good));
        let bad = packet(wrong(Defects { inner_checksum: true, ..Defects::default() }));
        assert_eq!((bad.checksum, bad.transport_checksum()), (Checksum::Good, Checksum::Bad));
        let junk = packet(wrong(Defects { trailing: 16, ..Defects::default() }));
        assert_eq!((junk.len, junk.trailing), (84, 16));
        assert_eq!(wrong(Defects { truncate_to: Some(19), ..Defects::default() }).len(), 19);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_built(
            size: u16, ttl: u8, kind: u8, version in prop::option::of(0u8..16), words in prop::option::of(0u8..16),
            total: Option<u16>, truncate_to: Option<u16>, trailing in 0u16..1400, offset in 0u16..8192,
            part: Option<u16>, options in 0usize..11,
        ) {
            let defects = Defects {
                version, header_length: words, total_length: total, truncate_to, trailing, ..Defects::default()
            };
            let fragment = part.map(|size| Slice { offset: offset * 8, size: Some(size) });
            let carries = Carries::Icmp { kind };
            let built = Craft { size, ttl, options: vec![0; options * 4], fragment, defects, ..craft(carries) };
            let octets = built.octets(1);
            prop_assert!(octets.len() >= usize::from(trailing));
        }
    }
}

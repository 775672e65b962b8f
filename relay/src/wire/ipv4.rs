//! The IPv4 header (RFC 791).

use std::net::Ipv4Addr;

use super::{
    checksum,
    ecn::{self, Ecn},
};

/// Octets of a header without options.
pub const MIN_HEADER: usize = 20;

/// Where the payload's protocol number lies, in octets from the start of the header.
pub const PROTOCOL: usize = field::PROTOCOL;

/// Where each field lies, in octets from the start of the header.
mod field {
    use std::ops::Range;

    pub(super) const VERSION_IHL: usize = 0;
    pub(super) const TRAFFIC_CLASS: usize = 1;
    pub(super) const TOTAL_LENGTH: Range<usize> = 2..4;
    pub(super) const FLAGS_OFFSET: Range<usize> = 6..8;
    pub(super) const TTL: usize = 8;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const CHECKSUM: Range<usize> = 10..12;
    pub(super) const SOURCE: Range<usize> = 12..16;
    pub(super) const DESTINATION: Range<usize> = 16..20;
}

/// What is wrong with bytes that should have been an IPv4 packet (RFC 1812 section 5.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer than [`MIN_HEADER`] octets.
    Short,
    /// The version field is not 4.
    Version,
    /// The header length is under 20 octets or past the end.
    HeaderLength,
    /// The total length is smaller than the header or larger than what arrived.
    TotalLength,
    /// The header checksum does not verify.
    Checksum,
}

/// An IPv4 packet whose header was checked once; the accessors cannot fail.
#[derive(Debug)]
pub struct Packet<B> {
    bytes: B,
}

impl<B: AsRef<[u8]>> Packet<B> {
    /// Checks length, version, header length, total length and header checksum, in that order.
    ///
    /// `bytes` may be longer than the packet (link padding): see [`Packet::total_length`].
    ///
    /// # Errors
    /// The first check that fails. An empty or short buffer whose first nibble is not 4 is [`Malformed::Version`]
    /// rather than [`Malformed::Short`] as soon as there is a first octet.
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        let buffer = bytes.as_ref();
        match buffer.first() {
            None => return Err(Malformed::Short),
            Some(first) if first >> 4 != 4 => return Err(Malformed::Version),
            Some(_) if buffer.len() < MIN_HEADER => return Err(Malformed::Short),
            Some(_) => {}
        }
        let packet = Self { bytes };
        let available = packet.bytes.as_ref().len();
        let header = packet.header_length();
        if header < MIN_HEADER || header > available {
            return Err(Malformed::HeaderLength);
        }
        let total = packet.total_length();
        if total < header || total > available {
            return Err(Malformed::TotalLength);
        }
        if checksum::sum(packet.header()) != 0xffff {
            return Err(Malformed::Checksum);
        }
        Ok(packet)
    }

    fn word(&self, range: std::ops::Range<usize>) -> u16 {
        let bytes = &self.bytes.as_ref()[range];
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    fn address(&self, range: std::ops::Range<usize>) -> Ipv4Addr {
        let bytes = &self.bytes.as_ref()[range];
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
    }

    /// Octets of the header, options included: 20 to 60.
    pub fn header_length(&self) -> usize {
        usize::from(self.bytes.as_ref()[field::VERSION_IHL] & 0x0f) * 4
    }

    /// Octets of the packet by its own account.
    pub fn total_length(&self) -> usize {
        usize::from(self.word(field::TOTAL_LENGTH))
    }

    /// The header with its options.
    pub fn header(&self) -> &[u8] {
        &self.bytes.as_ref()[..self.header_length()]
    }

    /// What follows the header, padding left out.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header_length()..self.total_length()]
    }

    /// The packet, padding left out.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes.as_ref()[..self.total_length()]
    }

    /// The octet with the DSCP (RFC 2474) and the ECN field (RFC 3168), once the type of service.
    pub fn traffic_class(&self) -> u8 {
        self.bytes.as_ref()[field::TRAFFIC_CLASS]
    }

    /// Time to live, in hops.
    pub fn ttl(&self) -> u8 {
        self.bytes.as_ref()[field::TTL]
    }

    /// The payload's protocol number.
    pub fn protocol(&self) -> u8 {
        self.bytes.as_ref()[field::PROTOCOL]
    }

    /// The source address.
    pub fn source(&self) -> Ipv4Addr {
        self.address(field::SOURCE)
    }

    /// The destination address.
    pub fn destination(&self) -> Ipv4Addr {
        self.address(field::DESTINATION)
    }

    /// Whether routers may not fragment it.
    pub fn dont_fragment(&self) -> bool {
        self.word(field::FLAGS_OFFSET) & 0x4000 != 0
    }

    /// Whether it is one of several fragments of a datagram.
    pub fn is_fragment(&self) -> bool {
        self.word(field::FLAGS_OFFSET) & 0x3fff != 0
    }

    /// Where the payload lies in the original datagram, in octets: zero for a whole datagram or a first fragment.
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.word(field::FLAGS_OFFSET) & 0x1fff) * 8
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Packet<B> {
    /// Lowers the TTL by one and updates the header checksum. The TTL must not be zero.
    pub fn decrement_ttl(&mut self) {
        let updated = checksum::after_ttl_decrement(self.word(field::CHECKSUM));
        let bytes = self.bytes.as_mut();
        debug_assert_ne!(bytes[field::TTL], 0);
        bytes[field::TTL] = bytes[field::TTL].wrapping_sub(1);
        bytes[field::CHECKSUM].copy_from_slice(&updated.to_be_bytes());
    }

    /// Sets the ECN field and updates the header checksum. The DSCP stays.
    pub fn set_ecn(&mut self, ecn: Ecn) {
        let first = field::VERSION_IHL..field::TRAFFIC_CLASS + 1;
        let old = self.word(first.clone());
        let new = old & !u16::from(ecn::MASK) | ecn as u16;
        let updated = checksum::after_change(self.word(field::CHECKSUM), old, new);
        let bytes = self.bytes.as_mut();
        bytes[first].copy_from_slice(&new.to_be_bytes());
        bytes[field::CHECKSUM].copy_from_slice(&updated.to_be_bytes());
    }
}

/// The sum of the pseudo header of TCP and UDP (RFC 768, RFC 9293), not folded and without the length. `header` is
/// an IPv4 header, [`MIN_HEADER`] octets or more.
#[must_use]
pub fn pseudo_header(header: &[u8]) -> u32 {
    u32::from(checksum::sum(&header[field::SOURCE.start..field::DESTINATION.end]))
        + u32::from(header[field::PROTOCOL])
}

/// The 20 octets of a header that the kernel completes when sent through an `IPPROTO_RAW` socket:
/// it fills in the identification, the checksum and a zero source address (`raw_send_hdrinc` in Linux).
#[must_use]
pub fn raw_header(
    tos: u8,
    total_length: u16,
    ttl: u8,
    protocol: u8,
    destination: Ipv4Addr,
) -> [u8; MIN_HEADER] {
    let mut header = [0; MIN_HEADER];
    header[field::VERSION_IHL] = 0x45;
    header[1] = tos;
    header[field::TOTAL_LENGTH].copy_from_slice(&total_length.to_be_bytes());
    header[field::TTL] = ttl;
    header[field::PROTOCOL] = protocol;
    header[field::DESTINATION].copy_from_slice(&destination.octets());
    header
}

/// A well-formed packet for tests: a header without options before `payload`.
#[cfg(test)]
pub(crate) fn test_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let total = u16::try_from(MIN_HEADER + payload.len()).expect("fits a packet");
    let mut packet = raw_header(0, total, ttl, protocol, destination).to_vec();
    packet[field::SOURCE].copy_from_slice(&source.octets());
    packet.extend_from_slice(payload);
    test_seal(&mut packet);
    packet
}

/// Recomputes the header checksum of a packet under test.
#[cfg(test)]
pub(crate) fn test_seal(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 0x0f) * 4;
    packet[field::CHECKSUM].fill(0);
    let sum = checksum::checksum(&packet[..header.min(packet.len())]);
    packet[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 5, 56, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 5, 17, 2);

    #[test]
    fn a_well_formed_packet_shows_its_fields() {
        let bytes = test_packet(A, B, 7, 17, b"payload");
        let packet = Packet::new_checked(&bytes[..]).unwrap();
        assert_eq!((packet.source(), packet.destination()), (A, B));
        assert_eq!((packet.ttl(), packet.protocol()), (7, 17));
        assert_eq!(packet.payload(), b"payload");
        assert_eq!(packet.fragment_offset(), 0);
        assert!(!packet.dont_fragment());
    }

    #[test]
    fn each_defect_is_named() {
        let good = test_packet(A, B, 64, 1, &[0; 8]);
        let spoiled = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Packet::new_checked(bytes).unwrap_err()
        };
        assert_eq!(Packet::new_checked(&good[..0]).unwrap_err(), Malformed::Short);
        assert_eq!(Packet::new_checked(&good[..19]).unwrap_err(), Malformed::Short);
        assert_eq!(spoiled(0, 0x60), Malformed::Version);
        assert_eq!(spoiled(0, 0x44), Malformed::HeaderLength);
        assert_eq!(spoiled(0, 0x4f), Malformed::HeaderLength);
        assert_eq!(spoiled(3, 19), Malformed::TotalLength);
        assert_eq!(spoiled(3, 29), Malformed::TotalLength);
        assert_eq!(spoiled(1, 1), Malformed::Checksum);
    }

    #[test]
    fn padding_is_no_part_of_the_packet() {
        let mut bytes = test_packet(A, B, 64, 17, b"eight by");
        let whole = bytes.clone();
        bytes.extend_from_slice(&[0xaa; 18]);
        assert_eq!(Packet::new_checked(&bytes[..]).unwrap().as_bytes(), &whole[..]);
    }

    proptest! {
        #[test]
        fn a_new_ecn_field_changes_nothing_else_and_leaves_the_header_valid(
            tos: u8, ttl: u8, id: u16, ecn in 0u8..4
        ) {
            let mut bytes = test_packet(A, B, ttl, 17, b"payload");
            bytes[1] = tos;
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            test_seal(&mut bytes);
            let before = bytes.clone();
            Packet::new_checked(&mut bytes[..]).unwrap().set_ecn(Ecn::of(ecn));
            prop_assert_eq!(bytes[1], tos & !ecn::MASK | ecn);
            prop_assert_eq!(checksum::sum(&bytes[..MIN_HEADER]), 0xffff);
            bytes[1] = before[1];
            bytes[field::CHECKSUM].copy_from_slice(&before[field::CHECKSUM]);
            prop_assert_eq!(bytes, before);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = Packet::new_checked(&bytes[..]) {
                prop_assert!(packet.payload().len() + packet.header().len() == packet.total_length());
            }
        }
    }
}

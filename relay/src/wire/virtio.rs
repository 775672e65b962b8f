//! The header that a TUN device with `IFF_VNET_HDR` puts before each packet (virtio 1.2 section 5.1.6, Linux
//! `virtio_net.h`): which work on checksums and segments is left to the reader.
//!
//! All fields are in the machine's own byte order, as a TUN device has them by default.

/// Octets of the header in the form with the number of buffers, which puts the payload of the usual TCP packet at
/// offset 64.
pub const LENGTH: usize = 12;

/// Flag: the checksum at `checksum_start + checksum_offset` holds the pseudo header's sum only.
const NEEDS_CHECKSUM: u8 = 1;

/// Bit of the GSO type: the first segment carries CWR.
const ECN: u8 = 0x80;

/// What is to be cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// Nothing.
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal length (USO; Linux 6.2).
    Udp,
    /// Anything else, UFO among it.
    Other(u8),
}

/// The header, without the number of buffers and the header length: Linux lies about the latter for forwarded
/// packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the checksum is to be completed.
    pub needs_checksum: bool,
    /// What is to be cut.
    pub gso: Gso,
    /// Octets of headers, as told to the kernel; not to be believed when it comes from there.
    pub header_length: u16,
    /// Octets of payload in each segment but the last.
    pub segment: u16,
    /// Where the checksummed octets start in the packet.
    pub checksum_start: u16,
    /// Where the checksum lies from there.
    pub checksum_offset: u16,
}

impl Header {
    /// The header of a packet that is complete as it is.
    pub const PLAIN: Self = Self {
        needs_checksum: false,
        gso: Gso::None,
        header_length: 0,
        segment: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Reads the header.
    #[must_use]
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            gso: match bytes[1] & !ECN {
                0 => Gso::None,
                1 => Gso::Tcp4,
                4 => Gso::Tcp6,
                5 => Gso::Udp,
                other => Gso::Other(other),
            },
            header_length: word(2),
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// The header as the kernel reads it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = u8::from(self.needs_checksum);
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
            Gso::Other(other) => other,
        };
        let words = [self.header_length, self.segment, self.checksum_start, self.checksum_offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp, Gso::Other(3)] {
            let header = Header {
                needs_checksum: true,
                gso,
                header_length: 52,
                segment: 1420,
                checksum_start: 20,
                checksum_offset: 16,
            };
            assert_eq!(Header::from_bytes(header.to_bytes()), header);
        }
        assert_eq!(Header::from_bytes([0; LENGTH]), Header::PLAIN);
    }

    #[test]
    fn the_mark_of_congestion_does_not_hide_the_type() {
        let mut bytes = [0; LENGTH];
        bytes[1] = 0x81;
        assert_eq!(Header::from_bytes(bytes).gso, Gso::Tcp4);
    }
}

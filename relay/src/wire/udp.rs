//! Where the fields of a UDP header lie (RFC 768), in octets from its start.

use std::ops::Range;

/// IP protocol number of UDP.
pub const PROTOCOL: u8 = 17;

/// Octets of the header.
pub const HEADER: usize = 8;

/// Octets of header and payload.
pub const LENGTH: Range<usize> = 4..6;
/// Checksum over pseudo header, header and payload; zero for none.
pub const CHECKSUM: Range<usize> = 6..8;

//! Where the fields of a TCP header lie (RFC 9293 section 3.1, RFC 3168), in octets from its start.

use std::ops::Range;

/// IP protocol number of TCP.
pub const PROTOCOL: u8 = 6;

/// Octets of a header without options.
pub const MIN_HEADER: usize = 20;

/// Sequence number of the first octet of the payload.
pub const SEQUENCE: Range<usize> = 4..8;
/// Next sequence number that the sender expects.
pub const ACKNOWLEDGEMENT: Range<usize> = 8..12;
/// Header length in 32-bit words, in the upper four bits; the lower four are reserved (and one of them AccECN's).
pub const DATA_OFFSET: usize = 12;
/// [`FIN`] to [`CWR`].
pub const FLAGS: usize = 13;
/// Receive window, not scaled.
pub const WINDOW: Range<usize> = 14..16;
/// Checksum over pseudo header, header and payload.
pub const CHECKSUM: Range<usize> = 16..18;
/// Urgent pointer.
pub const URGENT: Range<usize> = 18..20;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// The receiver should pass the data on at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement is valid.
pub const ACK: u8 = 0x10;
/// Congestion was experienced on the way here.
pub const ECE: u8 = 0x40;
/// The congestion window was reduced.
pub const CWR: u8 = 0x80;

//! ICMP error messages (RFC 792, RFC 1191).

/// IP protocol number of ICMP.
pub const PROTOCOL: u8 = 1;

/// Octets before the quoted packet.
pub const ERROR_HEADER: usize = 8;

/// The errors that a relay sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Type 3 code 0: no node has leased the destination's subnet.
    NetUnreachable,
    /// Type 11 code 0: the TTL ran out here.
    TimeExceeded,
    /// Type 3 code 4: too long for the path and not to be fragmented.
    FragmentationNeeded {
        /// The largest packet that would pass, in octets.
        mtu: u16,
    },
}

impl Error {
    /// The first eight octets of the message, checksum zero.
    #[must_use]
    pub const fn header(self) -> [u8; ERROR_HEADER] {
        match self {
            Self::NetUnreachable => [3, 0, 0, 0, 0, 0, 0, 0],
            Self::TimeExceeded => [11, 0, 0, 0, 0, 0, 0, 0],
            Self::FragmentationNeeded { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
        }
    }
}

/// Whether an ICMP message of this type reports an error, so that no error may be sent about it (RFC 1812
/// section 4.3.2.7): destination unreachable, source quench, redirect, time exceeded, parameter problem.
#[must_use]
pub const fn is_error_type(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

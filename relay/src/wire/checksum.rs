//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// One's complement sum of `bytes` taken as big-endian 16-bit words, an odd last byte padded with zero.
///
/// The result is folded but not inverted: a header that includes its checksum sums to `0xffff` when intact.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, odd) = bytes.as_chunks::<2>();
    let mut total: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    if let [last] = odd {
        total += u64::from(*last) << 8;
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum to store for `bytes`, whose checksum field must be zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The checksum of an IPv4 header after its TTL was lowered by one.
///
/// RFC 1624 equation 3 for a word that falls by `0x0100`. `0xffff` is stored as `0x0000`, as Linux
/// (`ip_decrease_ttl`) and flannel's proxy do.
#[must_use]
pub const fn after_ttl_decrement(checksum: u16) -> u16 {
    let total = checksum as u32 + 0x0100;
    let folded = total + (total >= 0xffff) as u32;
    folded as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_its_published_value() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn every_header_checksum_stays_valid_when_the_ttl_falls() {
        let mut header = [
            0x45, 0, 0, 84, 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 5, 56, 2, 10, 5, 17, 2, // checksum at 10
        ];
        let mut seen = vec![false; 1 << 16];
        for id in 0..=u16::MAX {
            header[4..6].copy_from_slice(&id.to_be_bytes());
            header[8] = 64;
            header[10..12].fill(0);
            let before = checksum(&header);
            seen[usize::from(before)] = true;
            header[8] = 63;
            let after = after_ttl_decrement(before);
            header[10..12].copy_from_slice(&after.to_be_bytes());
            assert_eq!(sum(&header), 0xffff, "checksum {before:#06x} became {after:#06x}");
            assert_ne!(after, 0xffff);
        }
        // A header that is not all zero never has the checksum 0xffff; every other value was met.
        assert_eq!(seen.iter().filter(|met| **met).count(), 0xffff);
        assert!(!seen[0xffff]);
    }

    proptest! {
        #[test]
        fn the_incremental_update_equals_recomputation(mut header in prop::array::uniform20(any::<u8>()), ttl in 1u8..) {
            header[8] = ttl;
            header[10..12].fill(0);
            let before = checksum(&header);
            header[8] -= 1;
            prop_assert_eq!(after_ttl_decrement(before) % 0xffff, checksum(&header) % 0xffff);
        }
    }
}

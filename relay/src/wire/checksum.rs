//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

#[cfg(target_arch = "x86_64")]
mod avx2;

/// One's complement sum of `bytes` taken as big-endian 16-bit words, an odd last byte padded with zero.
///
/// The result is folded but not inverted: a header that includes its checksum sums to `0xffff` when intact.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= WIDE && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return fold_native(unsafe { avx2::add(bytes) });
    }
    fold_native(add(bytes))
}

/// Copies `from` to the start of `to` and returns its [`sum`], in one pass: the sum costs nothing beside the copy.
///
/// # Panics
/// `to` is shorter than `from`.
pub fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u16 {
    let to = &mut to[..from.len()];
    #[cfg(target_arch = "x86_64")]
    if from.len() >= WIDE && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return fold_native(unsafe { avx2::copy_and_add(from, to) });
    }
    to.copy_from_slice(from);
    fold_native(add(from))
}

/// Octets from which wide registers pay off.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 64;

/// The unfolded sum of the machine's own 16-bit words: the order of octets changes the result's order only (RFC
/// 1071 section 2B), so they are swapped once, in the folded sum.
#[inline(always)]
fn add(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let (words, odd) = rest.as_chunks::<2>();
    total += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
    if let [last] = odd {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

fn fold_native(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    u16::from_be(fold(total as u32))
}

/// Adds the carries of a sum of 16-bit words back into it.
#[must_use]
pub const fn fold(total: u32) -> u16 {
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    // A third round for a sum such as 0xffff_ffff cannot carry.
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

/// The checksum of a header after one of its words changed from `old` to `new` (RFC 1624 equation 3).
///
/// Where recomputation may store either zero, this stores the one that equation 3 gives; both verify.
#[must_use]
pub const fn after_change(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Word by word, as RFC 1071 writes it.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn folding_keeps_every_carry() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(0xffff_ffff), 0xffff);
        assert_eq!(fold(0xfffe_0003), 0x0002);
        assert_eq!(sum(&[0xff; 65_535]), 0xff00);
        assert_eq!(sum(&[0xff; 65_534]), 0xffff);
    }

    #[test]
    fn a_carry_out_of_32_bits_is_kept_that_comes_of_adding_the_carries() {
        // With `words` all ones and a one the low half is 2^32 - words + 1, and the high one words - 1.
        for words in [2, 15, 16, 400] {
            let mut bytes = vec![0xff; 4 * words];
            bytes.extend(1u32.to_ne_bytes());
            assert_eq!(sum(&bytes), reference(&bytes), "{words} words");
        }
    }

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
        fn the_wide_sum_equals_the_reference_at_every_length_and_alignment(
            bytes in prop::collection::vec(any::<u8>(), 0..3000), skip in 0usize..9
        ) {
            let bytes = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(sum(bytes), reference(bytes));
        }

        #[test]
        fn the_fused_copy_copies_and_sums(bytes in prop::collection::vec(any::<u8>(), 0..3000), at in 0usize..9) {
            let mut room = vec![0xaa; bytes.len() + 16];
            let total = copy_and_sum(&bytes, &mut room[at..]);
            prop_assert_eq!(&room[at..at + bytes.len()], &bytes[..]);
            prop_assert!(room[..at].iter().chain(&room[at + bytes.len()..]).all(|octet| *octet == 0xaa));
            prop_assert_eq!(total, reference(&bytes));
        }

        #[test]
        fn a_changed_word_leaves_the_header_valid(
            mut header in prop::array::uniform20(any::<u8>()), at in 0usize..10, new in any::<u16>()
        ) {
            // The first word is never zero, as in any header: the version is there. The sixth is the checksum.
            let at = if at == 5 { 6 } else { at };
            header[0] |= 0x40;
            let new = if at == 0 { new | 0x4000 } else { new };
            header[10..12].fill(0);
            let before = checksum(&header);
            let place = at * 2..at * 2 + 2;
            let old = u16::from_be_bytes([header[place.start], header[place.start + 1]]);
            header[place].copy_from_slice(&new.to_be_bytes());
            let after = after_change(before, old, new);
            prop_assert_eq!(after % 0xffff, checksum(&header) % 0xffff);
            header[10..12].copy_from_slice(&after.to_be_bytes());
            prop_assert_eq!(sum(&header), 0xffff);
        }

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

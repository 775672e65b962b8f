//! The mark that a probe carries in its payload, by which its copies are known wherever they turn up.
//!
//! Ten octets: `LABP`, the probe's number (big-endian), and a check on it, so that other traffic is not taken for a
//! probe. What remains of the payload is a pattern that depends on the number and the position, so that a changed,
//! moved or foreign octet shows.

/// Octets that a marker takes; a shorter payload carries none, and the probe is known by ids or ports only.
pub const LEN: usize = 10;

const MAGIC: [u8; 4] = *b"LABP";

/// A marker that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marked {
    /// The probe's number.
    pub number: u32,
    /// The first octet of the payload, as far as it is there, that is not what the probe was sent with.
    pub altered: Option<usize>,
}

/// The payload of a probe: `len` octets, marked if they suffice ([`LEN`]).
#[must_use]
pub fn encode(number: u32, len: usize) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..len).map(|at| fill(number, at)).collect();
    if let Some(start) = payload.get_mut(..LEN) {
        start.copy_from_slice(&head(number));
    }
    payload
}

/// The number of the probe whose payload begins with these octets.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<u32> {
    let (magic, rest) = payload.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    let number = u32::from_be_bytes(*number);
    (*magic == MAGIC && rest.starts_with(&check(number).to_be_bytes())).then_some(number)
}

/// Reads the marker at the start of a payload, or of as much as there is of it.
pub(super) fn read(payload: &[u8]) -> Option<Marked> {
    let number = decode(payload)?;
    let altered = (LEN..).zip(payload.get(LEN..)?).find(|(at, octet)| **octet != fill(number, *at));
    let altered = altered.map(|(at, _)| at);
    Some(Marked { number, altered })
}

/// Finds a marker anywhere: in octets that are no packet.
pub(crate) fn find(octets: &[u8]) -> Option<Marked> {
    octets.windows(LEN).find_map(decode).map(|number| Marked { number, altered: None })
}

fn head(number: u32) -> [u8; LEN] {
    let ([a, b, c, d], [e, f]) = (number.to_be_bytes(), check(number).to_be_bytes());
    let [l, m, n, o] = MAGIC;
    [l, m, n, o, a, b, c, d, e, f]
}

/// Fibonacci hashing: near numbers have far checks.
fn check(number: u32) -> u16 {
    (number.wrapping_add(1).wrapping_mul(0x9e37_79b9) >> 16) as u16
}

fn fill(number: u32, at: usize) -> u8 {
    (number as usize).wrapping_add(at) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_payload_of_ten_octets_or_more_carries_its_number(number: u32, len in 0usize..2000) {
            let payload = encode(number, len);
            prop_assert_eq!(payload.len(), len);
            prop_assert_eq!(decode(&payload), (len >= LEN).then_some(number));
        }

        #[test]
        fn any_octet_changed_shows(number: u32, len in LEN..200usize, at in 0usize..200, flip in 1u8..) {
            let mut payload = encode(number, len);
            let at = at % len;
            payload[at] ^= flip;
            let seen = read(&payload);
            prop_assert!(seen.is_none_or(|marked| marked.number != number || marked.altered == Some(at)));
        }
    }

    #[test]
    fn a_marker_inside_junk_is_found() {
        let mut junk = vec![0x4f; 7];
        junk.extend(encode(77, 12));
        assert_eq!(find(&junk).map(|marked| marked.number), Some(77));
        assert_eq!(find(&junk[..16]), None);
    }
}

//! Octets that look like nothing, and are the same at every run.

/// Octets without end, by xorshift (Marsaglia 2003); `seed` is any but 0.
pub(super) fn noise(seed: u32) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    })
}

//! The same sums in registers of 256 bits.
//!
//! By hand, because the compiler makes two passes of a loop that copies and adds: a memcpy and a sum.

use std::arch::{
    asm,
    x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    },
};

use super::add as add_narrow;

/// Octets of a register.
const WIDTH: usize = 32;

/// As [`add`](super::add).
#[target_feature(enable = "avx2")]
pub(super) fn add(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<WIDTH>();
    let mut sums = Sums::new();
    for block in blocks {
        sums.add(load(block));
    }
    sums.total() + add_narrow(rest)
}

/// As [`add`], and copies `from` to `to`, which has its length.
#[target_feature(enable = "avx2")]
pub(super) fn copy_and_add(from: &[u8], to: &mut [u8]) -> u64 {
    let (blocks, rest) = from.as_chunks::<WIDTH>();
    let (room, room_for_rest) = to.as_chunks_mut::<WIDTH>();
    let mut sums = Sums::new();
    for (block, place) in blocks.iter().zip(room) {
        let octets = here(load(block));
        // SAFETY: `place` is as wide as the register, and the store may be at any address.
        unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), octets) };
        sums.add(octets);
    }
    room_for_rest.copy_from_slice(rest);
    sums.total() + add_narrow(rest)
}

#[target_feature(enable = "avx2")]
fn load(block: &[u8; WIDTH]) -> __m256i {
    // SAFETY: `block` is as wide as the register, and the load may be from any address.
    unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
}

/// The same octets, but to the compiler no longer those that were loaded: it cannot make a memcpy of load and store.
#[target_feature(enable = "avx2")]
fn here(mut octets: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) octets, options(pure, nomem, nostack, preserves_flags)) };
    octets
}

/// Four words of 64 bits, each split into halves that are added apart, so that no carry is ever lost.
struct Sums {
    low: __m256i,
    high: __m256i,
}

impl Sums {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        Self { low: _mm256_setzero_si256(), high: _mm256_setzero_si256() }
    }

    #[target_feature(enable = "avx2")]
    fn add(&mut self, words: __m256i) {
        let halves = _mm256_and_si256(words, _mm256_set1_epi64x(0xffff_ffff));
        self.low = _mm256_add_epi64(self.low, halves);
        self.high = _mm256_add_epi64(self.high, _mm256_srli_epi64::<32>(words));
    }

    #[target_feature(enable = "avx2")]
    fn total(self) -> u64 {
        let mut lanes = [0u64; 4];
        let sums = _mm256_add_epi64(self.low, self.high);
        // SAFETY: the lanes are as wide as the register, and the store may be at any address.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
        lanes.iter().sum()
    }
}

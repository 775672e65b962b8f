//! What must hold for any input: a function a fuzz target, which panics where something does not.
//!
//! `ci/fuzz` looks for such an input; `cargo test` goes through those in `seeds`, so that one that was found stays
//! found.

pub mod judge;
pub mod path;
pub mod text;

use std::{env, fs};

/// Panics where something does not hold for an input.
pub type Check = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Check); 10] = [
    ("lease_key", text::lease_key),
    ("lease_value", text::lease_value),
    ("network_config", text::network_config),
    ("subnet_env", text::subnet_env),
    ("control_request", text::control_request),
    ("registry_file", text::registry_file),
    ("ipv4_header", path::ipv4_header),
    ("outbound", path::outbound),
    ("inbound", path::inbound),
    ("icmp_error", path::icmp_error),
];

/// A fuzz target's program: libFuzzer's where cargo-fuzz builds it, else [`replay`].
#[macro_export]
macro_rules! target {
    ($check:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|input: &[u8]| $check(input));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay($check);
        }
    };
}

/// Checks the files that the command line names.
///
/// # Panics
/// A file cannot be read, or the check finds something.
pub fn replay(check: Check) {
    for path in env::args_os().skip(1) {
        check(&fs::read(path).expect("a file to check"));
    }
}

/// Octets taken off the front of an input; zeros when there are no more.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

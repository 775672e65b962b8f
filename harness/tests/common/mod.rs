//! The programs that tests run.

use std::path::PathBuf;

/// The relay beside the harness. It is not of this package, so cargo may have built it under the name that the suites
/// give it.
pub(crate) fn relay() -> PathBuf {
    let beside = |name| PathBuf::from(env!("CARGO_BIN_EXE_harness")).with_file_name(name);
    let named = std::env::var_os("RELAY").map(PathBuf::from);
    let mut programs = named.into_iter().chain(["relay", "relay-under-test"].map(beside));
    programs.find(|program| program.is_file()).expect("a relay was built: `cargo build -p relay`")
}

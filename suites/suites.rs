//! Runs every suite file below this directory as a test named by its path.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    harness::libtest::main(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        Path::new(env!("CARGO_BIN_EXE_relay-under-test")),
    )
}

//! Runs every suite file below this directory as a test named by its path.
fn main() {}

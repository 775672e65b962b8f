//! The `harness` command: runs suite files, checks them, or holds a lab for a person to work in.

use std::process::ExitCode;

use clap::Parser;
use harness::cli::{self, Cli};
use harness::reaper;

fn main() -> ExitCode {
    reaper::serve_if_asked();
    cli::run(Cli::parse())
}

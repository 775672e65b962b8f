//! `harness up`: a lab for a person to work in.

use std::path::Path;

use super::{Choice, FAILED, Parts, SUCCESS, Usage, say};
use crate::case;
use crate::lab::Lab;
use crate::suite::Case;
use crate::topology::Topology;

/// Builds the lab of `file`, says how to get in, and holds it until SIGINT or SIGTERM.
pub(super) fn up(file: Option<&Path>, parts: &Parts, choice: &Choice) -> Result<u8, Usage> {
    let topology = match file {
        None => Topology::default(),
        Some(file) => match Case::load(file) {
            Ok(case) => case.topology,
            Err(error) => {
                eprintln!("{}", case::render(&error));
                return Ok(FAILED);
            }
        },
    };
    let workshop = choice.workshop(parts)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("building the lab …");
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let lab = tokio::select! {
            lab = Lab::build(&workshop, topology) => lab?,
            _ = interrupt.recv() => return Ok(FAILED),
            _ = terminate.recv() => return Ok(FAILED),
        };
        say!("{}", lab.drawing());
        say!("{}", lab.ways_in());
        say!("Ctrl-C ends it.");
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("\nending the lab");
        lab.down().await;
        Ok(SUCCESS)
    })
}

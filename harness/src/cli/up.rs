//! `harness up`: a lab for a person to work in.

use std::path::Path;

use tokio::sync::mpsc;

use super::{Choice, FAILED, Parts, SUCCESS, Usage, say};
use crate::case;
use crate::lab::watch::Part;
use crate::lab::{self, Lab};
use crate::overlay;
use crate::suite::Case;
use crate::topology::Topology;

/// Builds the lab of `file`, says how to get in, and holds it until SIGINT or SIGTERM. What ends by itself meanwhile is told
/// at once, and started again when Enter is pressed.
pub(super) fn up(file: Option<&Path>, parts: &Parts, choice: &Choice) -> Result<u8, Usage> {
    let topology = match file {
        None => Topology::default(),
        Some(file) => match Case::load(file) {
            Ok(case) => case.topology,
            Err(error) => return Err(Usage(case::render(&error).trim().to_owned())),
        },
    };
    let workshop = choice.workshop(parts)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("building the lab …");
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut lab = tokio::select! {
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
            error = hold(&mut lab) => return Err(error.into()),
        }
        eprintln!("\nending the lab");
        let left = lab.down().await;
        if left.is_empty() {
            return Ok(SUCCESS);
        }
        say!("the lab left behind:\n  {}", left.join("\n  "));
        Ok(FAILED)
    })
}

/// Tells of what ends in the lab, and starts it again when asked to, until it cannot be told any more.
async fn hold(lab: &mut Lab) -> lab::Error {
    let mut enter = enter();
    let mut down: Vec<Part> = Vec::new();
    loop {
        tokio::select! {
            ended = lab.ended() => {
                let ended = match ended {
                    Ok(ended) => ended,
                    Err(error) => return error,
                };
                say!("\n{ended}");
                down.push(ended.part);
                if !enter.is_closed() {
                    say!("Enter starts it again.");
                }
            }
            Some(()) = enter.recv() => {
                // No daemon becomes ready without etcd.
                down.sort_by_key(|part| matches!(part, Part::Daemon(_)));
                for part in std::mem::take(&mut down) {
                    say!("starting {part} again …");
                    match lab.start_again(&part).await {
                        Ok(()) => say!("{part} is ready."),
                        // It is told with all others that end.
                        Err(lab::Error::Overlay(overlay::Error::Exited { .. })) => {}
                        Err(error) => say!("{error}"),
                    }
                }
            }
        }
    }
}

/// Tells of every line that standard input has, until there are no more.
fn enter() -> mpsc::UnboundedReceiver<()> {
    let (told, lines) = mpsc::unbounded_channel();
    // A thread of its own: one that waits for a line cannot be ended, and the runtime would wait for it.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || told.send(()).is_err() {
                break;
            }
        }
    });
    lines
}

//! SIGTERM and SIGINT: an orderly end, in bounded time whatever hangs.
//!
//! Stopping needs the event loop, which may be blocked: a file system that hangs is enough. So the signals are taken on a
//! thread of their own, which ends the process by itself when the rest is not done in time.

use std::{io, thread, time::Duration};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};
use tokio::sync::oneshot;

/// How long an orderly end may take. As a rule it takes milliseconds; on a machine that sets up or removes many devices
/// at the same time, taking the TUN away waits for the kernel's one lock for that (`rtnl_mutex`), seconds at worst. Docker
/// kills after ten.
const LIMIT: Duration = Duration::from_secs(9);

/// How long the log may take to say that it took longer.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Waits for SIGTERM or SIGINT. After the first of them the next one kills, and the process ends within 9.1 seconds, by
/// itself or with exit code 1.
///
/// # Errors
/// The kernel refuses a pipe or a thread.
pub(super) fn signalled() -> io::Result<oneshot::Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("relay-signals".into()).spawn(move || {
        if signals.forever().next().is_none() {
            return;
        }
        let killable = let_signals_kill();
        // Nobody listens any more when the daemon is ending anyway.
        let _ = sender.send(());
        thread::sleep(LIMIT);
        // Nothing may hold this thread up.
        thread::spawn(move || {
            tracing::error!(limit = ?LIMIT, ?killable, "not stopped in time: ending all the same");
        });
        thread::sleep(LAST_WORDS);
        low_level::exit(1);
    })?;
    Ok(receiver)
}

/// From now on SIGTERM and SIGINT end the process as the kernel has it, even if this program hangs (flannel `main.go`
/// does the same).
fn let_signals_kill() -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the default action runs no code of this program.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    #[test]
    fn after_the_first_signal_the_next_one_kills() {
        let _signals = Signals::new([SIGTERM, SIGINT]).unwrap();
        let_signals_kill().unwrap();
        for number in [Signal::SIGTERM, Signal::SIGINT] {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            // SAFETY: the default action runs no code of this program.
            let before = unsafe { sigaction(number, &default) }.unwrap();
            assert!(matches!(before.handler(), SigHandler::SigDfl), "{number}");
        }
    }
}

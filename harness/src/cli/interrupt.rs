//! SIGINT and SIGTERM, which end the program with what it knows by then.

use std::io;

use futures_util::FutureExt;
use futures_util::future::select_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit status of what a signal ended is that signal's number and this, as shells have it.
const BY_SIGNAL: i32 = 128;

/// Has either signal end the program, after a call of `tell`. What the program was started to ignore, as a shell has it for
/// what is in the background, it ignores still.
///
/// # Errors
/// When there are no signals to be had, or no thread to wait for them.
pub(super) fn end_with(tell: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals: Vec<(SignalKind, Signal)> = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        if !is_ignored(kind)? {
            let _entered = runtime.enter();
            signals.push((kind, signal(kind)?));
        }
    }
    if signals.is_empty() {
        return Ok(());
    }
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let each = signals.iter_mut().map(|(kind, signal)| signal.recv().map(|_| *kind).boxed_local());
        let (kind, ..) = runtime.block_on(select_all(each));
        tell();
        std::process::exit(BY_SIGNAL + kind.as_raw_value());
    })?;
    Ok(())
}

/// Whether the program was started to ignore a signal.
fn is_ignored(kind: SignalKind) -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    // A hexadecimal number, of which signal 1 has the last bit (proc_pid_status(5)).
    let mask =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    Ok(mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1))
}

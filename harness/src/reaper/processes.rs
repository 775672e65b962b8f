//! Ends what lives in a mount namespace.
//!
//! Whatever a lab runs is killed with this process (`PR_SET_PDEATHSIG`), but not what that has started in its turn. It is
//! told by its mount namespace, which a process has from the one that started it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use crate::sandbox::MountNamespace;

/// How long processes may take to end that were killed: one may be in the middle of writing to a disk.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Kills all processes in a mount namespace but this one, until there are none.
pub(super) fn end_others(namespace: MountNamespace) {
    let given_up = Instant::now() + ENDED_WITHIN;
    // What one of them started before it was killed is found the next time.
    while kill_others(namespace) > 0 && Instant::now() < given_up {
        thread::sleep(PAUSE);
    }
}

/// Kills all others that are there now, and tells how many they were.
fn kill_others(namespace: MountNamespace) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| kill_if_within(&entry.path(), namespace)).count()
}

/// Kills the process of that directory in `/proc`, if it is another and in the namespace.
fn kill_if_within(process: &Path, namespace: MountNamespace) -> Option<()> {
    let pid = Pid::from_raw(process.file_name()?.to_str()?.parse().ok()?)?;
    if pid == getpid() {
        return None;
    }
    // Opened before the look at its namespace: by the time of the signal the number may be another process's.
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    if MountNamespace::of(process).ok()? != namespace {
        return None;
    }
    pidfd_send_signal(handle, Signal::KILL).ok()
}

//! What is left of a lab that was ended: a verdict of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;

use crate::netns::Namespace;
use crate::wait;

/// How long what a daemon ran may outlive it. A daemon that is killed cannot end its own programs, an iptables for
/// example, and they have a network namespace to finish their work in.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Waits for the processes that are still in one of these namespaces to end, and ends those that do not, which nothing
/// else would before this process ends; tells which they were.
pub(super) async fn processes<'a>(namespaces: impl Iterator<Item = &'a Namespace>) -> Vec<String> {
    let inode =
        |namespace: &Namespace| Some((fstat(namespace.as_fd()).ok()?.st_ino, namespace.name().to_owned()));
    let names: BTreeMap<u64, String> = namespaces.filter_map(inode).collect();
    let none_left = wait::until("the last programs in the lab's hosts", ENDS_WITHIN, async || {
        if within(&names).is_empty() { Ok(()) } else { Err(String::new()) }
    });
    if none_left.await.is_ok() {
        return Vec::new();
    }
    let end = |(process, host): (PathBuf, &String)| {
        let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let pid = process.file_name()?.to_str()?;
        // A process in a namespace of the lab was started by the lab, or by what the lab started.
        let _ = kill(Pid::from_raw(pid.parse().ok()?), Signal::SIGKILL);
        Some(format!("process {pid} ({}) in {host}", command.trim()))
    };
    within(&names).into_iter().filter_map(end).collect()
}

/// The processes in the network namespaces of these inodes: their directories in `/proc`, and the namespaces' names.
fn within(names: &BTreeMap<u64, String>) -> Vec<(PathBuf, &String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let namespace = fs::metadata(entry.path().join("ns/net")).ok()?;
        Some((entry.path(), names.get(&namespace.ino())?))
    });
    found.collect()
}

/// The lab's directory, if it is still there, with what is in it.
pub(super) fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().map(|entry| format!("file {}", entry.path().display()));
    std::iter::once(format!("directory {}", dir.display())).chain(names).collect()
}

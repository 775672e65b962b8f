//! What is left of a lab that was ended: a verdict of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;

use crate::netns::Namespace;

/// Ends the processes that are still in one of these namespaces, which nothing else would, and tells which they were.
pub(super) fn processes<'a>(namespaces: impl Iterator<Item = &'a Namespace>) -> Vec<String> {
    let inode =
        |namespace: &Namespace| Some((fstat(namespace.as_fd()).ok()?.st_ino, namespace.name().to_owned()));
    let names: BTreeMap<u64, String> = namespaces.filter_map(inode).collect();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(process) = fs::metadata(entry.path().join("ns/net")) else { continue };
        let Some(host) = names.get(&process.ino()) else { continue };
        let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        left.push(format!("process {} ({}) in {host}", entry.file_name().display(), command.trim()));
        // A process in a namespace of the lab was started by the lab, or by what the lab started.
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    left
}

/// The lab's directory, if it is still there, with what is in it.
pub(super) fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().map(|entry| format!("file {}", entry.path().display()));
    std::iter::once(format!("directory {}", dir.display())).chain(names).collect()
}

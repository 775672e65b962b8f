//! Whose the files are that the harness leaves in the work tree.

use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{Gid, Uid, fchownat};

/// Gives a file or directory, and all below it, to the user who called sudo(8), if one did.
///
/// A snapshot that only root may change would be in its reviewer's way.
pub(crate) fn give_back(path: &Path) {
    let Some((uid, gid)) = caller() else { return };
    if !path.exists() {
        return;
    }
    if let Err(error) = fchownat(AT_FDCWD, path, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW) {
        tracing::warn!(path = %path.display(), %error, "file stays root's");
    }
    // A symbolic link is not followed: it may lead anywhere.
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            give_back(&entry.path());
        }
    }
}

/// The user who called sudo, from the environment that it sets.
fn caller() -> Option<(Uid, Gid)> {
    if !Uid::effective().is_root() {
        return None;
    }
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    Some((Uid::from_raw(id("SUDO_UID")?), Gid::from_raw(id("SUDO_GID")?)))
}

//! Where processes keep their data: a ramfs.
//!
//! etcd preallocates two segments of 64 MiB for its log (etcd 3.4 `wal/wal.go`). A tmpfs takes the memory at once, which
//! costs 30 ms and more a member; ramfs knows no preallocation, so that etcd makes do with sparse files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A directory with a ramfs on it, as long as this is; what is in it goes with it.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Creates the directory and mounts on it; where mounting is forbidden, the directory has to do.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let mounted = mount(Some("etcd"), &path, Some("ramfs"), flags, Some("mode=0700"));
        if let Err(error) = mounted {
            tracing::debug!(path = %path.display(), %error, "no ramfs for etcd's data");
        }
        Ok(Self { path, mounted: mounted.is_ok() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached, because a member that was just killed may not be gone yet.
        if self.mounted
            && let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH)
        {
            tracing::warn!(path = %self.path.display(), %error, "etcd's data not unmounted");
        }
    }
}

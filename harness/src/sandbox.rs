//! Private namespaces around the whole process, so that the kernel removes every trace of a lab however the
//! process ends.
//!
//! As root the process gets mount and network namespaces of its own; without root it first gets a user namespace in
//! which it is root (`user_namespaces(7)`). All mounts below `/` are made private, so nothing done here reaches the
//! machine, and a fresh tmpfs over `/dev/shm` holds the labs' files. When the last process of the sandbox is gone, so
//! are its namespaces, devices, mounts and files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, getegid, geteuid};

/// Where the labs' files live, on a tmpfs that only this process and its children see.
///
/// `/dev/shm` exists on every Linux system and holds nothing that a lab's programs need, so covering it hides
/// nothing of use.
const PRIVATE_DIR: &str = "/dev/shm";

/// The process's own namespaces. Entered once, never left.
#[derive(Debug, Clone)]
pub struct Sandbox {
    rootless: bool,
    mount_namespace: MountNamespace,
}

/// Which mount namespace it is, among all of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountNamespace {
    device: u64,
    inode: u64,
}

impl MountNamespace {
    /// The one that a process is in, by its directory in `/proc`. One that has ended is in none.
    pub(crate) fn of(process: &Path) -> io::Result<Self> {
        let file = fs::metadata(process.join("ns/mnt"))?;
        Ok(Self { device: file.dev(), inode: file.ino() })
    }

    /// The one that this process is in.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(Path::new("/proc/self"))
    }
}

impl std::fmt::Display for MountNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// Why the process could not get namespaces of its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or its configuration forbids user namespaces to this user.
    #[error("creating a user namespace as an ordinary user: {source}\n{}", remedy(*.source))]
    UserNamespace {
        /// What `unshare(2)` said.
        source: Errno,
    },
    /// Root, but without the capability.
    #[error(
        "creating mount and network namespaces as root: {source}\n\
         This root lacks CAP_SYS_ADMIN, as in a container: run the container with `--privileged`, or run as an \
         ordinary user where user namespaces are allowed."
    )]
    Unshare {
        /// What `unshare(2)` said.
        source: Errno,
    },
    /// A step after the namespaces were made.
    #[error("setting up the private namespaces: {what}: {source}")]
    Setup {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What to change on a machine that refuses `unshare(CLONE_NEWUSER)` with `errno`.
fn remedy(errno: Errno) -> String {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "AppArmor restricts them here: `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or \
                run as root."
            .to_owned();
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "They are switched off here: `sudo sysctl -w kernel.unprivileged_userns_clone=1`, or run as root."
            .to_owned();
    }
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return "None are allowed here: `sudo sysctl -w user.max_user_namespaces=10000`, or run as root."
            .to_owned();
    }
    match errno {
        Errno::EINVAL => {
            "The process had more than one thread already; enter the sandbox first thing in `main`."
                .to_owned()
        }
        _ => "A security module or container profile forbids it: allow unshare(2) there, or run as root."
            .to_owned(),
    }
}

/// Raises the limit on open files as far as it goes: each ping of a stream has a socket of its own.
fn allow_many_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit on open files stays");
    }
}

impl Sandbox {
    /// Moves the process into namespaces of its own.
    ///
    /// # Errors
    /// When the machine forbids it: the message says what to change. Call it before any thread is started: the
    /// kernel gives a user namespace only to a single-threaded process.
    pub fn enter() -> Result<Self, Error> {
        let outside = mount_namespace()?;
        let rootless = !geteuid().is_root();
        if rootless {
            enter_user_namespace()?;
        } else {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
                .map_err(|source| Error::Unshare { source })?;
        }
        // All that is in it will be killed one day, and nothing that others started may be.
        let mount_namespace = mount_namespace()?;
        if mount_namespace == outside {
            let source = io::Error::other("the process is where it was");
            return Err(Error::Setup { what: "entering a mount namespace".to_owned(), source });
        }
        // Before any mount of ours: what the machine shares, it shares both ways.
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(setup("making / private"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("harness"), PRIVATE_DIR, Some("tmpfs"), flags, Some("mode=1777"))
            .map_err(setup(format!("mounting a tmpfs on {PRIVATE_DIR}")))?;
        allow_many_files();
        Ok(Self { rootless, mount_namespace })
    }

    /// Whether the process is root only within its user namespace.
    pub fn rootless(&self) -> bool {
        self.rootless
    }

    /// What all processes in it are told by.
    pub(crate) fn mount_namespace(&self) -> MountNamespace {
        self.mount_namespace
    }

    /// A directory that exists only for this process and its children, and ends with them.
    pub fn dir(&self) -> &Path {
        Path::new(PRIVATE_DIR)
    }

    /// The path by which processes outside the sandbox, with enough rights, reach `path` inside it.
    pub fn seen_from_outside(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        Path::new("/proc").join(std::process::id().to_string()).join("root").join(inside)
    }
}

/// Makes the caller root of new user, mount and network namespaces (`user_namespaces(7)`, "Defining user and group
/// ID mappings").
fn enter_user_namespace() -> Result<(), Error> {
    let (uid, gid): (Uid, Gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|source| Error::UserNamespace { source })?;
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|source| Error::Setup { what: format!("writing {path}"), source })
    };
    // gid_map may be written by an unprivileged process only once setgroups is denied.
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))
}

fn mount_namespace() -> Result<MountNamespace, Error> {
    let what = "looking at the mount namespace";
    MountNamespace::own().map_err(|source| Error::Setup { what: what.to_owned(), source })
}

fn setup(what: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    let what = what.into();
    |errno| Error::Setup { what, source: errno.into() }
}

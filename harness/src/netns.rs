//! Network namespaces, entered only to open a socket or device, or to start a process.
//!
//! Entering happens in a thread that ends right after, or between fork and exec of a child, so no thread of the
//! program is ever left in a foreign namespace. A socket stays in the namespace it was opened in, wherever it is used.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use netns_rs::{Env, NetNs};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

/// A network namespace. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    file: File,
    /// What keeps a namespace of our own alive without a process in it; removed with the last handle.
    pin: Option<NetNs<Dir>>,
}

/// The directory that our namespaces are bind-mounted in.
#[derive(Debug, Clone)]
struct Dir(PathBuf);

impl Env for Dir {
    fn persist_dir(&self) -> PathBuf {
        self.0.clone()
    }
}

/// Why something could not be done with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Creating failed.
    #[error("creating network namespace `{name}`: {source}")]
    Create {
        /// The namespace's name.
        name: String,
        /// The cause.
        source: netns_rs::Error,
    },
    /// Opening an existing one failed.
    #[error("opening network namespace {path}: {source}")]
    Open {
        /// The namespace's file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Entering failed.
    #[error("entering network namespace `{name}`: {source}")]
    Enter {
        /// The namespace's name.
        name: String,
        /// The cause.
        source: io::Error,
    },
}

impl Namespace {
    /// Creates a namespace, visible as the file `dir/name` until the last handle is dropped.
    ///
    /// # Errors
    /// When the process lacks CAP_SYS_ADMIN in its user namespace, or `dir` cannot be created.
    pub fn create(name: &str, dir: &Path) -> Result<Self, Error> {
        let error = |source| Error::Create { name: name.to_owned(), source };
        let pin = NetNs::new_with_env(name, Dir(dir.to_owned())).map_err(error)?;
        let path = pin.path().to_owned();
        let file = File::open(&path).map_err(|source| Error::Open { path: path.clone(), source })?;
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), path, file, pin: Some(pin) }) })
    }

    /// The namespace behind a file such as `/proc/PID/ns/net`, under a name for messages.
    ///
    /// # Errors
    /// When the file is not there or may not be opened.
    pub fn open(name: &str, path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), path: path.to_owned(), file, pin: None }) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its file, for `nsenter --net=PATH` (as seen by this process).
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Runs `work` in the namespace, in a thread of its own that ends with it.
    ///
    /// If the caller is within a tokio runtime, so is `work`: sockets may be registered with it there.
    ///
    /// # Errors
    /// When the namespace may not be entered.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let runtime = tokio::runtime::Handle::try_current().ok();
        std::thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                setns(self.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| Error::Enter { name: self.inner.name.clone(), source: errno.into() })?;
                let _guard = runtime.as_ref().map(|handle| handle.enter());
                Ok(work())
            });
            visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command whose process runs in the namespace and is killed when the thread that starts it ends.
    ///
    /// Start it from a thread that lives as long as the child should: never from [`Namespace::run`] or a
    /// blocking-pool thread (`PR_SET_PDEATHSIG` follows the thread, see prctl(2)). What the process starts in its turn is
    /// not killed with it, but by the [`reaper`](crate::reaper) when this process has ended.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        let parent = rustix::process::getpid();
        let enter = move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the request was made.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from(nix::errno::Errno::ESRCH));
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe system calls are made; nothing is allocated.
        unsafe { command.pre_exec(enter) };
        command
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(pin) = self.pin.take()
            && let Err(error) = pin.remove()
        {
            tracing::warn!(namespace = %self.name, %error, "namespace not removed");
        }
    }
}

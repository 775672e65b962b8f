//! What ends all that labs have started, and removes containers and their directories, when this process is gone, however
//! it went.
//!
//! The kernel ends our children with us, but not theirs; and a container is the engine's child. The reaper is this very
//! program, executed anew with a pipe from us as its standard input: when the pipe ends, we have. It kills whatever else is
//! in the sandbox's mount namespace, and removes what it was told of and not told to forget. Until then it stays in our
//! namespaces, which therefore outlive us by that time.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::setsid;
use testcontainers::bollard::errors::Error as Refusal;
use testcontainers::bollard::query_parameters::RemoveContainerOptionsBuilder;
use testcontainers::core::client::docker_client_instance;

use crate::sandbox::{MountNamespace, Sandbox};

mod processes;

/// The environment variable that makes this program a reaper; its value is the owner's label.
const VARIABLE: &str = "HARNESS_REAPER";
/// What a reaper says when it has begun.
const GREETING: &[u8] = b"ready\n";
/// How long a reaper may take to begin, in ms.
const GREETS_WITHIN: u16 = 5_000;
/// How long the engine may take to finish creating or removing a container for a client that is gone, and a
/// directory to be let go of by those who wrote to it.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no reaper.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This program cannot be executed anew.
    #[error("starting the process that cleans up after this one: {0}")]
    Spawn(io::Error),
    /// The program does not call [`serve_if_asked`].
    #[error(
        "this program's `main` does not begin with `reaper::serve_if_asked()`, so what it starts could outlive it"
    )]
    NotServed,
    /// It was there and is no more.
    #[error("the process that cleans up after this one is gone: {0}")]
    Gone(io::Error),
}

/// The pipe to the reaper of this process.
#[derive(Debug)]
pub struct Reaper {
    owner: String,
    pipe: Mutex<ChildStdin>,
}

/// A container or directory that the reaper removes: at once when this is dropped, or when this process ends.
#[derive(Debug)]
pub(crate) struct Charge {
    reaper: &'static Reaper,
    what: String,
}

impl Charge {
    /// Takes it back: what was charged is gone.
    pub(crate) fn settled(mut self) {
        self.reaper.tell('-', &std::mem::take(&mut self.what));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.what.is_empty() {
            self.reaper.tell('!', &self.what);
        }
    }
}

impl Reaper {
    /// The reaper of this process, started now if it was not yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn get() -> Result<&'static Self, Error> {
        static REAPER: OnceLock<Reaper> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        match REAPER.get() {
            Some(reaper) => Ok(reaper),
            None => {
                let reaper = Self::spawn()?;
                Ok(REAPER.get_or_init(|| reaper))
            }
        }
    }

    /// Charges the reaper with whatever will live in the sandbox, which the reaper itself was started in.
    ///
    /// # Errors
    /// When the reaper is gone.
    pub fn guard(&self, sandbox: &Sandbox) -> Result<(), Error> {
        self.write('=', &sandbox.mount_namespace().to_string()).map_err(Error::Gone)
    }

    /// What this process's containers have as label `harness.owner`, and as the beginning of their names and of
    /// those of their directories: unique among the processes of this machine.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// A name that begins with the owner's, and that this machine has not seen.
    pub(crate) fn unique_name(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("{}-{}", self.owner, COUNT.fetch_add(1, Ordering::Relaxed))
    }

    fn spawn() -> Result<Self, Error> {
        if std::env::var_os(VARIABLE).is_some() {
            return Err(Error::NotServed);
        }
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(Error::Spawn)?;
        let owner = format!("harness-{}", uuid.split('-').next().unwrap_or_default());
        let mut reaper = Command::new("/proc/self/exe")
            .arg0("harness-reaper")
            .env(VARIABLE, &owner)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::Spawn)?;
        let greeted = reaper.stdout.take().is_some_and(greets);
        match reaper.stdin.take() {
            Some(pipe) if greeted => Ok(Self { owner, pipe: Mutex::new(pipe) }),
            _ => {
                // It runs something else than a reaper, of which nothing is known.
                let _ = reaper.kill().and_then(|()| reaper.wait());
                Err(Error::NotServed)
            }
        }
    }

    /// Charges the reaper with the container of that name, before it is created.
    pub(crate) fn container(&'static self, name: &str) -> Result<Charge, Error> {
        self.charge(format!("container {name}"))
    }

    /// Charges the reaper with a directory, with all that is in it.
    pub(crate) fn directory(&'static self, path: &Path) -> Result<Charge, Error> {
        self.charge(format!("directory {}", path.display()))
    }

    fn charge(&'static self, what: String) -> Result<Charge, Error> {
        self.write('+', &what).map_err(Error::Gone)?;
        Ok(Charge { reaper: self, what })
    }

    fn tell(&self, order: char, what: &str) {
        // A reaper that is gone cannot be told, and its charges are a leak that the lab reports.
        let _ = self.write(order, what);
    }

    /// Writes a line at once: up to `PIPE_BUF` octets are never torn (pipe(7)).
    fn write(&self, order: char, what: &str) -> io::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.write_all(format!("{order}{what}\n").as_bytes())
    }
}

/// Whether the process behind `out` greets as a reaper does, within [`GREETS_WITHIN`].
fn greets(mut out: ChildStdout) -> bool {
    let mut greeting = [0; GREETING.len()];
    let ready = poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], GREETS_WITHIN);
    ready.is_ok_and(|count| count > 0) && out.read_exact(&mut greeting).is_ok() && greeting == GREETING
}

/// Is the reaper, and does not return, if this process was started as one. Call it first thing in `main`.
pub fn serve_if_asked() {
    if let Ok(owner) = std::env::var(VARIABLE) {
        let code = if serve(&owner).is_ok() { 0 } else { 1 };
        std::process::exit(code);
    }
}

fn serve(owner: &str) -> io::Result<()> {
    // Out of the terminal's reach: its signals are for the others.
    setsid()?;
    close_inherited();
    io::stdout().write_all(GREETING)?;
    io::stdout().flush()?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut charges = BTreeSet::new();
    let mut guarded = None;
    let mut orders = io::stdin().lock();
    let mut line = String::new();
    // A pipe that fails is taken for one that has ended.
    while orders.read_line(&mut line).is_ok_and(|length| length > 0) {
        match line.strip_suffix('\n').and_then(|line| line.split_at_checked(1)) {
            Some(("=", namespace)) => guarded = Some(namespace.to_owned()),
            Some(("+", charge)) => drop(charges.insert(charge.to_owned())),
            Some(("-", charge)) => drop(charges.remove(charge)),
            Some(("!", charge)) if charges.remove(charge) => runtime.block_on(remove(owner, charge)),
            _ => {}
        }
        line.clear();
    }
    // Never another's: where this process is, and where it was told to be, is the same.
    if let Ok(own) = MountNamespace::own()
        && guarded == Some(own.to_string())
    {
        processes::end_others(own);
    }
    // In the order of their names, containers come before the directories that they use.
    for charge in &charges {
        runtime.block_on(remove(owner, charge));
    }
    Ok(())
}

/// Removes what bears the owner's name, and nothing else.
async fn remove(owner: &str, charge: &str) {
    let is_owned = |name: &str| name.starts_with(owner);
    if let Some(name) = charge.strip_prefix("container ").filter(|name| is_owned(name)) {
        remove_container(name).await;
    } else if let Some(path) = charge.strip_prefix("directory ").map(Path::new)
        && path.file_name().and_then(OsStr::to_str).is_some_and(is_owned)
    {
        remove_directory(path).await;
    }
}

/// Closes what the starter of our parent left open in it, such as pipes that somebody reads to the end.
fn close_inherited() {
    // SAFETY: this process is single-threaded and has opened nothing yet that it will use.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Removes a directory, again while somebody still writes to it. There is nobody to tell of a failure.
async fn remove_directory(path: &Path) {
    let given_up = Instant::now() + SETTLED_WITHIN;
    while fs::remove_dir_all(path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        && Instant::now() < given_up
    {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Removes a container by force, waiting for it where the engine has yet to create it, or is at removing it.
async fn remove_container(name: &str) {
    let Ok(docker) = docker_client_instance().await else { return };
    let given_up = Instant::now() + SETTLED_WITHIN;
    let mut under_way = false;
    while Instant::now() < given_up {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match docker.remove_container(name, Some(options)).await {
            Ok(()) => return,
            // Asked for by the process that is gone: its program may run still.
            Err(Refusal::DockerResponseServerError { status_code: 409, .. }) => under_way = true,
            Err(Refusal::DockerResponseServerError { status_code: 404, .. }) if under_way => return,
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

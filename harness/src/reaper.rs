//! What ends all that labs have started, and removes containers and their directories, when this process is gone, however
//! it went.
//!
//! The kernel ends our children with us, but not theirs; and a container is the engine's child. The reaper is this very
//! program, executed anew with a pipe from us as its standard input: when the pipe ends, we have. It kills whatever else is
//! in the sandbox's mount namespace, and removes what it was told of and not told to forget. Until then it stays in our
//! namespaces, which therefore outlive us by that time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::setsid;
use testcontainers::bollard::errors::Error as Refusal;
use testcontainers::bollard::query_parameters::RemoveContainerOptionsBuilder;
use testcontainers::core::client::docker_client_instance;

use crate::lock::lock;
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
const SETTLED_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5_000 });
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no reaper, or what it cannot do.
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
    /// There is no directory to be had.
    #[error("creating {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It could not remove something.
    #[error("{what} cannot be removed: {why}")]
    NotRemoved {
        /// The container or directory.
        what: String,
        /// What the engine or the kernel said.
        why: String,
    },
}

/// The pipe to the reaper of this process.
#[derive(Debug)]
pub struct Reaper {
    owner: String,
    pipes: Mutex<Pipes>,
    /// What it was told to remove at once, and nobody has asked about since.
    handed_over: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
struct Pipes {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
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
        // A reaper that is gone will not look for it either.
        let _ = self.reaper.write('-', &std::mem::take(&mut self.what));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.what.is_empty() {
            self.reaper.hand_over(std::mem::take(&mut self.what));
        }
    }
}

/// A directory below the machine's temporary one, with a unique name. It goes with this, or else with this process.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    charge: Option<Charge>,
}

impl Directory {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is, for the user.
    pub(crate) fn keep(mut self) {
        if let Some(charge) = self.charge.take() {
            charge.settled();
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let Some(charge) = self.charge.take() else { return };
        // Fails only while somebody still writes to it.
        if fs::remove_dir_all(&self.path).is_ok() {
            charge.settled();
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
        let _starting = lock(&STARTING);
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
    fn unique_name(&self) -> String {
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
        match (reaper.stdin.take(), reaper.stdout.take().and_then(greeted)) {
            (Some(orders), Some(answers)) => {
                let pipes = Mutex::new(Pipes { orders, answers: BufReader::new(answers) });
                Ok(Self { owner, pipes, handed_over: Mutex::default() })
            }
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

    /// Makes a directory that no other user may enter.
    pub(crate) fn directory(&'static self) -> Result<Directory, Error> {
        let path = std::env::temp_dir().join(self.unique_name());
        // Before it is there: this process may be killed between the two.
        let charge = Some(self.charge(format!("directory {}", path.display()))?);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Directory { path, charge }),
            Err(source) => Err(Error::Directory { path, source }),
        }
    }

    fn charge(&'static self, what: String) -> Result<Charge, Error> {
        self.write('+', &what).map_err(Error::Gone)?;
        Ok(Charge { reaper: self, what })
    }

    fn hand_over(&self, what: String) {
        // A reaper that is gone cannot be told: whoever asks what is left learns it.
        let _ = self.write('!', &what);
        lock(&self.handed_over).insert(what);
    }

    /// What the reaper could not remove of that which it was left with, by names that are this one or
    /// begin with it and a dash. Waits until the reaper has tried, some seconds for each.
    pub(crate) fn not_removed(&self, name: &str) -> Vec<Error> {
        let is_of = |what: &String| what.ends_with(name) || what.contains(&format!("{name}-"));
        let handed_over: Vec<String> = lock(&self.handed_over).extract_if(.., is_of).collect();
        let left = handed_over.into_iter().filter_map(|what| match self.ask(&what) {
            Ok(why) if why.is_empty() => None,
            Ok(why) => Some(Error::NotRemoved { what, why }),
            Err(error) => Some(Error::NotRemoved { what, why: Error::Gone(error).to_string() }),
        });
        left.collect()
    }

    /// Why a charge could not be removed; nothing if it was.
    fn ask(&self, what: &str) -> io::Result<String> {
        let mut pipes = lock(&self.pipes);
        pipes.write('?', what)?;
        let mut answer = String::new();
        match pipes.answers.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }

    fn write(&self, order: char, what: &str) -> io::Result<()> {
        lock(&self.pipes).write(order, what)
    }
}

impl Pipes {
    /// Writes a line at once: up to `PIPE_BUF` octets are never torn (pipe(7)).
    fn write(&mut self, order: char, what: &str) -> io::Result<()> {
        self.orders.write_all(format!("{order}{what}\n").as_bytes())
    }
}

/// The same, if the process behind `out` greets as a reaper does, within [`GREETS_WITHIN`].
fn greeted(mut out: ChildStdout) -> Option<ChildStdout> {
    let mut greeting = [0; GREETING.len()];
    let ready = poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], GREETS_WITHIN);
    let greets =
        ready.is_ok_and(|count| count > 0) && out.read_exact(&mut greeting).is_ok() && greeting == GREETING;
    greets.then_some(out)
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
    follow(owner, io::stdin().lock(), io::stdout().lock())
}

/// Does as it is told until `orders` end, and then all that is left to do.
fn follow(owner: &str, mut orders: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // With why it could not be removed, if that was tried.
    let mut charges: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut guarded = None;
    let mut line = String::new();
    // A pipe that fails is taken for one that has ended.
    while orders.read_line(&mut line).is_ok_and(|length| length > 0) {
        match line.strip_suffix('\n').and_then(|line| line.split_at_checked(1)) {
            Some(("=", namespace)) => guarded = Some(namespace.to_owned()),
            Some(("+", charge)) => drop(charges.insert(charge.to_owned(), None)),
            Some(("-", charge)) => drop(charges.remove(charge)),
            Some(("!", charge)) if charges.contains_key(charge) => {
                match runtime.block_on(remove(owner, charge)) {
                    Ok(()) => drop(charges.remove(charge)),
                    Err(why) => drop(charges.insert(charge.to_owned(), Some(why))),
                }
            }
            Some(("?", charge)) => {
                let why = charges.get(charge).and_then(Option::as_deref).unwrap_or_default();
                // Whoever has asked may be gone: the orders end then.
                let _ = writeln!(answers, "{}", why.replace('\n', " ")).and_then(|()| answers.flush());
            }
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
    for charge in charges.keys() {
        // There is nobody to tell of a failure.
        let _ = runtime.block_on(remove(owner, charge));
    }
    Ok(())
}

/// Removes what bears the owner's name, and nothing else.
///
/// # Errors
/// When it is still there after [`SETTLED_WITHIN`]: why.
async fn remove(owner: &str, charge: &str) -> Result<(), String> {
    let is_owned = |name: &str| name.starts_with(owner);
    if let Some(name) = charge.strip_prefix("container ").filter(|name| is_owned(name)) {
        remove_container(name).await
    } else if let Some(path) = charge.strip_prefix("directory ").map(Path::new)
        && path.file_name().and_then(OsStr::to_str).is_some_and(is_owned)
    {
        remove_directory(path).await
    } else {
        Ok(())
    }
}

/// Closes what the starter of our parent left open in it, such as pipes that somebody reads to the end.
fn close_inherited() {
    // SAFETY: this process is single-threaded and has opened nothing yet that it will use.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Removes a directory, again while somebody still writes to it.
async fn remove_directory(path: &Path) -> Result<(), String> {
    let given_up = Instant::now() + SETTLED_WITHIN;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= given_up => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Removes a container by force, waiting for it where the engine has yet to create it, or is at removing it.
async fn remove_container(name: &str) -> Result<(), String> {
    let docker = docker_client_instance().await.map_err(|error| error.to_string())?;
    let mut why = Some("the engine does not answer".to_owned());
    let removed = async {
        let mut under_way = false;
        loop {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            match docker.remove_container(name, Some(options)).await {
                Ok(()) => return,
                Err(Refusal::DockerResponseServerError { status_code: 404, .. }) if under_way => return,
                // Nothing is left, unless it is created yet.
                Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => why = None,
                Err(error) => {
                    // Asked for by the process that is gone: its program may run still.
                    under_way |= matches!(error, Refusal::DockerResponseServerError { status_code: 409, .. });
                    why = Some(error.to_string());
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(SETTLED_WITHIN, removed).await {
        Ok(()) => Ok(()),
        Err(_) => why.map_or(Ok(()), Err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_removed_is_told_to_whoever_asks_why() {
        let directory = tempfile::tempdir().unwrap();
        let [there, stuck, other] =
            ["owner-there", "owner-stuck", "another"].map(|name| directory.path().join(name));
        fs::create_dir(&there).unwrap();
        fs::create_dir(&other).unwrap();
        // Charged as a directory, it cannot be removed as one.
        fs::write(&stuck, "").unwrap();
        let mut orders = String::new();
        for path in [&there, &stuck, &other] {
            orders += &format!("+directory {0}\n!directory {0}\n", path.display());
        }
        for path in [&there, &stuck, &other] {
            orders += &format!("?directory {}\n", path.display());
        }
        let mut answers = Vec::new();
        follow("owner", orders.as_bytes(), &mut answers).unwrap();
        assert_eq!(String::from_utf8(answers).unwrap(), "\nNot a directory (os error 20)\n\n");
        assert!(!there.exists() && other.exists(), "what is the owner's goes, and nothing else");
    }
}

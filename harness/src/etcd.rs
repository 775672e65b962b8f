//! etcd as a node of the lab: one to seven members, each with an address on the underlay.
//!
//! A member is a child process in its namespace, or a container that is joined to it. Both kinds answer at the
//! same addresses, over the same links, so that a lab neither knows nor cares which it has:
//!
//! | | process | container, as root | container, without root |
//! |---|---|---|---|
//! | etcd runs in | the member's namespace | the container's namespace | the container's namespace |
//! | `eth0` is | the member's own | moved into the container | the member's own |
//! | etcd listens on | TCP | TCP | Unix sockets, forwarded from TCP in the member's namespace |
//!
//! No member outlives this process: children carry `PR_SET_PDEATHSIG`, containers have the [`reaper`].

mod attach;
mod backup;
mod client;
mod container;
mod disk;
mod engine;
mod forward;
mod image;
mod options;
mod process;
mod readiness;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub use self::client::client;
use self::container::Container;
use self::engine::Engine;
use self::options::Options;
use self::process::Process;
use self::readiness::{answers, answers_http};
use crate::netns::{self, Namespace};
use crate::reaper;

/// The port that clients connect to.
pub const CLIENT_PORT: u16 = 2379;
/// The port that members reach each other at.
pub const PEER_PORT: u16 = 2380;
/// The largest cluster: what etcd's own documentation recommends as the limit.
pub const MAX_MEMBERS: usize = 7;

/// How long a member may take until it answers. An engine that starts its first container may need seconds.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long a member that was asked to stop may take, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How many lines of a member's log an error shows.
const TAIL_LINES: usize = 12;

/// What a member is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A container where an engine on this machine answers, else a process.
    #[default]
    Auto,
    /// The machine's own `etcd`, as a child process.
    Process,
    /// A container.
    Container,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "process" => Ok(Self::Process),
            "container" => Ok(Self::Container),
            _ => Err(format!("`{word}` is none of auto, process, container")),
        }
    }
}

/// A member to be started.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    /// Its name in the cluster: letters, digits and dashes.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Its node: where `eth0` has that address.
    pub namespace: Namespace,
}

/// Why etcd did not do what the lab asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No member, or too many.
    #[error("an etcd cluster has 1 to {MAX_MEMBERS} members, not {0}")]
    Size(usize),
    /// A name that is no member's.
    #[error("there is no etcd member `{0}`")]
    NoMember(String),
    /// A member did not answer in time, or ended before it did.
    #[error("etcd member `{name}` is not ready: {why}\nits log ends:\n{log}\n{hint}")]
    NotReady {
        /// The member.
        name: String,
        /// What was seen of it.
        why: String,
        /// The end of its log.
        log: String,
        /// What to try.
        hint: &'static str,
    },
    /// The program is not installed.
    #[error(
        "there is no `etcd` program in PATH: install it (Debian: `apt install etcd-server`), or use a container \
         and name its image in {}",
        image::VARIABLE
    )]
    NoProgram,
    /// No engine for containers.
    #[error(
        "no container engine to run etcd in: {0}\nstart Docker, join its group, or ask for etcd as a process"
    )]
    NoEngine(String),
    /// The engine refused or failed.
    #[error("{what}: {source}")]
    Engine {
        /// What was being done.
        what: String,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A namespace could not be used.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// `eth0` could not be moved to or from a container.
    #[error("moving eth0 of etcd member `{name}` {step}: {source}")]
    Attach {
        /// The member.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client library failed.
    #[error("asking etcd at {endpoints}: {source}")]
    Client {
        /// Where.
        endpoints: String,
        /// What it said.
        source: Box<etcd_client::Error>,
    },
    /// What removes containers after us could not be started.
    #[error(transparent)]
    Reaper(#[from] reaper::Error),
    /// Something is left of a cluster that was ended.
    #[error("{}", .causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    NotEnded {
        /// What went wrong, each a line or more.
        causes: Vec<Error>,
    },
}

/// Names what was being done when the system refused.
fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    |source| Error::System { what, source }
}

/// A running etcd cluster. Dropped, its members are killed; [`Cluster::shutdown`] says what went wrong with
/// that.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    kind: Kind,
    reason: String,
}

/// A member of a cluster, running or not.
#[derive(Debug)]
pub struct Member {
    name: String,
    address: Ipv4Addr,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Process(Box<Process>),
    Container(Box<Container>),
}

impl Cluster {
    /// Starts a new, empty cluster and waits until each member answers a linearizable read.
    ///
    /// `dir` holds the logs of processes, and a file system in memory with their data: call this within a
    /// [`Sandbox`](crate::sandbox::Sandbox). Containers keep both with the engine, and in a directory of their own
    /// below the machine's temporary directory, which the engine can see.
    ///
    /// # Errors
    /// When there is nothing to run etcd with, or a member is not ready within 20 s.
    pub async fn start(kind: Kind, members: Vec<MemberSpec>, dir: &Path) -> Result<Self, Error> {
        if members.is_empty() || members.len() > MAX_MEMBERS {
            return Err(Error::Size(members.len()));
        }
        let (engine, reason) = choose(kind).await?;
        tracing::info!(kind = if engine.is_some() { "container" } else { "process" }, %reason, "starting etcd");

        let (kind, bodies) = match engine {
            Some(engine) => (Kind::Container, container::prepare(engine, &members).await?),
            None => (Kind::Process, process::prepare(&members, dir)?),
        };
        let members = members.into_iter().zip(bodies);
        let members = members.map(|(spec, body)| Member { name: spec.name, address: spec.address, body });
        let mut cluster = Self { members: members.collect(), kind, reason };
        // A new member asks the others, one after the other, whether it was here before, and gives each 1 s (etcd 3.4
        // `etcdserver/cluster_util.go`). One that is not there refuses at once, one that serves answers at once; those
        // that start together keep each other waiting.
        for member in &mut cluster.members {
            member.launch().await?;
            member.serves_peers(READY_WITHIN).await?;
        }
        cluster.ready(READY_WITHIN).await?;
        Ok(cluster)
    }

    /// What the members are made of: never [`Kind::Auto`].
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why they are of that kind.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Where clients connect to, in the order of the members.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// The members, in the order they were given.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The members that were started and not stopped since.
    pub(crate) fn running(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut().filter(|member| member.is_running())
    }

    /// The member of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn member(&mut self, name: &str) -> Result<&mut Member, Error> {
        let member = self.members.iter_mut().find(|member| member.name == name);
        member.ok_or_else(|| Error::NoMember(name.to_owned()))
    }

    /// The last lines of a member's log.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn logs(&self, name: &str) -> Result<String, Error> {
        let member = self.members.iter().find(|member| member.name == name);
        Ok(member.ok_or_else(|| Error::NoMember(name.to_owned()))?.log().await)
    }

    /// Waits until every running member answers a linearizable read: there is a leader and it is known to all.
    ///
    /// # Errors
    /// When a member ends, or does not answer within `within`.
    pub async fn ready(&mut self, within: Duration) -> Result<(), Error> {
        let running = self.running();
        futures_util::future::try_join_all(running.map(|member| member.ready(within))).await?;
        Ok(())
    }

    /// Ends all members and removes what they left.
    ///
    /// # Errors
    /// When a member does not end, or a container or its directory cannot be removed: the rest is all the same. The
    /// [`reaper`] tries again when this process ends.
    pub async fn shutdown(self) -> Result<(), Error> {
        let mut causes = Vec::new();
        let charged = self.members.iter().find_map(|member| match &member.body {
            Body::Process(_) => None,
            Body::Container(container) => Some(container.charges()),
        });
        for member in self.members {
            let ended = match member.body {
                Body::Process(mut process) => process.kill().await,
                Body::Container(container) => container.remove().await,
            };
            causes.extend(ended.err());
        }
        if let Some((reaper, name)) = charged {
            causes.extend(reaper.not_removed(&name).into_iter().map(Error::from));
        }
        if causes.is_empty() { Ok(()) } else { Err(Error::NotEnded { causes }) }
    }
}

impl Member {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> SocketAddr {
        (self.address, CLIENT_PORT).into()
    }

    /// The namespace that `eth0` is in. It changes when a container that has been given `eth0` starts anew.
    pub fn namespace(&self) -> &Namespace {
        match &self.body {
            Body::Process(process) => process.namespace(),
            Body::Container(container) => container.namespace(),
        }
    }

    /// Starts it again, on the data it had, and waits until it answers a linearizable read.
    ///
    /// # Errors
    /// When it cannot be started or is not ready within 20 s. Where too few others run for a quorum it never
    /// is: use [`Member::launch`] then.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.launch().await?;
        self.ready(READY_WITHIN).await
    }

    /// Starts it and does not wait. Does nothing to a running member.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn launch(&mut self) -> Result<(), Error> {
        match &mut self.body {
            Body::Process(process) => process.launch(),
            // Boxed: everything that may start a member would be as large, each step of a case among it.
            Body::Container(container) => Box::pin(container.launch()).await,
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has; kills it after 5 s. Its data is kept.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match &mut self.body {
            Body::Process(process) => process.stop().await,
            Body::Container(container) => container.stop().await,
        }
    }

    /// Kills it (SIGKILL) and waits until it is gone. Its data is kept as far as it was written.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn kill(&mut self) -> Result<(), Error> {
        match &mut self.body {
            Body::Process(process) => process.kill().await,
            Body::Container(container) => container.kill().await,
        }
    }

    /// Suspends it: it keeps its connections and answers nothing. Resume it before it is to be stopped.
    ///
    /// # Errors
    /// When it cannot be suspended: a container, where the engine has no freezer control group.
    pub async fn pause(&self) -> Result<(), Error> {
        match &self.body {
            Body::Process(process) => process.signal(Signal::SIGSTOP, "suspending etcd"),
            Body::Container(container) => container.pause().await,
        }
    }

    /// Ends a suspension.
    ///
    /// # Errors
    /// When it cannot be resumed.
    pub async fn resume(&self) -> Result<(), Error> {
        match &self.body {
            Body::Process(process) => process.signal(Signal::SIGCONT, "resuming etcd"),
            Body::Container(container) => container.resume().await,
        }
    }

    /// Keeps a copy of its data, for which it must not run.
    ///
    /// # Errors
    /// When they cannot be read, or there is no room.
    pub async fn save(&self) -> Result<(), Error> {
        self.with_data(backup::save).await
    }

    /// Has it start again on what was saved.
    ///
    /// # Errors
    /// When nothing was.
    pub async fn restore(&self) -> Result<(), Error> {
        self.with_data(backup::restore).await
    }

    async fn with_data(&self, work: fn(&Path) -> Result<(), Error>) -> Result<(), Error> {
        let data = match &self.body {
            Body::Process(process) => process.data(),
            Body::Container(container) => container.data(),
        };
        let done = tokio::task::spawn_blocking(move || work(&data)).await;
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Whether it was started and not stopped since.
    pub fn is_running(&self) -> bool {
        match &self.body {
            Body::Process(process) => process.is_running(),
            Body::Container(container) => container.is_running(),
        }
    }

    /// Waits until it answers a linearizable read.
    ///
    /// # Errors
    /// When it ends, or does not answer within `within`.
    pub async fn ready(&mut self, within: Duration) -> Result<(), Error> {
        let started = Instant::now();
        let endpoint = self.endpoint();
        Box::pin(self.wait(answers(self.namespace().clone(), endpoint), endpoint, within)).await?;
        tracing::debug!(member = %self.name, elapsed = ?started.elapsed(), "etcd answers");
        Ok(())
    }

    /// Waits until it answers its peers, which it does before there is a leader.
    async fn serves_peers(&mut self, within: Duration) -> Result<(), Error> {
        let endpoint = SocketAddr::from((self.address, PEER_PORT));
        self.wait(answers_http(self.namespace().clone(), endpoint), endpoint, within).await
    }

    /// Waits for `answer`, which is to come from `endpoint`, for as long as it runs.
    async fn wait(
        &mut self,
        answer: impl Future<Output = Result<(), Error>>,
        endpoint: SocketAddr,
        within: Duration,
    ) -> Result<(), Error> {
        let why = tokio::select! {
            answer = tokio::time::timeout(within, answer) => match answer {
                Ok(answer) => return answer,
                Err(_) => format!("no answer at {endpoint} within {within:?}"),
            },
            status = self.ended() => format!("it ended: {status}"),
        };
        let log = self.log().await;
        Err(Error::NotReady { name: self.name.clone(), why, hint: hint(&log), log })
    }

    /// Resolves when it ends of its own accord, to what is known about that.
    pub(crate) async fn ended(&mut self) -> String {
        match &mut self.body {
            Body::Process(process) => process.ended().await,
            Body::Container(container) => container.ended().await,
        }
    }

    async fn log(&self) -> String {
        let log = match &self.body {
            Body::Process(process) => process.log(),
            Body::Container(container) => container.log().await,
        };
        tail(&log, TAIL_LINES).to_owned()
    }
}

impl Kind {
    /// What clusters of this kind will be made of on this machine, and why: never [`Kind::Auto`].
    ///
    /// # Errors
    /// When containers are asked for and no engine answers, or there is no program to run as a process.
    pub async fn settle(self) -> Result<(Self, String), Error> {
        match choose(self).await? {
            (Some(_), reason) => Ok((Self::Container, reason)),
            (None, _) if program().is_none() => Err(Error::NoProgram),
            (None, reason) => Ok((Self::Process, reason)),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "whatever is there",
            Self::Process => "a process",
            Self::Container => "a container",
        })
    }
}

/// Picks what to run etcd with, and says why.
async fn choose(kind: Kind) -> Result<(Option<Engine>, String), Error> {
    let (engine, asked) = match kind {
        Kind::Process => return Ok((None, "asked for".to_owned())),
        Kind::Container => (Engine::find().await.map_err(Error::NoEngine)?, "asked for"),
        Kind::Auto => match Engine::find().await {
            Ok(engine) => (engine, "an engine answers"),
            Err(why) => return Ok((None, why)),
        },
    };
    let reason = format!("{asked}: {}", engine.version());
    Ok((Some(engine), reason))
}

/// The last `lines` lines of `text`.
fn tail(text: &str, lines: usize) -> &str {
    let text = text.trim_end();
    let start = text.rmatch_indices('\n').nth(lines - 1).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

/// What to try, by what etcd says before it gives up.
fn hint(log: &str) -> &'static str {
    if log.contains("address already in use") {
        "another program in this namespace has the port: end it"
    } else if log.contains("cannot assign requested address") {
        "give the member its address before starting it"
    } else if log.contains("no space left") {
        "the data directory's file system is full: make room or use another"
    } else if log.contains("permission denied") {
        "the data directory must be writable by the user who runs etcd"
    } else if log.contains("ignored for")
        || log.contains("dial tcp")
        || log.contains("lost the TCP streaming")
    {
        "the members do not reach each other: check their links and that more than half of them run"
    } else {
        "`etcd --version` tells whether it starts at all; 3.2 or later is needed"
    }
}

/// Where the machine's own etcd is.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_hint_follows_from_what_etcd_said() {
        assert!(hint("listen tcp 10.0.0.1:2379: bind: address already in use").contains("port"));
        assert!(hint("").contains("etcd --version"));
    }
}

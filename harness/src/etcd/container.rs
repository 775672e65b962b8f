//! A member as a container without a network of its own.
//!
//! Root moves the member's `eth0` into the container's namespace. Without root that namespace belongs to
//! another user namespace and may not be touched, so there etcd listens on Unix sockets in a directory that we
//! share with it, and all TCP is ours, in the member's namespace: clients' connections go to etcd's socket;
//! what etcd dials, a socket in its own directory under a peer's name, goes to the peer's address over the
//! underlay, and there to the peer's socket.

use std::fs;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use nix::unistd::{getegid, geteuid};
use testcontainers::bollard::errors::Error as Refusal;
use testcontainers::bollard::query_parameters::{KillContainerOptionsBuilder, WaitContainerOptions};
use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use super::attach::move_eth0;
use super::engine::{Engine, refused};
use super::forward::{Forward, remove_if_there};
use super::image::Image;
use super::options::{Listen, client_socket, peer_socket};
use super::{Body, CLIENT_PORT, Error, MemberSpec, Options, PEER_PORT, STOP_WITHIN, system};
use crate::netns::Namespace;
use crate::reaper::{Charge, Directory, Reaper};

/// Where a member's directory is in its container: its working directory, with its data and sockets.
const INSIDE: &str = "/member";
/// What its data are called there.
const DATA: &str = "data";

/// A member in a container, created with its first launch.
#[derive(Debug)]
pub(super) struct Container {
    spec: MemberSpec,
    peers: Vec<(String, SocketAddr)>,
    engine: Engine,
    image: Image,
    environment: Vec<(&'static str, String)>,
    directory: PathBuf,
    shared: Arc<Shared>,
    joint: Joint,
    created: Option<Created>,
    running: bool,
}

/// How the container is joined to the lab.
#[derive(Debug)]
enum Joint {
    /// `eth0` is in this namespace.
    Moved(Namespace),
    /// By these forwards, while it runs.
    Forwarded(Vec<Forward>),
}

/// A container that the engine has.
#[derive(Debug)]
struct Created {
    /// Never dropped, because that wants a runtime to be there: removed, or left to the reaper.
    container: ManuallyDrop<ContainerAsync<GenericImage>>,
    charge: Option<Charge>,
    name: String,
}

/// The directory below which the members of a cluster have theirs, on a file system that the engine sees.
#[derive(Debug)]
struct Shared {
    directory: Directory,
    reaper: &'static Reaper,
}

impl Shared {
    fn create() -> Result<Self, Error> {
        let reaper = Reaper::get()?;
        Ok(Self { directory: reaper.directory()?, reaper })
    }

    /// Its own name, which those of all containers begin with: unique on this machine.
    fn name(&self) -> String {
        self.directory.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The name of the container of that member.
    fn container_name(&self, member: &str) -> String {
        format!("{}-{member}", self.name())
    }
}

/// Makes the members ready to be launched.
pub(super) async fn prepare(engine: Engine, members: &[MemberSpec]) -> Result<Vec<Body>, Error> {
    let shared = Arc::new(Shared::create()?);
    let image = Image::obtain(&engine).await?;
    let listen = if is_machine_root() { Listen::Tcp } else { Listen::Unix };

    let prepare = |spec: &MemberSpec| {
        let directory = shared.directory.path().join(&spec.name);
        fs::create_dir(&directory).map_err(system(format!("creating {}", directory.display())))?;
        let options = Options {
            name: &spec.name,
            address: spec.address,
            members,
            data: &format!("{INSIDE}/{DATA}"),
            listen,
        };
        let others = members.iter().filter(|other| other.name != spec.name);
        Ok(Body::Container(Box::new(Container {
            peers: others.map(|peer| (peer.name.clone(), (peer.address, PEER_PORT).into())).collect(),
            engine: engine.clone(),
            image: image.clone(),
            environment: options.environment(),
            directory,
            shared: shared.clone(),
            joint: match listen {
                Listen::Tcp => Joint::Moved(spec.namespace.clone()),
                Listen::Unix => Joint::Forwarded(Vec::new()),
            },
            created: None,
            running: false,
            spec: spec.clone(),
        })))
    };
    members.iter().map(prepare).collect()
}

impl Container {
    pub(super) fn namespace(&self) -> &Namespace {
        match &self.joint {
            Joint::Moved(namespace) => namespace,
            Joint::Forwarded(_) => &self.spec.namespace,
        }
    }

    /// Where its data are, outside of the container.
    pub(super) fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) async fn launch(&mut self) -> Result<(), Error> {
        if self.is_alive().await? {
            return Ok(());
        }
        self.has_ended().await;
        if let Joint::Forwarded(forwards) = &mut self.joint {
            *forwards = forward(&self.spec, &self.peers, &self.directory)?;
        }
        let created = match &self.created {
            Some(created) => {
                created.container.start().await.map_err(refused(format!("starting {}", created.name)))?;
                created
            }
            None => self.created.insert(self.create().await?),
        };
        self.running = true;
        if let Joint::Moved(namespace) = &mut self.joint {
            // The namespace of the container's last life, if this is not its first, is alive by our handle to
            // it.
            let new = created.namespace(&self.engine, &self.spec.name).await?;
            move_eth0(&self.spec.name, namespace, &new).await?;
            *namespace = new;
        }
        Ok(())
    }

    /// Whether it was started and has not ended since, of its own accord included.
    async fn is_alive(&self) -> Result<bool, Error> {
        match &self.created {
            Some(created) if self.running => {
                created.container.is_running().await.map_err(refused(format!("inspecting {}", created.name)))
            }
            _ => Ok(false),
        }
    }

    async fn create(&self) -> Result<Created, Error> {
        let reaper = self.shared.reaper;
        let name = self.shared.container_name(&self.spec.name);
        let charge = Some(reaper.container(&name)?);
        let user = format!("{}:{}", outer_id("uid", geteuid().as_raw()), outer_id("gid", getegid().as_raw()));
        let mut request = GenericImage::new(self.image.name.clone(), self.image.tag.clone())
            .with_entrypoint("etcd")
            .with_container_name(&name)
            .with_label("harness.owner", reaper.owner())
            .with_network("none")
            .with_user(user)
            .with_working_dir(INSIDE)
            .with_mount(Mount::bind_mount(self.directory.to_string_lossy(), INSIDE))
            .with_readonly_rootfs(true);
        for (key, value) in &self.environment {
            request = request.with_env_var(*key, value);
        }
        let container = request.start().await.map_err(refused(format!("starting the container {name}")))?;
        Ok(Created { container: ManuallyDrop::new(container), charge, name })
    }

    pub(super) async fn stop(&mut self) -> Result<(), Error> {
        if let Some(created) = self.created.as_ref().filter(|_| self.running) {
            let seconds = i32::try_from(STOP_WITHIN.as_secs()).ok();
            let stopped = created.container.stop_with_timeout(seconds).await;
            stopped.map_err(refused(format!("stopping {}", created.name)))?;
        }
        self.has_ended().await;
        Ok(())
    }

    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        if let Some(created) = self.created.as_ref().filter(|_| self.running) {
            let docker = self.engine.docker();
            let signal = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
            match docker.kill_container(created.container.id(), Some(signal)).await {
                // It has ended already.
                Ok(()) | Err(Refusal::DockerResponseServerError { status_code: 409, .. }) => {}
                Err(error) => return Err(refused(format!("killing {}", created.name))(error)),
            }
            self.ended().await;
        }
        self.has_ended().await;
        Ok(())
    }

    /// Refuses connections from now on, as a machine does whose etcd has ended.
    async fn has_ended(&mut self) {
        self.running = false;
        if let Joint::Forwarded(forwards) = &mut self.joint {
            for forward in forwards.drain(..) {
                forward.close().await;
            }
        }
    }

    pub(super) async fn pause(&self) -> Result<(), Error> {
        match &self.created {
            Some(created) => {
                created.container.pause().await.map_err(refused(format!("pausing {}", created.name)))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn resume(&self) -> Result<(), Error> {
        match &self.created {
            Some(created) => {
                created.container.unpause().await.map_err(refused(format!("resuming {}", created.name)))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn ended(&self) -> String {
        let Some(created) = &self.created else { return "it was never started".to_owned() };
        let mut ends =
            self.engine.docker().wait_container(created.container.id(), None::<WaitContainerOptions>);
        match ends.next().await {
            Some(Ok(end)) => format!("exit status: {}", end.status_code),
            Some(Err(Refusal::DockerContainerWaitError { code, .. })) => format!("exit status: {code}"),
            Some(Err(error)) => error.to_string(),
            None => "the engine does not say how".to_owned(),
        }
    }

    pub(super) async fn log(&self) -> String {
        match &self.created {
            Some(created) => match created.container.stderr_to_vec().await {
                Ok(log) => String::from_utf8_lossy(&log).into_owned(),
                Err(error) => error.to_string(),
            },
            None => String::new(),
        }
    }

    /// Who has charge of all containers and directories of its cluster, and what their names begin with.
    pub(super) fn charges(&self) -> (&'static Reaper, String) {
        (self.shared.reaper, self.shared.name())
    }

    pub(super) async fn remove(mut self) -> Result<(), Error> {
        self.has_ended().await;
        match self.created.take() {
            Some(created) => created.remove().await,
            None => Ok(()),
        }
    }
}

impl Created {
    /// The namespace of the container that runs.
    async fn namespace(&self, engine: &Engine, member: &str) -> Result<Namespace, Error> {
        let inspected = engine.docker().inspect_container(self.container.id(), None).await;
        let inspected = inspected.map_err(refused(format!("inspecting {}", self.name)))?;
        let pid = inspected.state.and_then(|state| state.pid).unwrap_or_default();
        Ok(Namespace::open(member, &PathBuf::from(format!("/proc/{pid}/ns/net")))?)
    }

    async fn remove(mut self) -> Result<(), Error> {
        let container = ManuallyDrop::into_inner(self.container);
        container.rm().await.map_err(refused(format!("removing {}", self.name)))?;
        if let Some(charge) = self.charge.take() {
            charge.settled();
        }
        Ok(())
    }
}

/// The forwards of one member: clients and peers to it, it to its peers.
fn forward(
    spec: &MemberSpec,
    peers: &[(String, SocketAddr)],
    directory: &Path,
) -> Result<Vec<Forward>, Error> {
    let forwarding = |what: &str| system(format!("forwarding {what} of etcd member `{}`", spec.name));
    let inbound = [(CLIENT_PORT, client_socket(&spec.name)), (PEER_PORT, peer_socket(&spec.name))];
    let inbound = inbound.into_iter().map(|(port, socket)| {
        let to = directory.join(socket);
        // etcd removes its sockets when it ends, but not when it is killed, and will not listen on one that is
        // there.
        remove_if_there(&to).map_err(forwarding(&format!("socket {}", to.display())))?;
        Forward::tcp_to_unix(&spec.namespace, port, to).map_err(forwarding(&format!("TCP port {port}")))
    });
    let outbound = peers.iter().map(|(name, address)| {
        let at = directory.join(peer_socket(name));
        Forward::unix_to_tcp(&at, spec.namespace.clone(), *address)
            .map_err(forwarding(&format!("peer {name}")))
    });
    inbound.chain(outbound).collect()
}

/// Whether we are root of the machine, and not of a user namespace below it.
fn is_machine_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    whole && geteuid().is_root()
}

/// What `id` of our user namespace is to the engine, outside it.
fn outer_id(which: &str, id: u32) -> u32 {
    let map = fs::read_to_string(format!("/proc/self/{which}_map")).unwrap_or_default();
    map_id(&map, id).unwrap_or(id)
}

/// Looks `id` up in a `uid_map` or `gid_map`: lines of first ID inside, first ID outside, count
/// (`user_namespaces(7)`).
fn map_id(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
        let (inside, outside, count) = (fields.next()??, fields.next()??, fields.next()??);
        let offset = id.checked_sub(inside)?;
        (offset < count).then(|| outside.checked_add(offset))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_mapped_by_the_line_that_covers_it() {
        let map = "         0       1001          1\n         1     100000      65536\n";
        assert_eq!(map_id(map, 0), Some(1001));
        assert_eq!(map_id(map, 5), Some(100_004));
        assert_eq!(map_id(map, 70_000), None);
        assert_eq!(map_id("0 0 4294967295", 1001), Some(1001));
    }
}

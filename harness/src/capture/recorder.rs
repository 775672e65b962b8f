//! All packet sockets of a lab, and what they recorded.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::frame::{Cast, Direction, Frame, Link, Point, Role};
use super::run;
use super::socket::{Capture, PacketSocket};
use crate::lock::lock;
use crate::netns::{self, Namespace};
use crate::packet::{Ipv4, Packet};

/// Records every packet at every interface of interest, until dropped.
///
/// A background task a host keeps the kernel's buffers empty; whoever asks for frames empties them first, so that
/// what the kernel has delivered by then is in the answer.
#[derive(Debug)]
pub struct Recorder {
    taps: Vec<Tap>,
    recording: Arc<Mutex<Recording>>,
}

#[derive(Debug)]
struct Tap {
    socket: Arc<AsyncFd<PacketSocket>>,
    host: Arc<Host>,
    drainer: JoinHandle<()>,
}

/// What is known of the host behind a packet socket.
#[derive(Debug)]
struct Host {
    name: String,
    /// What its interfaces are, by name. One that is not here and has no link header is the overlay's.
    roles: HashMap<String, Role>,
    /// What was found out, by index: none for an interface of no interest.
    points: Mutex<HashMap<u32, Option<Arc<Point>>>>,
}

/// The frames so far, in the order in which they were taken from the sockets.
#[derive(Debug)]
struct Recording {
    /// The tunnel's UDP port.
    port: u16,
    frames: Vec<Frame>,
    tallies: HashMap<(Arc<Point>, Direction), Tally>,
    lost: u64,
}

/// How many packets passed an interface in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub frames: u64,
    /// Tunnel datagrams among them, each counted once however many fragments it has.
    pub datagrams: u64,
    /// Packets that came in one with the packet before them, as a run that a segmenting sender made: the kernel counts
    /// such a run once where it has nobody to give it to.
    pub joined: u64,
}

/// A moment of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(usize);

/// Why a host is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// No packet socket there.
    #[error("opening a packet socket in `{host}`: {source}")]
    Socket {
        /// The host.
        host: String,
        /// The cause.
        source: io::Error,
    },
}

impl Recorder {
    /// A recorder of nothing yet, for an overlay whose tunnel uses UDP port `port`.
    pub fn new(port: u16) -> Self {
        let recording = Recording { port, frames: Vec::new(), tallies: HashMap::new(), lost: 0 };
        Self { taps: Vec::new(), recording: Arc::new(Mutex::new(recording)) }
    }

    /// Starts recording in several namespaces: at the interfaces named in their roles, and at every device of the
    /// overlay there, whenever it appears.
    ///
    /// The sockets are opened side by side: for each the kernel waits until all its processors have taken note.
    ///
    /// # Errors
    /// When no packet socket can be opened in one of them.
    pub fn add(&mut self, hosts: &[(&Namespace, Vec<(&str, Role)>)]) -> Result<(), Error> {
        let open = |namespace: &Namespace| namespace.run(PacketSocket::open);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let opening: Vec<_> =
                hosts.iter().map(|(namespace, _)| scope.spawn(|| open(namespace))).collect();
            let joined = opening.into_iter().map(|thread| thread.join());
            joined.map(|opened| opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for ((namespace, roles), opened) in hosts.iter().zip(opened) {
            let error = |source| Error::Socket { host: namespace.name().to_owned(), source };
            let socket = opened?.map_err(error)?;
            // SAFETY: the socket owns its file descriptor and gives out the same one as long as it lives.
            let socket = unsafe { AsyncFd::register(socket) }.map_err(|cause| error(cause.into()))?;
            let host = Host {
                name: namespace.name().to_owned(),
                roles: roles.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect(),
                points: Mutex::default(),
            };
            let (socket, host) = (Arc::new(socket), Arc::new(host));
            let drainer = tokio::spawn(keep_empty(socket.clone(), host.clone(), self.recording.clone()));
            self.taps.push(Tap { socket, host, drainer });
        }
        Ok(())
    }

    /// Takes note of a device of the overlay, so that its frames are known even if they are looked at when it is gone.
    pub fn learn(&self, host: &str, device: &str) {
        for tap in self.taps.iter().filter(|tap| tap.host.name == host) {
            if let Some(index) = tap.socket.get_ref().interface_index(device) {
                let point = Point { host: host.to_owned(), interface: device.to_owned(), role: Role::Tunnel };
                lock(&tap.host.points).insert(index, Some(Arc::new(point)));
            }
        }
    }

    /// Whether floods are recorded from now on ([`FLOOD_PORTS`](super::FLOOD_PORTS)), as they are at first.
    ///
    /// # Errors
    /// When a packet socket takes no filter.
    pub fn record_floods(&self, record: bool) -> Result<(), Error> {
        let port = lock(&self.recording).port;
        for tap in &self.taps {
            let error = |source| Error::Socket { host: tap.host.name.clone(), source };
            tap.socket.get_ref().record_floods(record, port).map_err(error)?;
        }
        Ok(())
    }

    /// Ends the recording, with all sockets closed side by side: for each the kernel waits as it did at the start.
    pub async fn end(&mut self) {
        let taps = std::mem::take(&mut self.taps);
        let mut sockets = Vec::new();
        for mut tap in taps {
            tap.drainer.abort();
            // The task holds the socket until it has noticed.
            let _ = (&mut tap.drainer).await;
            sockets.push(tap.socket.clone());
        }
        std::thread::scope(|scope| {
            for socket in sockets {
                scope.spawn(|| drop(socket));
            }
        });
    }

    /// Now, as a position in the recording.
    pub fn position(&self) -> Position {
        self.drain();
        Position(lock(&self.recording).frames.len())
    }

    /// All frames since `position`.
    pub fn since(&self, position: Position) -> Vec<Frame> {
        self.drain();
        lock(&self.recording).frames.get(position.0..).unwrap_or_default().to_vec()
    }

    /// All frames so far.
    pub fn all(&self) -> Vec<Frame> {
        self.since(Position(0))
    }

    /// How many packets passed an interface in one direction so far.
    pub fn tally(&self, host: &str, interface: &str, direction: Direction) -> Tally {
        // Its own socket alone: in a lab of many hosts all of them are too many to look at for each.
        for tap in self.taps.iter().filter(|tap| tap.host.name == host) {
            drain(tap.socket.get_ref(), &tap.host, &self.recording);
        }
        let recording = lock(&self.recording);
        let mut tallies = recording.tallies.iter().filter(|((point, way), _)| {
            *way == direction && point.host == host && point.interface == interface
        });
        tallies.next().map_or_else(Tally::default, |(_, tally)| *tally)
    }

    /// How many packets the kernel could not give to the sockets because their buffers were full. If any, the
    /// recording proves nothing.
    pub fn lost(&self) -> u64 {
        let mut recording = lock(&self.recording);
        for tap in &self.taps {
            recording.lost += tap.socket.get_ref().drops().map_or(0, u64::from);
        }
        recording.lost
    }

    fn drain(&self) {
        for tap in &self.taps {
            drain(tap.socket.get_ref(), &tap.host, &self.recording);
        }
    }
}

impl Recording {
    fn push(&mut self, frame: Frame) {
        let tally = self.tallies.entry((frame.point.clone(), frame.direction)).or_default();
        tally.frames += 1;
        // The kernel gives nobody what is for another host.
        if frame.point.role == Role::Underlay
            && frame.cast != Cast::Other
            && Packet::parse(&frame, self.port).ipv4().is_some_and(Ipv4::is_tunnel_datagram)
        {
            tally.datagrams += 1;
        }
        self.frames.push(frame);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.drainer.abort();
    }
}

impl Host {
    /// The point that an interface is, if it is of interest.
    fn point(&self, socket: &PacketSocket, capture: &Capture) -> Option<Arc<Point>> {
        let mut points = lock(&self.points);
        let point = points.entry(capture.index).or_insert_with(|| {
            // Gone already, it was nothing that lasted.
            let interface = socket.interface_name(capture.index)?;
            let role = match self.roles.get(&interface) {
                Some(role) => *role,
                None if capture.link == Link::Ip => Role::Tunnel,
                None => return None,
            };
            Some(Arc::new(Point { host: self.name.clone(), interface, role }))
        });
        point.clone()
    }
}

/// Moves what waits in a socket to the recording.
fn drain(socket: &PacketSocket, host: &Host, recording: &Mutex<Recording>) {
    let mut recording = lock(recording);
    // An interface that goes down or away says so once with an error, and then is silent.
    loop {
        match socket.receive() {
            Ok(Some(capture)) => {
                let Some(point) = host.point(socket, &capture) else { continue };
                let Capture { direction, cast, at, link, octets, wire_len, checksum_pending, .. } = capture;
                let segment = capture.segment;
                // Recorded whole, and counted as what the overlay's daemon counts.
                let more = capture.tcp_segment.map_or(0, |size| run::segments(&octets, link, size) - 1);
                if more > 0 {
                    recording.tallies.entry((point.clone(), direction)).or_default().frames += more;
                }
                let frame = |octets, wire_len, at| Frame {
                    point: point.clone(),
                    direction,
                    cast,
                    at,
                    link,
                    octets,
                    wire_len,
                    checksum_pending,
                };
                let Some(datagrams) = segment.and_then(|segment| run::cut(&octets, link, segment)) else {
                    recording.push(frame(octets, wire_len, at));
                    continue;
                };
                let joined = u64::try_from(datagrams.len()).unwrap_or(0).saturating_sub(1);
                recording.tallies.entry((point.clone(), direction)).or_default().joined += joined;
                for (octets, place) in datagrams.into_iter().zip(0..) {
                    // They passed at once, and have an order all the same.
                    let at = at.saturating_add(Duration::from_nanos(place));
                    let wire_len = u32::try_from(octets.len()).unwrap_or(u32::MAX);
                    recording.push(frame(octets, wire_len, at));
                }
            }
            Ok(None) => break,
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                tracing::debug!(host = host.name, %error, "packet socket");
                break;
            }
        }
    }
}

async fn keep_empty(socket: Arc<AsyncFd<PacketSocket>>, host: Arc<Host>, recording: Arc<Mutex<Recording>>) {
    while let Ok(mut ready) = socket.readable().await {
        drain(socket.get_ref(), &host, &recording);
        ready.clear_ready();
    }
}

//! All packet sockets of a lab, and what they recorded.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::frame::{Direction, Frame, Link, Point, Role};
use super::socket::PacketSocket;
use crate::netns::{self, Namespace};
use crate::packet::{Ipv4, Packet};

/// Records every packet at every interface it was given, until dropped.
///
/// A background task a socket keeps the kernel's buffers empty; whoever asks for frames empties them first, so that
/// what the kernel has delivered by then is in the answer.
#[derive(Debug)]
pub struct Recorder {
    taps: Vec<Tap>,
    recording: Arc<Mutex<Recording>>,
}

#[derive(Debug)]
struct Tap {
    socket: Arc<AsyncFd<PacketSocket>>,
    drainer: JoinHandle<()>,
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
}

/// A moment of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(usize);

/// Why an interface is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// No packet socket there.
    #[error("opening a packet socket on {host} {interface}: {source}")]
    Socket {
        /// The interface's host.
        host: String,
        /// The interface.
        interface: String,
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

    /// Starts recording at `point`, the interface with `index` in `namespace`.
    ///
    /// # Errors
    /// When no packet socket can be opened there.
    pub fn add(&mut self, namespace: &Namespace, point: Point, index: u32, link: Link) -> Result<(), Error> {
        let (host, interface) = (point.host.clone(), point.interface.clone());
        let error = |source| Error::Socket { host, interface, source };
        let point = Arc::new(point);
        let opened = namespace.run(|| {
            let socket = PacketSocket::open(point, index, link)?;
            // SAFETY: the socket owns its file descriptor and gives out the same one as long as it lives.
            unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
        })?;
        let socket = Arc::new(opened.map_err(error)?);
        let drainer = tokio::spawn(keep_empty(socket.clone(), self.recording.clone()));
        self.taps.push(Tap { socket, drainer });
        Ok(())
    }

    /// Stops recording at an interface. What it recorded stays.
    pub fn remove(&mut self, host: &str, interface: &str) {
        self.drain();
        self.taps.retain(|tap| {
            let point = tap.socket.get_ref().point();
            point.host != host || point.interface != interface
        });
    }

    /// The points recorded now.
    pub fn points(&self) -> impl Iterator<Item = &Arc<Point>> {
        self.taps.iter().map(|tap| tap.socket.get_ref().point())
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
        self.drain();
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
            recording.lost += tap.socket.get_ref().statistics().map_or(0, |counts| u64::from(counts.drops));
        }
        recording.lost
    }

    fn drain(&self) {
        for tap in &self.taps {
            drain(tap.socket.get_ref(), &self.recording);
        }
    }
}

impl Recording {
    fn push(&mut self, frame: Frame) {
        let tally = self.tallies.entry((frame.point.clone(), frame.direction)).or_default();
        tally.frames += 1;
        if frame.point.role == Role::Underlay
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

/// Moves what waits in a socket to the recording.
fn drain(socket: &PacketSocket, recording: &Mutex<Recording>) {
    let mut recording = lock(recording);
    // An interface that goes down or away says so once with an error, and then is silent.
    loop {
        match socket.receive() {
            Ok(Some(frame)) => recording.push(frame),
            Ok(None) => break,
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                tracing::debug!(point = ?socket.point(), %error, "packet socket");
                break;
            }
        }
    }
}

async fn keep_empty(socket: Arc<AsyncFd<PacketSocket>>, recording: Arc<Mutex<Recording>>) {
    while let Ok(mut ready) = socket.readable().await {
        drain(socket.get_ref(), &recording);
        ready.clear_ready();
    }
}

fn lock(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

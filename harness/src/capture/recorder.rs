//! All packet sockets of a lab, and what they recorded.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::frame::{Direction, Frame, Link, Point};
use super::socket::PacketSocket;
use crate::netns::{self, Namespace};

/// Records every packet at every interface it was given, until dropped.
///
/// A background task a socket keeps the kernel's buffers empty; [`Recorder::collect`] empties them at once, so that
/// what the kernel has delivered when it is called is in what it returns.
#[derive(Debug, Default)]
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
#[derive(Debug, Default)]
struct Recording {
    frames: Vec<Frame>,
    /// How many of them were handed out.
    collected: usize,
    lost: u64,
}

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

    /// All frames since the last call.
    pub fn collect(&self) -> Vec<Frame> {
        self.drain();
        let mut recording = lock(&self.recording);
        let frames = recording.frames[recording.collected..].to_vec();
        recording.collected = recording.frames.len();
        frames
    }

    /// All frames of the case, collected or not.
    pub fn all(&self) -> Vec<Frame> {
        self.drain();
        lock(&self.recording).frames.clone()
    }

    /// How many frames passed `host`'s `interface` in one direction, of those that `count` accepts.
    pub fn count(
        &self,
        host: &str,
        interface: &str,
        direction: Direction,
        mut count: impl FnMut(&Frame) -> bool,
    ) -> u64 {
        self.drain();
        let recording = lock(&self.recording);
        let matching = recording.frames.iter().filter(|frame| {
            frame.direction == direction
                && frame.point.host == host
                && frame.point.interface == interface
                && count(frame)
        });
        matching.count() as u64
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
            Ok(Some(frame)) => recording.frames.push(frame),
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

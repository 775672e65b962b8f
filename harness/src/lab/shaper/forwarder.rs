//! The thread that carries frames from one end of a shaper to the other.
//!
//! A thread rather than a task: a case's event loop may be busy for milliseconds, and a delay is to be a matter of what
//! the case asks for.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::frame::{self, Parts};
use super::line::{Cause, Impairment, Line};
use super::port::Port;
use crate::capture::frame::{Cast, Direction, Frame, Link, Point};
use crate::lock::lock;

/// Frames that are taken from one end before the other has its turn.
const BURST: usize = 64;

/// The way to the host, whose port is the one that it sends by; the other way is from it.
const INWARD: usize = 0;

/// A frame that a shaper dropped.
#[derive(Debug, Clone)]
pub(crate) struct Drop {
    /// Why.
    pub(crate) cause: Cause,
    /// The frame. Its point is the interface that it was to arrive at, or has left.
    pub(crate) frame: Frame,
}

/// All that a lab's shapers have dropped, in order; frames of TCP left out, whose senders see to them.
pub(super) type Log = Arc<Mutex<Vec<Drop>>>;

/// A running forwarder. Dropped, it sends what it still holds and ends.
#[derive(Debug)]
pub(super) struct Forwarder {
    shared: Arc<Mutex<Shared>>,
    /// Closed, it wakes the thread for the last time.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// How far each of the two lines had come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark([u64; 2]);

#[derive(Debug)]
struct Shared {
    start: Instant,
    /// To the host, then from it.
    ways: [Way; 2],
    /// The host's port of the switch, then the bridge's.
    ports: [Port; 2],
    point: Arc<Point>,
    log: Log,
    /// Frames that the kernel lost before they could be taken, or that could not be read or sent.
    missed: u64,
}

#[derive(Debug)]
struct Way {
    line: Line<Vec<u8>>,
    causes: BTreeSet<Cause>,
}

impl Forwarder {
    /// Starts to carry frames between a host's port and the bridge's.
    ///
    /// # Errors
    /// When there is no pipe or thread to be had.
    pub(super) fn start(
        ports: [Port; 2],
        impairments: [Impairment; 2],
        point: Point,
        log: Log,
    ) -> io::Result<Self> {
        let seed = point.host.bytes().fold(0u64, |seed, octet| (seed << 5) ^ (seed >> 59) ^ u64::from(octet));
        let way = |impairment, seed| Way { line: Line::new(impairment, seed), causes: BTreeSet::new() };
        let [inward, outward] = impairments;
        let shared = Arc::new(Mutex::new(Shared {
            start: Instant::now(),
            ways: [way(inward, seed), way(outward, !seed)],
            ports,
            point: Arc::new(point),
            log,
            missed: 0,
        }));
        let (stopped, stop) = io::pipe()?;
        let thread = std::thread::Builder::new().name("shaper".to_owned()).spawn({
            let shared = shared.clone();
            move || carry(&shared, &stopped)
        })?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// How far it is now. What arrived before counts as taken in.
    pub(super) fn mark(&self) -> Mark {
        let mut shared = lock(&self.shared);
        shared.turn();
        Mark(shared.ways.each_ref().map(|way| way.line.next_number()))
    }

    /// Whether it holds no datagram any more that was taken in before `mark`.
    pub(super) fn has_passed(&self, mark: Mark) -> bool {
        let shared = lock(&self.shared);
        shared.ways.iter().zip(mark.0).all(|(way, number)| !way.line.holds_before(number))
    }

    /// Why it has dropped datagrams on their way to the host, and from it.
    pub(super) fn causes(&self) -> [BTreeSet<Cause>; 2] {
        lock(&self.shared).ways.each_ref().map(|way| way.causes.clone())
    }

    /// Frames that it lost, and not because the case asked for it: a loss that looks like the overlay's.
    pub(super) fn missed(&self) -> u64 {
        lock(&self.shared).missed()
    }

    /// Sends what it still holds, and ends. Tells what [`Forwarder::missed`] is then.
    pub(super) fn end(self) -> u64 {
        let shared = self.shared.clone();
        drop(self);
        lock(&shared).missed()
    }
}

impl std::ops::Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a shaper's thread has panicked");
        }
        let mut shared = lock(&self.shared);
        shared.turn();
        shared.flush();
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn missed(&mut self) -> u64 {
        self.missed += self.ports.iter().map(|port| u64::from(port.drops())).sum::<u64>();
        self.missed
    }

    /// Takes in what has arrived, a burst at most from each end, and sends what is due.
    fn turn(&mut self) {
        for way in [0, 1] {
            for _ in 0..BURST {
                match self.ports[1 - way].receive() {
                    Ok(Some(frame)) => {
                        frame::pieces(frame).into_iter().for_each(|frame| self.offer(way, frame))
                    }
                    Ok(None) => break,
                    // The interface went down: what it had is lost with it.
                    Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                    Err(error) => {
                        tracing::debug!(host = self.point.host, %error, "a frame for the shaper is lost");
                        self.missed += 1;
                        break;
                    }
                }
                self.release(way);
            }
            self.release(way);
        }
    }

    fn offer(&mut self, way: usize, frame: Vec<u8>) {
        let now = self.now();
        let parts = Parts::of(&frame);
        let (protocol, len) = (parts.protocol(), parts.octets.len());
        let Some((cause, frame)) = self.ways[way].line.offer(now, protocol, len, frame) else { return };
        if protocol.is_some_and(|protocol| i32::from(protocol) == libc::IPPROTO_TCP) {
            return;
        }
        self.ways[way].causes.insert(cause);
        let parts = Parts::of(&frame);
        let frame = Frame {
            point: self.point.clone(),
            direction: if way == INWARD { Direction::In } else { Direction::Out },
            cast: Cast::Host,
            at: crate::capture::frame::now(),
            link: Link::Ethernet,
            wire_len: u32::try_from(len).unwrap_or(u32::MAX),
            octets: parts.octets.to_vec(),
            checksum_pending: parts.checksum_pending,
        };
        lock(&self.log).push(Drop { cause, frame });
    }

    fn release(&mut self, way: usize) {
        let now = self.now();
        while let Some(frame) = self.ways[way].line.release(now) {
            self.send(way, &frame);
        }
    }

    /// Sends all that is held, due or not.
    fn flush(&mut self) {
        for way in [0, 1] {
            while let Some(frame) = self.ways[way].line.release(Duration::MAX) {
                self.send(way, &frame);
            }
        }
    }

    fn send(&mut self, way: usize, frame: &[u8]) {
        let Err(error) = self.ports[way].send(frame) else { return };
        // A link that is down loses it, as it would without a shaper. When its other end is set down, the error is for a
        // moment the one for no room.
        let is_down = matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV))
            || !self.ports[way].has_carrier();
        tracing::debug!(host = self.point.host, is_down, %error, "the shaper cannot send a frame");
        if !is_down {
            self.missed += 1;
        }
    }

    /// How long nothing is due.
    fn rests(&self) -> Option<Duration> {
        let due = self.ways.iter().filter_map(|way| way.line.next_due()).min()?;
        Some(due.saturating_sub(self.now()))
    }
}

/// Carries frames until `stopped` says that its writer is gone.
fn carry(shared: &Mutex<Shared>, stopped: &PipeReader) {
    // Duplicated once, so that nothing is locked while the thread sleeps.
    let readable = |shared: &Shared| shared.ports.each_ref().map(|port| port.as_fd().try_clone_to_owned());
    let [Ok(host), Ok(bridge)] = readable(&lock(shared)) else {
        return tracing::warn!("a shaper has no file descriptors to wait for");
    };
    loop {
        let rests = {
            let mut shared = lock(shared);
            shared.turn();
            shared.rests().map(TimeSpec::from_duration)
        };
        let wait = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut awaited = [wait(host.as_fd()), wait(bridge.as_fd()), wait(stopped.as_fd())];
        let woken = ppoll(&mut awaited, rests, None);
        let [_, _, stopped] = awaited;
        if stopped.any() == Some(true) || woken.is_err_and(|errno| errno != nix::errno::Errno::EINTR) {
            return;
        }
    }
}

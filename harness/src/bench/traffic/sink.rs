//! What of a load arrives: counted where an application reads it, at a socket of the receiving host.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::roomy;
use crate::bench::{Error, system};
use crate::netns::Namespace;

/// The port that loads go to.
pub(super) const PORT: u16 = 4001;
/// Datagrams read in one call.
const AT_ONCE: usize = 64;
/// The longest datagram.
const SIZE: usize = 2048;
/// How long the reader waits before it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// When nothing has arrived for so long, nothing more is under way.
const SETTLED_AFTER: Duration = Duration::from_millis(30);
/// The longest time that what is under way may take.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// The mark of a load, so that what is left of an earlier one is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run(pub(super) u32);

/// A thread that reads until it is dropped.
pub(crate) struct Sink {
    current: Arc<AtomicU32>,
    count: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Opens a socket in `namespace` and reads it from now on.
    pub(crate) fn start(namespace: &Namespace) -> Result<Self, Error> {
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.set_read_timeout(Some(LOOK_EVERY))?;
            roomy(&socket)?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(system("opening the sink of loads"))?;
        let (current, count) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
        let ends = Arc::new(AtomicBool::new(false));
        let (run, counted, over) = (current.clone(), count.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            let mut batch = Batch::new(AT_ONCE, SIZE);
            while !over.load(Ordering::Relaxed) {
                // A timeout is the time to look whether to end.
                let Ok(received) = batch.receive(&socket) else { continue };
                let mark = run.load(Ordering::Relaxed).to_be_bytes();
                let of_run = batch.datagrams(received).filter(|datagram| datagram.starts_with(&mark));
                counted.fetch_add(of_run.count() as u64, Ordering::Relaxed);
            }
        });
        Ok(Self { current, count, ends, thread: Some(thread) })
    }

    /// Begins to count anew: only what is marked as of the run that this returns.
    pub(crate) fn begin(&self) -> Run {
        let run = self.current.load(Ordering::Relaxed).wrapping_add(1);
        self.current.store(run, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        Run(run)
    }

    /// Datagrams of the run that were read so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until nothing more arrives. Returns how many datagrams of the run were read in all.
    pub(crate) fn settle(&self) -> u64 {
        let start = Instant::now();
        let (mut last, mut since) = (self.count(), start);
        while since.elapsed() < SETTLED_AFTER && start.elapsed() < SETTLED_WITHIN {
            std::thread::sleep(Duration::from_millis(2));
            let now = self.count();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! A sender of UDP datagrams at a given rate, or as fast as it can.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::precise_sleeps;
use super::sink::{PORT, Run};
use crate::bench::{Error, system};
use crate::netns::Namespace;
use crate::socket::set_option;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Octets of a datagram's payload, at least 4.
    pub(crate) size: usize,
    /// Datagrams a second, at least 1; none for as many as can be.
    pub(crate) rate: Option<f64>,
    /// Whether the kernel cuts them out of larger pieces (`UDP_SEGMENT`, udp(7)).
    pub(crate) segmented: bool,
}

/// The most datagrams a system call.
const MOST: usize = 32;
/// At least so many calls a second, if the rate allows: bursts stay short.
const CALLS: f64 = 10_000.0;

/// A thread that sends until it is dropped.
pub(crate) struct Blast {
    sent: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Blast {
    /// Starts to send to the sink at `to`, marked as of `run`.
    pub(crate) fn start(from: &Namespace, to: Ipv4Addr, load: Load, run: Run) -> Result<Self, Error> {
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(SocketAddrV4::new(to, PORT))?;
            Ok(socket)
        };
        let socket = from.run(open)?.map_err(system("opening the socket of a load"))?;
        if load.segmented {
            let size = libc::c_int::try_from(load.size).unwrap_or(libc::c_int::MAX);
            set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, size)
                .map_err(system("asking for UDP_SEGMENT"))?;
        }
        let (sent, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (sent.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            precise_sleeps();
            send(&socket, load, run, &count, &over);
        });
        Ok(Self { sent, ends, thread: Some(thread) })
    }

    /// Datagrams that the kernel took so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it. Returns how many were sent in all.
    pub(crate) fn end(mut self) -> u64 {
        self.join();
        self.sent()
    }

    fn join(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Blast {
    fn drop(&mut self) {
        self.join();
    }
}

fn send(socket: &UdpSocket, load: Load, run: Run, count: &AtomicU64, over: &AtomicBool) {
    let at_once = load.rate.map_or(MOST, |rate| ((rate / CALLS) as usize).clamp(1, MOST));
    let mut batch = Batch::new(at_once, load.size);
    batch.stamp(&run.0.to_be_bytes());
    let start = Instant::now();
    let mut sent = 0u64;
    while !over.load(Ordering::Relaxed) {
        if let Some(rate) = load.rate {
            let due = start + Duration::from_secs_f64(sent as f64 / rate.max(1.0));
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                std::thread::sleep(early);
            }
        }
        let taken = if load.segmented { batch.send_whole(socket) } else { batch.send(socket, at_once) };
        match taken {
            Ok(taken) => sent += taken as u64,
            // The sender's own queue is full: nothing was sent, and nothing is lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => {
                tracing::warn!(%error, "a load ends early");
                return;
            }
        }
        count.store(sent, Ordering::Relaxed);
    }
}

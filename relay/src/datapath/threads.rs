//! The threads of the data path: outbound and inbound, two for each queue.
//!
//! Each blocks in one system call and is woken to stop by a signal whose handler does nothing: the call returns
//! `EINTR`. A signal that comes just before the call is lost, so it is repeated until the thread has ended.

mod inbound;
mod outbound;
mod replay;
mod writer;

use std::{
    io,
    net::Ipv4Addr,
    os::unix::thread::JoinHandleExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    pthread::pthread_kill,
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use socket2::Socket;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    admission::Admission,
    counters::{Bulk, Counters, QueueCounters},
    marking::Marking,
    offload::{Offload, TunOffload},
    quirks::{Quirks, Release},
    routes::Routes,
    tun::{Queue, Tun},
    udp::{self, RunSupport, Sockets, TooLong},
};

/// Interrupts a blocked thread. Ignored by default, so that one from elsewhere does no harm.
const WAKE: Signal = Signal::SIGURG;

/// A pause after an error that would come again at once.
const PAUSE: Duration = Duration::from_millis(10);

/// The data path ended by itself.
#[derive(Debug, Error)]
pub enum DataPathError {
    /// The TUN device was deleted.
    #[error("the TUN device {0} was deleted by someone else: restart relay to create it anew")]
    DeviceGone(String),
    /// `--offload` names a rung that this kernel does not have.
    #[error("--offload={0} is not possible: the kernel has no UDP_SEGMENT or no UDP_GRO; use --offload=auto")]
    Unsupported(Offload),
    /// The signal handler, a thread or the socket could not be set up.
    #[error("starting the data path: {0}")]
    Start(#[from] io::Error),
    /// The data path was put together wrongly: each queue of the device has sockets and counters of its own.
    #[error(
        "the TUN device has {queues} queues, and there are sockets for {sockets} and counters for {counters}"
    )]
    Uneven {
        /// Queues of the device.
        queues: usize,
        /// Of how many there are sockets.
        sockets: usize,
        /// Of how many there are counters.
        counters: usize,
    },
    /// A thread came upon what must not be. Packets are not forwarded any more, so the daemon has to be started again.
    #[error("the thread {0} panicked, which is a defect: its message stands before this one")]
    Panicked(&'static str),
}

/// What the data path works on.
#[derive(Debug)]
pub struct DataPath {
    /// The device.
    pub tun: Arc<Tun>,
    /// The tunnel's sockets, bound to the underlay address: one pair for each queue of the device.
    pub udp: Vec<Sockets>,
    /// The socket for ICMP errors.
    pub icmp: Socket,
    /// The port of every node.
    pub port: u16,
    /// The underlay address that the socket is bound to.
    pub address: Ipv4Addr,
    /// What is let in.
    pub admission: Admission,
    /// Which node carries which subnet.
    pub routes: Arc<Routes>,
    /// How datagrams are marked.
    pub marking: Marking,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// What is handed to the kernel in bulk. What the device carries was settled when it was created.
    pub offload: Offload,
}

/// What the two threads of one queue work on.
#[derive(Debug, Clone, Copy)]
struct Lane<'a> {
    path: &'a DataPath,
    tun: Queue<'a>,
    sockets: &'a Sockets,
    counters: &'a QueueCounters,
    too_long: TooLong,
}

/// The running threads. The device disappears when they have ended and nobody else holds it.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl DataPath {
    /// Starts the threads. An error that ends the data path is sent to `failed`.
    ///
    /// # Errors
    /// The kernel refuses a thread, the signal handler or an option of a socket, or it lacks what `offload` asks for. Or
    /// there are not as many sockets or counters as queues.
    pub fn start(self, failed: &mpsc::UnboundedSender<DataPathError>) -> Result<Running, DataPathError> {
        let queues = self.tun.queues().len();
        if self.udp.len() != queues || self.counters.queues.len() != queues {
            return Err(self.uneven());
        }
        install_wake_handler()?;
        let quirks = self.quirks();
        let runs = self.enable_runs()?;
        let mut too_long = Vec::new();
        for sockets in &self.udp {
            udp::enable_traffic_class(&sockets.receive)?;
            too_long.push(TooLong::set_up(sockets.sender())?);
        }
        let tun = self.tun.offload();
        for (kind, offered) in [
            (Bulk::TunTcp, tun >= TunOffload::Tcp),
            (Bulk::TunUdp, tun >= TunOffload::TcpAndUdp && !quirks.misroutes_large_udp),
            (Bulk::UdpSend, runs.send && !quirks.mangles_runs),
            (Bulk::UdpReceive, runs.receive),
        ] {
            self.counters.offered(kind, offered);
        }
        tracing::info!(
            asked = %self.offload, ?tun,
            send_runs = self.counters.in_use(Bulk::UdpSend), receive_runs = runs.receive,
            queues = self.udp.len(), "offloads"
        );
        let shared = Arc::new(self);
        let mut running = Running { stop: Arc::default(), threads: Vec::new() };
        for (index, too_long) in too_long.into_iter().enumerate() {
            for (name, run) in [
                ("relay-outbound", outbound::run as fn(Lane<'_>, &AtomicBool) -> _),
                ("relay-inbound", inbound::run),
            ] {
                let (shared, stop, failed) = (Arc::clone(&shared), Arc::clone(&running.stop), failed.clone());
                let body = move || {
                    let run = AssertUnwindSafe(|| {
                        let_wake_through()?;
                        run(shared.lane(index, too_long)?, &stop)
                    });
                    let ended = catch_unwind(run).unwrap_or(Err(DataPathError::Panicked(name)));
                    if let Err(error) = ended {
                        // The receiver is gone only when the daemon is ending anyway.
                        let _ = failed.send(error);
                    }
                };
                running.threads.push(thread::Builder::new().name(name.into()).spawn(body)?);
            }
        }
        Ok(running)
    }

    /// The parts of one queue.
    fn lane(&self, index: usize, too_long: TooLong) -> Result<Lane<'_>, DataPathError> {
        let tun = self.tun.queues().nth(index);
        let (sockets, counters) = (self.udp.get(index), self.counters.queues.get(index));
        let (Some(tun), Some(sockets), Some(counters)) = (tun, sockets, counters) else {
            return Err(self.uneven());
        };
        Ok(Lane { path: self, tun, sockets, counters, too_long })
    }

    fn uneven(&self) -> DataPathError {
        DataPathError::Uneven {
            queues: self.tun.queues().len(),
            sockets: self.udp.len(),
            counters: self.counters.queues.len(),
        }
    }

    /// What is known against the kernel and is heeded: whoever asks for a rung may know better.
    fn quirks(&self) -> Quirks {
        let release = Release::running().filter(|_| self.offload == Offload::Auto);
        let quirks = release.map_or(Quirks::NONE, Release::quirks);
        let release = release.map(tracing::field::display);
        if quirks.mangles_runs {
            tracing::warn!(
                release,
                "this kernel mangles runs of datagrams (UDP_SEGMENT) on some interfaces: single ones are sent; \
                 Linux 7.1.5 has it right"
            );
        }
        if quirks.misroutes_large_udp {
            tracing::info!(
                release,
                "this kernel takes a large UDP packet to a tunnel of its own for a single one (CVE-2024-35884): \
                 UDP is not merged for the TUN; Linux 6.6.26, 6.8.5 and 6.9 have it right"
            );
        }
        quirks
    }

    fn enable_runs(&self) -> Result<RunSupport, DataPathError> {
        if !self.offload.udp_runs() {
            // What waits in the queue of a socket taken over may be runs, which would lose all but their first datagram.
            return Ok(RunSupport {
                send: false,
                receive: self.udp.iter().any(|sockets| udp::receives_runs(&sockets.receive)),
            });
        }
        let of_each = self.udp.iter().map(|sockets| udp::enable_runs(&sockets.receive));
        let both = |one: RunSupport, other: RunSupport| RunSupport {
            send: one.send && other.send,
            receive: one.receive && other.receive,
        };
        let runs = of_each.reduce(both).unwrap_or(RunSupport { send: false, receive: false });
        if self.offload != Offload::Auto && !(runs.send && runs.receive) {
            return Err(DataPathError::Unsupported(self.offload));
        }
        Ok(runs)
    }
}

impl Running {
    /// Stops the threads and waits for them. What is queued in the kernel is left there.
    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            while !thread.is_finished() {
                // The thread is not joined yet, so its id is valid; a failure means that it has just ended.
                let _ = pthread_kill(thread.as_pthread_t(), WAKE);
                thread::sleep(Duration::from_millis(1));
            }
            if thread.join().is_err() {
                tracing::error!("a data path thread panicked");
            }
        }
    }
}

/// Lets the signal that ends it reach this thread: whoever started the process may have blocked it, which is inherited.
fn let_wake_through() -> io::Result<()> {
    Ok(SigSet::from(WAKE).thread_unblock()?)
}

extern "C" fn wake(_: libc::c_int) {}

fn install_wake_handler() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe at any point of any thread.
    unsafe { sigaction(WAKE, &action) }?;
    Ok(())
}

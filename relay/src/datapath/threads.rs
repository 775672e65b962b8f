//! The two threads of the data path.
//!
//! Each blocks in one system call and is woken to stop by a signal whose handler does nothing: the call returns
//! `EINTR`. A signal that comes just before the call is lost, so it is repeated until the thread has ended.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::unix::thread::JoinHandleExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use nix::sys::{
    pthread::pthread_kill,
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use socket2::Socket;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    ENCAPSULATION, MAX_PACKET, Verdict,
    counters::{Counters, Direction, DropReason, IcmpSuppressed},
    icmp::{self, TokenBucket},
    inbound, outbound,
    routes::Routes,
    tun::{self, Tun},
    udp,
};
use crate::wire::{icmpv4, ipv4::Packet};

/// Interrupts a blocked thread. Ignored by default, so that one from elsewhere does no harm.
const WAKE: Signal = Signal::SIGURG;

/// ICMP errors a second, and at once, for each direction.
const ICMP_RATE: u32 = 1000;
const ICMP_BURST: u32 = 100;

/// A pause after an error that would come again at once.
const PAUSE: Duration = Duration::from_millis(10);

/// The data path ended by itself.
#[derive(Debug, Error)]
pub enum DataPathError {
    /// The TUN device was deleted.
    #[error("the TUN device {0} was deleted by someone else: restart relay to create it anew")]
    DeviceGone(String),
    /// The signal handler or a thread could not be set up.
    #[error("starting the data path's threads: {0}")]
    Start(#[from] io::Error),
}

/// What the data path works on.
#[derive(Debug)]
pub struct DataPath {
    /// The device.
    pub tun: Arc<Tun>,
    /// The tunnel's socket, bound to the underlay address and the port.
    pub udp: UdpSocket,
    /// The socket for ICMP errors.
    pub icmp: Socket,
    /// The port of every node.
    pub port: u16,
    /// The subnet leased by this node.
    pub own_subnet: Ipv4Net,
    /// Which node carries which subnet.
    pub routes: Arc<Routes>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// The running threads. The device disappears when they have ended and nobody else holds it.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl DataPath {
    /// Starts both threads. An error that ends the data path is sent to `failed`.
    ///
    /// # Errors
    /// The kernel refuses a thread or the signal handler.
    pub fn start(self, failed: &mpsc::UnboundedSender<DataPathError>) -> Result<Running, DataPathError> {
        install_wake_handler()?;
        let shared = Arc::new(self);
        let mut running = Running { stop: Arc::default(), threads: Vec::new() };
        for (name, run) in [
            ("relay-outbound", run_outbound as fn(&DataPath, &AtomicBool) -> _),
            ("relay-inbound", run_inbound),
        ] {
            let (shared, stop, failed) = (Arc::clone(&shared), Arc::clone(&running.stop), failed.clone());
            let body = move || {
                if let Err(error) = run(&shared, &stop) {
                    // The receiver is gone only when the daemon is ending anyway.
                    let _ = failed.send(error);
                }
            };
            running.threads.push(thread::Builder::new().name(name.into()).spawn(body)?);
        }
        Ok(running)
    }
}

impl Running {
    /// Stops both threads and waits for them. What is queued in the kernel is left there.
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

extern "C" fn wake(_: libc::c_int) {}

fn install_wake_handler() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe at any point of any thread.
    unsafe { sigaction(WAKE, &action) }?;
    Ok(())
}

fn run_outbound(path: &DataPath, stop: &AtomicBool) -> Result<(), DataPathError> {
    let counters = &path.counters.outbound;
    let mut errors = Errors::new(&path.icmp);
    let mut buffer = vec![0; MAX_PACKET];
    while !stop.load(Relaxed) {
        let length = match path.tun.receive(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if tun::is_gone(&error) => {
                return Err(DataPathError::DeviceGone(path.tun.name().to_owned()));
            }
            Err(error) => {
                errors.log(&error, "reading from the TUN");
                thread::sleep(PAUSE);
                continue;
            }
        };
        counters.received(length);
        let packet = &mut buffer[..length];
        match outbound::decide(packet, &path.routes) {
            Verdict::Forward(send) => {
                let datagram = &packet[..send.length];
                match send_datagram(&path.udp, datagram, SocketAddrV4::new(send.node, path.port), stop) {
                    Ok(()) => counters.passed(datagram.len()),
                    Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                        counters.dropped(DropReason::TooLong);
                        errors.report_too_long(datagram, send.node, path.port, counters);
                    }
                    Err(error) => {
                        counters.dropped(DropReason::SendFailed);
                        errors.log(&error, "sending to the underlay");
                    }
                }
            }
            Verdict::Drop(reason) => counters.dropped(reason),
            Verdict::Reject(reason, error) => {
                counters.dropped(reason);
                errors.report(packet, error, counters);
            }
        }
    }
    Ok(())
}

fn run_inbound(path: &DataPath, stop: &AtomicBool) -> Result<(), DataPathError> {
    let counters = &path.counters.inbound;
    let mut errors = Errors::new(&path.icmp);
    let mut buffer = vec![0; MAX_PACKET];
    while !stop.load(Relaxed) {
        let (length, node) = match path.udp.recv_from(&mut buffer) {
            Ok((length, SocketAddr::V4(from))) => (length, *from.ip()),
            Ok((length, SocketAddr::V6(_))) => (length, Ipv4Addr::UNSPECIFIED),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                errors.log(&error, "receiving from the underlay");
                thread::sleep(PAUSE);
                continue;
            }
        };
        counters.received(length);
        let packet = &mut buffer[..length];
        match inbound::decide(packet, node, &path.routes, path.own_subnet) {
            Verdict::Forward(deliver) => match write_packet(&path.tun, &packet[..deliver.length], stop) {
                Ok(()) => counters.passed(deliver.length),
                Err(error) => {
                    counters.dropped(DropReason::WriteFailed);
                    if tun::is_gone(&error) {
                        return Err(DataPathError::DeviceGone(path.tun.name().to_owned()));
                    }
                    errors.log(&error, "writing to the TUN");
                }
            },
            Verdict::Drop(reason) => counters.dropped(reason),
            Verdict::Reject(reason, error) => {
                counters.dropped(reason);
                errors.report(packet, error, counters);
            }
        }
    }
    Ok(())
}

/// Sends one datagram, waiting for room in the socket's queue: the TUN's own queue holds the senders back meanwhile.
fn send_datagram(udp: &UdpSocket, datagram: &[u8], to: SocketAddrV4, stop: &AtomicBool) -> io::Result<()> {
    loop {
        match udp.send_to(datagram, to) {
            Ok(_) => return Ok(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
                    && !stop.load(Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_packet(tun: &Tun, packet: &[u8], stop: &AtomicBool) -> io::Result<()> {
    loop {
        match tun.send(packet) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted && !stop.load(Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
}

/// How one thread tells of what went wrong: ICMP errors to the source, a line to the log now and then.
struct Errors<'a> {
    socket: &'a Socket,
    bucket: TokenBucket,
    logged: Option<Instant>,
}

impl<'a> Errors<'a> {
    const LOG_INTERVAL: Duration = Duration::from_secs(10);

    fn new(socket: &'a Socket) -> Self {
        Self { socket, bucket: TokenBucket::new(ICMP_RATE, ICMP_BURST, Instant::now()), logged: None }
    }

    fn report(&mut self, packet: &[u8], error: icmpv4::Error, counters: &Direction) {
        let Some(datagram) = icmp::error_about(packet, error) else {
            return counters.suppressed(IcmpSuppressed::Forbidden);
        };
        if !self.bucket.take(Instant::now()) {
            return counters.suppressed(IcmpSuppressed::RateLimited);
        }
        let to = SocketAddrV4::new(datagram.destination(), 0).into();
        match self.socket.send_to(datagram.as_bytes(), &to) {
            Ok(_) => counters.answered(error),
            Err(failure) => {
                counters.suppressed(IcmpSuppressed::SendFailed);
                self.log(&failure, "sending an ICMP error");
            }
        }
    }

    fn report_too_long(&mut self, packet: &[u8], node: Ipv4Addr, port: u16, counters: &Direction) {
        if !Packet::new_checked(packet).is_ok_and(|packet| packet.dont_fragment()) {
            return;
        }
        match udp::path_mtu(node, port) {
            Ok(mtu) => {
                let mtu = mtu.saturating_sub(ENCAPSULATION as u16);
                self.report(packet, icmpv4::Error::FragmentationNeeded { mtu }, counters);
            }
            Err(error) => self.log(&error, "asking for the path MTU"),
        }
    }

    fn log(&mut self, error: &io::Error, during: &'static str) {
        let now = Instant::now();
        if self.logged.is_none_or(|then| now.duration_since(then) >= Self::LOG_INTERVAL) {
            self.logged = Some(now);
            tracing::warn!(%error, during, "data path error; further ones within 10 s are only counted");
        }
    }
}

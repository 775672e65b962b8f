//! A steady flow of numbered datagrams, and what of it arrives.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{precise_sleeps, roomy};
use crate::bench::{Error, system};
use crate::netns::Namespace;

/// The port that the flow goes to.
const PORT: u16 = 4000;
/// Octets of a datagram's payload.
const SIZE: usize = 64;
/// For the last datagrams to arrive.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// A flow that runs until it is asked how it fared.
pub(crate) struct Flow {
    sent: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<io::Result<Received>>,
}

#[derive(Debug, Default)]
struct Received {
    numbers: HashSet<u64>,
    longest_gap: Duration,
}

/// How a flow fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fared {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Of those, what did not arrive.
    pub(crate) lost: u64,
    /// The longest time between two arrivals.
    pub(crate) longest_gap: Duration,
}

impl Flow {
    /// Starts to send `rate` datagrams a second from one host to another.
    pub(crate) fn start(
        from: &Namespace,
        (to, address): (&Namespace, Ipv4Addr),
        rate: u32,
    ) -> Result<Self, Error> {
        let bound = to.run(|| {
            let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.set_read_timeout(Some(SETTLED_AFTER))?;
            roomy(&socket)?;
            Ok(socket)
        })?;
        let receiving = bound.map_err(system("opening the flow's receiver"))?;
        let bound = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let sending = bound.map_err(system("opening the flow's sender"))?;
        let (sent, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (sent.clone(), ends.clone());
        let sender = std::thread::spawn(move || {
            precise_sleeps();
            let start = Instant::now();
            let mut datagram = [0; SIZE];
            while !over.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let due = start + Duration::from_secs_f64(number as f64 / f64::from(rate));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                datagram[..8].copy_from_slice(&number.to_be_bytes());
                // A refusal is a loss.
                let _ = sending.send_to(&datagram, (address, PORT));
                count.store(number + 1, Ordering::Relaxed);
            }
        });
        let over = ends.clone();
        let receiver = std::thread::spawn(move || receive(&receiving, &over));
        Ok(Self { sent, ends, sender, receiver })
    }

    /// Ends the flow, once what is under way has arrived.
    pub(crate) fn end(self) -> Result<Fared, Error> {
        self.ends.store(true, Ordering::Relaxed);
        let ended = |_| Error::Wrong("a thread of a flow has panicked".to_owned());
        self.sender.join().map_err(ended)?;
        let received = self.receiver.join().map_err(ended)?.map_err(system("receiving a flow"))?;
        let sent = self.sent.load(Ordering::Relaxed);
        let lost = sent.saturating_sub(received.numbers.len() as u64);
        Ok(Fared { sent, lost, longest_gap: received.longest_gap })
    }
}

/// Receives until the flow has ended and nothing more comes.
fn receive(socket: &UdpSocket, ends: &AtomicBool) -> io::Result<Received> {
    let mut received = Received::default();
    let mut last: Option<Instant> = None;
    let mut datagram = [0; SIZE];
    loop {
        match socket.recv(&mut datagram) {
            Ok(_) => {
                let at = Instant::now();
                let gap = last.map_or(Duration::ZERO, |last| at.duration_since(last));
                received.longest_gap = received.longest_gap.max(gap);
                last = Some(at);
                received.numbers.extend(datagram.first_chunk().map(|octets| u64::from_be_bytes(*octets)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ends.load(Ordering::Relaxed) {
                    return Ok(received);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

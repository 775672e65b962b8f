//! Requests and responses, one under way at a time.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::statistics::Sorted;
use crate::bench::{Error, system};
use crate::netns::Namespace;

/// The port that requests go to.
const PORT: u16 = 4002;
/// Octets of a request's and a response's payload.
const SIZE: usize = 64;
/// A response that has not come by then is lost.
const WITHIN: Duration = Duration::from_secs(2);
/// Round trips before any is counted.
const WARM_UP: u32 = 20;
/// How long the responder waits before it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A thread that sends back what it gets, until dropped.
pub(crate) struct Responder {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    pub(crate) fn start(namespace: &Namespace) -> Result<Self, Error> {
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.set_read_timeout(Some(LOOK_EVERY))?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(system("opening the responder's socket"))?;
        let ends = Arc::new(AtomicBool::new(false));
        let over = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut datagram = [0; SIZE];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], from);
                }
            }
        });
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Round trips in µs: `count` of them, or as many as `within` allows. Blocks.
pub(crate) fn round_trips(
    from: &Namespace,
    to: Ipv4Addr,
    count: usize,
    within: Duration,
) -> Result<Sorted, Error> {
    let doing = "asking the responder";
    let open = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddrV4::new(to, PORT))?;
        socket.set_read_timeout(Some(WITHIN))?;
        Ok(socket)
    };
    let socket = from.run(open)?.map_err(system(doing))?;
    let mut datagram = [0; SIZE];
    let mut number = 0u32;
    let mut samples = Vec::with_capacity(count);
    let start = Instant::now();
    while samples.len() < count && start.elapsed() < within {
        number += 1;
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        let asked = Instant::now();
        socket.send(&datagram).map_err(system(doing))?;
        // What answers an earlier request is no answer to this one. One that is lost is no round trip.
        while socket.recv(&mut datagram).is_ok() {
            if datagram.starts_with(&number.to_be_bytes()) {
                if number > WARM_UP {
                    samples.push(asked.elapsed().as_secs_f64() * 1e6);
                }
                break;
            }
        }
    }
    Ok(samples.into_iter().collect())
}

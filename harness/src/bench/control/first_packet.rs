//! From a lease's put in etcd to the first packet that it lets pass.
//!
//! A container sends a datagram to the subnet to come every [`STEP`], all of which the relay rejects until it knows the
//! lease. The lease names a host that runs no relay: a socket there takes what arrives on the tunnel's port, stamped
//! by the kernel when it passed the link. The clock starts right before the request is sent to etcd, so a figure
//! includes etcd's work, up to a step of waiting for the next datagram, and the datagram's way through the relay.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use tokio::sync::mpsc;

use super::leases::{self, Leases};
use super::{Error, PEER};
use crate::bench::figure::{Aim, Figure, Section};
use crate::bench::progress::Progress;
use crate::bench::statistics::Sorted;
use crate::bench::system;
use crate::bench::traffic::precise_sleeps;
use crate::capture::frame::now;
use crate::lab::Lab;
use crate::netns::Namespace;

/// Between two datagrams to the subnet to come.
const STEP: Duration = Duration::from_micros(100);
/// For the first packet.
const WITHIN: Duration = Duration::from_secs(5);
/// The first of the leases that are added.
const FIRST: u32 = 50_000;
/// Leases that are put before any is measured: addresses are resolved, code is paged in.
const WARM_UP: u32 = 10;
/// How long a reader waits before it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Adds `count` leases one after the other.
pub(super) async fn measure(lab: &Lab, count: u32, progress: &Progress) -> Result<Section, Error> {
    progress.say(&format!("awaiting the first packets by {count} leases"));
    let peer = lab.topology.node(PEER).map_or(Ipv4Addr::UNSPECIFIED, |node| node.address);
    let mut arrivals = Arrivals::at(&lab.host(PEER)?.namespace, SocketAddrV4::new(peer, lab.topology.port))?;
    let prober = Prober::start(&lab.host("c1")?.namespace)?;
    let mut client = lab.client().await?;
    let (mut first, mut answered) = (Vec::new(), Vec::new());
    for n in 0..count + WARM_UP {
        let subnet = Leases::subnet(FIRST + n);
        prober.aim(Some(subnet));
        let start = now();
        leases::put(&mut client, subnet, peer).await?;
        let answer = now();
        let arrived = arrivals.first(subnet).await?;
        prober.aim(None);
        if n >= WARM_UP {
            first.push(since(start, arrived));
            answered.push(since(start, answer));
        }
        progress.count("first packets", n as usize, (count + WARM_UP) as usize);
    }
    let (first, answered) = (Sorted::from_iter(first), Sorted::from_iter(answered));
    let figures = vec![
        Figure::new("first_packet_p50_ms", "put to first packet, p50", first.median(), "ms"),
        Figure::new("first_packet_p99_ms", "                     p99", first.quantile(0.99), "ms")
            .aim(Aim::AtMost(10.0)),
        Figure::new("first_packet_max_ms", "                     max", first.max(), "ms"),
        Figure::new("put_p50_ms", "put to etcd's answer, p50", answered.median(), "ms"),
        Figure::new("put_p99_ms", "                      p99", answered.quantile(0.99), "ms"),
    ];
    let title = format!("A lease is put in etcd, {count} times, a datagram every {} µs", STEP.as_micros());
    Ok(Section { title, figures })
}

/// Milliseconds between two times, which may be in the wrong order.
fn since(start: Duration, end: Duration) -> f64 {
    (end.as_secs_f64() - start.as_secs_f64()) * 1e3
}

/// A thread that sends datagrams into a subnet, if it is told one.
struct Prober {
    destination: Arc<AtomicU32>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    fn start(namespace: &Namespace) -> Result<Self, Error> {
        let bound = namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let socket = bound.map_err(system("opening the prober's socket"))?;
        let (destination, ends) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (to, over) = (destination.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            precise_sleeps();
            while !over.load(Ordering::Relaxed) {
                match to.load(Ordering::Relaxed) {
                    0 => std::thread::park(),
                    address => {
                        // What is refused is tried again with the next one.
                        let _ = socket.send_to(&[0; 8], (Ipv4Addr::from_bits(address), 9));
                        std::thread::sleep(STEP);
                    }
                }
            }
        });
        Ok(Self { destination, ends, thread: Some(thread) })
    }

    /// Sends to the second address of `subnet` from now on.
    fn aim(&self, subnet: Option<Ipv4Net>) {
        let address = subnet.map_or(0, |subnet| subnet.network().to_bits() + 2);
        self.destination.store(address, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// What arrives at the tunnel's port of the host that the leases name.
struct Arrivals {
    received: mpsc::UnboundedReceiver<(Ipv4Addr, Duration)>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Arrivals {
    fn at(namespace: &Namespace, address: SocketAddrV4) -> Result<Self, Error> {
        let open = || {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(LOOK_EVERY))?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(system("opening the tunnel's port where no relay runs"))?;
        let (sender, received) = mpsc::unbounded_channel();
        let ends = Arc::new(AtomicBool::new(false));
        let over = ends.clone();
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok(Some(arrival)) = receive(&socket) {
                    let _ = sender.send(arrival);
                }
            }
        });
        Ok(Self { received, ends, thread: Some(thread) })
    }

    /// When the first packet for an address of `subnet` arrived.
    async fn first(&mut self, subnet: Ipv4Net) -> Result<Duration, Error> {
        let found = async {
            while let Some((to, at)) = self.received.recv().await {
                if subnet.contains(&to) {
                    return Some(at);
                }
            }
            None
        };
        let found = tokio::time::timeout(WITHIN, found).await.ok().flatten();
        found.ok_or_else(|| {
            Error::Wrong(format!("no packet for {subnet} came within {} s of its lease", WITHIN.as_secs()))
        })
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The inner destination of the next datagram, and when it passed the link.
fn receive(socket: &UdpSocket) -> io::Result<Option<(Ipv4Addr, Duration)>> {
    let mut octets = [0u8; 128];
    let mut control = nix::cmsg_space!(libc::timespec);
    let mut parts = [io::IoSliceMut::new(&mut octets)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(at) => Some(at.into()),
        _ => None,
    });
    let destination = octets.get(16..).and_then(|octets| octets.first_chunk::<4>());
    Ok(destination.map(|octets| Ipv4Addr::from(*octets)).zip(stamp))
}

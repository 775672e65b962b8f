//! Bulk data over sockets, and whether it arrives as it was sent.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Error, reason};
use crate::capture::FLOOD_PORTS;
use crate::netns::Namespace;
use crate::socket::set_option;

mod ledger;
mod pattern;
mod shortfall;
mod tcp;
mod udp;

use pattern::Pattern;
pub use shortfall::Shortfall;

/// Streams are sent from the first of these.
const SENDERS: u16 = 900;
/// How long nothing may arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// Octets of memory for what waits at the receiver.
const QUEUE: usize = 8 << 20;

/// How much a stream carries.
#[derive(Debug, Clone, Copy)]
struct Extent<'a> {
    /// At least so many octets.
    octets: u64,
    /// And more while this is true.
    goes_on: &'a AtomicBool,
}

/// Sockets that are ready to carry data.
#[derive(Debug)]
pub struct Bulk {
    pattern: Pattern,
    octets: u64,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    Tcp { senders: Vec<Socket>, to: SocketAddrV4, listener: TcpListener },
    Udp { senders: Vec<UdpSocket>, to: SocketAddrV4, receiver: UdpSocket },
}

impl Bulk {
    /// Opens `streams` TCP sockets that are to send `octets` each to `address`, and the one that accepts them. The
    /// receiver's port depends on `number`, so that no connection is like one before.
    ///
    /// # Errors
    /// When a socket cannot be opened or its port is taken.
    pub fn tcp(
        ends: [&Namespace; 2],
        address: Ipv4Addr,
        number: u32,
        streams: u16,
        octets: u32,
    ) -> Result<Self, Error> {
        let (to, ports) = ports(address, number, streams);
        let open = |port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let senders = within(ends[0], || ports.map(open).collect())?;
        let listener = within(ends[1], || {
            let socket = open(to.port())?;
            socket.listen(streams.into())?;
            Ok(TcpListener::from(socket))
        })?;
        let sockets = Sockets::Tcp { senders, to, listener };
        Ok(Self { pattern: Pattern::new(), octets: octets.into(), sockets })
    }

    /// The same with UDP.
    ///
    /// # Errors
    /// When a socket cannot be opened or its port is taken.
    pub fn udp(
        ends: [&Namespace; 2],
        address: Ipv4Addr,
        number: u32,
        streams: u16,
        octets: u32,
    ) -> Result<Self, Error> {
        let (to, ports) = ports(address, number, streams);
        let open = |port| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            set_option(&socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            Ok(socket)
        };
        let senders = within(ends[0], || ports.map(open).collect())?;
        let receiver = within(ends[1], || {
            let receiver = open(to.port())?;
            socket2::SockRef::from(&receiver).set_recv_buffer_size(QUEUE)?;
            Ok(receiver)
        })?;
        let sockets = Sockets::Udp { senders, to, receiver };
        Ok(Self { pattern: Pattern::new(), octets: octets.into(), sockets })
    }

    /// Sends everything and waits for it: what was wrong with what arrived, if anything. Over TCP more is sent for as long as
    /// `goes_on` says so. Blocks.
    #[must_use]
    pub fn carry(self, goes_on: &AtomicBool) -> Option<Shortfall> {
        let Self { pattern, octets, sockets } = self;
        match sockets {
            Sockets::Tcp { senders, to, listener } => {
                tcp::carry(&pattern, Extent { octets, goes_on }, senders, to, &listener)
            }
            Sockets::Udp { senders, to, receiver } => udp::carry(&pattern, octets, &senders, to, &receiver),
        }
    }
}

/// Where the receiver listens, and the senders' ports.
fn ports(address: Ipv4Addr, number: u32, streams: u16) -> (SocketAddrV4, impl Iterator<Item = u16> + Send) {
    let first = FLOOD_PORTS.start() + SENDERS;
    let left = u32::from(FLOOD_PORTS.end() - first) + 1;
    let port = first + (number % left) as u16;
    (SocketAddrV4::new(address, port), FLOOD_PORTS.take(streams.min(SENDERS).into()))
}

fn within<T: Send>(namespace: &Namespace, open: impl FnOnce() -> io::Result<T> + Send) -> Result<T, Error> {
    namespace.run(open)?.map_err(|source| Error::Socket {
        host: namespace.name().to_owned(),
        doing: "opening sockets for a transfer".to_owned(),
        source,
    })
}

/// Why a socket carries no more, without the kernel's number for it.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        // What SO_RCVTIMEO and SO_SNDTIMEO make of their time (socket(7)), and connecting.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("nothing moved for {} s", PATIENCE.as_secs())
        }
        _ => reason(error),
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_socket_carries_no_more_is_told_in_words() {
        let of = |errno: i32| cause(&io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::EAGAIN), "nothing moved for 20 s");
        assert_eq!(of(libc::ECONNREFUSED), "connection refused");
        assert_eq!(cause(&io::ErrorKind::UnexpectedEof.into()), "unexpected end of file");
    }
}

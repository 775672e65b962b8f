//! The tunnel's UDP socket, and the raw socket for ICMP errors.

pub mod batch;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    num::NonZeroUsize,
    time::Duration,
};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu_discover, set_ip_mtu_discover};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use thiserror::Error;

/// Octets asked of the kernel for each queue of the socket. The kernel's default of 208 KiB is one burst, and the
/// packets that wait for the link address of a dead node would take all of it from the living ones.
const QUEUE: usize = 16 << 20;

/// How long a send may wait for room before the thread looks whether it is to stop.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// A socket of the data path could not be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process has the port.
    #[error(
        "UDP port {0} is in use: is another relay or flanneld running? `ss -ulpn` tells; or set Backend.Port in the network config"
    )]
    InUse(SocketAddrV4),
    /// The address is not this machine's.
    #[error("cannot bind to {0}: the interface has lost the address")]
    NoSuchAddress(SocketAddrV4),
    /// A raw socket needs a privilege.
    #[error("may not open a raw socket for ICMP errors: run as root or with CAP_NET_RAW")]
    NotPermitted,
    /// Anything else, with what was being done.
    #[error("{step}: {source}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Failed { step, source }
}

/// The sockets of one queue of the data path.
#[derive(Debug)]
pub struct Sockets {
    /// Bound to the tunnel's port. The kernel gives all that comes from one address and port to the same queue's.
    pub receive: UdpSocket,
    /// What is sent from; none for the one that receives. With several queues each has a port of its own, so that the
    /// other node can tell their flows apart by the datagrams and keep each to one queue as well.
    pub send: Option<UdpSocket>,
}

impl Sockets {
    /// One that receives and sends.
    #[must_use]
    pub fn one(socket: UdpSocket) -> Self {
        Self { receive: socket, send: None }
    }

    /// Those of so many queues at `address`: the first as [`open`] opens it.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(address: SocketAddrV4, queues: NonZeroUsize) -> Result<Vec<Self>, SocketError> {
        let first = open(address)?;
        if queues == NonZeroUsize::MIN {
            return Ok(vec![Self::one(first)]);
        }
        // That one has shown that the port is free: sockets that share it would share it with another daemon's too.
        drop(first);
        let own = SocketAddrV4::new(*address.ip(), 0);
        let queue = |index: usize| {
            let send = if index == 0 { None } else { Some(open_to_send(own)?) };
            Ok(Self { receive: open_at(address, true)?, send })
        };
        (0..queues.get()).map(queue).collect()
    }

    /// What is sent from.
    #[must_use]
    pub fn sender(&self) -> &UdpSocket {
        self.send.as_ref().unwrap_or(&self.receive)
    }
}

/// Opens the tunnel's socket at `address`, blocking, with large queues where the process may have them.
///
/// # Errors
/// The port is taken or the address is not local.
pub fn open(address: SocketAddrV4) -> Result<UdpSocket, SocketError> {
    open_at(address, false)
}

/// The same, or one of several that share the port.
fn open_at(address: SocketAddrV4, shared: bool) -> Result<UdpSocket, SocketError> {
    let socket = udp_socket()?;
    if shared {
        socket.set_reuse_port(true).map_err(failed("sharing the tunnel's port among its queues"))?;
    }
    enlarge_receive_queue(&socket);
    bind(&socket, address)?;
    Ok(socket.into())
}

/// Opens a socket that only sends. Nobody reads what comes to its port, so none of it is queued; what routers tell of
/// the path still counts, for that does not go through the queue.
fn open_to_send(address: SocketAddrV4) -> Result<UdpSocket, SocketError> {
    let socket = udp_socket()?;
    let nothing = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    socket.attach_filter(&[nothing]).map_err(failed("closing a UDP socket that only sends"))?;
    bind(&socket, address)?;
    Ok(socket.into())
}

fn udp_socket() -> Result<Socket, SocketError> {
    Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("opening a UDP socket"))
}

fn bind(socket: &Socket, address: SocketAddrV4) -> Result<(), SocketError> {
    socket.bind(&SocketAddr::V4(address).into()).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => SocketError::InUse(address),
        io::ErrorKind::AddrNotAvailable => SocketError::NoSuchAddress(address),
        _ => SocketError::Failed { step: "binding the tunnel's UDP socket", source },
    })?;
    socket.set_write_timeout(Some(SEND_TIMEOUT)).map_err(failed("limiting the wait to send"))?;
    enlarge_send_queue(socket);
    Ok(())
}

// Without CAP_NET_ADMIN in the initial user namespace the queues get as much as net.core.{r,w}mem_max allow.

fn enlarge_receive_queue(socket: &Socket) {
    let size = QUEUE;
    if setsockopt(socket, sockopt::RcvBufForce, &size).is_err() {
        let granted = socket.set_recv_buffer_size(size).and_then(|()| socket.recv_buffer_size());
        tracing::info!(wanted = size, ?granted, "a socket's queue is limited by net.core.rmem_max");
    }
}

fn enlarge_send_queue(socket: &Socket) {
    let size = QUEUE;
    if setsockopt(socket, sockopt::SndBufForce, &size).is_err() {
        let granted = socket.set_send_buffer_size(size).and_then(|()| socket.send_buffer_size());
        tracing::info!(wanted = size, ?granted, "a socket's queue is limited by net.core.wmem_max");
    }
}

/// Which runs of datagrams the kernel handles on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSupport {
    /// `UDP_SEGMENT` (Linux 4.18): one send carries a run.
    pub send: bool,
    /// `UDP_GRO` (Linux 5.0): one receive may.
    pub receive: bool,
}

/// Asks the kernel for runs on `socket`. Sending them is asked for with each run, so the socket is left as it is.
pub fn enable_runs(socket: &UdpSocket) -> RunSupport {
    RunSupport {
        send: getsockopt(socket, sockopt::UdpGsoSegment).is_ok(),
        receive: setsockopt(socket, sockopt::UdpGroSegment, &true).is_ok(),
    }
}

/// Whether an earlier run has asked for runs on `socket`, which is then to be left so: what the kernel has merged by now
/// could not be told apart any more.
pub fn receives_runs(socket: &UdpSocket) -> bool {
    getsockopt(socket, sockopt::UdpGroSegment).unwrap_or(false)
}

/// Asks for the traffic class of each datagram received (`IP_RECVTOS`).
///
/// # Errors
/// As setsockopt(2).
pub fn enable_traffic_class(socket: &UdpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::IpRecvTos, &true)?)
}

/// What becomes of datagrams longer than their path.
///
/// As a rule they are refused (`EMSGSIZE`), one alone as much as a run, so that whoever sent the packet in it can
/// be told; what may be fragmented is then sent anew. Where `net.ipv4.ip_no_pmtu_disc` is set there is no path to be
/// known: datagrams go without DF, and the routers of the underlay fragment them.
#[derive(Debug, Clone, Copy)]
pub struct TooLong {
    usual: Ipv4PathMtuDiscovery,
}

impl TooLong {
    /// Sets `socket` up, whatever an earlier run has made of it.
    ///
    /// # Errors
    /// There is no socket to be had, or as setsockopt(2).
    pub fn set_up(socket: &UdpSocket) -> io::Result<Self> {
        let fresh = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let usual = match ip_mtu_discover(&fresh)? {
            Ipv4PathMtuDiscovery::WANT => Ipv4PathMtuDiscovery::DO,
            other => other,
        };
        set_ip_mtu_discover(socket, usual)?;
        Ok(Self { usual })
    }

    /// Whether datagrams longer than their path are fragmented, from now on, rather than refused.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn fragment(self, socket: &UdpSocket, fragment: bool) -> io::Result<()> {
        if self.usual != Ipv4PathMtuDiscovery::DO {
            return Ok(());
        }
        let mode = if fragment { Ipv4PathMtuDiscovery::WANT } else { self.usual };
        Ok(set_ip_mtu_discover(socket, mode)?)
    }
}

/// Opens the socket that sends ICMP errors. It receives nothing and never blocks.
///
/// # Errors
/// The process lacks `CAP_NET_RAW`.
pub fn open_icmp() -> Result<Socket, SocketError> {
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket =
        Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => SocketError::NotPermitted,
            _ => SocketError::Failed { step: "opening a raw socket", source },
        })?;
    socket.set_nonblocking(true).map_err(failed("making the raw socket non-blocking"))?;
    Ok(socket)
}

/// The path MTU from `address` towards `node` as the kernel knows it, in octets. Routing may depend on the source.
///
/// # Errors
/// The address is not local, or there is no route to the node.
pub fn path_mtu(address: Ipv4Addr, node: Ipv4Addr, port: u16) -> io::Result<u16> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.connect((node, port))?;
    let mtu = getsockopt(&socket, sockopt::IpMtu)?;
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_port_that_is_taken_and_an_address_that_is_not_ones_own_are_told_apart() {
        let taken = open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(port) = taken.local_addr().unwrap() else { unreachable!() };
        assert!(matches!(open(port), Err(SocketError::InUse(address)) if address == port));
        // RFC 5737: nobody has it.
        let foreign = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0);
        assert!(matches!(open(foreign), Err(SocketError::NoSuchAddress(address)) if address == foreign));
    }

    #[test]
    fn a_socket_that_only_sends_queues_nothing_and_still_sends() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let (plain, sender) = (open(any).unwrap(), open_to_send(any).unwrap());
        let waits = |socket: &UdpSocket| recv(socket.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT);
        // On loopback a datagram is queued, or not, by the time that the send returns.
        let from = UdpSocket::bind(any).unwrap();
        for to in [&plain, &sender] {
            from.send_to(b"flood", to.local_addr().unwrap()).unwrap();
        }
        assert_eq!(waits(&plain), Ok(5));
        assert_eq!(waits(&sender), Err(nix::errno::Errno::EAGAIN));
        sender.send_to(b"out", plain.local_addr().unwrap()).unwrap();
        assert_eq!(waits(&plain), Ok(3));

        let fresh = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        let of = |socket: UdpSocket| {
            let socket = Socket::from(socket);
            (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())
        };
        let usual = (fresh.recv_buffer_size().unwrap(), fresh.send_buffer_size().unwrap());
        let (plain, sender) = (of(plain), of(sender));
        assert!(plain.0 >= usual.0 && sender.0 == usual.0 && sender.1 == plain.1, "{plain:?} {sender:?}");
    }
}

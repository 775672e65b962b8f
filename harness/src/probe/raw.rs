//! Sending octets as they are.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::Error;
use crate::netns::Namespace;

/// How a packet leaves its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit<'a> {
    /// By the host's routes, towards an address. The kernel sets the total length and the header checksum.
    Routed(Ipv4Addr),
    /// By a device without a link header, past the kernel's IP. Nothing is changed.
    Device(&'a str),
}

/// A socket that sends whole IPv4 packets.
#[derive(Debug)]
pub struct RawSocket {
    socket: Socket,
    address: SockAddr,
}

impl RawSocket {
    /// Opens a socket in a host.
    ///
    /// # Errors
    /// Without CAP_NET_RAW in the host, and when there is no such device.
    pub fn open(namespace: &Namespace, exit: Exit<'_>) -> Result<Self, Error> {
        let error = |source| Error::Socket {
            host: namespace.name().to_owned(),
            doing: "opening a raw socket".to_owned(),
            source,
        };
        let open = || match exit {
            Exit::Routed(destination) => {
                let protocol = Protocol::from(libc::IPPROTO_RAW);
                let socket = Socket::new(Domain::IPV4, Type::RAW.cloexec(), Some(protocol))?;
                socket.set_broadcast(true)?;
                Ok(Self { socket, address: SocketAddrV4::new(destination, 0).into() })
            }
            Exit::Device(name) => {
                // Protocol 0: it receives nothing.
                let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec(), None)?;
                let index = rustix::net::netdevice::name_to_index(&socket, name)?;
                Ok(Self { socket, address: device(index) })
            }
        };
        namespace.run(open)?.map_err(error)
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// When the kernel refuses it: too long for the way, or the device is down.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &self.address).map(drop)
    }
}

/// The address of a device in its namespace, for IPv4 (packet(7)).
fn device(index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data and fits in sockaddr_storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the storage holds a sockaddr_ll of `len` octets.
    unsafe { SockAddr::new(storage, len) }
}

//! Sending octets as they are.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Error;
use crate::netns::Namespace;
use crate::socket::packet_address;

/// How a packet leaves its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit<'a> {
    /// By the host's routes, towards an address. The kernel sets the total length and the header checksum.
    Routed(Ipv4Addr),
    /// By an interface, past the kernel's IP, in a frame for this MAC address if it is one of Ethernet. Nothing is changed.
    Interface(&'a str, Option<[u8; 6]>),
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
            Exit::Interface(name, to) => {
                // Protocol 0: it receives nothing. Not raw: the kernel writes the link header, with its own address.
                let socket = Socket::new(Domain::PACKET, Type::DGRAM.cloexec(), None)?;
                let index = rustix::net::netdevice::name_to_index(&socket, name)?;
                Ok(Self { socket, address: packet_address(index, libc::ETH_P_IP as u16, to) })
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

//! Sending many UDP datagrams from one socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;
use super::noise::noise;
use crate::netns::Namespace;
use crate::packet::marker;
use crate::socket::set_option;

/// Octets of garbage: more than the longest payload, so that each datagram's begins somewhere else.
const GARBAGE_LEN: usize = 70_000;

/// A UDP socket that asks for no errors and hears none.
#[derive(Debug)]
pub struct Flooder {
    socket: Socket,
    host: String,
    to: SocketAddrV4,
}

impl Flooder {
    /// Opens a socket in a host, with a source port of its own.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open(namespace: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self, Error> {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
            set_option(&socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            Ok(socket)
        };
        let host = namespace.name().to_owned();
        let error = |source| Error::Socket {
            host: host.clone(),
            doing: format!("opening a socket for a flood from port {port}"),
            source,
        };
        let socket = namespace.run(open)?.map_err(error)?;
        Ok(Self { socket, host, to })
    }

    /// Sends a datagram. False if the host has no room for it now.
    ///
    /// # Errors
    /// When the kernel refuses it for another reason.
    pub fn send(&self, payload: &[u8]) -> Result<bool, Error> {
        match self.socket.send_to(payload, &self.to.into()) {
            Ok(_) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(source) => {
                Err(Error::Socket { host: self.host.clone(), doing: "sending a flood".to_owned(), source })
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// What the datagrams of a flood carry.
#[derive(Debug)]
pub enum Fill {
    /// All the same: a probe's marker.
    Marked(Vec<u8>),
    /// Each another part of the same garbage, as long as this.
    Garbage(Vec<u8>, usize),
}

impl Fill {
    /// Payloads of `size` octets with the marker of probe `number`.
    #[must_use]
    pub fn marked(number: u32, size: u16) -> Self {
        Self::Marked(marker::encode(number, size.into()))
    }

    /// Payloads of `size` octets that look like nothing, and are the same at every run.
    #[must_use]
    pub fn garbage(size: u16) -> Self {
        Self::Garbage(noise(0x2545_f491).take(GARBAGE_LEN).collect(), size.into())
    }

    /// The payload of a flood's `index`-th datagram.
    #[must_use]
    pub fn payload(&self, index: u32) -> &[u8] {
        match self {
            Self::Marked(payload) => payload,
            Self::Garbage(garbage, size) => {
                let start = index as usize % (garbage.len() - size).max(1);
                garbage.get(start..start + size).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_never_twice_the_same_in_a_row_and_as_long_as_asked_for() {
        for size in [10, 1472, 65_507] {
            let fill = Fill::garbage(size);
            assert!((0..10_000).step_by(997).all(|index| fill.payload(index).len() == usize::from(size)));
            assert_ne!(fill.payload(0), fill.payload(1));
        }
    }
}

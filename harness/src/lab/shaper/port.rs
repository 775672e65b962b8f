//! One end of a shaper: a packet socket that takes what arrives at an interface, and sends out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, Socket, Type};

use super::frame::OFFLOAD_HEADER_LEN;
use crate::netns::Namespace;
use crate::socket::{has_carrier, packet_address, packet_drops, set_option};

/// The longest frame: a 64 KiB super-packet with its headers.
const FRAME_LEN: usize = OFFLOAD_HEADER_LEN + 65_536 + 64;
/// Asked of the kernel for frames that wait to be taken; without privilege it grants `net.core.rmem_max`.
const RECEIVE_BUFFER_LEN: libc::c_int = 8 << 20;
/// An EtherType for local experiments (IEEE 802).
const EXPERIMENT: u16 = 0x88b5;
/// A group address that bridges learn the sender's address from and do not forward (IEEE 802.1Q, table 8-1).
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];

/// A packet socket at one interface. Frames begin with a `virtio_net_hdr`, so that super-packets and checksums that are
/// still to be completed pass as they are.
#[derive(Debug)]
pub(super) struct Port {
    socket: Socket,
    /// The interface's.
    index: u32,
    buffer: Vec<u8>,
}

impl Port {
    /// Opens a socket at the interface `index` of the calling thread's namespace.
    ///
    /// # Errors
    /// Without CAP_NET_RAW in the namespace.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        // Protocol 0 until it is bound, so that nothing of other interfaces gets in.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_LEN).is_err() {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER_LEN)?;
        }
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.bind(&packet_address(index, libc::ETH_P_ALL as u16, None))?;
        Ok(Self { socket, index, buffer: Vec::with_capacity(FRAME_LEN) })
    }

    /// The next frame, or none if none waits.
    ///
    /// # Errors
    /// `ENETDOWN` once after the interface was set down; `EINVAL` for a frame whose offloads the header cannot express,
    /// which is gone then.
    pub(super) fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.buffer.clear();
        let len = match self.socket.recv(self.buffer.spare_capacity_mut()) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        // SAFETY: recv(2) initialised the first `len` octets of the buffer, which has room for them.
        unsafe { self.buffer.set_len(len) };
        Ok(Some(self.buffer.clone()))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the interface is down, has no carrier or no room.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// Whether the interface is there and up, and so is its other end.
    pub(super) fn has_carrier(&self) -> bool {
        has_carrier(&self.socket, self.index).unwrap_or(false)
    }

    /// How many frames the kernel had no room for, since the last call.
    pub(super) fn drops(&self) -> u32 {
        packet_drops(&self.socket).unwrap_or(0)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Has the bridge at the other end of an interface learn on which of its ports the interface is, before any packet does
/// it: one for an address that the bridge does not know goes to all ports.
///
/// # Errors
/// When there is no such interface, or it is down.
pub(super) fn announce(namespace: &Namespace, interface: &str) -> io::Result<()> {
    let announce = || {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.cloexec(), None)?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        let to: SockAddr = packet_address(index, EXPERIMENT, Some(NEAREST_BRIDGE));
        socket.send_to(&[0; 46], &to).map(drop)
    };
    namespace.run(announce).map_err(io::Error::other)?
}

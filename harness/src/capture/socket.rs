//! A packet socket on all interfaces of a namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::filter;
use super::frame::{Cast, Direction, Link};
use super::ring::Ring;
use super::slot::{OFFLOAD_HEADER_LEN, Slot};
use crate::lock::lock;
use crate::socket::{packet_address, packet_drops, set_option};

/// The largest frame: a 64 KiB super-packet with its link header.
const FRAME_LEN: usize = 65_536 + 64 + OFFLOAD_HEADER_LEN;
/// Asked of the kernel for the packets that are longer than a slot of the ring; without privilege it grants
/// `net.core.rmem_max`.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;

/// A non-blocking `AF_PACKET` socket that records both directions of every interface of a namespace but `lo`, those
/// that appear later among them (packet(7)).
///
/// It reads a ring because a packet in a socket's queue shares its octets with the packet that goes on, and not every
/// part of the kernel copies before it writes: where a node reassembles fragments (connection tracking), the fast path
/// of `ip_do_fragment` puts the headers of the packets that it sends over those of the ones that were received.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    ring: Mutex<Ring>,
    /// Packets that neither their slot nor the queue had room for in full, since the last statistics.
    truncated: AtomicU32,
}

/// What the socket says of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The interface's index in its namespace.
    pub index: u32,
    /// Which way it passed.
    pub direction: Direction,
    /// Whom the frame was for.
    pub cast: Cast,
    /// When, by the kernel's clock, since the Unix epoch.
    pub at: Duration,
    /// How the octets begin, by the interface's type.
    pub link: Link,
    /// The octets.
    pub octets: Vec<u8>,
    /// Length on the wire.
    pub wire_len: u32,
    /// Whether the transport checksum was still to be completed.
    pub checksum_pending: bool,
    /// For UDP datagrams that pass in one piece and are to be cut by the (virtual) hardware: octets of payload in each.
    pub segment: Option<u16>,
    /// The same for segments of TCP over IPv4.
    pub tcp_segment: Option<u16>,
}

impl PacketSocket {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_RAW in the namespace, or without the memory for the ring.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 until it is set up, so that nothing gets in before.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        // Received packets are stamped when they arrive, not when their turn at the tap has come.
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let len = libc::c_int::try_from(RECEIVE_BUFFER_LEN).unwrap_or(libc::c_int::MAX);
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, len).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        }
        socket.attach_filter(&filter::NOT_LOOPBACK)?;
        // Before the ring, which the kernel lays out by it.
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        let ring = Ring::open(&socket)?;
        socket.bind(&packet_address(0, libc::ETH_P_ALL as u16, None))?;
        Ok(Self { socket, ring: Mutex::new(ring), truncated: AtomicU32::new(0) })
    }

    /// Whether floods are recorded from now on, as they are at first. `port` is the tunnel's.
    ///
    /// # Errors
    /// When the kernel refuses the filter.
    pub fn record_floods(&self, record: bool, port: u16) -> io::Result<()> {
        match record {
            true => self.socket.attach_filter(&filter::NOT_LOOPBACK),
            false => self.socket.attach_filter(&filter::without_floods(port)),
        }
    }

    /// The name of an interface of the socket's namespace (netdevice(7), `SIOCGIFNAME`), unless it is gone.
    pub fn interface_name(&self, index: u32) -> Option<String> {
        rustix::net::netdevice::index_to_name(&self.socket, index).ok()
    }

    /// The index of an interface of the socket's namespace (netdevice(7), `SIOCGIFINDEX`), if there is one.
    pub fn interface_index(&self, name: &str) -> Option<u32> {
        rustix::net::netdevice::name_to_index(&self.socket, name).ok()
    }

    /// The next packet, or none if none waits.
    ///
    /// # Errors
    /// `ENETDOWN` once after an interface was set down or removed.
    pub fn receive(&self) -> io::Result<Option<Capture>> {
        let mut ring = lock(&self.ring);
        let taken = ring.take(|octets| {
            let slot = Slot::parse(octets);
            let octets = if slot.queued { self.queued(slot.octets)? } else { slot.octets.to_vec() };
            if u32::try_from(octets.len()).is_ok_and(|len| len < slot.wire_len) {
                self.truncated.fetch_add(1, Ordering::Relaxed);
            }
            let Slot {
                index,
                direction,
                cast,
                at,
                link,
                wire_len,
                checksum_pending,
                segment,
                tcp_segment,
                ..
            } = slot;
            Ok(Capture {
                index,
                direction,
                cast,
                at,
                link,
                octets,
                wire_len,
                checksum_pending,
                segment,
                tcp_segment,
            })
        })?;
        // What is wrong with the socket wakes whoever polls it until it is taken.
        if taken.is_none()
            && let Some(error) = self.socket.take_error()?
        {
            return Err(error);
        }
        Ok(taken)
    }

    /// The packet of which a slot had room for `start` only. Packets are queued in the order of their slots.
    fn queued(&self, start: &[u8]) -> io::Result<Vec<u8>> {
        let mut octets = Vec::<u8>::with_capacity(FRAME_LEN);
        let len = match self.socket.recv(octets.spare_capacity_mut()) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(start.to_vec()),
            Err(error) => return Err(error),
        };
        // SAFETY: recv(2) initialised the first `len` octets of the buffer.
        unsafe { octets.set_len(len) };
        let mut octets = octets.split_off(OFFLOAD_HEADER_LEN.min(len));
        // The slot's are from when the packet passed, the queue's may have been written to since.
        if let Some(shared) = octets.get_mut(..start.len()) {
            shared.copy_from_slice(start);
        }
        Ok(octets)
    }

    /// How many packets the socket had no room for, at all or in full, since the last call.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn drops(&self) -> io::Result<u32> {
        let truncated = self.truncated.swap(0, Ordering::Relaxed);
        Ok(packet_drops(&self.socket)?.saturating_add(truncated))
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

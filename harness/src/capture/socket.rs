//! A packet socket on all interfaces of a namespace.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::frame::{Direction, Link};
use crate::socket::{control_messages, received, set_option};

/// The largest frame: a 64 KiB super-packet with its link header.
const FRAME_LEN: usize = 65_536 + 64 + OFFLOAD_HEADER_LEN;
/// Asked of the kernel for each socket; without privilege it grants `net.core.rmem_max`.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;

/// A non-blocking `AF_PACKET` socket that records both directions of every interface of a namespace but `lo`, those
/// that appear later among them (packet(7)).
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

/// What the socket says of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The interface's index in its namespace.
    pub index: u32,
    /// Which way it passed.
    pub direction: Direction,
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
}

/// Octets of the `virtio_net_hdr` before each frame (packet(7), `PACKET_VNET_HDR`).
const OFFLOAD_HEADER_LEN: usize = 10;
/// `VIRTIO_NET_HDR_GSO_UDP_L4` (linux/virtio_net.h).
const GSO_UDP: u8 = 5;

/// What the kernel counted at a socket since it was last asked (`PACKET_STATISTICS`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that passed the socket's interface, dropped ones included.
    pub packets: u32,
    /// Packets of those that the socket had no room for.
    pub drops: u32,
}

impl PacketSocket {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_RAW in the namespace.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 until it is set up, so that nothing gets in before.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let len = libc::c_int::try_from(RECEIVE_BUFFER_LEN).unwrap_or(libc::c_int::MAX);
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, len).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        }
        socket.attach_filter(&NOT_LOOPBACK)?;
        socket.bind(&every_interface())?;
        Ok(Self { socket })
    }

    /// The name of an interface of the socket's namespace (netdevice(7), `SIOCGIFNAME`), unless it is gone.
    pub fn interface_name(&self, index: u32) -> Option<String> {
        rustix::net::netdevice::index_to_name(&self.socket, index).ok()
    }

    /// The next packet, or none if none waits.
    ///
    /// # Errors
    /// `ENETDOWN` once after an interface was set down or removed.
    pub fn receive(&self) -> io::Result<Option<Capture>> {
        let mut octets = Vec::<u8>::with_capacity(FRAME_LEN);
        let mut control = [MaybeUninit::<u8>::uninit(); 256];
        let mut address = empty_address();
        let mut slices = [MaybeUninitSlice::new(octets.spare_capacity_mut())];
        let mut message =
            MsgHdrMut::new().with_addr(&mut address).with_buffers(&mut slices).with_control(&mut control);
        let len = match self.socket.recvmsg(&mut message, 0) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let control_len = message.control_len();
        // SAFETY: recvmsg(2) initialised the first `len` octets of the buffer.
        unsafe { octets.set_len(len) };
        let frame = octets.split_off(OFFLOAD_HEADER_LEN.min(len));
        let segment = (octets.get(1) == Some(&GSO_UDP)).then(|| u16::from_ne_bytes(array(&octets, 4)));
        let len = frame.len();
        // SAFETY: recvmsg(2) initialised the first `control_len` octets.
        let control = unsafe { received(&control, control_len) };
        let control = Control::parse(&control);
        let address = link_address(&address);
        Ok(Some(Capture {
            index: u32::try_from(address.sll_ifindex).unwrap_or(0),
            direction: if address.sll_pkttype == libc::PACKET_OUTGOING {
                Direction::Out
            } else {
                Direction::In
            },
            at: control.at,
            link: if address.sll_hatype == libc::ARPHRD_ETHER { Link::Ethernet } else { Link::Ip },
            wire_len: control.wire_len.max(u32::try_from(len).unwrap_or(u32::MAX)),
            checksum_pending: control.checksum_pending,
            octets: frame,
            segment: segment.filter(|segment| *segment > 0),
        }))
    }

    /// Counts since the last call.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let mut raw = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(0);
        // SAFETY: `raw` and `len` outlive the call, and `len` is the size of `raw`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut raw).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Statistics { packets: raw.tp_packets, drops: raw.tp_drops })
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

/// What the control messages beside a frame say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Control {
    at: Duration,
    wire_len: u32,
    checksum_pending: bool,
}

impl Control {
    fn parse(octets: &[u8]) -> Self {
        let mut control = Self::default();
        for (level, kind, data) in control_messages(octets) {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if data.len() >= 16 => {
                    let seconds = u64::from_ne_bytes(array(data, 0));
                    let nanoseconds = u64::from_ne_bytes(array(data, 8));
                    control.at = Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0));
                }
                // struct tpacket_auxdata: status, len, snaplen, …
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) if data.len() >= 8 => {
                    let status = u32::from_ne_bytes(array(data, 0));
                    control.checksum_pending = status & libc::TP_STATUS_CSUMNOTREADY != 0;
                    control.wire_len = u32::from_ne_bytes(array(data, 4));
                }
                _ => {}
            }
        }
        control
    }
}

/// `N` octets from `offset`, zero where there are none.
fn array<const N: usize>(octets: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(source) = octets.get(offset..offset + N) {
        array.copy_from_slice(source);
    }
    array
}

/// Drops what passes `lo`, which has index 1 in every namespace: the lab's own questions to the daemons.
const NOT_LOOPBACK: [SockFilter; 4] = [
    // A = skb->dev->ifindex (linux/filter.h, ancillary data)
    filter(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
        (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX).cast_unsigned(),
    ),
    filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 1),
    filter(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    filter(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
];

const fn filter(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

/// The address that binds a packet socket to every protocol of every interface.
fn every_interface() -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data and fits in sockaddr_storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the storage holds a sockaddr_ll of `len` octets.
    unsafe { SockAddr::new(storage, len) }
}

/// Room for the address of a received frame.
fn empty_address() -> SockAddr {
    let storage = SockAddrStorage::zeroed();
    let len = storage.size_of();
    // SAFETY: an all-zero storage is a valid address of family AF_UNSPEC.
    unsafe { SockAddr::new(storage, len) }
}

/// The address that the kernel put beside a frame.
fn link_address(address: &SockAddr) -> libc::sockaddr_ll {
    // SAFETY: the address came from a packet socket, so it is a sockaddr_ll, which fits in the storage behind it.
    unsafe { *address.as_ptr().cast::<libc::sockaddr_ll>() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::tests::message;

    #[test]
    fn control_messages_give_time_length_and_checksum_state() {
        let mut octets =
            message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[7u64, 9].map(u64::to_ne_bytes).concat());
        let auxdata = [libc::TP_STATUS_CSUMNOTREADY, 1514, 1514, 0, 0].map(u32::to_ne_bytes).concat();
        octets.extend(message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &auxdata));
        let expected = Control { at: Duration::new(7, 9), wire_len: 1514, checksum_pending: true };
        assert_eq!(Control::parse(&octets), expected);
    }
}

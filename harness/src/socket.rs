//! What sockets are asked that socket2 has no word for: integer options by number, and control messages.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{SockAddr, SockAddrStorage};

/// Octets of a control message's header, `struct cmsghdr` (cmsg(3)).
const HEADER_LEN: usize = size_of::<libc::cmsghdr>();

/// Asks for the state of a link (linux/ethtool.h), which `libc` does not have.
const ETHTOOL_GLINK: u32 = 0x0a;

/// Sets an integer option (setsockopt(2)).
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: `value` outlives the call, and `len` is its size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The address of an interface for a packet socket (packet(7)): to bind it to, where index 0 is every interface, or to send
/// to the hardware address `to`. `protocol` is an EtherType in the host's byte order.
pub(crate) fn packet_address(index: u32, protocol: u16, to: Option<[u8; 6]>) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data and fits in sockaddr_storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    if let Some(to) = to {
        address.sll_halen = 6;
        address.sll_addr = [to[0], to[1], to[2], to[3], to[4], to[5], 0, 0];
    }
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the storage holds a sockaddr_ll of `len` octets.
    unsafe { SockAddr::new(storage, len) }
}

/// How many packets a packet socket had no room for since it was last asked (packet(7), `PACKET_STATISTICS`).
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn packet_drops(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut raw = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(0);
    // SAFETY: `raw` and `len` outlive the call, and `len` is the size of `raw`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut raw).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(raw.tp_drops) }
}

/// Whether an interface in a socket's namespace is up, and so is what is at its other end: what ethtool(8) calls a link.
///
/// # Errors
/// When there is no such interface, or it cannot tell.
pub(crate) fn has_carrier(socket: &(impl AsFd + AsRawFd), index: u32) -> io::Result<bool> {
    let name = rustix::net::netdevice::index_to_name(socket, index)?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, octet) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = octet as libc::c_char;
    }
    // `struct ethtool_value`: the command, and what the kernel answers.
    let mut value = [ETHTOOL_GLINK, 0];
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: value.as_mut_ptr().cast() };
    let mut request = libc::ifreq { ifr_name, ifr_ifru };
    // SAFETY: `request` and the value that it points to outlive the call, and the command writes nothing beyond them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value[1] != 0) }
}

/// The first `len` octets of a control buffer.
///
/// # Safety
/// recvmsg(2) has initialised them.
pub(crate) unsafe fn received(buffer: &[MaybeUninit<u8>], len: usize) -> Vec<u8> {
    let filled = buffer.iter().take(len);
    // SAFETY: by the caller's word these octets are initialised.
    filled.map(|octet| unsafe { octet.assume_init() }).collect()
}

/// A control message: its level, its type, its data.
pub(crate) type ControlMessage<'a> = (i32, i32, &'a [u8]);

/// The messages of a control buffer, each aligned to a `usize`. One that is cut off ends them.
pub(crate) fn control_messages(mut octets: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(octets.first_chunk().copied()?);
        let level = i32::from_ne_bytes(octets.get(size_of::<usize>()..)?.first_chunk().copied()?);
        let kind = i32::from_ne_bytes(octets.get(size_of::<usize>() + 4..)?.first_chunk().copied()?);
        let data = octets.get(HEADER_LEN..len)?;
        octets = octets.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
        Some((level, kind, data))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A control message as the kernel writes it.
    pub(crate) fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let len = HEADER_LEN + data.len();
        let mut octets = len.to_ne_bytes().to_vec();
        octets.extend(level.to_ne_bytes());
        octets.extend(kind.to_ne_bytes());
        octets.extend(data);
        octets.resize(len.next_multiple_of(size_of::<usize>()), 0);
        octets
    }

    #[test]
    fn messages_are_read_one_after_the_other() {
        let octets = [message(1, 2, b"abc"), message(3, 4, b"")].concat();
        let messages: Vec<ControlMessage<'_>> = control_messages(&octets).collect();
        assert_eq!(messages, [(1, 2, &b"abc"[..]), (3, 4, &b""[..])]);
    }

    #[test]
    fn a_message_that_is_cut_off_ends_them() {
        let octets = message(1, 2, &[0xff; 20]);
        for len in 0..HEADER_LEN + 20 {
            assert_eq!(control_messages(&octets[..len]).count(), 0, "{len} octets");
        }
    }

    #[test]
    fn a_length_shorter_than_the_header_ends_them() {
        assert_eq!(control_messages(&[0; 64]).count(), 0);
    }
}

//! Many datagrams in one system call: `sendmmsg` with `UDP_SEGMENT`, `recvmmsg` with `UDP_GRO`.
//!
//! The messages are built anew on the stack for each call, so that no length of an earlier one stays behind.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    ptr,
};

use crate::datapath::{MAX_PACKET, runs::Run};

/// Runs handed to the kernel in one call.
const SEND: usize = 16;

/// Messages taken from the kernel in one call.
pub const RECEIVE: usize = 8;

/// A control message with an integer: the length that a run is cut by. Laid out and sized as `CMSG_SPACE` says.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control<T> {
    header: libc::cmsghdr,
    value: T,
}

impl<T> Control<T> {
    /// As `CMSG_LEN`.
    const LENGTH: usize = size_of::<libc::cmsghdr>() + size_of::<T>();
}

const _: () = assert!(size_of::<Control<u16>>() == 24 && size_of::<Control<libc::c_int>>() == 24);

fn zeroed<T: Plain>() -> T {
    // SAFETY: all zeros is a valid value of the types marked as plain.
    unsafe { std::mem::zeroed() }
}

/// Plain data of the C library for which all zeros is valid.
trait Plain: Copy {}
impl Plain for libc::mmsghdr {}
impl Plain for libc::sockaddr_in {}
impl Plain for libc::cmsghdr {}

fn socket_address(node: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: node.to_bits().to_be() },
        ..zeroed()
    }
}

/// Sends as many of `runs` as the kernel takes in one call, waiting for room in the socket's queue. Returns how
/// many went, at least one unless `runs` is empty.
///
/// # Errors
/// What the kernel has against the first run: `EMSGSIZE` when its stride is longer than the path or its only
/// datagram longer than UDP carries, `EIO` or `EINVAL` when it does not segment.
pub fn send(socket: &UdpSocket, port: u16, buffer: &[u8], runs: &[Run]) -> io::Result<usize> {
    let runs = &runs[..runs.len().min(SEND)];
    let mut names = [zeroed::<libc::sockaddr_in>(); SEND];
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SEND];
    let mut controls = [Control { header: zeroed(), value: 0u16 }; SEND];
    let mut messages = [zeroed::<libc::mmsghdr>(); SEND];
    for (index, run) in runs.iter().enumerate() {
        let octets = &buffer[run.start..run.start + run.length];
        names[index] = socket_address(run.node, port);
        vectors[index] = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
        let message = &mut messages[index].msg_hdr;
        message.msg_name = (&raw mut names[index]).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        message.msg_iov = &raw mut vectors[index];
        message.msg_iovlen = 1;
        // A segment size that is not smaller than the whole has upset kernels: single datagrams go without.
        if run.count > 1 {
            let control = &mut controls[index];
            control.header.cmsg_len = Control::<u16>::LENGTH as _;
            control.header.cmsg_level = libc::SOL_UDP;
            control.header.cmsg_type = libc::UDP_SEGMENT;
            control.value = run.stride as u16;
            message.msg_control = (&raw mut *control).cast();
            message.msg_controllen = size_of::<Control<u16>>() as _;
        }
    }
    let count = runs.len() as libc::c_uint;
    // SAFETY: the first `count` messages point to names, vectors, controls and octets that outlive the call; the
    // kernel only reads the octets.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A message received: the first `length` octets of its place in the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The node that it came from.
    pub node: Ipv4Addr,
    /// Octets of all its datagrams.
    pub length: usize,
    /// Octets of each datagram but the last.
    pub stride: usize,
}

/// Room for the messages of one call, each the longest there may be.
#[derive(Debug)]
pub struct Arrivals {
    buffer: Box<[u8]>,
    arrived: [Arrival; RECEIVE],
    count: usize,
}

impl Arrivals {
    /// Room for `count` messages, 1 to [`RECEIVE`].
    #[must_use]
    pub fn new(count: usize) -> Self {
        let count = count.clamp(1, RECEIVE);
        let nothing = Arrival { node: Ipv4Addr::UNSPECIFIED, length: 0, stride: 0 };
        Self { buffer: vec![0; count * MAX_PACKET].into(), arrived: [nothing; RECEIVE], count: 0 }
    }

    /// Waits for one message and takes what else is there. What was taken before is forgotten.
    ///
    /// # Errors
    /// As recvmmsg(2): `EINTR` when a signal came.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.count = 0;
        let mut names = [zeroed::<libc::sockaddr_in>(); RECEIVE];
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVE];
        let mut controls = [Control { header: zeroed(), value: 0 as libc::c_int }; RECEIVE];
        let mut messages = [zeroed::<libc::mmsghdr>(); RECEIVE];
        let mut room = 0;
        for (index, place) in self.buffer.chunks_exact_mut(MAX_PACKET).enumerate() {
            vectors[index] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
            let message = &mut messages[index].msg_hdr;
            message.msg_name = (&raw mut names[index]).cast();
            message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            message.msg_iov = &raw mut vectors[index];
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut controls[index]).cast();
            message.msg_controllen = size_of::<Control<libc::c_int>>() as _;
            room += 1;
        }
        // SAFETY: the first `room` messages point to names, vectors, controls and places that outlive the call and
        // that nothing else refers to.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                room,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        self.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (index, arrival) in self.arrived[..self.count].iter_mut().enumerate() {
            let (message, control) = (&messages[index], &controls[index]);
            let length = message.msg_len as usize;
            let is_run = message.msg_hdr.msg_controllen >= Control::<libc::c_int>::LENGTH
                && control.header.cmsg_level == libc::SOL_UDP
                && control.header.cmsg_type == libc::UDP_GRO;
            let stride = usize::try_from(control.value).ok().filter(|stride| is_run && *stride > 0);
            *arrival = Arrival {
                node: Ipv4Addr::from_bits(u32::from_be(names[index].sin_addr.s_addr)),
                length,
                stride: stride.unwrap_or(length),
            };
        }
        Ok(())
    }

    /// The messages with their octets, in the order of arrival.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Arrival, &mut [u8])> {
        let places = self.buffer.chunks_exact_mut(MAX_PACKET);
        self.arrived[..self.count].iter().zip(places).map(|(arrival, place)| {
            let octets = &mut place[..arrival.length];
            (*arrival, octets)
        })
    }
}

/// The datagrams of a message; an empty one is a datagram too.
pub fn datagrams(octets: &mut [u8], stride: usize) -> impl Iterator<Item = &mut [u8]> {
    let empty: Option<&mut [u8]> = if octets.is_empty() { Some(&mut []) } else { None };
    empty.into_iter().chain(octets.chunks_mut(stride.max(1)))
}

#[cfg(test)]
mod tests;

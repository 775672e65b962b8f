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

/// A control message with a value of up to eight octets: the length that a run is cut by, or its traffic class. Several
/// in a row lie as `CMSG_SPACE` and `CMSG_NXTHDR` have them.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    value: [u8; 8],
}

/// The most that a message has.
const CONTROLS: usize = 2;

const _: () = assert!(size_of::<Control>() == size_of::<libc::cmsghdr>() + 8 && size_of::<Control>() == 24);

impl Control {
    fn empty() -> Self {
        Self { header: zeroed(), value: [0; 8] }
    }

    fn new<const N: usize>(level: libc::c_int, kind: libc::c_int, value: [u8; N]) -> Self {
        let mut control = Self::empty();
        control.header.cmsg_len = (size_of::<libc::cmsghdr>() + N) as _;
        control.header.cmsg_level = level;
        control.header.cmsg_type = kind;
        control.value[..N].copy_from_slice(&value);
        control
    }

    /// The value, when the message is of this kind and as long.
    fn get<const N: usize>(&self, level: libc::c_int, kind: libc::c_int) -> Option<[u8; N]> {
        let header = &self.header;
        let is_it = header.cmsg_level == level
            && header.cmsg_type == kind
            && header.cmsg_len == size_of::<libc::cmsghdr>() + N;
        self.value.first_chunk().copied().filter(|_| is_it)
    }
}

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
    let mut controls = [[Control::empty(); CONTROLS]; SEND];
    let mut messages = [zeroed::<libc::mmsghdr>(); SEND];
    for (index, run) in runs.iter().enumerate() {
        let octets = &buffer[run.start..run.start + run.length];
        names[index] = socket_address(run.to.node, port);
        vectors[index] = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
        let message = &mut messages[index].msg_hdr;
        message.msg_name = (&raw mut names[index]).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        message.msg_iov = &raw mut vectors[index];
        message.msg_iovlen = 1;
        let room = &mut controls[index];
        let mut used = 0;
        // A segment size that is not smaller than the whole has upset kernels: single datagrams go without.
        if run.count > 1 {
            room[used] = Control::new(libc::SOL_UDP, libc::UDP_SEGMENT, (run.stride as u16).to_ne_bytes());
            used += 1;
        }
        if run.to.traffic_class != 0 {
            let value = libc::c_int::from(run.to.traffic_class).to_ne_bytes();
            room[used] = Control::new(libc::IPPROTO_IP, libc::IP_TOS, value);
            used += 1;
        }
        if used > 0 {
            message.msg_control = room.as_mut_ptr().cast();
            message.msg_controllen = (used * size_of::<Control>()) as _;
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
    /// The traffic class octet of the IP header of all its datagrams: the kernel merges none of different ones
    /// (`inet_gro_receive`).
    pub traffic_class: u8,
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
        let nothing = Arrival { node: Ipv4Addr::UNSPECIFIED, length: 0, stride: 0, traffic_class: 0 };
        Self { buffer: vec![0; count * MAX_PACKET].into(), arrived: [nothing; RECEIVE], count: 0 }
    }

    /// Waits for one message and takes what else is there. What was taken before is forgotten.
    ///
    /// # Errors
    /// As recvmmsg(2): `EINTR` when a signal came.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.take(socket, RECEIVE, libc::MSG_WAITFORONE)
    }

    /// Waits for one message and takes it alone: the kernel does not look for another first.
    ///
    /// # Errors
    /// As [`Arrivals::receive`].
    pub fn receive_one(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.take(socket, 1, 0)
    }

    /// Takes what is there.
    ///
    /// # Errors
    /// As recvmmsg(2): `EAGAIN` when there is nothing.
    pub fn try_receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.take(socket, RECEIVE, libc::MSG_DONTWAIT)
    }

    fn take(&mut self, socket: &UdpSocket, most: usize, flags: libc::c_int) -> io::Result<()> {
        self.count = 0;
        let mut names = [zeroed::<libc::sockaddr_in>(); RECEIVE];
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVE];
        let mut controls = [[Control::empty(); CONTROLS]; RECEIVE];
        let mut messages = [zeroed::<libc::mmsghdr>(); RECEIVE];
        let mut room = 0;
        for (index, place) in self.buffer.chunks_exact_mut(MAX_PACKET).take(most).enumerate() {
            vectors[index] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
            let message = &mut messages[index].msg_hdr;
            message.msg_name = (&raw mut names[index]).cast();
            message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            message.msg_iov = &raw mut vectors[index];
            message.msg_iovlen = 1;
            message.msg_control = controls[index].as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&controls[index]) as _;
            room += 1;
        }
        // SAFETY: the first `room` messages point to names, vectors, controls and places that outlive the call and
        // that nothing else refers to.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), room, flags, ptr::null_mut())
        };
        self.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (index, arrival) in self.arrived[..self.count].iter_mut().enumerate() {
            let message = &messages[index];
            let length = message.msg_len as usize;
            // What the kernel did not fill stays empty, and is of no kind.
            let controls = &controls[index];
            let stride = controls.iter().find_map(|control| control.get(libc::SOL_UDP, libc::UDP_GRO));
            let stride = stride.and_then(|value| usize::try_from(libc::c_int::from_ne_bytes(value)).ok());
            let class = controls.iter().find_map(|control| control.get(libc::IPPROTO_IP, libc::IP_TOS));
            *arrival = Arrival {
                node: Ipv4Addr::from_bits(u32::from_be(names[index].sin_addr.s_addr)),
                length,
                stride: stride.filter(|stride| *stride > 0).unwrap_or(length),
                traffic_class: class.map_or(0, |[octet]: [u8; 1]| octet),
            };
        }
        Ok(())
    }

    /// How many messages were taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
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

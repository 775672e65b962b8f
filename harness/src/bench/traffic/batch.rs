//! Many datagrams a system call: sendmmsg(2) and recvmmsg(2).

use std::io;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Room for a number of datagrams of one size.
pub(super) struct Batch {
    octets: Vec<u8>,
    size: usize,
    /// Each points at its part of `octets`; `headers` point at them.
    slices: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    /// Room for `count` datagrams of `size` octets, all zero.
    pub(super) fn new(count: usize, size: usize) -> Self {
        let mut octets = vec![0u8; count * size];
        let part = |part: &mut [u8]| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: size };
        let mut slices: Vec<libc::iovec> = octets.chunks_exact_mut(size).map(part).collect();
        let header = |slice: &mut libc::iovec| {
            // SAFETY: all zero is a message header without address, data and control messages (recvmsg(2)).
            let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header
        };
        let headers = slices.iter_mut().map(header).collect();
        Self { octets, size, slices, headers }
    }

    /// Writes `start` at the start of every datagram.
    pub(super) fn stamp(&mut self, start: &[u8]) {
        for datagram in self.octets.chunks_exact_mut(self.size) {
            datagram[..start.len()].copy_from_slice(start);
        }
    }

    /// Sends up to `count` of them from a connected socket. Returns how many were.
    pub(super) fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        let count = count.min(self.headers.len()) as libc::c_uint;
        // SAFETY: that many headers are there, and all that they point at is owned by `self` and not moved.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Sends all of them as one piece, for the kernel to cut. Returns how many were sent.
    pub(super) fn send_whole(&self, socket: &UdpSocket) -> io::Result<usize> {
        Ok(socket.send(&self.octets)? / self.size)
    }

    /// Waits for one, as long as the socket's timeout allows, and takes all that are there. Returns how many.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let count = self.headers.len() as libc::c_uint;
        let (headers, no_timeout) = (self.headers.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: as with sending; the kernel writes no more than each slice's length.
        let received =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_WAITFORONE, no_timeout) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// The first `count` datagrams, each with the octets that were received.
    pub(super) fn datagrams(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let parts = self.octets.chunks_exact(self.size).zip(&self.headers).take(count.min(self.slices.len()));
        parts.map(|(octets, header)| octets.get(..header.msg_len as usize).unwrap_or(octets))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_sent_in_one_call_is_received_in_one() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut out = Batch::new(8, 64);
        out.stamp(b"mark");
        assert_eq!(out.send(&sender, 5).unwrap(), 5);
        let mut into = Batch::new(16, 128);
        assert_eq!(into.receive(&receiver).unwrap(), 5);
        let received: Vec<&[u8]> = into.datagrams(5).collect();
        assert!(received.iter().all(|datagram| datagram.len() == 64 && datagram.starts_with(b"mark")));
    }
}

//! A socket's error queue: ICMP errors about what it sent, with who sent them (ip(7), `IP_RECVERR`).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::Ipv4Addr;

use socket2::{MaybeUninitSlice, MsgHdrMut, Socket};

use crate::packet::icmp::Kind;
use crate::socket::{control_messages, received};

/// Offset of the offender's address in the control message: after `sock_extended_err`.
const OFFENDER: usize = size_of::<libc::sock_extended_err>();

/// An error that was queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QueuedError {
    /// Another host's word.
    Icmp {
        /// Type and code.
        kind: Kind,
        /// Who sent it.
        from: Ipv4Addr,
        /// What was sent, from its transport header on, as far as the error quotes it.
        about: Vec<u8>,
    },
    /// The own kernel's word, which sending returned already.
    Local,
}

/// Takes the next error from the queue, if there is one.
pub(super) fn receive(socket: &Socket) -> io::Result<Option<QueuedError>> {
    let mut quote = [MaybeUninit::<u8>::uninit(); 2048];
    let mut control = [MaybeUninit::<u8>::uninit(); 512];
    let mut slices = [MaybeUninitSlice::new(&mut quote)];
    let mut message = MsgHdrMut::new().with_buffers(&mut slices).with_control(&mut control);
    let quoted = match socket.recvmsg(&mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = message.control_len();
    // SAFETY: recvmsg(2) initialised the first `len` octets.
    let control = unsafe { received(&control, len) };
    let mut messages = control_messages(&control);
    let found = messages.find(|(level, kind, _)| (*level, *kind) == (libc::SOL_IP, libc::IP_RECVERR));
    // SAFETY: recvmsg(2) initialised the first `quoted` octets.
    let about = unsafe { received(&quote, quoted) };
    Ok(Some(found.and_then(|(_, _, data)| extended_error(data, &about)).unwrap_or(QueuedError::Local)))
}

/// `struct sock_extended_err`, followed by the offender's `sockaddr_in`.
fn extended_error(data: &[u8], about: &[u8]) -> Option<QueuedError> {
    let [_, _, _, _, origin, kind, code, ..] = *data else { return None };
    if origin != libc::SO_EE_ORIGIN_ICMP {
        return Some(QueuedError::Local);
    }
    let address: [u8; 4] = data.get(OFFENDER + 4..OFFENDER + 8)?.try_into().ok()?;
    let about = about.to_vec();
    Some(QueuedError::Icmp { kind: Kind { kind, code }, from: Ipv4Addr::from(address), about })
}

//! Senders and receivers in hosts of the lab, each a thread of this process or an iperf3.

use std::io;
use std::net::UdpSocket;

use crate::socket::set_option;

mod batch;
pub(crate) mod blast;
pub(crate) mod flow;
pub(crate) mod iperf;
pub(crate) mod ping_pong;
pub(crate) mod sink;

/// Room in a receiver's socket, in octets.
const RECEIVE_BUFFER_LEN: libc::c_int = 4 << 20;

/// Gives a receiver's socket so much room that nothing is lost there while its reader waits for a processor.
fn roomy(socket: &UdpSocket) -> io::Result<()> {
    let set = |name| set_option(socket, libc::SOL_SOCKET, name, RECEIVE_BUFFER_LEN);
    // Without privilege the kernel grants net.core.rmem_max.
    set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF))
}

/// Makes the calling thread's sleeps end on time: by default the kernel adds up to 50 µs, to wake less often
/// (`PR_SET_TIMERSLACK`, prctl(2)).
pub(crate) fn precise_sleeps() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "sleeps stay coarse");
    }
}

//! Senders and receivers in hosts of the lab, each a thread of this process or an iperf3.

mod batch;
pub(crate) mod blast;
pub(crate) mod flow;
pub(crate) mod iperf;
pub(crate) mod ping_pong;
pub(crate) mod sink;

/// Makes the calling thread's sleeps end on time: by default the kernel adds up to 50 µs, to wake less often
/// (`PR_SET_TIMERSLACK`, prctl(2)).
pub(crate) fn precise_sleeps() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "sleeps stay coarse");
    }
}

//! How a thread tells of what went wrong: ICMP errors to the source, a line to the log now and then.

use std::{
    io,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{
    counters::{Direction, IcmpSuppressed},
    icmp::{self, Audience},
    rate::FairRate,
};
use crate::wire::icmpv4;

/// Between two lines of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One thread's voice.
#[derive(Debug)]
pub(super) struct Reporter<'a> {
    socket: &'a Socket,
    counters: &'a Direction,
    audience: Audience<'a>,
    rate: FairRate,
    logged: Option<Instant>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(socket: &'a Socket, counters: &'a Direction, audience: Audience<'a>) -> Self {
        Self { socket, counters, audience, rate: FairRate::new(Instant::now()), logged: None }
    }

    /// Sends `error` about `packet` to its source, if the rules and the rate allow it. Whether the kernel took it.
    pub(super) fn answer(&mut self, packet: &[u8], error: icmpv4::Error) -> bool {
        let cause = match icmp::error_about(packet, error, self.audience) {
            Err(cause) => cause,
            Ok(datagram) if !self.rate.take(datagram.flow(), Instant::now()) => IcmpSuppressed::RateLimited,
            Ok(datagram) => {
                let to = SocketAddrV4::new(datagram.destination(), 0).into();
                match self.socket.send_to(datagram.as_bytes(), &to) {
                    Ok(_) => {
                        self.counters.answered(error);
                        return true;
                    }
                    Err(failure) => {
                        self.log(&failure, "sending an ICMP error");
                        IcmpSuppressed::SendFailed
                    }
                }
            }
        };
        self.counters.suppressed(cause);
        false
    }

    pub(super) fn log(&mut self, error: &io::Error, during: &'static str) {
        let now = Instant::now();
        if self.logged.is_none_or(|then| now.duration_since(then) >= LOG_INTERVAL) {
            self.logged = Some(now);
            tracing::warn!(%error, during, "data path error; further ones within 10 s are only counted");
        }
    }
}

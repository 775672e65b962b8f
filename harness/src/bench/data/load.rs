//! Loads of UDP: how much passes without loss, and what is left when it is more than that.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::bench::Error;
use crate::bench::traffic::blast::{Blast, Load};
use crate::bench::traffic::sink::Sink;
use crate::netns::Namespace;

/// Loads from one container to another.
pub(super) struct Loads<'a> {
    pub(super) from: &'a Namespace,
    pub(super) to: Ipv4Addr,
    pub(super) sink: &'a Sink,
    /// For how long each is sent.
    pub(super) span: Duration,
}

/// Datagrams a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    /// Taken by the sender's kernel.
    pub(super) sent: f64,
    /// Read from the receiving socket.
    pub(super) delivered: f64,
}

/// Before a load is measured: queues fill.
const WARM_UP: Duration = Duration::from_millis(200);
/// A load passes if no more than this share of it is lost. The machine runs other things, too: one interruption of a
/// few milliseconds costs some datagrams at any rate.
const TOLERATED: f64 = 0.001;
/// Datagrams a second that every overlay is expected to carry.
pub(super) const LOWEST: f64 = 5_000.0;
/// The search ends when it knows the rate so well.
const PRECISION: f64 = 1.06;
/// Tries at a rate before it counts as too high.
const TRIES: u32 = 2;

impl Loads<'_> {
    /// Sends a load and looks what arrives while it is sent.
    pub(super) fn rates(&self, load: Load) -> Result<Rates, Error> {
        let run = self.sink.begin();
        let blast = Blast::start(self.from, self.to, load, run)?;
        std::thread::sleep(WARM_UP);
        let (start, sent, read) = (Instant::now(), blast.sent(), self.sink.count());
        std::thread::sleep(self.span);
        let (sent, read) = (blast.sent() - sent, self.sink.count() - read);
        let seconds = start.elapsed().as_secs_f64();
        blast.end();
        self.sink.settle();
        Ok(Rates { sent: sent as f64 / seconds, delivered: read as f64 / seconds })
    }

    /// The highest rate at which nearly nothing is lost, and no higher than `highest`: by halving the interval, on a
    /// logarithmic scale.
    pub(super) fn loss_free(&self, load: Load, highest: f64) -> Result<f64, Error> {
        let (mut passed, mut failed) = (LOWEST, highest.max(LOWEST * PRECISION));
        let mut best = 0.0;
        while failed / passed > PRECISION {
            let rate = (passed * failed).sqrt();
            match self.passes(Load { rate: Some(rate), ..load })? {
                Some(achieved) => {
                    best = f64::max(best, achieved);
                    passed = rate;
                    // The sender cannot send faster.
                    if achieved < rate * 0.9 {
                        break;
                    }
                }
                None => failed = rate,
            }
        }
        Ok(best)
    }

    /// The rate at which a load was sent of which nearly all arrived.
    fn passes(&self, load: Load) -> Result<Option<f64>, Error> {
        for _ in 0..TRIES {
            let run = self.sink.begin();
            let start = Instant::now();
            let blast = Blast::start(self.from, self.to, load, run)?;
            std::thread::sleep(self.span);
            let sent = blast.end();
            let seconds = start.elapsed().as_secs_f64();
            let delivered = self.sink.settle();
            if sent.saturating_sub(delivered) as f64 <= sent as f64 * TOLERATED {
                return Ok(Some(sent as f64 / seconds));
            }
        }
        Ok(None)
    }
}

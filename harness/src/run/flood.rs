//! Sending more packets than anybody would look at one by one.

use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::{Runner, StepError};
use crate::capture::FLOOD_PORTS;
use crate::probe::{Fill, Flooder, Listener};
use crate::suite::Flood;
use crate::wait;

/// Packets that are due are sent this often.
const TICK: Duration = Duration::from_millis(1);
/// What a longer pause than this has kept from being sent in time is not made up for: it would be a burst.
const CATCH_UP: Duration = Duration::from_millis(10);
/// A flood ends by then, however many packets are left: a slow machine sends at a lower rate than asked for.
const MAX_TIME: Duration = Duration::from_secs(60);
/// For the last packets to arrive.
const ARRIVED_WITHIN: Duration = Duration::from_secs(5);

/// A flood that is ready to be sent.
pub(super) struct Deluge {
    flooder: Flooder,
    fill: Fill,
    packets: u32,
    rate: u32,
    max_lost: Option<u32>,
    /// What counts those that arrive, by their number.
    receiver: Option<(Rc<Listener>, u32)>,
}

impl Runner<'_> {
    pub(super) async fn flood(&mut self, flood: &Flood) -> Result<(), StepError> {
        let deluge = self.deluge(flood)?;
        self.lab.begin_flood()?;
        if let Some(shortfall) = deluge.pour(|| self.lab.note_flooded()).await? {
            self.problem(shortfall);
        }
        Ok(())
    }

    /// What is to send a flood.
    pub(super) fn deluge(&mut self, flood: &Flood) -> Result<Deluge, StepError> {
        let to = self.address(&flood.to)?;
        let number = self.next_probe();
        let tunnel = flood.port == self.map.port;
        let fill = if tunnel { Fill::garbage(flood.size) } else { Fill::marked(number, flood.size) };
        let receiver = match self.map.host_of(to).map(str::to_owned) {
            Some(host) if !tunnel => Some((self.listener_at(&host, flood.port)?, number)),
            _ => None,
        };
        let ports = u32::from(FLOOD_PORTS.end() - FLOOD_PORTS.start());
        let port = FLOOD_PORTS.start() + (number % ports) as u16;
        let namespace = self.lab.host(&flood.from)?.namespace.clone();
        let flooder = Flooder::open(&namespace, port, SocketAddrV4::new(to, flood.port))?;
        let Flood { packets, rate, max_lost, .. } = *flood;
        Ok(Deluge { flooder, fill, packets, rate, max_lost, receiver })
    }
}

impl Deluge {
    /// Sends it, telling `note` of each packet: what is wrong with what was sent, or with what arrived.
    pub(super) async fn pour(self, mut note: impl FnMut()) -> Result<Option<String>, StepError> {
        let Self { flooder, fill, packets, rate, max_lost, receiver } = self;
        let mut received = 0;
        let mut hear = || {
            received += receiver.as_ref().map_or(0, |(listener, number)| listener.received(*number));
            received
        };
        let start = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut sent, mut due, mut before) = (0, 0.0, start);
        while sent < packets && start.elapsed() < MAX_TIME {
            ticks.tick().await;
            hear();
            let now = Instant::now();
            due += f64::from(rate) * (now - before).min(CATCH_UP).as_secs_f64();
            before = now;
            while due >= 1.0 && sent < packets {
                due -= 1.0;
                if flooder.send(fill.payload(sent))? {
                    note();
                    sent += 1;
                }
            }
        }
        if sent < packets {
            let within = MAX_TIME.as_secs();
            return Ok(Some(format!("{sent} of the flood's {packets} packets were sent in {within} s")));
        }
        let Some(most) = max_lost else { return Ok(None) };
        let arrived = wait::until("the flood's last packets", ARRIVED_WITHIN, async || {
            let received = hear();
            if received.saturating_add(most) >= sent { Ok(()) } else { Err(received.to_string()) }
        });
        if arrived.await.is_ok() {
            return Ok(None);
        }
        let lost = sent - hear();
        Ok(Some(format!("{lost} of the flood's {sent} packets were lost; the case allows {most}")))
    }
}

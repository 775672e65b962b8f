//! Sending more packets than anybody would look at one by one.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::{Runner, StepError};
use crate::capture::FLOOD_PORTS;
use crate::probe::{Fill, Flooder};
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

impl Runner<'_> {
    pub(super) async fn flood(&mut self, flood: &Flood) -> Result<(), StepError> {
        let to = self.address(&flood.to)?;
        let number = self.next_probe();
        let tunnel = flood.port == self.map.port;
        let fill = if tunnel { Fill::garbage(flood.size) } else { Fill::marked(number, flood.size) };
        let listener = match self.map.host_of(to).map(str::to_owned) {
            Some(host) if !tunnel => Some(self.listener_at(&host, flood.port)?),
            _ => None,
        };
        let ports = u32::from(FLOOD_PORTS.end() - FLOOD_PORTS.start());
        let port = FLOOD_PORTS.start() + (number % ports) as u16;
        let namespace = self.lab.host(&flood.from)?.namespace.clone();
        let flooder = Flooder::open(&namespace, port, SocketAddrV4::new(to, flood.port))?;
        let mut received = 0;
        let mut hear = || {
            received += listener.as_ref().map_or(0, |listener| listener.received(number));
            received
        };
        self.lab.begin_flood()?;
        let start = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut sent, mut due, mut before) = (0, 0.0, start);
        while sent < flood.packets && start.elapsed() < MAX_TIME {
            ticks.tick().await;
            hear();
            let now = Instant::now();
            due += f64::from(flood.rate) * (now - before).min(CATCH_UP).as_secs_f64();
            before = now;
            while due >= 1.0 && sent < flood.packets {
                due -= 1.0;
                if flooder.send(fill.payload(sent))? {
                    self.lab.note_flooded();
                    sent += 1;
                }
            }
        }
        if sent < flood.packets {
            let (packets, within) = (flood.packets, MAX_TIME.as_secs());
            self.problem(format!("{sent} of the flood's {packets} packets were sent in {within} s"));
        }
        let Some(most) = flood.max_lost else { return Ok(()) };
        let arrived = wait::until("the flood's last packets", ARRIVED_WITHIN, async || {
            let received = hear();
            if received.saturating_add(most) >= sent { Ok(()) } else { Err(received.to_string()) }
        });
        if arrived.await.is_err() {
            let lost = sent - hear();
            self.problem(format!("{lost} of the flood's {sent} packets were lost; the case allows {most}"));
        }
        Ok(())
    }
}

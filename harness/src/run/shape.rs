//! Bad links, and what they have dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Runner, StepError};
use crate::capture::frame::{Frame, Point, now};
use crate::flow::{self, Dropped, Fault, FaultPlace, Place, Probe};
use crate::lab::shaper::{Cause, Impairment, Rate, ShaperDrop};
use crate::suite::{Shaping, Toward};

impl Runner<'_> {
    /// Puts a shaper before a host.
    pub(super) async fn shape(&mut self, shaping: &Shaping) -> Result<(), StepError> {
        let began = now();
        let impairment = impairment(shaping);
        let toward = |way| match shaping.one_way {
            Some(only) if only != way => Impairment::default(),
            _ => impairment,
        };
        let (inward, outward) = (toward(Toward::In), toward(Toward::Out));
        self.lab.shape(&shaping.host, inward, outward, &self.down).await?;
        self.moved(&shaping.host, began);
        Ok(())
    }

    /// Takes the shaper away that is before a host, and shows what it has done to datagrams.
    pub(super) async fn unshape(&mut self, host: &str) -> Result<(), StepError> {
        let began = now();
        let [inward, outward] = self.lab.unshape(host, &self.down).await?;
        self.moved(host, began);
        for (causes, way) in [(inward, "to"), (outward, "from")] {
            let causes: Vec<&str> = causes.into_iter().map(Cause::name).collect();
            if !causes.is_empty() {
                self.line(format!("  dropped on the way {way} {host}: {}", causes.join(", ")));
            }
        }
        Ok(())
    }

    /// While a link goes from one place to another, what is under way there may be lost.
    fn moved(&mut self, host: &str, began: Duration) {
        let what = "link moved to or from a shaper".to_owned();
        self.broke(Fault { host: host.to_owned(), place: FaultPlace::Underlay, what }, began);
    }
}

fn impairment(shaping: &Shaping) -> Impairment {
    let duration = |milliseconds: Option<u16>| Duration::from_millis(milliseconds.unwrap_or(0).into());
    let rate =
        |kbit: u32| Rate { bits: u64::from(kbit).saturating_mul(1000), queue: usize::from(shaping.queue()) };
    Impairment {
        delay: duration(shaping.delay_ms),
        jitter: duration(shaping.jitter_ms),
        loss: shaping.loss_percent.unwrap_or(0),
        duplicate: shaping.duplicate_percent.unwrap_or(0),
        reorder: shaping.reorder_percent.unwrap_or(0),
        rate: shaping.rate_kbit.map(rate),
    }
}

/// Each probe's frames, and what shapers dropped of it, by its number.
pub(super) type Shares = BTreeMap<u32, (Vec<Frame>, Vec<Dropped>)>;

/// Frames by the probe that they belong to, and what shapers dropped of each probe. A fragment that was dropped is known by
/// the others of its datagram, if not by itself.
pub(super) fn sort(probes: &[Probe], mut frames: Vec<Frame>, dropped: Vec<ShaperDrop>, port: u16) -> Shares {
    // A point of its own for each host and cause, by which a frame is told from those that were recorded.
    let mut points: Vec<(Arc<Point>, Cause)> = Vec::new();
    for ShaperDrop { cause, mut frame } in dropped {
        let known = points.iter().find(|(point, other)| *other == cause && *point == frame.point);
        frame.point = match known {
            Some((point, _)) => point.clone(),
            None => {
                let point = Arc::new(Point::clone(&frame.point));
                points.push((point.clone(), cause));
                point
            }
        };
        frames.push(frame);
    }
    let dropped = |frame: &Frame| {
        let (point, cause) = points.iter().find(|(point, _)| Arc::ptr_eq(point, &frame.point))?;
        let (host, reason) = (point.host.clone(), cause.name().to_owned());
        Some(Dropped { host, place: Place::Shaper, reason, count: 1 })
    };
    let sorted = flow::sort(probes, frames, port).probes.into_iter();
    let shared = sorted.map(|(number, frames)| {
        let (lost, recorded): (Vec<Frame>, Vec<Frame>) =
            frames.into_iter().partition(|frame| dropped(frame).is_some());
        (number, (recorded, lost.iter().filter_map(dropped).collect()))
    });
    shared.collect()
}

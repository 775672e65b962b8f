//! Whether this machine stood still: a virtual one is paused, or moves to another host, and every deadline passes meanwhile.

use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How often a thread asks to run.
const EVERY: Duration = Duration::from_millis(100);
/// By so much it is late for more than want of a processor: with twelve runnable threads for each, it is late by a tenth.
const LATE: Duration = Duration::from_secs(1);

/// What a thread has seen that asks to run all the time.
#[derive(Debug)]
struct Ticks {
    /// When it last ran.
    last: Instant,
    /// Until when it had not run for long, and for how long.
    stood: Vec<(Instant, Duration)>,
}

static TICKS: OnceLock<Mutex<Ticks>> = OnceLock::new();

/// Looks out from now on, in a thread.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn watch() -> std::io::Result<()> {
    let mut is_first = false;
    let ticks = TICKS.get_or_init(|| {
        is_first = true;
        Mutex::new(Ticks { last: Instant::now(), stood: Vec::new() })
    });
    if is_first {
        thread::Builder::new().name("standstill".to_owned()).spawn(move || {
            loop {
                thread::sleep(EVERY);
                lock(ticks).tick(Instant::now());
            }
        })?;
    }
    Ok(())
}

/// For how long this machine, or this process, has stood still since `began`, at the longest; none if it did not, or nobody
/// looked out.
pub(crate) fn longest_since(began: Instant) -> Option<Duration> {
    lock(TICKS.get()?).longest_since(began, Instant::now())
}

impl Ticks {
    fn tick(&mut self, now: Instant) {
        self.stood.extend(self.standing(now).map(|length| (now, length)));
        self.last = now;
    }

    /// For how long it has not run, if that is long.
    fn standing(&self, now: Instant) -> Option<Duration> {
        let late = now.saturating_duration_since(self.last).saturating_sub(EVERY);
        (late >= LATE).then_some(late)
    }

    fn longest_since(&self, began: Instant, now: Instant) -> Option<Duration> {
        let stood = self.stood.iter().filter(|(until, _)| *until > began).map(|(_, length)| *length);
        // The thread may be about to run again, too.
        stood.chain(self.standing(now)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_late_by_a_second_was_not_alone_in_standing_still() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ticks = Ticks { last: start, stood: Vec::new() };
        for now in [100, 200, 1_250, 2_350, 4_450, 4_550] {
            ticks.tick(at(now));
        }
        assert_eq!(ticks.stood.len(), 2, "950 ms are less");
        let stood = |began, now| ticks.longest_since(at(began), at(now)).map(|length| length.as_millis());
        assert_eq!(stood(0, 4_600), Some(2_000));
        assert_eq!(stood(4_400, 4_600), Some(2_000), "which ended since");
        assert_eq!(stood(4_500, 4_600), None);
        assert_eq!(stood(4_500, 6_650), Some(2_000), "which has not ended yet");
    }
}

//! How long a relay takes to start when the cluster's leases are all there.
//!
//! From before the process is made until `/readyz` has said yes, which is asked every 20 ms at last.

use std::time::{Duration, Instant};

use super::{Error, MEASURED, Plan};
use crate::bench::figure::{Aim, Figure, Section};
use crate::bench::machine::Wire;
use crate::bench::progress::Progress;
use crate::bench::statistics::Sorted;
use crate::lab::Lab;

/// Restarts the relay again and again. Gives the octets that it receives in a start, too: the list.
pub(super) async fn measure(
    lab: &mut Lab,
    plan: &Plan,
    progress: &Progress,
) -> Result<(Section, u64), Error> {
    let node = super::node(MEASURED, 1, true);
    let mut ready = Vec::new();
    let (mut answered, mut applied) = (Vec::new(), Vec::new());
    let mut received = 0;
    for round in 1..=plan.starts.max(1) {
        progress.say(&format!("start {round} of {} with {} leases", plan.starts, plan.leases));
        lab.kill_daemon(MEASURED).await?;
        let before = Wire::of(&lab.host(MEASURED)?.namespace)?;
        let start = Instant::now();
        lab.launch_daemon(&node, &[]).await?;
        for (_, daemon) in lab.daemons().filter(|(name, _)| *name == MEASURED) {
            daemon.ready().await?;
        }
        ready.push(start.elapsed());
        lab.await_daemons(std::slice::from_ref(&node)).await?;
        received = Wire::of(&lab.host(MEASURED)?.namespace)?.since(before).received;
        let daemon = lab.daemon(MEASURED)?;
        let log = daemon.log();
        let listed = log.lines().rfind(|line| line.contains("listed the leases")).unwrap_or_default();
        let routes = daemon.routes().await?.len();
        if routes < plan.leases as usize {
            return Err(Error::Wrong(format!("of {} leases it has {routes} routes once ready", plan.leases)));
        }
        answered.extend(logged(listed, "answered_in"));
        applied.extend(logged(listed, "applied_in"));
    }
    let milliseconds = |all: &[Duration]| -> Sorted { all.iter().map(|it| it.as_secs_f64() * 1e3).collect() };
    let (ready, answered, applied) = (milliseconds(&ready), milliseconds(&answered), milliseconds(&applied));
    let figures = vec![
        Figure::new("start_ready_ms", "exec to /readyz, all routes installed", ready.median(), "ms")
            .aim(Aim::AtMost(1000.0)),
        Figure::new("start_ready_max_ms", "  the slowest", ready.max(), "ms"),
        Figure::new("list_answered_ms", "  of that, etcd's list: asked to answered", answered.median(), "ms"),
        Figure::new("list_applied_ms", "  of that, list to table", applied.median(), "ms"),
    ];
    let title = format!("Start with {} leases present, median of {}", plan.leases, plan.starts);
    Ok((Section { title, figures }, received))
}

/// A duration in a line of the log, as Rust's `Debug` writes it: `answered_in=1.5ms`.
fn logged(line: &str, key: &str) -> Option<Duration> {
    let value = line.split_once(&format!("{key}="))?.1.split_whitespace().next()?;
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds = match value.strip_prefix(digits)? {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_the_log_are_read_whatever_their_unit() {
        let line = "INFO listed the leases leases=3 answered_in=1.25ms applied_in=63µs other=2s";
        assert_eq!(logged(line, "answered_in"), Some(Duration::from_micros(1250)));
        assert_eq!(logged(line, "applied_in"), Some(Duration::from_micros(63)));
        assert_eq!(logged(line, "other"), Some(Duration::from_secs(2)));
        assert_eq!(logged(line, "leases"), None);
        assert_eq!(logged(line, "none"), None);
    }
}

//! Waiting for what is true, with a deadline.

use std::time::{Duration, Instant};

use crate::standstill;

/// The first pause between two looks; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_micros(500);
/// The longest pause between two looks.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// What was awaited did not become true in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {} for {awaited}, in vain{}", human(*.deadline), .last.as_ref().map(|last| format!(": {last}")).unwrap_or_default())]
pub struct TimedOut {
    /// What was awaited.
    pub awaited: String,
    /// How long.
    pub deadline: Duration,
    /// What was seen instead, at the last look.
    pub last: Option<String>,
}

fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs_f64())
    }
}

/// Looks again and again until `look` gives a value; `Err` is what was seen instead.
///
/// # Errors
/// [`TimedOut`] when `deadline` passes first.
pub async fn until<T>(
    awaited: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    let mut stood = Duration::ZERO;
    let mut pause = MIN_PAUSE;
    loop {
        let last = match look().await {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if start.elapsed().saturating_sub(stood) >= deadline {
            let last = (!last.is_empty()).then_some(last);
            return Err(TimedOut { awaited: awaited.to_owned(), deadline, last });
        }
        let paused = Instant::now();
        tokio::time::sleep(pause).await;
        // Nobody could do anything while the machine stood still.
        stood += standstill::longest_since(paused).unwrap_or_default().min(paused.elapsed());
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_passed_deadline_names_what_was_awaited_and_what_was_seen() {
        let error = until("a reply", Duration::from_millis(3), async || Err::<(), _>("silence".to_owned()))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "waited 3 ms for a reply, in vain: silence");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_becomes_true_ends_the_wait() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(String::new()) }
        });
        assert_eq!(value.await, Ok(3));
    }
}

//! A port that a daemon which was killed may hold a moment longer than it lives.
//!
//! A program that it was about to run has its sockets from fork(2) to execve(2), and outlives it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a port that is in use is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Binds by `bind`, again for up to a second while its error is such as `in_use` picks.
///
/// # Errors
/// The last of `bind`.
pub async fn once_free<T, E>(
    mut bind: impl AsyncFnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind().await {
            Err(error) if in_use(&error) && Instant::now() < end => sleep(PAUSE).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_port_that_becomes_free_is_taken_and_other_errors_are_told_at_once() {
        let mut answers = vec![Ok(7), Err("in use"), Err("in use")];
        assert_eq!(once_free(async || answers.pop().unwrap(), |error| *error == "in use").await, Ok(7));
        let mut answers = vec![Ok(7), Err("no such address"), Err("in use")];
        let result = once_free(async || answers.pop().unwrap(), |error| *error == "in use").await;
        assert_eq!(result, Err("no such address"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_stays_in_use_is_an_error_after_a_second() {
        let start = Instant::now();
        assert_eq!(once_free(async || Err::<(), _>("in use"), |_| true).await, Err("in use"));
        assert_eq!(start.elapsed(), PATIENCE);
    }
}

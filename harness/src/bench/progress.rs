//! What is being measured right now, on standard error.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Tells what is being done. On a terminal each telling takes the place of the one before.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    terminal: bool,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    /// Says what begins now.
    pub(crate) fn say(&self, what: &str) {
        let seconds = self.start.elapsed().as_secs();
        let (begin, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let mut output = std::io::stderr().lock();
        // Whoever reads it may have closed it.
        let _ = write!(output, "{begin}{:>2}:{:02}  {what}{end}", seconds / 60, seconds % 60)
            .and_then(|()| output.flush());
    }

    /// Says how far a count has come, only where that replaces the last telling.
    pub(crate) fn count(&self, what: &str, done: usize, of: usize) {
        if self.terminal && (done.is_multiple_of(50) || done == of) {
            self.say(&format!("{what}: {done} of {of}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

//! The log, written by a thread of its own: a reader that stalls, with its pipe full, holds up nobody who has something
//! to say, least of all the threads that forward packets.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

/// Lines that wait to be written; what comes when there are as many is lost, and counted.
const LINES: usize = 4096;

/// How long the end waits for the last lines to be written.
const FLUSH: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    /// Tells that all before it was written.
    Flush(mpsc::Sender<()>),
}

/// Where lines are put. What is written to it in one piece is a line.
#[derive(Debug, Clone)]
pub(super) struct Log {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// The lines that wait for [`Waiting::write_to`].
#[derive(Debug)]
pub(super) struct Waiting {
    lines: Receiver<Message>,
    lost: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn new() -> (Self, Waiting) {
        let (sender, receiver) = mpsc::sync_channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        (Self { lines: sender, lost: Arc::clone(&lost) }, Waiting { lines: receiver, lost })
    }

    /// Waits, half a second at most, until all that was put here so far is written.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FLUSH;
        let (written, told) = mpsc::channel();
        let mut message = Message::Flush(written);
        while let Err(TrySendError::Full(back)) = self.lines.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(1));
        }
        // Nobody tells when there is no writer, or when it hangs.
        let _ = told.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Message::Line(octets.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Relaxed);
            }
            // There is no thread to write it.
            Err(TrySendError::Disconnected(_)) => return io::stderr().write(octets),
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Waiting {
    /// Starts the thread that writes them to standard error, until the process ends.
    pub(super) fn start(self) {
        let thread = thread::Builder::new().name("relay-log".into());
        if let Err(error) = thread.spawn(move || self.write_to(&mut io::stderr())) {
            tracing::warn!(%error, "no thread for the log: who writes to it waits for its reader");
        }
    }

    /// Writes lines until all who put them are gone. How many were lost is told, through the log, when it is the turn of
    /// those that came next.
    fn write_to(self, to: &mut impl Write) {
        loop {
            let message = match self.lines.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    let lines = self.lost.swap(0, Relaxed);
                    if lines > 0 {
                        tracing::warn!(
                            lines,
                            "lines of the log were lost before this one: it was not read in time"
                        );
                    }
                    match self.lines.recv() {
                        Ok(message) => message,
                        Err(_) => return,
                    }
                }
            };
            match message {
                // There is no place to complain of the log.
                Message::Line(octets) => drop(to.write_all(&octets)),
                Message::Flush(written) => drop(written.send(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What was written, once it may be: a reader that stalls is a lock that is held.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Log, Pipe) {
        let ((log, waiting), pipe) = (Log::new(), Pipe::default());
        let mut to = pipe.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer({
                let log = log.clone();
                move || log.clone()
            })
            .with_ansi(false)
            .without_time()
            .finish();
        thread::spawn(move || tracing::subscriber::with_default(subscriber, || waiting.write_to(&mut to)));
        (log, pipe)
    }

    #[test]
    fn a_flush_waits_for_all_lines_in_order() {
        let (mut log, pipe) = start();
        for index in 0..1000 {
            writeln!(log, "{index}").unwrap();
        }
        Log::flush(&log);
        let expected: String = (0..1000).map(|index| format!("{index}\n")).collect();
        assert_eq!(String::from_utf8(pipe.0.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_is_told_how_many_lines_it_has_lost() {
        let (mut log, pipe) = start();
        let stalled = pipe.0.lock().unwrap();
        for _ in 0..LINES + 100 {
            log.write_all(b"line\n").unwrap();
        }
        let begin = Instant::now();
        Log::flush(&log);
        assert!(begin.elapsed() >= FLUSH && begin.elapsed() < FLUSH * 10);
        drop(stalled);
        let begin = Instant::now();
        let text = loop {
            let text = String::from_utf8(pipe.0.lock().unwrap().clone()).unwrap();
            if text.contains("lost") || begin.elapsed() > Duration::from_secs(10) {
                break text;
            }
            thread::sleep(Duration::from_millis(1));
        };
        let lines = text.lines().filter(|line| *line == "line").count();
        // One is in the writer's hands.
        assert!((LINES..=LINES + 1).contains(&lines), "{lines}");
        assert!(text.contains(&format!("lines={}", LINES + 100 - lines)), "{}", text.lines().last().unwrap());
    }

    #[test]
    fn a_flush_with_no_writer_does_not_wait() {
        let (log, waiting) = Log::new();
        drop(waiting);
        let begin = Instant::now();
        Log::flush(&log);
        assert!(begin.elapsed() < FLUSH);
    }
}

//! Which lines of a daemon's log tell most.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Of the end of a log, how many lines of what the daemon did are shown.
const NOTES: usize = 12;
/// And how many of what went wrong.
const TROUBLE: usize = 8;

/// What a log has, octet for octet; `?` stands for each that is no UTF-8. One that is not there yet is empty, and one that
/// cannot be read says so as an error.
pub fn read(path: &Path) -> String {
    match fs::read(path) {
        Ok(octets) => text(&octets),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => format!("0  ERROR reading {}: {error}\n", path.display()),
    }
}

fn text(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        text += chunk.valid();
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

/// Whether a line is more than a note of what the daemon does.
pub fn is_trouble(line: &str) -> bool {
    matches!(level(line), Some("WARN" | "ERROR")) || is_panic(line)
}

/// Whether a line says that the daemon could not do what it is there for.
pub fn is_error(line: &str) -> bool {
    level(line) == Some("ERROR") || is_panic(line)
}

/// Whether a line is the first of a panic's message, or of what Rust says when it gives up.
pub fn is_panic(line: &str) -> bool {
    (line.starts_with("thread '") && line.contains(" panicked at "))
        || line.starts_with("fatal runtime error")
}

/// The end of a log: the last lines of what the daemon did and the last of what went wrong, in their order, so that a
/// warning that comes again and again does not hide how far the daemon had come. `…` stands for lines left out.
pub(super) fn end(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let (mut notes, mut trouble) = (NOTES, TROUBLE);
    let mut kept = Vec::new();
    for (at, line) in lines.iter().enumerate().rev() {
        let left = match level(line) {
            Some("DEBUG" | "TRACE") => continue,
            Some("INFO") => &mut notes,
            // A line without a level, as of a panic, is no note.
            _ => &mut trouble,
        };
        if *left > 0 {
            *left -= 1;
            kept.push((at, *line));
        }
    }
    let mut text = String::new();
    let mut next = 0;
    for (at, line) in kept.into_iter().rev() {
        if at > next {
            text += "…\n";
        }
        next = at + 1;
        text += line;
        text += "\n";
    }
    if next < lines.len() {
        text += "…\n";
    }
    text
}

/// `INFO`, if that is a line's level: tracing's format has it after the time, and klog's, which is flanneld's, begins with
/// its letter and the date.
fn level(line: &str) -> Option<&str> {
    if let Some([letter, month_and_day @ .., b' ']) = line.as_bytes().get(..6)
        && month_and_day.iter().all(u8::is_ascii_digit)
    {
        match letter {
            // At every start it warns of what it is told on purpose: that etcd is without TLS.
            b'I' | b'W' => return Some("INFO"),
            b'E' | b'F' => return Some("ERROR"),
            _ => {}
        }
    }
    let is_level = |word: &&str| matches!(*word, "TRACE" | "DEBUG" | "INFO" | "WARN" | "ERROR");
    line.split_whitespace().take(3).find(is_level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(level: &str, numbers: std::ops::Range<u32>) -> String {
        numbers.fold(String::new(), |text, at| {
            text + &format!("2026-11-27T17:17:45Z  {level} relay: line {at}\n")
        })
    }

    #[test]
    fn trouble_is_told_by_its_level_and_not_by_a_word_further_on() {
        assert!(is_trouble(
            "2026-11-27T17:17:45.726339Z ERROR relay::registry::hold: another node's address"
        ));
        assert!(is_trouble("thread 'main' panicked at src/main.rs:3:5:"));
        assert!(!is_trouble("2026-11-27T17:17:45.726339Z  INFO relay: a word such as ERROR"));
    }

    #[test]
    fn a_log_is_read_to_its_end_whatever_is_in_it() {
        let octets = [b"one \xff\xfe two\n".as_slice(), "3 ERROR \u{e4}\n".as_bytes()].concat();
        let text = text(&octets);
        assert_eq!(text, "one ?? two\n3 ERROR \u{e4}\n");
        assert_eq!(text.len(), octets.len());
        assert_eq!(read(Path::new("/nowhere")), "");
        assert!(is_error(&read(Path::new("/"))), "a directory, which has no text");
    }

    #[test]
    fn a_panic_is_told_from_a_line_that_has_the_word() {
        assert!(is_panic("thread 'relay-outbound' (7261) panicked at relay/src/datapath/runs.rs:77:28:"));
        assert!(is_panic("fatal runtime error: stack overflow"));
        assert!(!is_panic("t0  WARN relay: registry entry skipped value=panicked at "));
    }

    #[test]
    fn levels_are_read_from_flannelds_log_too() {
        assert!(is_error("E1128 08:20:10.172734   30145 main.go:149] Can't set the flag"));
        assert!(!is_trouble("W1128 08:21:08.945815    8746 registry.go:84] no certificate provided"));
        assert!(!is_trouble("I1128 08:21:08.948848    8746 main.go:251] Installing signal handlers"));
        assert!(!is_trouble("Ecards 08:21:08"));
    }

    #[test]
    fn a_warning_that_repeats_does_not_hide_how_far_the_daemon_came() {
        let text = log("INFO", 0..14) + &log("WARN", 0..30) + &log("DEBUG", 0..40);
        let expected = "…\n".to_owned() + &log("INFO", 2..14) + "…\n" + &log("WARN", 22..30) + "…\n";
        assert_eq!(end(&text), expected);
    }

    #[test]
    fn a_short_log_is_there_in_full() {
        let text = log("INFO", 0..3) + "thread 'main' panicked at src/main.rs:3:5:\nno reason\n";
        assert_eq!(end(&text), text);
        assert_eq!(end(""), "");
    }
}

//! Whether a stream has an end, and one only.

use std::ops::Range;

use super::super::mistake::Mistake;
use super::super::step::Stream;
use super::Check;

/// As long as `lasts-ms` may be.
const MAX_SECONDS_OF_PINGS: u64 = 120;

impl Check<'_> {
    /// Checks that a stream has something to last for.
    pub(super) fn stream(&mut self, stream: &Stream, at: Range<usize>) {
        if stream.during.is_empty() && stream.lasts_ms.is_none() && stream.count.is_none() {
            let mistake = Mistake::new(at, "this stream ends as soon as it flows", "lasts for nothing");
            let help = "give it steps to go on meanwhile (`during`), a time (`lasts-ms`) or a `count`";
            self.mistakes.push(mistake.help(help));
        } else if stream.count.is_some() && (!stream.during.is_empty() || stream.lasts_ms.is_some()) {
            let message = "a stream has a `count`, or goes on for `lasts-ms` and `during`";
            let mistake = Mistake::new(at, message, "has both");
            self.mistakes.push(mistake.help("take one of the two out"));
        } else if u64::from(stream.count.unwrap_or(0)) * u64::from(stream.every_ms)
            > MAX_SECONDS_OF_PINGS * 1000
        {
            let message = format!("a stream of so many pings takes more than {MAX_SECONDS_OF_PINGS} s");
            let mistake = Mistake::new(at, message, "too long");
            self.mistakes.push(mistake.help("send fewer, or more often"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;

    #[test]
    fn a_stream_has_one_reason_to_end() {
        let told = |keys: &str| messages("", &format!("stream = {{ from = 'c1', to = 'c2', {keys} }}"));
        assert_eq!(told("lasts-ms = 50, during = [{ leases = {} }]"), [""; 0]);
        assert_eq!(told("count = 50"), [""; 0]);
        assert_eq!(told("count = 121, every-ms = 1000"), ["a stream of so many pings takes more than 120 s"]);
        assert_eq!(told("every-ms = 5"), ["this stream ends as soon as it flows"]);
        assert_eq!(
            told("count = 50, lasts-ms = 50"),
            ["a stream has a `count`, or goes on for `lasts-ms` and `during`"]
        );
    }
}

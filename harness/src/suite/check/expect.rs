//! Whether a bound can be kept, and be broken.

use std::ops::Range;

use super::super::mistake::{Mistake, nearest};
use super::super::step::{Expect, Growth};
use super::Check;
use crate::lab::kernel;

impl Check<'_> {
    pub(super) fn expect(&mut self, expect: &Expect, at: Range<usize>) {
        if expect.within_ms.is_none() && expect.growth.is_empty() {
            let mistake = Mistake::new(at, "`expect` expects nothing", "no bound");
            self.mistakes.push(mistake.help("give it `within-ms`, `growth` or both"));
        }
        for growth in &expect.growth {
            self.growth(growth);
        }
    }

    fn growth(&mut self, growth: &Growth) {
        match (&growth.metric, &growth.kernel) {
            (Some(_), None) => self.running(&growth.host),
            (None, Some(counter)) => {
                self.host(&growth.host);
                let known = kernel::counters();
                // Where they cannot be read, running the case will tell.
                if !known.is_empty() && !known.iter().any(|name| name == counter.as_str()) {
                    let message = format!("the kernel has no counter `{counter}`");
                    let help = match nearest(counter, known.iter().map(String::as_str)) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "`nstat -az` lists them".to_owned(),
                    };
                    self.mistake(counter, message, "no such counter", help);
                }
            }
            (metric, _) => {
                let (message, label) = if metric.is_some() {
                    ("a growth is that of a `metric` or of a `kernel` counter, not of both", "has both")
                } else {
                    ("a growth is that of a `metric` or of a `kernel` counter", "has neither")
                };
                self.mistake(&growth.host, message.to_owned(), label, "name one of them");
            }
        }
        let Growth { host, at_least, at_most, .. } = growth;
        let what = match (at_least, at_most) {
            (None, None) => "no bound",
            (Some(least), Some(most)) if least > most => "no number is both",
            _ => return,
        };
        let message = format!("the growth of {} has bounds that say nothing", growth.name());
        self.mistake(host, message, what, "give it `at-least`, `at-most` or both, the lower one first");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;

    #[test]
    fn a_bound_says_something_that_can_be_measured() {
        let told =
            |keys: &str| messages("", &format!("expect = {{ {keys}, steps = [{{ leases = {{}} }}] }}"));
        let growth = |keys: &str| told(&format!("growth = [{{ {keys} }}]"));
        assert_eq!(told("within-ms = 50"), [""; 0]);
        assert_eq!(told("growth = []"), ["`expect` expects nothing"]);
        assert_eq!(growth("host = 'c1', kernel = 'IpReasmFails', at-least = 1"), [""; 0]);
        assert_eq!(growth("host = 'a', metric = 'relay_routes', at-most = 0"), [""; 0]);
        assert_eq!(
            growth("host = 'a', kernel = 'IpReasmFail', at-most = 0"),
            ["the kernel has no counter `IpReasmFail`"]
        );
        assert_eq!(
            growth("host = 'a', metric = 'x', at-least = 2, at-most = 1"),
            ["the growth of x has bounds that say nothing"]
        );
        assert_eq!(
            growth("host = 'a', at-most = 1"),
            ["a growth is that of a `metric` or of a `kernel` counter"]
        );
        assert_eq!(growth("host = 'c1', metric = 'x', at-most = 1").len(), 1);
    }

    #[test]
    fn steps_within_are_checked_as_well() {
        let step = "expect = { within-ms = 50, steps = [{ stop-relay = { node = 'z' } }] }";
        assert_eq!(messages("", step), ["the lab has no node `z`"]);
    }
}

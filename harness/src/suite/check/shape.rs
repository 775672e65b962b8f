//! Whether links can be shaped.

use std::ops::Range;

use super::super::mistake::Mistake;
use super::super::step::{Shaping, Unshaping};
use super::Check;

impl Check<'_> {
    pub(super) fn shape(&mut self, shaping: &Shaping, at: Range<usize>) {
        self.underlay_host(&shaping.host);
        let mut mistake = |message: &str, label: &str, help: &str| {
            self.mistakes.push(Mistake::new(at.clone(), message, label).help(help));
        };
        let Shaping {
            delay_ms, jitter_ms, loss_percent, duplicate_percent, reorder_percent, rate_kbit, ..
        } = shaping;
        let percents = [loss_percent, duplicate_percent, reorder_percent];
        let delays = [delay_ms, jitter_ms];
        if percents.iter().all(|percent| percent.is_none())
            && delays.iter().all(|delay| delay.is_none())
            && rate_kbit.is_none()
        {
            mistake(
                "this link is as good as it was",
                "does nothing",
                "give it a delay, a loss or a rate, among others",
            );
        }
        if reorder_percent.is_some() && delays.iter().all(|delay| delay.is_none()) {
            mistake(
                "without a delay no packet overtakes another",
                "needs `delay-ms`",
                "let the others be delayed for longer than from one packet to the next",
            );
        }
        if shaping.queue.is_some() && rate_kbit.is_none() {
            mistake(
                "without a rate no packet waits",
                "needs `rate-kbit`",
                "take `queue` out, or give a rate",
            );
        }
        if !self.shaped.insert(shaping.host.to_string()) {
            let message = format!("the link of {} is shaped already at this step", shaping.host);
            self.mistake(&shaping.host, message, "shaped", "put an `unshape` before this step");
        }
    }

    pub(super) fn unshape(&mut self, unshaping: &Unshaping) {
        self.underlay_host(&unshaping.host);
        if !self.shaped.remove(unshaping.host.as_str()) {
            let message = format!("the link of {} is not shaped at this step", unshaping.host);
            self.mistake(&unshaping.host, message, "changes nothing", "take the step out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;

    #[test]
    fn a_link_is_shaped_once_and_in_some_way() {
        let told = |steps: &str| messages("", steps);
        assert_eq!(told("shape = { host = 'etcd', delay-ms = 5 }"), [""; 0]);
        assert_eq!(told("shape = { host = 'a' }"), ["this link is as good as it was"]);
        assert_eq!(
            told("shape = { host = 'c1', loss-percent = 5 }"),
            ["`c1` is a container, not on the underlay"]
        );
        assert_eq!(
            told("shape = { host = 'a', reorder-percent = 5, queue = 3 }"),
            ["without a delay no packet overtakes another", "without a rate no packet waits"]
        );
        let shape = "shape = { host = 'a', loss-percent = 5 }";
        let again = format!("{shape} }}, {{ {shape}");
        assert_eq!(told(&again), ["the link of a is shaped already at this step"]);
        assert_eq!(told(&format!("{shape} }}, {{ unshape = {{ host = 'a' }} }}, {{ {shape}")), [""; 0]);
        assert_eq!(told("unshape = { host = 'a' }"), ["the link of a is not shaped at this step"]);
    }
}

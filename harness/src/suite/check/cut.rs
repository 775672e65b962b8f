//! Whether partitions can be made, and undone.

use std::ops::Range;

use super::super::mistake::{Mistake, suggest};
use super::super::step::{Cut, Heal};
use super::super::text::Text;
use super::Check;
use crate::topology::Host;

impl Check<'_> {
    pub(super) fn cut(&mut self, cut: &Cut, at: Range<usize>) {
        self.sides(&cut.from, &cut.to);
        let before = self.cuts.len();
        self.cuts.extend(cut.pairs());
        if self.cuts.len() == before {
            let mistake = Mistake::new(at, "these are cut already at this step", "changes nothing");
            self.mistakes.push(mistake.help("take the step out, or put a `heal` before it"));
        }
    }

    pub(super) fn heal(&mut self, heal: &Heal, at: Range<usize>) {
        match (&heal.from, &heal.to) {
            (Some(from), Some(to)) => self.sides(from, to),
            (None, None) => {}
            _ => {
                let mistake = Mistake::new(at.clone(), "`heal` has `from` and `to`, or neither", "has one");
                self.mistakes.push(mistake.help("`heal = {}` undoes all cuts"));
            }
        }
        let before = self.cuts.len();
        match heal.pairs() {
            Some(pairs) => self.cuts.retain(|pair| !pairs.contains(pair)),
            None => self.cuts.clear(),
        }
        if self.cuts.len() == before {
            let mistake = Mistake::new(at, "nothing of this is cut at this step", "changes nothing");
            self.mistakes.push(mistake.help("take the step out, or put a `cut` before it"));
        }
    }

    /// Checks the hosts on the two sides of a cut.
    fn sides(&mut self, from: &[Text], to: &[Text]) {
        for host in from.iter().chain(to) {
            self.underlay_host(host);
        }
        for host in to.iter().filter(|host| from.contains(host)) {
            self.mistake(
                host,
                format!("{host} stands on both sides"),
                "the same host",
                "take it out of one of them",
            );
        }
    }

    /// Checks that a name is that of a host whose `eth0` is on the underlay.
    pub(super) fn underlay_host(&mut self, name: &Text) {
        match self.topology.host(name) {
            Some(Host::Node(_) | Host::Member(_) | Host::Machine(_)) => {}
            Some(Host::Container(container)) => {
                let message = format!("`{name}` is a container, not on the underlay");
                let help = format!("did you mean `{}`, the node that it is on?", container.node);
                self.mistake(name, message, "a container", help);
            }
            None => {
                let hosts = self
                    .hosts()
                    .into_iter()
                    .filter(|name| self.topology.container(name).is_none())
                    .collect::<Vec<_>>();
                let help = suggest(name, hosts, "hosts of the underlay");
                self.mistake(
                    name,
                    format!("the lab has no host `{name}` on the underlay"),
                    "no such host",
                    help,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;

    fn about(steps: &str) -> Vec<String> {
        messages("", steps)
    }

    #[test]
    fn both_sides_of_a_cut_are_on_the_underlay() {
        assert_eq!(about("cut = { from = ['a'], to = ['b', 'etcd'] }"), [""; 0]);
        assert_eq!(
            about("cut = { from = ['c1'], to = ['d'] }"),
            ["`c1` is a container, not on the underlay", "the lab has no host `d` on the underlay",]
        );
        assert_eq!(about("cut = { from = ['a'], to = ['b', 'a'] }"), ["a stands on both sides"]);
    }

    #[test]
    fn what_is_cut_is_not_cut_again_and_what_is_whole_not_healed() {
        let cut = "cut = { from = ['a'], to = ['b'] }";
        assert_eq!(about(&format!("{cut} }}, {{ {cut}")), ["these are cut already at this step"]);
        assert_eq!(about(&format!("{cut} }}, {{ heal = {{}} }}, {{ {cut}")), [""; 0]);
        assert_eq!(about("heal = {}"), ["nothing of this is cut at this step"]);
        assert_eq!(
            about(&format!("{cut} }}, {{ heal = {{ from = ['a'], to = ['etcd'] }}")),
            ["nothing of this is cut at this step"]
        );
        assert_eq!(
            about(&format!("{cut} }}, {{ heal = {{ from = ['a'] }}")),
            ["`heal` has `from` and `to`, or neither"]
        );
    }
}

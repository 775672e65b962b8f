//! Whether what is in etcd can be changed, and its members.

use std::ops::Range;

use super::super::mistake::{Mistake, suggest};
use super::super::step::{Etcd, LEADER};
use super::super::text::Text;
use super::Check;

impl Check<'_> {
    /// Checks that the relays that are waited for run.
    pub(super) fn seen_by(&mut self, nodes: Option<&[Text]>) {
        nodes.into_iter().flatten().for_each(|node| self.running(node));
    }

    /// Checks that a member can be started, or stopped.
    pub(super) fn etcd(&mut self, etcd: &Etcd, at: Range<usize>, start: bool) {
        let topology = self.topology;
        let known = topology.members.iter().map(|member| member.name.as_str());
        let (member, written) = (etcd.member(), etcd.member.as_deref().unwrap_or_default());
        if member == LEADER {
            if self.leader_stopped != start {
                let message = if start { "no leader was stopped" } else { "the leader was stopped already" };
                let mistake = Mistake::new(at, message, "changes nothing");
                self.mistakes.push(mistake.help("take the step out, or put its opposite before it"));
            }
            self.leader_stopped = !start;
            return;
        }
        if topology.member(member).is_none() {
            let (at, message, label) = match &etcd.member {
                Some(name) => (name.span(), format!("the lab has no etcd member `{name}`"), "no such member"),
                None => (at, "which etcd member?".to_owned(), "needs `member`"),
            };
            return self
                .mistakes
                .push(Mistake::new(at, message, label).help(suggest(written, known, "members")));
        }
        let changed =
            if start { self.members.insert(member.to_owned()) } else { self.members.remove(member) };
        if !changed {
            let message =
                format!("{member} {} at this step", if start { "runs already" } else { "does not run" });
            let help = "take the step out, or put its opposite before it";
            self.mistakes.push(Mistake::new(at, message, "changes nothing").help(help));
        }
    }
}

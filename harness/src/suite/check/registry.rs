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

    /// Checks that so many members run that etcd answers.
    pub(super) fn quorum(&mut self, at: Range<usize>) {
        let all = self.topology.members.len();
        // One that was stopped by name after the leader may have been that leader: a case that depends on it is chance.
        let running = self.members.len().saturating_sub(usize::from(self.leader_stopped));
        if running <= all / 2 {
            let message = format!("of {all} etcd members {running} run at this step: they answer nothing");
            let mistake = Mistake::new(at, message, "asks etcd");
            self.mistakes.push(mistake.help("put a `start-etcd` before this step"));
        }
    }

    /// Checks that a member can be started, or stopped.
    pub(super) fn etcd(&mut self, etcd: &Etcd, at: Range<usize>, start: bool) {
        let member = etcd.member();
        if member == LEADER {
            if self.leader_stopped != start {
                let message = if start { "no leader was stopped" } else { "the leader was stopped already" };
                let mistake = Mistake::new(at, message, "changes nothing");
                self.mistakes.push(mistake.help("take the step out, or put its opposite before it"));
            }
            self.leader_stopped = !start;
            return;
        }
        if !self.is_member(etcd, &at) {
            return;
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

    /// Checks that a member's data can be saved, or restored.
    pub(super) fn etcd_data(&mut self, etcd: &Etcd, at: Range<usize>, save: bool) {
        if !self.is_member(etcd, &at) {
            return;
        }
        let member = etcd.member();
        if self.members.contains(member) {
            let mistake = Mistake::new(at, format!("{member} runs at this step"), "needs it stopped");
            self.mistakes.push(mistake.help("put a `stop-etcd` before it, and a `start-etcd` behind it"));
        } else if save {
            self.saved.insert(member.to_owned());
        } else if !self.saved.contains(member) {
            let mistake = Mistake::new(at, format!("no step has saved {member}"), "nothing to go back to");
            self.mistakes.push(mistake.help("put a `save-etcd` before it"));
        }
    }

    /// Whether the lab has the member; a mistake if it has not.
    fn is_member(&mut self, etcd: &Etcd, at: &Range<usize>) -> bool {
        let topology = self.topology;
        if topology.member(etcd.member()).is_some() {
            return true;
        }
        let (at, message, label) = match &etcd.member {
            Some(name) => (name.span(), format!("the lab has no etcd member `{name}`"), "no such member"),
            None => (at.clone(), "which etcd member?".to_owned(), "needs `member`"),
        };
        let written = etcd.member.as_deref().unwrap_or_default();
        let known = topology.members.iter().map(|member| member.name.as_str());
        self.mistakes.push(Mistake::new(at, message, label).help(suggest(written, known, "members")));
        false
    }
}

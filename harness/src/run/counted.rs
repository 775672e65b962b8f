//! What a node's daemons have counted since the case began: one after the other, each from zero.

use std::collections::BTreeMap;

use super::{Runner, StepError};
use crate::overlay::Counters;

/// What a node's daemons counted that steps have ended.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// What they had counted when the last of them could last be asked.
    counters: Counters,
    /// ICMP errors that they may have sent after they were last asked, and before they ended.
    pub(super) icmp_unknown: u64,
    /// What each metric that counts stood at in the end.
    totals: BTreeMap<String, f64>,
    /// How many of them could not be asked for these.
    pub(super) unasked: u32,
}

/// What a node had sent when its daemon's counters were last asked for, which is about to be ended.
#[must_use]
pub(super) struct LastCounted {
    node: String,
    answered: u64,
}

impl Past {
    /// What they counted of a metric.
    pub(super) fn total(&self, metric: &str) -> f64 {
        self.totals.get(metric).copied().unwrap_or_default()
    }

    /// Adds what each metric of a further daemon stands at, which is about to end; none if it cannot be asked.
    fn add_totals(&mut self, totals: Option<BTreeMap<String, f64>>) {
        let Some(totals) = totals else {
            self.unasked += 1;
            return;
        };
        for (metric, count) in totals {
            *self.totals.entry(metric).or_default() += count;
        }
    }
}

impl Runner<'_> {
    /// Notes what daemons that run have counted by now.
    pub(super) fn note_counted(&mut self, running: Vec<(String, Counters)>) {
        let counted: Vec<_> = self.counted(running).collect();
        self.counters.extend(counted);
    }

    /// What every node's daemons have counted by now, or had when the last of them could last be asked.
    pub(super) async fn counters_now(&self) -> Result<BTreeMap<String, Counters>, StepError> {
        let mut now = self.counters.clone();
        now.extend(self.counted(self.lab.counters().await?));
        Ok(now)
    }

    /// What nodes' daemons have counted since the case began, those too that ran before the ones that now do.
    pub(super) fn counted(
        &self,
        running: Vec<(String, Counters)>,
    ) -> impl Iterator<Item = (String, Counters)> + '_ {
        running.into_iter().map(|(node, now)| match self.past.get(&node) {
            Some(past) => (node, now.after(&past.counters)),
            None => (node, now),
        })
    }

    /// Keeps what a node's daemon has counted, which is about to be ended. What cannot be asked for is what it was when the lab
    /// was last quiet. What it does from now on nobody can ask for: [`Self::lost_counts`] is to be told what is returned once it
    /// has ended.
    pub(super) async fn keep_counted(&mut self, node: &str) -> LastCounted {
        let answered = self.lab.kernel_drops().answered(node);
        if let Some(now) = self.lab.counters_of(node).await {
            self.note_counted(vec![(node.to_owned(), now)]);
        }
        let totals = self.lab.totals_of(node).await;
        let past = self.past.entry(node.to_owned()).or_default();
        if let Some(counted) = self.counters.get(node) {
            past.counters.clone_from(counted);
        }
        past.add_totals(totals);
        LastCounted { node: node.to_owned(), answered }
    }

    /// A node's daemon has ended since it was last asked. ICMP errors that the node has sent since are taken for the daemon's:
    /// those of the kernel that may be among them then count as silence, which accounts for a loss too many and for none too few.
    pub(super) fn lost_counts(&mut self, last: LastCounted) {
        let since = self.lab.kernel_drops().answered(&last.node).saturating_sub(last.answered);
        self.past.entry(last.node).or_default().icmp_unknown += since;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_daemon_after_the_other_counted_adds_up() {
        let totals = |count| BTreeMap::from([("relay_x_total".to_owned(), count)]);
        let mut past = Past::default();
        past.add_totals(Some(totals(3.0)));
        past.add_totals(None);
        past.add_totals(Some(totals(2.0)));
        assert_eq!((past.totals, past.unasked), (totals(5.0), 1));
    }
}

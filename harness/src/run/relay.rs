//! Steps that are about a node's relay.

use std::process::ExitStatus;
use std::time::Duration;

use super::{Runner, StepError};
use crate::capture::frame::now;
use crate::flow::{Fault, FaultPlace};
use crate::suite::{ExpectLog, ExpectMetric, Outcome, StartRelay};
use crate::topology::Node;
use crate::wait;

/// How long a daemon may take to log what it has done.
const LOGGED_WITHIN: Duration = Duration::from_secs(5);

impl Runner<'_> {
    pub(super) async fn start_relay(&mut self, start: &StartRelay) -> Result<(), StepError> {
        let node = self.node(&start.node)?;
        let flags: Vec<String> = start.flags.iter().map(ToString::to_string).collect();
        self.lab.launch_daemon(&node, &flags).await?;
        match start.outcome {
            Outcome::Ready => self.wait_ready(&start.node).await,
            Outcome::Running => Ok(()),
            Outcome::Fails => {
                if self.wait_end(&start.node).await?.success() {
                    self.problem(format!("the relay on {} ended with success, and was to fail", start.node));
                }
                Ok(())
            }
        }
    }

    pub(super) async fn kill_relay(&mut self, node: &str) -> Result<(), StepError> {
        let last = self.keep_counted(node).await;
        let began = now();
        self.lab.kill_daemon(node).await?;
        self.lost_counts(last);
        self.lost_device(node, began);
        self.paused.retain(|paused| paused != node);
        Ok(())
    }

    pub(super) async fn wait_end(&mut self, node: &str) -> Result<ExitStatus, StepError> {
        let last = self.keep_counted(node).await;
        let status = self.lab.await_end(node).await?;
        self.lost_counts(last);
        self.line(format!("  {}", crate::overlay::relay::ending(status)));
        Ok(status)
    }

    pub(super) async fn wait_ready(&mut self, node: &str) -> Result<(), StepError> {
        let awaited = self.node(node)?;
        self.lab.await_daemons(std::slice::from_ref(&awaited)).await?;
        self.name_attached(node);
        if let Some(attachment) = self.lab.attachment(node) {
            let line =
                format!("  {}  subnet {}  mtu {}", attachment.device, attachment.subnet, attachment.mtu);
            self.line(line);
        }
        Ok(())
    }

    pub(super) async fn stop_relay(&mut self, node: &str) -> Result<(), StepError> {
        let last = self.keep_counted(node).await;
        let began = now();
        let status = self.lab.stop_daemon(node).await?;
        self.lost_counts(last);
        self.lost_device(node, began);
        self.line(format!("  {}", crate::overlay::relay::ending(status)));
        Ok(())
    }

    /// A node's device has gone since `began`. A packet that has its route already is dropped uncounted: its queue is no
    /// longer one (`noop_enqueue`).
    fn lost_device(&mut self, node: &str, began: Duration) {
        let what = "overlay's device going away".to_owned();
        self.broke(Fault { host: node.to_owned(), place: FaultPlace::Device, what }, began);
    }

    pub(super) async fn pause_relay(&mut self, node: &str, paused: bool) -> Result<(), StepError> {
        self.lab.pause_daemon(node, paused).await?;
        self.paused.retain(|other| other != node);
        if paused {
            self.paused.push(node.to_owned());
        }
        Ok(())
    }

    pub(super) async fn expect_log(&mut self, expect: &ExpectLog) -> Result<(), StepError> {
        self.lab.expect_logging()?;
        let has = |line: &&str| line.contains(expect.contains.as_str());
        let least = expect.lines.map_or(1, usize::from);
        // A daemon may log what it has done some time after others have seen it done.
        let logged = wait::until("the lines", LOGGED_WITHIN, async || {
            let log = self.lab.log(&expect.node);
            if log.lines().filter(has).count() < least { Err(log) } else { Ok(log) }
        });
        let log = logged.await.unwrap_or_else(|vain| vain.last.unwrap_or_default());
        let found: Vec<&str> = log.lines().filter(has).collect();
        let right =
            expect.lines.is_none_or(|lines| found.len() == usize::from(lines)) && found.len() >= least;
        if !right {
            self.lab.expect_own_words()?;
            let expected = expect.lines.map_or("one or more".to_owned(), |lines| lines.to_string());
            let (node, text, count) = (&expect.node, expect.contains.as_str(), found.len());
            self.problem(format!(
                "the log of the relay on {node} has {count} lines with {text:?}, and {expected} are expected{}{}",
                if found.is_empty() { "" } else { ":\n" },
                found.join("\n")
            ));
        }
        Ok(())
    }

    pub(super) async fn expect_metric(&mut self, expect: &ExpectMetric) -> Result<(), StepError> {
        let daemon = self.lab.daemon(&expect.node)?;
        let found = daemon.metric(&expect.metric).await.map_err(crate::lab::Error::from)?;
        let too_low = |value: f64| expect.at_least.is_some_and(|least| value < f64::from(least));
        let too_high = |value: f64| expect.at_most.is_some_and(|most| value > f64::from(most));
        let (node, metric) = (&expect.node, &expect.metric);
        match found {
            None => self.problem(format!("the relay on {node} has no metric `{metric}`")),
            Some(value) if too_low(value) || too_high(value) => {
                let bounds = [
                    expect.at_least.map(|least| format!("at least {least}")),
                    expect.at_most.map(|most| format!("at most {most}")),
                ];
                let bounds = bounds.into_iter().flatten().collect::<Vec<_>>().join(" and ");
                self.problem(format!("{metric} is {value} on {node}; it is to be {bounds}"));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn node(&self, name: &str) -> Result<Node, StepError> {
        let found = self.lab.topology.node(name).cloned();
        found.ok_or_else(|| StepError::Word { word: name.to_owned() })
    }
}

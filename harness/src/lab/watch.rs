//! Daemons and etcd members that end though nobody has ended them.

use futures_util::future::select_all;
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, Lab};
use crate::overlay::relay::ending;

/// What has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The daemon on this node.
    Daemon(String),
    /// This etcd member.
    Member(String),
}

/// A part of a lab that has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub part: Part,
    /// Its exit status, or the signal.
    pub how: String,
    /// What it left: the end of its log.
    pub trace: String,
}

impl Lab {
    /// Waits until a daemon or an etcd member ends by itself, and takes note that it does not run.
    ///
    /// Dropped before that, it has changed nothing.
    ///
    /// # Errors
    /// When the kernel does not tell of children that end.
    pub async fn ended(&mut self) -> Result<Ended, Error> {
        let failed = |source| Error::Watch { source };
        // From before the first look on: what ends after it is told.
        let mut children = signal(SignalKind::child()).map_err(failed)?;
        loop {
            if let Some(ended) = self.ended_daemon() {
                return Ok(ended);
            }
            tokio::select! {
                _ = children.recv() => {}
                (name, how) = member_ended(self.etcd.as_mut()) => return self.note_member(name, how).await,
            }
        }
    }

    /// A daemon that has ended.
    fn ended_daemon(&mut self) -> Option<Ended> {
        let (node, status) = self
            .daemons
            .iter_mut()
            .find_map(|(node, daemon)| daemon.exited().map(|status| (node.clone(), status)))?;
        self.silent.remove(&node);
        let trace = self.daemons.remove(&node)?.trace().to_string();
        Some(Ended { part: Part::Daemon(node), how: ending(status), trace })
    }

    async fn note_member(&mut self, name: String, how: String) -> Result<Ended, Error> {
        let mut trace = String::new();
        if let Some(cluster) = &mut self.etcd {
            let log = cluster.logs(&name).await?;
            trace = format!("the end of its log:\n  {}", log.trim_end().replace('\n', "\n  "));
            // There is nothing left to stop but the note that it runs.
            cluster.member(&name)?.stop().await?;
        }
        Ok(Ended { part: Part::Member(name), how, trace })
    }

    /// Starts what has ended again, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready, or cannot be started.
    pub async fn start_again(&mut self, part: &Part) -> Result<(), Error> {
        match part {
            Part::Member(name) => self.set_member(name, true).await,
            Part::Daemon(name) => {
                let node = self.topology.node(name).cloned();
                let node = node.ok_or_else(|| Error::NoHost { name: name.clone() })?;
                self.start_daemons(&[node], &[]).await
            }
        }
    }
}

/// The name of a member that has ended, and how. Never, if none does.
async fn member_ended(cluster: Option<&mut crate::etcd::Cluster>) -> (String, String) {
    let members = cluster.into_iter().flat_map(|cluster| cluster.running());
    let ends: Vec<_> = members
        .map(|member| {
            Box::pin(async {
                let name = member.name().to_owned();
                (name, member.ended().await)
            })
        })
        .collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    select_all(ends).await.0
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Daemon(node) => write!(f, "the daemon on {node}"),
            Self::Member(name) => write!(f, "etcd member {name}"),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended by itself ({})\n{}", self.part, self.how, self.trace)
    }
}

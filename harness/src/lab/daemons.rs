//! The overlay's daemons: started, awaited, paused and ended.

use std::path::PathBuf;
use std::process::ExitStatus;

use futures_util::future::try_join_all;

use super::{Error, INTERFACE, Lab, PREFIX};
use crate::overlay::relay::RELAY;
use crate::overlay::{self, Daemon, Site};
use crate::topology::Node;
use crate::wait::TimedOut;

impl Lab {
    /// The daemons that run, with their nodes' names.
    pub fn daemons(&mut self) -> impl Iterator<Item = (&str, &mut Box<dyn Daemon>)> {
        self.daemons.iter_mut().map(|(node, daemon)| (node.as_str(), daemon))
    }

    /// Whether a node's daemon was started and not ended by the lab.
    pub fn runs(&self, node: &str) -> bool {
        self.daemons.contains_key(node)
    }

    /// A node's daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn daemon(&self, node: &str) -> Result<&dyn Daemon, Error> {
        self.daemons.get(node).map(AsRef::as_ref).ok_or_else(|| not_running(node))
    }

    /// All that the daemons on a node have logged, those that ended too.
    pub fn log(&self, node: &str) -> String {
        overlay::log::read(&self.log_path(node))
    }

    /// Octets of that log.
    pub fn log_length(&self, node: &str) -> usize {
        std::fs::metadata(self.log_path(node))
            .map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX))
    }

    /// The name of the lab's overlay, if programs run it that count nothing of what they drop.
    pub fn counts_nothing(&self) -> Option<&'static str> {
        let overlay = &self.workshop.overlay;
        (overlay.runs_daemon() && !overlay.counts()).then(|| overlay.name())
    }

    /// Checks that the lab's overlay is of a kind that keeps logs.
    ///
    /// # Errors
    /// When it is not.
    pub fn expect_logging(&self) -> Result<(), Error> {
        self.expect_that(self.workshop.overlay.runs_daemon(), "log")
    }

    /// Checks that the logs of the lab's overlay are in relay's words: in others' a line that is missing proves nothing.
    ///
    /// # Errors
    /// When they are not.
    pub fn expect_own_words(&self) -> Result<(), Error> {
        self.expect_that(self.workshop.overlay.name() == RELAY, "log in relay's words")
    }

    /// Checks that the device of the lab's overlay takes packets in no frame.
    ///
    /// # Errors
    /// When it takes frames, or there is none.
    pub fn expect_tun(&self) -> Result<(), Error> {
        self.expect_that(self.workshop.overlay.runs_daemon(), "TUN device")
    }

    fn expect_that(&self, has: bool, what: &str) -> Result<(), Error> {
        if has {
            return Ok(());
        }
        let overlay = self.workshop.overlay.name();
        Err(overlay::Error::Lacks { overlay, what: what.to_owned() }.into())
    }

    fn log_path(&self, node: &str) -> PathBuf {
        self.dir.join(node).join("relay.log")
    }

    /// The error of a wait in vain in a host: of a node's, with what its daemon has to say.
    pub(crate) fn waited_in_vain(&self, host: &str, source: TimedOut) -> Error {
        match self.daemons.get(host) {
            Some(daemon) => Error::Node { node: host.to_owned(), source, trace: daemon.trace().into() },
            None => source.into(),
        }
    }

    /// The daemons that can be asked, with their nodes' names.
    pub(super) fn answering(&self) -> impl Iterator<Item = (&String, &Box<dyn Daemon>)> {
        self.daemons.iter().filter(|(node, _)| !self.silent.contains(*node))
    }

    /// Starts the daemons of several nodes at once, with `flags` beside those of the lab, and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_daemons(&mut self, nodes: &[Node], flags: &[String]) -> Result<(), Error> {
        for node in nodes {
            self.launch_daemon(node, flags).await?;
        }
        self.await_daemons(nodes).await
    }

    /// Starts a node's daemon, and does not wait for it.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub async fn launch_daemon(&mut self, node: &Node, flags: &[String]) -> Result<(), Error> {
        if self.runs(&node.name) {
            return Err(Error::State { what: format!("the daemon on {} runs already", node.name) });
        }
        let baseline = self.baseline(&node.name)?;
        self.baselines.insert(node.name.clone(), baseline);
        self.rested.remove(&node.name);
        let flags: Vec<String> = self.topology.flags.iter().chain(flags).cloned().collect();
        let site = Site {
            node: &node.name,
            namespace: &self.host(&node.name)?.namespace,
            interface: INTERFACE,
            mtu: self.topology.mtu,
            dir: &self.dir.join(&node.name),
            network: self.topology.network,
            subnet: node.subnet,
            nodes: &self.topology.nodes,
            endpoints: &self.endpoints(),
            prefix: PREFIX,
            flags: &flags,
        };
        let daemon = self.workshop.overlay.start(site).await?;
        self.daemons.insert(node.name.clone(), daemon);
        self.silent.insert(node.name.clone());
        Ok(())
    }

    /// Waits until the daemons of these nodes, which were started, are ready, and all daemons know of all leases.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn await_daemons(&mut self, nodes: &[Node]) -> Result<(), Error> {
        let awaited = |node: &String| nodes.iter().any(|awaited| awaited.name == *node);
        let daemons = self.daemons.iter_mut().filter(|(node, _)| awaited(node));
        let ready = daemons.map(async |(node, daemon)| Ok::<_, Error>((node.clone(), daemon.ready().await?)));
        for (node, attachment) in try_join_all(ready).await? {
            self.attach(&node, &attachment).await?;
            self.silent.remove(&node);
            // Without a device of its own the overlay uses the underlay's, which is recorded as such.
            if attachment.device != INTERFACE {
                self.recorder.learn(&node, &attachment.device);
            }
            self.attachments.insert(node, attachment);
        }
        self.wait_for_registry().await
    }

    /// Waits until a node's daemon, which was started, has ended by itself.
    ///
    /// # Errors
    /// When it still runs after some time.
    pub async fn await_end(&mut self, node: &str) -> Result<ExitStatus, Error> {
        let mut daemon = self.take_daemon(node)?;
        Ok(daemon.ended().await?)
    }

    /// Stops the process of a node's daemon, or lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause_daemon(&mut self, node: &str, paused: bool) -> Result<(), Error> {
        let daemon = self.daemons.get_mut(node).ok_or_else(|| not_running(node))?;
        daemon.pause(paused).await?;
        if paused {
            self.silent.insert(node.to_owned());
        } else {
            self.silent.remove(node);
        }
        Ok(())
    }

    /// Asks a node's daemon to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn stop_daemon(&mut self, node: &str) -> Result<ExitStatus, Error> {
        let mut daemon = self.take_daemon(node)?;
        let status = daemon.stop().await?;
        Ok(status)
    }

    /// Kills a node's daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_daemon(&mut self, node: &str) -> Result<(), Error> {
        let mut daemon = self.take_daemon(node)?;
        daemon.kill().await?;
        Ok(())
    }

    fn take_daemon(&mut self, node: &str) -> Result<Box<dyn Daemon>, Error> {
        self.silent.remove(node);
        self.daemons.remove(node).ok_or_else(|| not_running(node))
    }
}

fn not_running(node: &str) -> Error {
    Error::State { what: format!("the daemon on {node} does not run") }
}

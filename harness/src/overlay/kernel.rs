//! Overlays that only the kernel runs: configured by iproute2, with no process.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use ipnet::Ipv4Net;

use super::{Attachment, Counters, Daemon, Error, Site};
use crate::netns::Namespace;
use crate::topology::Node;

/// What stands for the daemon: how to undo what was configured.
pub(super) struct Kernel {
    overlay: &'static str,
    node: String,
    namespace: Namespace,
    attachment: Attachment,
    /// For `ip -batch`.
    undo: String,
}

impl Kernel {
    pub(super) fn new(overlay: &'static str, site: Site<'_>, attachment: Attachment, undo: String) -> Self {
        let (node, namespace) = (site.node.to_owned(), site.namespace.clone());
        Self { overlay, node, namespace, attachment, undo }
    }

    fn lacks(&self, what: &'static str) -> Error {
        Error::Lacks { overlay: self.overlay, what: what.to_owned() }
    }

    fn no_process(&self) -> Error {
        self.lacks("process")
    }

    fn undo(&self) -> Result<(), Error> {
        batch(&self.node, &self.namespace, "ip", &self.undo)
    }
}

impl Daemon for Kernel {
    fn ready(&mut self) -> LocalBoxFuture<'_, Result<Attachment, Error>> {
        async { Ok(self.attachment.clone()) }.boxed_local()
    }

    fn counters(&self) -> LocalBoxFuture<'_, Result<Option<Counters>, Error>> {
        async { Ok(None) }.boxed_local()
    }

    fn metric<'a>(&'a self, _name: &'a str) -> LocalBoxFuture<'a, Result<Option<f64>, Error>> {
        async { Err(self.lacks("metrics")) }.boxed_local()
    }

    fn totals(&self) -> LocalBoxFuture<'_, Result<BTreeMap<String, f64>, Error>> {
        async { Err(self.lacks("metrics")) }.boxed_local()
    }

    fn routes(&self) -> LocalBoxFuture<'_, Result<BTreeMap<Ipv4Net, Ipv4Addr>, Error>> {
        async { Err(self.lacks("routes that follow the leases")) }.boxed_local()
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        None
    }

    fn pause(&mut self, _paused: bool) -> LocalBoxFuture<'_, Result<(), Error>> {
        async { Err(self.no_process()) }.boxed_local()
    }

    fn ended(&mut self) -> LocalBoxFuture<'_, Result<ExitStatus, Error>> {
        async { Err(self.no_process()) }.boxed_local()
    }

    fn stop(&mut self) -> LocalBoxFuture<'_, Result<ExitStatus, Error>> {
        async { self.undo().map(|()| ExitStatus::from_raw(0)) }.boxed_local()
    }

    fn kill(&mut self) -> LocalBoxFuture<'_, Result<(), Error>> {
        async { self.undo() }.boxed_local()
    }

    fn log(&self) -> String {
        String::new()
    }
}

/// All other nodes but those that are to have a subnet which this one has, or one before them: there is one route to each.
pub(super) fn peers(site: Site<'_>) -> impl Iterator<Item = &Node> {
    let is_first = move |at: usize, node: &Node| {
        node.subnet != site.subnet && site.nodes.iter().take(at).all(|before| before.subnet != node.subnet)
    };
    let nodes = site.nodes.iter().enumerate().filter(move |(at, node)| is_first(*at, node));
    nodes.map(|(_, node)| node).filter(move |node| node.name != site.node)
}

/// Runs the lines of `commands` as `program -batch` does.
pub(super) fn configure(site: Site<'_>, program: &'static str, commands: &str) -> Result<(), Error> {
    batch(site.node, site.namespace, program, commands)
}

fn batch(node: &str, namespace: &Namespace, program: &'static str, commands: &str) -> Result<(), Error> {
    let error = |source| Error::NoTool { program, node: node.to_owned(), source };
    let mut child = namespace
        .command(program)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(error)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input says why when it ends.
        let _ = stdin.write_all(commands.as_bytes());
    }
    let output = child.wait_with_output().map_err(error)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Refused { node: node.to_owned(), program, said: said.trim().to_owned() })
}

//! The driver of `relay`: flags, files and metrics of one daemon a node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use ipnet::Ipv4Net;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::status::{STATUS, StatusClient};
use super::{Attachment, Counters, Daemon, Error, Overlay, Site, log, metrics};
use crate::wait;

mod asked;
mod flanneld;
mod status;

pub use asked::Asked;

/// What the overlay is called whose daemon is relay. Snapshots are its.
pub const RELAY: &str = "relay";
/// And what that is called whose daemon is flanneld.
const FLANNELD: &str = "flanneld";
/// From start to ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// From SIGTERM to the end.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// The `relay` daemon as an overlay.
#[derive(Debug, Clone)]
pub struct Relay {
    program: PathBuf,
    /// Whether it answers `/readyz`, `/metrics` and `/routes`.
    answers: bool,
    flags: Vec<String>,
}

impl Relay {
    /// The overlay whose daemon is `program`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), flags: Vec::new(), answers: true }
    }

    /// The overlay whose daemon is a flanneld with the UDP backend: it has the same flags and files, and can be asked
    /// nothing. It counts as ready once it has written `subnet.env`, and its routes are those that its log tells of.
    pub fn flanneld(program: impl Into<PathBuf>) -> Self {
        Self { answers: false, ..Self::new(program) }
    }

    /// The same, started with `flags` unless a case says otherwise: of a flag given twice its last value counts, and
    /// the case's come later. `a:--offload=none` is for node `a` alone.
    #[must_use]
    pub fn with_flags(self, flags: Vec<String>) -> Self {
        Self { flags, ..self }
    }

    /// The flags that a node's daemon is started with.
    fn flags_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a str> {
        flags_of(&self.flags, Some(node))
    }
}

/// Those among `flags` that a node's daemon is started with; without a node, that any is.
pub fn flags_of<'a>(flags: &'a [String], node: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let flags = flags.iter().map(|flag| of_one(flag));
    flags.filter(move |(only, _)| only.is_none() || *only == node).map(|(_, flag)| flag)
}

/// The node that a flag is for, if for one alone, and the flag: `a:--offload=none`.
#[must_use]
pub fn of_one(flag: &str) -> (Option<&str>, &str) {
    match flag.split_once(':') {
        Some((only, flag)) if !only.starts_with('-') => (Some(only), flag),
        _ => (None, flag),
    }
}

/// What all TUN devices are made with.
const TUN: &str = "/dev/net/tun";

impl Overlay for Relay {
    fn name(&self) -> &'static str {
        if self.answers { RELAY } else { FLANNELD }
    }

    fn counts(&self) -> bool {
        self.answers
    }

    fn check_machine(&self) -> Result<(), Error> {
        let opened = File::options().read(true).write(true).open(TUN);
        opened.map(drop).map_err(|source| {
            let remedy = match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "This user may not open it; `sudo chmod 0666 /dev/net/tun` allows what udev allows on most \
                     machines: opening it gives no right over any network but one's own."
                }
                _ => "The kernel has no TUN driver loaded: `sudo modprobe tun`, or give the container the device.",
            };
            Error::Tun { path: TUN, source, remedy }
        })
    }

    fn start<'a>(&'a self, site: Site<'a>) -> LocalBoxFuture<'a, Result<Box<dyn Daemon>, Error>> {
        async move { Ok(Box::new(Running::start(self, site)?) as Box<dyn Daemon>) }.boxed_local()
    }
}

/// One of the routes that the daemon lists on `/routes`.
#[derive(Debug, serde::Deserialize)]
struct RouteEntry {
    subnet: Ipv4Net,
    public_ip: Ipv4Addr,
}

/// One running `relay`.
struct Running {
    node: String,
    child: Child,
    log: PathBuf,
    /// Octets that the log had at its start: of those before it.
    logged: usize,
    status: StatusClient,
    subnet_file: PathBuf,
    /// When the subnet file that it found at its start was written.
    found: SystemTime,
    answers: bool,
}

impl Running {
    fn start(relay: &Relay, site: Site<'_>) -> Result<Self, Error> {
        let program = &relay.program;
        let file = |doing: &str| {
            let (node, doing) = (site.node.to_owned(), doing.to_owned());
            |source| Error::File { node, doing, source }
        };
        fs::create_dir_all(site.dir).map_err(file("creating the daemon's directory"))?;
        let subnet_file = site.dir.join("subnet.env");
        if !subnet_file.exists() {
            write_previous_subnet(&subnet_file, site.network, site.subnet)
                .map_err(file("writing subnet.env"))?;
        }
        let found = written(&subnet_file).map_err(file("reading subnet.env"))?;
        let log = site.dir.join("relay.log");
        let log_file =
            File::options().create(true).append(true).open(&log).map_err(file("opening the daemon's log"))?;
        let logged = log_file.metadata().map_err(file("opening the daemon's log"))?.len();
        let child = site
            .namespace
            .command(program)
            .arg(format!("--etcd-endpoints={}", site.endpoints.join(",")))
            .arg(format!("--etcd-prefix={}", site.prefix))
            .arg(format!("--iface={}", site.interface))
            .arg(format!("--subnet-file={}", subnet_file.display()))
            .arg(format!("--healthz-ip={}", STATUS.ip()))
            .arg(format!("--healthz-port={}", STATUS.port()))
            .args(relay.flags_of(site.node))
            .args(site.flags)
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().map_err(file("opening the daemon's log"))?)
            .stderr(log_file)
            .spawn()
            .map_err(|source| Error::Program {
                program: program.display().to_string(),
                node: site.node.to_owned(),
                source,
            })?;
        let status = StatusClient::new(site.node, site.namespace.clone());
        let (node, answers) = (site.node.to_owned(), relay.answers);
        let logged = usize::try_from(logged).unwrap_or(usize::MAX);
        Ok(Self { node, child, log, logged, status, subnet_file, found, answers })
    }

    async fn wait_ready(&mut self) -> Result<(), Error> {
        let Self { child, status, subnet_file, found, answers, .. } = self;
        let mut ended = None;
        let sign = if *answers { "/readyz" } else { "subnet.env" };
        let waited = wait::until(&format!("the daemon to be ready ({sign})"), READY_WITHIN, async || {
            if let Ok(Some(status)) = child.try_wait() {
                ended = Some(status);
                return Ok(());
            }
            if !*answers {
                let is_written = written(subnet_file).is_ok_and(|now| now != *found);
                return if is_written { Ok(()) } else { Err("the file is not written".to_owned()) };
            }
            match status.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((code, body)) => Err(format!("{code} {}", body.trim())),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        if let Some(status) = ended {
            if let Some(flag) =
                flanneld::unknown_flag(self.since_start(&self.log())).filter(|_| !self.answers)
            {
                self.expect_answers(&format!("flag --{flag}"))?;
            }
            let trace = self.trace().into();
            return Err(Error::Exited { node: self.node.clone(), status, when: "while starting", trace });
        }
        waited.map_err(|source| {
            let trace = self.trace().into();
            Error::NotReady { node: self.node.clone(), source, trace }
        })
    }

    /// Reads `subnet.env`; the device is the one that the daemon's log and the kernel agree on.
    fn read_attachment(&self, subnet_env: &str) -> Result<Attachment, Error> {
        let value = |key: &str| {
            let line = subnet_env.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.ok_or_else(|| self.query("subnet.env", &format!("it has no {key}")))
        };
        let subnet: Ipv4Net = value("FLANNEL_SUBNET")?
            .parse()
            .map_err(|_| self.query("subnet.env", "FLANNEL_SUBNET is no prefix"))?;
        let mtu = value("FLANNEL_MTU")?
            .parse()
            .map_err(|_| self.query("subnet.env", "FLANNEL_MTU is no number"))?;
        // The device carries the base address of the subnet (flannel udp_network_amd64.go).
        let device =
            self.status.namespace.run(|| device_with_address(subnet.network()))?.ok_or_else(|| {
                self.query("its device", &format!("no link has the address {}", subnet.network()))
            })?;
        Ok(Attachment { device, subnet: subnet.trunc(), mtu })
    }

    /// What it has logged itself, of a log that others may have begun.
    fn since_start<'a>(&self, log: &'a str) -> &'a str {
        log.get(self.logged..).unwrap_or_default()
    }

    fn query(&self, what: &str, why: &str) -> Error {
        Error::Query { node: self.node.clone(), what: what.to_owned(), why: why.to_owned() }
    }

    fn expect_answers(&self, what: &str) -> Result<(), Error> {
        if self.answers { Ok(()) } else { Err(Error::Lacks { overlay: FLANNELD, what: what.to_owned() }) }
    }

    /// Sends a signal, unless the daemon has ended: its pid may be another's then.
    fn signal(&mut self, signal: Signal) {
        if self.exited().is_none()
            && let Ok(pid) = i32::try_from(self.child.id())
            && let Err(error) = kill(Pid::from_raw(pid), signal)
        {
            tracing::warn!(node = self.node, %signal, %error, "signal not sent");
        }
    }

    async fn wait_ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let child = &mut self.child;
        wait::until("the daemon to end", within, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
        .ok()
    }
}

impl Daemon for Running {
    fn ready(&mut self) -> LocalBoxFuture<'_, Result<Attachment, Error>> {
        async move {
            self.wait_ready().await?;
            let error = |source| Error::File {
                node: self.node.clone(),
                doing: "reading subnet.env".to_owned(),
                source,
            };
            // Ready comes after subnet.env is written (flannel main.go); what is there from before proves nothing.
            if written(&self.subnet_file).map_err(error)? == self.found {
                return Err(self.query("subnet.env", "ready, but the file was not written"));
            }
            self.read_attachment(&fs::read_to_string(&self.subnet_file).map_err(error)?)
        }
        .boxed_local()
    }

    fn counters(&self) -> LocalBoxFuture<'_, Result<Option<Counters>, Error>> {
        async move {
            if !self.answers {
                return Ok(None);
            }
            match self.status.get("/metrics").await? {
                (200, body) => Ok(Some(Counters::from_metrics(&body))),
                (code, _) => Err(self.query("/metrics", &format!("it answered {code}"))),
            }
        }
        .boxed_local()
    }

    fn metric<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<f64>, Error>> {
        async move {
            self.expect_answers("metrics")?;
            let (_, body) = self.status.get("/metrics").await?;
            Ok(body.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()))
        }
        .boxed_local()
    }

    fn totals(&self) -> LocalBoxFuture<'_, Result<BTreeMap<String, f64>, Error>> {
        async move {
            self.expect_answers("metrics")?;
            let (_, body) = self.status.get("/metrics").await?;
            Ok(metrics::totals(&body))
        }
        .boxed_local()
    }

    fn pause(&mut self, paused: bool) -> LocalBoxFuture<'_, Result<(), Error>> {
        async move {
            self.signal(if paused { Signal::SIGSTOP } else { Signal::SIGCONT });
            let stat = format!("/proc/{}/stat", self.child.id());
            let awaited =
                format!("the daemon on {} to be {}", self.node, if paused { "stopped" } else { "continued" });
            let waited = wait::until(&awaited, STOPPED_WITHIN, async || {
                let text = fs::read_to_string(&stat).map_err(|error| error.to_string())?;
                // The state comes after the name in parentheses (proc_pid_stat(5)).
                let state = text.rsplit(") ").next().and_then(|rest| rest.chars().next());
                if (state == Some('T')) == paused { Ok(()) } else { Err(format!("its state is {state:?}")) }
            });
            waited.await.map_err(|error| self.query("its state", &error.to_string()))
        }
        .boxed_local()
    }

    fn ended(&mut self) -> LocalBoxFuture<'_, Result<ExitStatus, Error>> {
        async move {
            match self.wait_ended(READY_WITHIN).await {
                Some(status) => Ok(status),
                None => {
                    let (node, trace) = (self.node.clone(), self.trace().into());
                    Err(Error::NotEnded { node, within: READY_WITHIN, trace })
                }
            }
        }
        .boxed_local()
    }

    fn routes(&self) -> LocalBoxFuture<'_, Result<BTreeMap<Ipv4Net, Ipv4Addr>, Error>> {
        async move {
            if !self.answers {
                return Ok(flanneld::routes(self.since_start(&self.log())));
            }
            let (code, body) = self.status.get("/routes").await?;
            if code != 200 {
                return Err(self.query("/routes", &format!("it answered {code}")));
            }
            let routes: Vec<RouteEntry> =
                serde_json::from_str(&body).map_err(|error| self.query("/routes", &error.to_string()))?;
            Ok(routes.into_iter().map(|route| (route.subnet, route.public_ip)).collect())
        }
        .boxed_local()
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.child.id()]
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn stop(&mut self) -> LocalBoxFuture<'_, Result<ExitStatus, Error>> {
        async move {
            self.signal(Signal::SIGTERM);
            if let Some(status) = self.wait_ended(STOPPED_WITHIN).await {
                return Ok(status);
            }
            let (node, trace) = (self.node.clone(), self.trace().into());
            self.kill().await?;
            Err(Error::NotStopped { node, within: STOPPED_WITHIN, trace })
        }
        .boxed_local()
    }

    fn kill(&mut self) -> LocalBoxFuture<'_, Result<(), Error>> {
        async move {
            self.signal(Signal::SIGKILL);
            match self.wait_ended(STOPPED_WITHIN).await {
                Some(_) => Ok(()),
                None => Err(self.query("its end", "SIGKILL did not end it")),
            }
        }
        .boxed_local()
    }

    fn log(&self) -> String {
        log::read(&self.log)
    }

    fn subnet_file(&self) -> Option<String> {
        let text = match fs::read_to_string(&self.subnet_file) {
            Ok(text) => text,
            Err(error) => return Some(format!("{}: {error}", self.subnet_file.display())),
        };
        let is_own = written(&self.subnet_file).is_ok_and(|now| now != self.found);
        Some(if is_own { text } else { format!("(as it was before this start)\n{text}") })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Err(error) = self.child.wait() {
            tracing::warn!(node = self.node, %error, "daemon not waited for");
        }
    }
}

/// When a file was last written.
fn written(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// Makes the daemon take `subnet` as the one it had before: flannel's own way to keep a subnet over a reboot.
fn write_previous_subnet(path: &Path, network: Ipv4Net, subnet: Ipv4Net) -> std::io::Result<()> {
    let first = Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1));
    let mut file = File::create(path)?;
    writeln!(file, "FLANNEL_NETWORK={network}")?;
    writeln!(file, "FLANNEL_SUBNET={first}/{}", subnet.prefix_len())?;
    // A time in the past tells this file from the daemon's.
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
}

/// The name of the link with this address in the calling thread's namespace.
fn device_with_address(address: Ipv4Addr) -> Option<String> {
    let mut addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses.find_map(|link| {
        let found = link.address?.as_sockaddr_in()?.ip();
        (found == address).then_some(link.interface_name)
    })
}

/// A word for how a daemon ended.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_may_be_for_one_node_alone() {
        let flags = ["--v=1", "a:--offload=none", "--etcd-endpoints=http://x:1"].map(str::to_owned);
        let relay = Relay::new("relay").with_flags(flags.to_vec());
        let of = |node| relay.flags_of(node).collect::<Vec<_>>();
        assert_eq!(of("a"), ["--v=1", "--offload=none", "--etcd-endpoints=http://x:1"]);
        assert_eq!(of("b"), ["--v=1", "--etcd-endpoints=http://x:1"]);
    }
}

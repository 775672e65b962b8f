//! One network namespace of a lab with the netlink socket that configures it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::kernel::COUNTERS;
use crate::netlink::{self, Netlink};
use crate::netns::{self, Namespace};

/// A node, container, etcd member, or the switch between them.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its links, addresses and routes.
    pub netlink: Netlink,
    /// The counters of its kernel. A file in `/proc/net` stays that of the namespace it was opened in.
    counters: Arc<[File; 3]>,
}

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// What it printed, standard error after standard output.
    pub text: String,
}

/// What could not be set up in a host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// Links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A kernel setting.
    #[error("setting {key} = {value} in `{host}`: {source}")]
    Sysctl {
        /// The host.
        host: String,
        /// The setting, as sysctl(8) writes it.
        key: String,
        /// The value.
        value: String,
        /// The cause.
        source: io::Error,
    },
    /// What the kernel counts.
    #[error("opening {path}: {source}")]
    Counters {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A program that configures the kernel.
    #[error("running `{command}` in `{host}`: {why}{}", if *.missing { "\nci/suites installs what labs need; what else a case runs is for you to install." } else { "" })]
    Program {
        /// The host.
        host: String,
        /// The program with its arguments.
        command: String,
        /// What went wrong.
        why: String,
        /// Whether the program is not installed.
        missing: bool,
    },
}

/// What a program may print, in octets: no report or snapshot is read that is longer, and a program may print without end.
const MOST_PRINTED: usize = 4 << 20;

/// Settings that make every host behave the same on every machine, whatever the machine's own defaults.
const SETTINGS: &[(&str, &str)] = &[
    // The overlay is IPv4; router solicitations and the like would only be noise in the recordings.
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    // The kernel's limit on its own ICMP errors would make what a probe learns depend on its neighbours in time. No type is
    // limited: a limit of 0 would take the tokens that ip_error() has a limit of its own for.
    ("net.ipv4.icmp_ratemask", "0"),
];

/// Settings that exist only with some kernels or modules, or may be set only by the machine's root.
const SETTINGS_WHERE_PRESENT: &[(&str, &str)] = &[
    ("net.ipv4.icmp_msgs_per_sec", "1000000"),
    ("net.ipv4.icmp_msgs_burst", "1000000"),
    // With br_netfilter loaded, a bridge's frames would run through the node's IP rules.
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.bridge.bridge-nf-call-arptables", "0"),
];

/// How long a program that configures or shows the kernel may take.
const TOOL_WITHIN: Duration = Duration::from_secs(30);

impl Host {
    /// Creates a namespace, with loopback up.
    ///
    /// # Errors
    /// When the kernel refuses any part.
    pub async fn create(name: &str, dir: &Path) -> Result<Self, Error> {
        Self::adopt(Namespace::create(name, dir)?).await
    }

    /// Makes a host of a namespace that exists.
    ///
    /// # Errors
    /// When the kernel refuses any part.
    pub async fn adopt(namespace: Namespace) -> Result<Self, Error> {
        let netlink = Netlink::connect(&namespace)?;
        let open =
            |path: &str| File::open(path).map_err(|source| Error::Counters { path: path.to_owned(), source });
        let [snmp, netstat, dev] = namespace.run(|| COUNTERS.map(open))?;
        let host = Self { namespace, netlink, counters: Arc::new([snmp?, netstat?, dev?]) };
        host.set_all(SETTINGS)?;
        // Missing or fixed ones leave the kernel's default, which is harmless unless a case floods.
        if let Err(error) = host.set_all(SETTINGS_WHERE_PRESENT) {
            tracing::debug!(%error, "optional setting");
        }
        host.netlink.set_up("lo", true).await?;
        Ok(host)
    }

    /// Has one processor take in the packets of each interface that appears in the host from now on, in the order in
    /// which they came. As a rule each processor has a queue of its own (`softnet_data`), and packets of a sender that is
    /// moved from one processor to another overtake each other there: no fault of an overlay, and a rare one.
    ///
    /// Linux before 6.4 has no such setting and is left as it is.
    pub fn keep_order(&self, processor: u32) {
        // The file takes groups of 32 bits; the first is enough for any lab.
        let mask = format!("{:x}", 1_u32 << (processor % 32));
        if let Err(error) = self.set("net.core.rps_default_mask", &mask) {
            tracing::debug!(%error, "packets may overtake each other in the kernel's queues");
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// What its kernel has counted so far, in the format of `/proc/net/snmp`; nothing where that cannot be read.
    pub fn counters(&self) -> String {
        let mut text = String::new();
        for mut file in self.counters.iter() {
            // The kernel writes it anew for whoever reads from the start.
            let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
            if let Err(error) = read {
                tracing::debug!(%error, host = self.name(), "reading the kernel's counters");
            }
        }
        text
    }

    /// Writes a kernel setting, named as sysctl(8) names it.
    ///
    /// # Errors
    /// When there is no such setting or it may not be written.
    pub fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        self.set_all(&[(key, value)])
    }

    fn set_all(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.namespace.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key.replace('.', "/"));
                fs::write(path, value).map_err(|source| Error::Sysctl {
                    host: self.name().to_owned(),
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                    source,
                })?;
            }
            Ok(())
        })?
    }

    /// Runs a program in the host with `input` on its standard input, and waits for its success.
    ///
    /// # Errors
    /// When it cannot be started, fails, or does not end within some seconds: with what it wrote.
    pub async fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<(), Error> {
        let words: Vec<&str> = [&[program], arguments].concat();
        let output = self.finish(&words, input, TOOL_WITHIN).await?;
        if output.status == Some(0) {
            return Ok(());
        }
        let status =
            output.status.map_or("ended by a signal".to_owned(), |status| format!("exit status {status}"));
        Err(self.program(&words, format!("{status}: {}", output.text.trim()), false))
    }

    /// Runs a program in the host, `words` being its name and arguments, and waits for its end. It is ended after
    /// `within`.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub async fn exec(&self, words: &[String], within: Duration) -> Result<Output, Error> {
        self.finish(&words.iter().map(String::as_str).collect::<Vec<_>>(), "", within).await
    }

    /// What a program prints in the host, or why it does not.
    pub async fn output(&self, words: &[&str]) -> String {
        match self.finish(words, "", TOOL_WITHIN).await {
            Ok(output) => output.text,
            Err(error) => error.to_string(),
        }
    }

    async fn finish(&self, words: &[&str], input: &str, within: Duration) -> Result<Output, Error> {
        let (program, arguments) =
            words.split_first().ok_or_else(|| self.program(words, "no program".to_owned(), false))?;
        let failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => self.program(words, format!("there is no program `{program}`"), true),
            _ => self.program(words, cause.to_string(), false),
        };
        let mut command = tokio::process::Command::from(self.namespace.command(program));
        // What it prints shall be the same whoever runs it.
        command.args(arguments).env("LC_ALL", "C").env("TZ", "UTC").kill_on_drop(true);
        command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input says why when it ends.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let (printed, said) = (child.stdout.take(), child.stderr.take());
        let mut ended = None;
        let end = async {
            let mut output = std::pin::pin!(async { tokio::join!(feed, read(printed), read(said)) });
            let ((), printed, said) = tokio::select! {
                output = &mut output => output,
                status = child.wait() => {
                    ended = Some(status?);
                    output.await
                }
            };
            Ok((child.wait().await?, [printed?, said?].concat()))
        };
        let (status, printed) = match tokio::time::timeout(within, end).await {
            Ok(end) => end.map_err(failed)?,
            Err(_) => {
                let after = within.as_millis();
                let why = match ended {
                    None => format!("it still runs after {after} ms"),
                    Some(_) => format!(
                        "it has ended, but what it started keeps its output open after {after} ms: have that print elsewhere"
                    ),
                };
                return Err(self.program(words, why, false));
            }
        };
        if printed.len() > MOST_PRINTED {
            let why = format!("it printed more than {} MiB", MOST_PRINTED >> 20);
            return Err(self.program(words, why, false));
        }
        Ok(Output { status: status.code(), text: String::from_utf8_lossy(&printed).into_owned() })
    }

    fn program(&self, words: &[&str], why: String, missing: bool) -> Error {
        Error::Program { host: self.name().to_owned(), command: words.join(" "), why, missing }
    }
}

/// What comes out of a program, until that is too much: the program then writes to a closed pipe, and ends.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MOST_PRINTED as u64 + 1).read_to_end(&mut octets).await?;
    }
    Ok(octets)
}

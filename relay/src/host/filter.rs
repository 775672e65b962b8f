//! Packet filter rules: forwarding of the network's packets, and masquerading of those that leave it.
//!
//! The rule sets are flannel's. They are applied by iptables-restore(8), or nft(8) when the network config says
//! `EnableNFTables`; the other one's are removed, and so are rules that an earlier start wanted and this one does not.
//! They stay when the daemon ends, so that containers keep their way out while it is replaced.

mod iptables;
mod nftables;

use std::{io, process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::watch,
    time::{interval, timeout},
};

use iptables::{Chain, Listed};

/// Patience with one run of a tool; waiting for the lock of x_tables is part of it.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// Which rules are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The whole overlay network.
    pub network: Ipv4Net,
    /// This node's subnet.
    pub subnet: Ipv4Net,
    /// Whether packets that leave the network get the node's address.
    pub masquerade: bool,
    /// Whether their ports are chosen at random, where the tool can say so.
    pub fully_random: bool,
    /// Whether forwarded packets of the network are accepted.
    pub forward: bool,
}

impl Rules {
    const fn any(&self) -> bool {
        self.masquerade || self.forward
    }
}

/// What applies the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// iptables, of either variant.
    Iptables,
    /// nft.
    Nftables,
}

/// Rules could not be looked at or applied.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The tool is not installed.
    #[error(
        "{program} is not installed, so no packet filter rules are set: install it{}, or do without: no --ip-masq, and --iptables-forward-rules=false where forwarded packets are accepted anyway", 
        if *.program == "nft" { ", unset EnableNFTables in the network config" } else { ", set EnableNFTables in the network config (needs nft)" }
    )]
    Missing {
        /// Its name.
        program: &'static str,
    },
    /// The tool failed.
    #[error("{command}: {reason}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said, or why it did not run.
        reason: String,
    },
}

impl FilterError {
    /// Whether trying again is of no use until somebody installs something.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// The rules of this node.
#[derive(Debug)]
pub struct Filter {
    manager: Manager,
    rules: Rules,
    /// What was listed after the rules were applied: tools differ in how they print them.
    shown: Vec<String>,
}

impl Filter {
    /// Nothing is changed before [`Filter::install`].
    #[must_use]
    pub const fn new(manager: Manager, rules: Rules) -> Self {
        Self { manager, rules, shown: Vec::new() }
    }

    /// Applies the rules, and removes what is not wanted, of an earlier start or of the other manager.
    ///
    /// # Errors
    /// A tool is missing or fails. One that has nothing to apply may be missing.
    pub async fn install(&mut self) -> Result<(), FilterError> {
        let wanted = self.rules.any();
        let result = match self.manager {
            Manager::Iptables => {
                clean_up(remove_nftables().await);
                self.install_iptables().await
            }
            Manager::Nftables => {
                let none = Rules { masquerade: false, forward: false, ..self.rules };
                clean_up(Self::new(Manager::Iptables, none).install_iptables().await);
                if wanted { self.install_nftables().await } else { remove_nftables().await }
            }
        };
        if wanted {
            return result;
        }
        clean_up(result);
        Ok(())
    }

    /// Puts the rules back if something removed or changed them; tells whether it had to.
    ///
    /// # Errors
    /// A tool is missing or fails.
    pub async fn resync(&mut self) -> Result<bool, FilterError> {
        if !self.rules.any() {
            return Ok(false);
        }
        let intact = match self.manager {
            Manager::Iptables => self.is_intact_by_iptables().await?,
            Manager::Nftables => self.shown == [list_table().await.unwrap_or_default()],
        };
        if !intact {
            self.install().await?;
        }
        Ok(!intact)
    }

    /// Looks after the rules until the future is dropped. What fails is said once. `amiss` is told why the rules are not
    /// in place, or none once they are.
    pub async fn keep(mut self, every: Duration, amiss: watch::Sender<Option<String>>) {
        let mut ticks = interval(every);
        ticks.tick().await;
        let mut said = String::new();
        loop {
            ticks.tick().await;
            match self.resync().await {
                Ok(restored) => {
                    if restored {
                        tracing::warn!("packet filter rules put back that something else removed");
                    }
                    said.clear();
                    amiss.send_replace(None);
                }
                Err(error) => {
                    let error = error.to_string();
                    amiss.send_replace(Some(error.clone()));
                    if error != said {
                        tracing::error!(error, "packet filter rules not looked after, trying on");
                        said = error;
                    }
                }
            }
        }
    }

    fn chains(&self, recent: bool) -> [(Chain, bool); 2] {
        let masquerade = Chain::masquerade(&self.rules, self.rules.fully_random && recent);
        [(masquerade, self.rules.masquerade), (Chain::forward(&self.rules), self.rules.forward)]
    }

    async fn install_iptables(&mut self) -> Result<(), FilterError> {
        let version = run("iptables", &["--version"], None).await?;
        let recent = iptables::is_recent(&version);
        let restore = async |script: String| {
            let arguments: &[&str] = if recent { &["--noflush", "--wait"] } else { &["--noflush"] };
            run("iptables-restore", arguments, Some(script)).await
        };
        self.shown.clear();
        for (chain, wanted) in self.chains(recent) {
            if !wanted && iptables::is_legacy(&version) && !is_table_loaded(chain.table).await {
                continue;
            }
            let listed = list_chain(&chain).await?;
            if wanted {
                restore(chain.restore(&listed)).await?;
                let listed = list_chain(&chain).await?;
                // Otherwise something changed it in between, and the next look puts it back.
                if listed.is_whole(&chain) {
                    self.shown.extend(listed.rules);
                }
            } else if !listed.is_absent() {
                tracing::info!(chain = chain.name, "removing packet filter rules that are not wanted");
                restore(chain.remove(&listed)).await?;
            }
        }
        Ok(())
    }

    async fn is_intact_by_iptables(&self) -> Result<bool, FilterError> {
        let wanted = self.chains(true).into_iter().filter(|(_, wanted)| *wanted);
        let mut shown = self.shown.iter();
        for (chain, _) in wanted {
            let Some(shown) = shown.next() else { return Ok(false) };
            if !list_chain(&chain).await?.is_intact(shown) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn install_nftables(&mut self) -> Result<(), FilterError> {
        run("nft", &["-f", "-"], Some(nftables::replace(&self.rules))).await?;
        let listed = list_table().await?;
        // Otherwise something changed it in between, and the next look puts it back.
        self.shown = nftables::is_whole(&self.rules, &listed).then_some(listed).into_iter().collect();
        Ok(())
    }
}

/// A tool that is not installed has left nothing to clean up; one that fails must not keep the daemon from starting.
fn clean_up(result: Result<(), FilterError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "looking for packet filter rules of an earlier start");
    }
}

async fn list_chain(chain: &Chain) -> Result<Listed, FilterError> {
    let list = async |name| run("iptables", &["--wait", "-t", chain.table, "-S", name], None).await;
    let hook = list(chain.hook).await?;
    // The kernel's chain could be listed, so this one is not there.
    Ok(Listed::parse(chain, &hook, list(chain.name).await.ok()))
}

async fn list_table() -> Result<String, FilterError> {
    run("nft", &["list", "table", "ip", nftables::TABLE], None).await
}

async fn remove_nftables() -> Result<(), FilterError> {
    if list_table().await.is_ok() {
        tracing::info!(table = nftables::TABLE, "removing packet filter rules that are not wanted");
        run("nft", &["-f", "-"], Some(nftables::delete())).await?;
    }
    Ok(())
}

async fn is_table_loaded(table: &str) -> bool {
    let tables = tokio::fs::read_to_string("/proc/net/ip_tables_names").await.unwrap_or_default();
    tables.lines().any(|line| line == table)
}

async fn run(
    program: &'static str,
    arguments: &[&str],
    input: Option<String>,
) -> Result<String, FilterError> {
    let failed = |reason: String| FilterError::Failed {
        command: format!("{program} {}", arguments.join(" ")),
        reason: reason.trim().replace('\n', "; "),
    };
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FilterError::Missing { program },
        _ => failed(error.to_string()),
    })?;
    let finish = async {
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(TOOL_TIMEOUT, finish)
        .await
        .map_err(|_| failed(format!("no end within {} s", TOOL_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(if said.trim().is_empty() {
            output.status.to_string()
        } else {
            said.into_owned()
        }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests;

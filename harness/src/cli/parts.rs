//! What labs are made of, by the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::Usage;
use crate::etcd;
use crate::lab::Workshop;
use crate::overlay::Overlay;
use crate::overlay::plain::Plain;
use crate::overlay::relay::{Asked, Relay, flags_of, of_one};
use crate::overlay::vxlan::Vxlan;
use crate::suite;

/// Flags that every command has which builds labs.
#[derive(Debug, Clone, Args)]
pub(super) struct Parts {
    /// How etcd runs: auto, process or container
    #[arg(long, env = "HARNESS_ETCD", value_name = "KIND", default_value = "auto")]
    etcd: etcd::Kind,
    /// The relay program [default: `relay` beside this program, else in PATH]
    #[arg(long, env = "RELAY", value_name = "PATH")]
    relay: Option<PathBuf>,
    /// A flag that every relay is started with unless a case gives it another value, or that of one node:
    /// `a:--offload=none`; may be repeated
    #[arg(long = "relay-flag", value_name = "FLAG", allow_hyphen_values = true, value_parser = relay_flag)]
    relay_flags: Vec<String>,
    /// A kernel setting of every host of a lab: `net.ipv4.conf.all.rp_filter=1`; may be repeated
    #[arg(long = "sysctl", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

/// Flags of what the nodes run.
#[derive(Debug, Clone, Args)]
pub(super) struct Choice {
    /// What joins the nodes: relay, flanneld, the kernel's vxlan, or plain routes. Of any but relay it is told what it
    /// does otherwise; snapshots are relay's, and stay
    #[arg(long, value_enum, value_name = "OVERLAY", default_value = "relay", hide_possible_values = true)]
    overlay: Kind,
    /// The flanneld program, for `--overlay flanneld` [default: `flanneld` in PATH]
    #[arg(long, value_name = "PATH")]
    flanneld: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Relay,
    Flanneld,
    Vxlan,
    Plain,
}

fn relay_flag(flag: &str) -> Result<String, String> {
    match suite::own_flag(of_one(flag).1) {
        Some(name) => Err(format!("--{name} is for the lab to set: by what it has there it asks the relay")),
        None => Ok(flag.to_owned()),
    }
}

impl Choice {
    /// Whether snapshots are those of this overlay.
    pub(super) fn is_relay(&self) -> bool {
        self.overlay == Kind::Relay
    }

    /// Enters the sandbox and puts the parts together.
    pub(super) fn workshop(&self, parts: &Parts) -> Result<Workshop, Usage> {
        if self.flanneld.is_some() && self.overlay != Kind::Flanneld {
            return Err("--flanneld names the program of --overlay flanneld".into());
        }
        let flags = parts.relay_flags.clone();
        let overlay: Arc<dyn Overlay> = match self.overlay {
            Kind::Relay => return parts.workshop(),
            Kind::Flanneld => Arc::new(Relay::flanneld(self.flanneld()?).with_flags(flags)),
            Kind::Vxlan => Arc::new(Vxlan),
            Kind::Plain => Arc::new(Plain),
        };
        if !overlay.runs_daemon() && !parts.relay_flags.is_empty() {
            return Err(Usage(format!(
                "--relay-flag says nothing to {}, which no program runs",
                overlay.name()
            )));
        }
        parts.around(overlay)
    }

    fn flanneld(&self) -> Result<PathBuf, Usage> {
        match &self.flanneld {
            Some(program) => at("flanneld", program),
            None => in_path("flanneld")
                .ok_or_else(|| "there is no `flanneld` in PATH: name it with --flanneld PATH".into()),
        }
    }
}

impl Parts {
    /// Enters the sandbox and puts the parts together, with relay on the nodes.
    pub(super) fn workshop(&self) -> Result<Workshop, Usage> {
        let program = self.program()?;
        self.ask(&program)?;
        let relay = Relay::new(program).with_flags(self.relay_flags.clone());
        self.around(Arc::new(relay))
    }

    fn around(&self, overlay: Arc<dyn Overlay>) -> Result<Workshop, Usage> {
        Ok(Workshop::new(overlay, self.etcd)?.with_settings(self.settings.clone())?)
    }

    /// Asks relay about the flags that it is to be started with, so that a mistake in them is told once, and not by every case.
    fn ask(&self, program: &Path) -> Result<(), Usage> {
        if self.relay_flags.is_empty() {
            return Ok(());
        }
        // One of before there was such a question tells when it is started.
        let Ok(mut asked) = Asked::new(program.to_owned()) else { return Ok(()) };
        let nodes = self.flagged_nodes().map(Some).chain([None]);
        for node in nodes {
            let flags: Vec<&str> = flags_of(&self.relay_flags, node).collect();
            if let Some(why) = asked.refuses_flags(&flags)? {
                let whose = node.map_or_else(String::new, |node| format!(" of {node}"));
                return Err(Usage(format!("relay refuses the flags{whose} `{}`: {why}", flags.join(" "))));
            }
        }
        Ok(())
    }

    /// The nodes that have a flag of their own.
    pub(super) fn flagged_nodes(&self) -> impl Iterator<Item = &str> {
        self.relay_flags.iter().filter_map(|flag| of_one(flag).0)
    }

    /// The relay program.
    pub(super) fn program(&self) -> Result<PathBuf, Usage> {
        relay(self.relay.as_deref())
    }
}

/// The relay program: the one named, else the one beside this program or in PATH.
pub(super) fn relay(named: Option<&Path>) -> Result<PathBuf, Usage> {
    if let Some(program) = named {
        return at("relay", program);
    }
    let own = std::env::current_exe()?;
    let beside = own.parent().map(|directory| directory.join("relay")).filter(|program| program.is_file());
    beside.or_else(|| in_path("relay")).ok_or_else(|| {
        Usage(format!(
            "there is no `relay` program beside {} or in PATH: build it with `cargo build -p relay`, or name it with \
             --relay PATH",
            own.display()
        ))
    })
}

fn at(what: &str, program: &Path) -> Result<PathBuf, Usage> {
    fs::canonicalize(program)
        .map_err(|error| Usage(format!("there is no {what} program at {}: {error}", program.display())))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is no KEY=VALUE")?;
    let (key, value) = (key.trim(), value.trim());
    // Others are the machine's.
    if !["net.", "net/"].iter().any(|below| key.starts_with(below)) {
        return Err("a host of a lab has settings of its own below net. alone".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

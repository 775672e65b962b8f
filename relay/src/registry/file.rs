//! The registry in a file, for labs, benches and clusters of three: who has which subnet is written by hand, alike on
//! every node, and nothing is leased.
//!
//! ```toml
//! [config]                          # as in etcd: see `Network`
//! Network = "10.5.0.0/16"
//!
//! [subnets]
//! "10.5.1.0/24" = "192.0.2.1"       # subnet = address of its node
//! "10.5.2.0/24" = "192.0.2.2"
//! ```
//!
//! The file is looked at every second. An edit that cannot be used changes nothing, and the log says why. `[config]`
//! is read at start only, as it is from etcd.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ipnet::Ipv4Net;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::sleep;

use super::{Batch, Entry, Event, Registry, RegistryError, Snapshot, Watch, WatchError, Written};
use crate::{
    lease,
    network::{Network, NetworkError},
};

/// Between looks at the file.
const POLL: Duration = Duration::from_secs(1);

/// A file changed this recently may change again without its time of change moving.
const UNSETTLED: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    config: toml::Table,
    #[serde(default)]
    subnets: BTreeMap<String, String>,
}

/// A text that is no registry.
#[derive(Debug, PartialEq, Eq, Error)]
enum FileError {
    #[error("{0}")]
    Syntax(String),
    #[error("[config]: {0}")]
    Config(#[from] NetworkError),
    #[error("[subnets]: \"{0}\" is no subnet such as 10.5.1.0/24")]
    Subnet(String),
    #[error("[subnets]: \"{subnet}\" = \"{node}\": not the IPv4 address of a node")]
    Node { subnet: Ipv4Net, node: String },
    #[error("[subnets]: {0} and {1} overlap")]
    Overlap(Ipv4Net, Ipv4Net),
}

/// What a good text says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// The network configuration as JSON.
    config: Vec<u8>,
    subnets: BTreeMap<Ipv4Net, Ipv4Addr>,
}

impl Contents {
    fn parse(text: &str) -> Result<Self, FileError> {
        let document: Document = toml::from_str(text)
            .map_err(|error| FileError::Syntax(error.to_string().trim().replace('\n', " ")))?;
        let config =
            serde_json::to_vec(&document.config).map_err(|error| FileError::Syntax(error.to_string()))?;
        Network::parse(&config)?;
        let mut subnets = BTreeMap::new();
        for (subnet, node) in document.subnets {
            let parsed = subnet.parse().ok().filter(|parsed: &Ipv4Net| parsed.trunc() == *parsed);
            let parsed =
                parsed.filter(|parsed| parsed.prefix_len() <= 31).ok_or(FileError::Subnet(subnet))?;
            let address =
                node.parse().ok().filter(|address| lease::parse_value(&lease::value(*address)).is_ok());
            subnets.insert(parsed, address.ok_or(FileError::Node { subnet: parsed, node })?);
        }
        let overlap = subnets.keys().zip(subnets.keys().skip(1)).find(|(one, next)| one.contains(*next));
        if let Some((one, next)) = overlap {
            return Err(FileError::Overlap(*one, *next));
        }
        Ok(Self { config, subnets })
    }
}

/// The registry in a file.
#[derive(Debug)]
pub struct File {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    contents: Contents,
    /// Counts the edits; 0 before the first good one.
    revision: i64,
    /// Revision of each subnet's last change.
    changed: BTreeMap<Ipv4Net, i64>,
    /// Time of change and length of the file when it was last read.
    stamp: Option<(SystemTime, u64)>,
    /// What was wrong with it then.
    wrong: Option<String>,
}

/// Reads the registry in the file at `path` as a daemon does at its start: the network, and how many subnets have a node.
///
/// # Errors
/// In one line, what makes it unusable.
pub fn check(path: &Path) -> Result<(Network, usize), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let contents = Contents::parse(&text).map_err(|error| error.to_string())?;
    let network = Network::parse(&contents.config).map_err(|error| error.to_string())?;
    Ok((network, contents.subnets.len()))
}

impl File {
    /// Nothing is read before the first call.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { shared: Arc::new(Shared { path, state: Mutex::default() }) }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up an edit, if there was one; a bad one is told of once.
    fn look(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if let Err(reason) = self.read(&mut state)
            && state.wrong.as_ref() != Some(&reason)
        {
            tracing::error!(path = %self.path.display(), reason, "registry file not usable, the last good one counts");
            state.wrong = Some(reason);
        }
        state
    }

    #[expect(clippy::disallowed_methods, reason = "times of change of files are by the wall clock")]
    fn read(&self, state: &mut State) -> Result<(), String> {
        let about = fs::metadata(&self.path).map_err(|error| {
            // It may come back as it was, and is good again then.
            state.stamp = None;
            error.to_string()
        })?;
        let modified = about.modified().map_err(|error| error.to_string())?;
        let stamp = Some((modified, about.len()));
        let settled = SystemTime::now().duration_since(modified).is_ok_and(|age| age > UNSETTLED);
        if state.stamp == stamp && settled {
            return Ok(());
        }
        let text = fs::read_to_string(&self.path).map_err(|error| error.to_string())?;
        state.stamp = stamp;
        let contents = Contents::parse(&text).map_err(|error| error.to_string())?;
        state.wrong = None;
        state.take_up(contents);
        Ok(())
    }

    /// What is known, or why nothing is.
    fn known(&self) -> Result<MutexGuard<'_, State>, RegistryError> {
        let state = self.look();
        if state.revision > 0 {
            return Ok(state);
        }
        let reason = state.wrong.as_deref().unwrap_or("never read");
        let cause = format!("{}: {reason}", self.path.display());
        Err(RegistryError::Unavailable { doing: "reading the registry file", cause })
    }
}

impl State {
    fn take_up(&mut self, contents: Contents) {
        if self.contents == contents {
            return;
        }
        self.revision += 1;
        for (subnet, node) in &contents.subnets {
            if self.contents.subnets.get(subnet) != Some(node) {
                self.changed.insert(*subnet, self.revision);
            }
        }
        self.changed.retain(|subnet, _| contents.subnets.contains_key(subnet));
        self.contents = contents;
    }

    fn entry(&self, subnet: Ipv4Net, node: Ipv4Addr) -> Entry {
        let mod_revision = self.changed.get(&subnet).copied().unwrap_or(self.revision);
        Entry { key: lease::key(subnet), value: lease::value(node), mod_revision, expires: false }
    }
}

impl Registry for File {
    type Watch = FileWatch;

    async fn config(&self) -> Result<Vec<u8>, RegistryError> {
        Ok(self.shared.known()?.contents.config.clone())
    }

    async fn list(&self) -> Result<Snapshot, RegistryError> {
        let state = self.shared.known()?;
        let mut entries: Vec<Entry> =
            state.contents.subnets.iter().map(|(subnet, node)| state.entry(*subnet, *node)).collect();
        entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(Snapshot { entries, revision: state.revision })
    }

    async fn watch(&self, revision: i64) -> Result<FileWatch, WatchError> {
        let state = self.shared.known()?;
        if state.revision != revision - 1 {
            return Err(WatchError::HistoryLost("the registry file has changed meanwhile".into()));
        }
        let seen = state.contents.subnets.clone();
        Ok(FileWatch { shared: Arc::clone(&self.shared), seen, revision: revision - 1, established: false })
    }

    async fn create(&self, _key: &str, public_ip: Ipv4Addr) -> Result<Written, RegistryError> {
        // Only the file's author gives out subnets. The one asked for is a random one, so it is not named.
        let cause = format!(
            "{} gives {public_ip} no subnet that can be used: add a line \"SUBNET\" = \"{public_ip}\" to [subnets]",
            self.shared.path.display(),
        );
        Err(RegistryError::Unavailable { doing: "looking up this node's subnet", cause })
    }

    async fn renew(
        &self,
        key: &str,
        public_ip: Ipv4Addr,
        mod_revision: i64,
        _expires: bool,
    ) -> Result<Written, RegistryError> {
        let state = self.shared.known()?;
        let held = lease::parse_key(key).ok().and_then(|subnet| state.contents.subnets.get(&subnet));
        if held == Some(&public_ip) {
            return Ok(Written { mod_revision, ttl: None });
        }
        Err(RegistryError::Conflict(key.to_owned()))
    }

    async fn delete(&self, key: &str, _mod_revision: i64) -> Result<(), RegistryError> {
        let cause = format!("{key} in {} is outside of what [config] allows", self.shared.path.display());
        Err(RegistryError::Unavailable { doing: "looking up this node's subnet", cause })
    }
}

/// Looks at the file now and then.
#[derive(Debug)]
pub struct FileWatch {
    shared: Arc<Shared>,
    seen: BTreeMap<Ipv4Net, Ipv4Addr>,
    revision: i64,
    established: bool,
}

impl FileWatch {
    /// What changed since the last time.
    fn news(&mut self) -> Option<Batch> {
        let state = self.shared.look();
        if state.revision == self.revision {
            return None;
        }
        let now = &state.contents.subnets;
        let gone = self.seen.keys().filter(|subnet| !now.contains_key(*subnet));
        let gone = gone.map(|subnet| Event::Delete { key: lease::key(*subnet) });
        let new = now.iter().filter(|(subnet, node)| self.seen.get(*subnet) != Some(*node));
        let new = new.map(|(subnet, node)| Event::Put(state.entry(*subnet, *node)));
        let batch = Batch { events: gone.chain(new).collect(), revision: state.revision };
        self.seen = now.clone();
        self.revision = state.revision;
        Some(batch)
    }
}

impl Watch for FileWatch {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        if !std::mem::replace(&mut self.established, true) {
            return Ok(Batch { events: Vec::new(), revision: self.revision });
        }
        loop {
            sleep(POLL).await;
            if let Some(batch) = self.news() {
                return Ok(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [config]
        Network = "10.5.0.0/16"
        Backend = { Type = "udp", Port = 9999 }
        [subnets]
        "10.5.1.0/24" = "192.0.2.1"
        "10.5.2.0/24" = "192.0.2.2"
    "#;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    struct Edited {
        path: PathBuf,
        registry: File,
        _directory: tempfile::TempDir,
    }

    impl Edited {
        fn new(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("registry.toml");
            fs::write(&path, text).unwrap();
            Self { registry: File::new(path.clone()), path, _directory: directory }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_gives_the_config_and_every_subnet_as_a_reservation() {
        let edited = Edited::new(TEXT);
        let network = Network::parse(&edited.registry.config().await.unwrap()).unwrap();
        assert_eq!((network.prefix, network.port), (net("10.5.0.0/16"), 9999));
        let listed = edited.registry.list().await.unwrap();
        let keys: Vec<&str> = listed.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["10.5.1.0-24", "10.5.2.0-24"]);
        assert!(listed.entries.iter().all(|entry| !entry.expires));
        assert_eq!(lease::parse_value(&listed.entries[1].value), Ok(Ipv4Addr::new(192, 0, 2, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_is_seen_as_its_difference_and_a_bad_one_not_at_all() {
        let edited = Edited::new(TEXT);
        let revision = edited.registry.list().await.unwrap().revision;
        let mut watch = edited.registry.watch(revision + 1).await.unwrap();
        assert_eq!(watch.next().await.unwrap(), Batch { events: Vec::new(), revision });

        fs::write(&edited.path, "[config]\nNetwork = ").unwrap();
        assert_eq!(watch.news(), None);
        assert!(watch.shared.state().wrong.is_some());
        fs::remove_file(&edited.path).unwrap();
        assert_eq!(watch.news(), None);
        assert_eq!(edited.registry.list().await.unwrap().entries.len(), 2);

        fs::write(&edited.path, TEXT.replace("192.0.2.2", "192.0.2.9").replace("10.5.1.0", "10.5.3.0"))
            .unwrap();
        let batch = watch.next().await.unwrap();
        let entry = |key: &str, node: [u8; 4]| {
            Event::Put(Entry {
                key: key.into(),
                value: lease::value(node.into()),
                mod_revision: revision + 1,
                expires: false,
            })
        };
        assert_eq!(
            batch.events,
            [
                Event::Delete { key: "10.5.1.0-24".into() },
                entry("10.5.2.0-24", [192, 0, 2, 9]),
                entry("10.5.3.0-24", [192, 0, 2, 1])
            ]
        );
        assert_eq!(watch.shared.state().wrong, None);
    }

    #[test]
    fn a_file_that_is_back_as_it_was_is_good_again() {
        let edited = Edited::new(TEXT);
        fs::File::options()
            .write(true)
            .open(&edited.path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        let wrong = || edited.registry.shared.look().wrong.is_some();
        let aside = edited.path.with_extension("aside");
        for _ in 0..2 {
            assert!(!wrong());
            fs::rename(&edited.path, &aside).unwrap();
            assert!(wrong());
            fs::rename(&aside, &edited.path).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_on_a_past_revision_asks_for_a_list() {
        let edited = Edited::new(TEXT);
        assert!(matches!(edited.registry.watch(1).await, Err(WatchError::HistoryLost(_))));
        assert!(edited.registry.watch(2).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_takes_the_subnet_that_names_it_and_no_other() {
        use crate::registry::acquire::{Claim, acquire};
        let edited = Edited::new(TEXT);
        let network = Network::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let claim = |last| Claim { public_ip: Ipv4Addr::new(192, 0, 2, last), previous: None };
        let held = acquire(&edited.registry, &network, claim(2)).await.unwrap();
        assert_eq!((held.lease.subnet, held.written.ttl), (net("10.5.2.0/24"), None));
        let error = acquire(&edited.registry, &network, claim(7)).await.unwrap_err().to_string();
        assert!(error.contains("192.0.2.7") && error.contains("registry.toml"), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, named) in [
            ("\"10.5.1.0/24\"", "\"10.5.1.1/24\"", "10.5.1.1/24"),
            ("\"10.5.1.0/24\"", "\"10.5.1.0/32\"", "10.5.1.0/32"),
            ("\"10.5.1.0/24\"", "\"10.5.2.0/25\"", "overlap"),
            ("\"10.5.1.0/24\"", "\"10.5.2.0/24\"", "duplicate"),
            ("192.0.2.1", "127.0.0.1", "127.0.0.1"),
            ("192.0.2.1", "node1", "node1"),
            ("[subnets]", "[subnet]", "subnet"),
            ("10.5.0.0/16", "10.5.0.0/31", "Network"),
            ("[config]", "", "config"),
        ] {
            let error = Contents::parse(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains('\n'), "{to}: {error}");
        }
    }
}

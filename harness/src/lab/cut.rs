//! Partitions: pairs of hosts of the underlay between which the switch passes nothing.
//!
//! The switch drops at the hook where its bridge forwards from one port to another, so a sender's `eth0` shows the
//! packet leave and the receiver's never sees it. ARP passes: hosts of a routed underlay know only their router's
//! address, and that answers whatever is cut behind it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Error, Lab, SWITCH};

/// Directed pairs of hosts, the sender first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cuts {
    pairs: BTreeSet<(String, String)>,
}

impl Cuts {
    /// The rules that stand for all of them, in the place of those before, as nft(8) reads them. `port_to` is the bridge's
    /// port that leads to a host.
    fn rules<'a>(&'a self, port_to: impl Fn(&'a str) -> &'a str) -> String {
        // Declared first, so that there is one to delete; the kernel takes the whole text as one change.
        let mut text = "table bridge cuts\ndelete table bridge cuts\n".to_owned();
        if self.pairs.is_empty() {
            return text;
        }
        text += "table bridge cuts {\n  chain forward {\n    type filter hook forward priority 0\n";
        for (from, to) in &self.pairs {
            let (from, to) = (port_to(from), port_to(to));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    iifname \"{from}\" oifname \"{to}\" ether type != arp drop");
        }
        text + "  }\n}\n"
    }
}

impl Lab {
    /// Cuts directed pairs of nodes and etcd members off from each other: the switch drops what the first of each sends
    /// to the second.
    ///
    /// # Errors
    /// When nft(8) is missing or refuses.
    pub async fn cut(&mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Result<(), Error> {
        self.cuts.pairs.extend(pairs);
        self.apply_cuts().await
    }

    /// Undoes the cuts between directed pairs of hosts, or all.
    ///
    /// # Errors
    /// As for [`Lab::cut`].
    pub async fn heal(&mut self, pairs: Option<Vec<(String, String)>>) -> Result<(), Error> {
        match pairs {
            Some(pairs) => self.cuts.pairs.retain(|pair| !pairs.contains(pair)),
            None => self.cuts.pairs.clear(),
        }
        self.apply_cuts().await
    }

    /// The directed pairs of hosts that are cut, the sender first.
    pub fn cuts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cuts.pairs.iter().map(|(from, to)| (from.as_str(), to.as_str()))
    }

    /// Has the switch drop what is cut now, by the ports that lead to each host now.
    pub(super) async fn apply_cuts(&self) -> Result<(), Error> {
        let rules = self.cuts.rules(|host| self.shapers.port_to(host));
        Ok(self.host(SWITCH)?.run("nft", &["-f", "-"], &rules).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directed_pair_is_a_rule_and_none_leaves_no_table() {
        let mut cuts = Cuts::default();
        assert_eq!(cuts.rules(|host| host), "table bridge cuts\ndelete table bridge cuts\n");
        cuts.pairs.insert(("a".to_owned(), "etcd".to_owned()));
        let rules = cuts.rules(|host| if host == "etcd" { "shaped_0" } else { host });
        assert!(rules.contains("    iifname \"a\" oifname \"shaped_0\" ether type != arp drop\n"), "{rules}");
        assert!(!rules.contains("oifname \"a\""), "{rules}");
    }
}

//! Folding the registry's entries into routes.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::{Batch, Entry, Event, Snapshot};
use crate::{
    datapath::routes::Change,
    lease::{self, Lease},
    network::Network,
};

/// Keys remembered as complained about, and subnets as leased to this node's address.
const MAX_COMPLAINTS: usize = 10_000;

/// Every lease that was understood, and the routes that follow from them.
#[derive(Debug)]
pub struct LeaseTable {
    network: Network,
    own: Lease,
    leases: BTreeMap<String, Known>,
    routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    complained: HashSet<String>,
    /// Subnets leased to this node's address that were told of; not forgotten, as a lease may come and go.
    misdirected: HashSet<Ipv4Net>,
    /// The last change of this node's own key, if its value cannot be understood.
    unreadable: Option<i64>,
    revision: i64,
    /// How often the revision went back.
    epoch: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    lease: Lease,
    mod_revision: i64,
    expires: bool,
}

/// What a fold changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Routes to set or remove.
    pub changes: Vec<Change>,
    /// Entries that were skipped, and why. The route that an earlier value gave stays.
    pub skipped: Vec<Skipped>,
    /// Other subnets found leased to this node's own address for the first time: they get no route, as what is sent
    /// there would come back here.
    pub misdirected: Vec<Ipv4Net>,
}

/// An entry that gives no route.
#[derive(Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The entry's key.
    pub key: String,
    /// Why.
    pub reason: String,
    /// Whether this key is skipped for the first time.
    pub first: bool,
}

/// What the registry says about this node's own lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnLease {
    /// The registry's revision at which this was so.
    pub revision: i64,
    /// How often the registry was set back to an earlier revision: what was written before proves nothing after that.
    pub epoch: u32,
    /// The holder and the last change, if the key exists.
    pub held: Option<(Ipv4Addr, i64)>,
    /// Whether it expires unless renewed; a reservation does not.
    pub expires: bool,
    /// The last change, if the key exists with a value that cannot be understood; `held` is what stood there before.
    pub unreadable: Option<i64>,
}

impl LeaseTable {
    /// An empty table for a node that holds `own`.
    #[must_use]
    pub fn new(network: Network, own: Lease) -> Self {
        Self {
            network,
            own,
            leases: BTreeMap::new(),
            routes: BTreeMap::new(),
            complained: HashSet::new(),
            misdirected: HashSet::new(),
            unreadable: None,
            revision: 0,
            epoch: 0,
        }
    }

    /// Replaces the table by what was listed; the difference comes back.
    pub fn apply_snapshot(&mut self, snapshot: &Snapshot) -> Folded {
        let listed: HashSet<&str> = snapshot.entries.iter().map(|entry| entry.key.as_str()).collect();
        let gone: Vec<String> =
            self.leases.keys().filter(|key| !listed.contains(key.as_str())).cloned().collect();
        let mut folded = Folded::default();
        self.unreadable = None;
        for key in gone {
            self.remove(&key, &mut folded);
        }
        for entry in &snapshot.entries {
            self.put(entry, &mut folded);
        }
        if snapshot.revision < self.revision {
            self.epoch = self.epoch.wrapping_add(1);
        }
        self.revision = snapshot.revision;
        folded
    }

    /// Applies changes in order.
    pub fn apply_batch(&mut self, batch: &Batch) -> Folded {
        let mut folded = Folded::default();
        for event in &batch.events {
            match event {
                Event::Put(entry) => self.put(entry, &mut folded),
                Event::Delete { key } => self.remove(key, &mut folded),
            }
        }
        self.revision = self.revision.max(batch.revision);
        folded
    }

    /// Changes the address of this node, which its own lease and no route names.
    pub fn set_public_ip(&mut self, public_ip: Ipv4Addr) -> Folded {
        self.own.public_ip = public_ip;
        let mut folded = Folded::default();
        let subnets: Vec<Ipv4Net> = self.leases.values().map(|known| known.lease.subnet).collect();
        for subnet in subnets {
            self.resolve(subnet, &mut folded);
        }
        folded
    }

    /// Whether `subnet` has the length of the network's subnets. Others count all the same, as long as they leave this
    /// node's own alone: while `SubnetLen` is being changed, leases of both lengths exist.
    #[must_use]
    pub const fn is_of_usual_length(&self, subnet: Ipv4Net) -> bool {
        subnet.prefix_len() == self.network.subnet_len
    }

    /// The revision that the table reflects.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// This node's own lease as the registry has it now.
    #[must_use]
    pub fn own(&self) -> OwnLease {
        let known = self.leases.get(&lease::key(self.own.subnet));
        OwnLease {
            revision: self.revision,
            epoch: self.epoch,
            held: known.map(|known| (known.lease.public_ip, known.mod_revision)),
            expires: known.is_some_and(|known| known.expires),
            unreadable: self.unreadable,
        }
    }

    fn is_own(&self, key: &str) -> bool {
        key == lease::key(self.own.subnet)
    }

    fn put(&mut self, entry: &Entry, folded: &mut Folded) {
        match self.understand(entry) {
            Ok(lease) => {
                self.complained.remove(&entry.key);
                if self.is_own(&entry.key) {
                    self.unreadable = None;
                } else if lease.public_ip == self.own.public_ip
                    && self.misdirected.len() < MAX_COMPLAINTS
                    && self.misdirected.insert(lease.subnet)
                {
                    folded.misdirected.push(lease.subnet);
                }
                let known = Known { lease, mod_revision: entry.mod_revision, expires: entry.expires };
                self.leases.insert(entry.key.clone(), known);
                self.resolve(lease.subnet, folded);
            }
            Err(reason) => {
                if self.is_own(&entry.key) {
                    self.unreadable = Some(entry.mod_revision);
                }
                let first =
                    self.complained.len() < MAX_COMPLAINTS && self.complained.insert(entry.key.clone());
                folded.skipped.push(Skipped { key: entry.key.clone(), reason, first });
            }
        }
    }

    fn understand(&self, entry: &Entry) -> Result<Lease, String> {
        let subnet = lease::parse_key(&entry.key).map_err(|error| error.to_string())?;
        let public_ip = lease::parse_value(&entry.value).map_err(|error| error.to_string())?;
        if !self.network.covers(subnet) {
            return Err(format!("{subnet} is not a proper part of the network {}", self.network.prefix));
        }
        let own = self.own.subnet;
        if subnet != own && (subnet.contains(&own) || own.contains(&subnet)) {
            return Err(format!("{subnet} overlaps this node's own subnet {own}"));
        }
        Ok(Lease { subnet, public_ip })
    }

    fn remove(&mut self, key: &str, folded: &mut Folded) {
        self.complained.remove(key);
        if self.is_own(key) {
            self.unreadable = None;
        }
        if let Some(known) = self.leases.remove(key) {
            self.resolve(known.lease.subnet, folded);
        }
    }

    /// Recomputes one subnet's route. A dual-stack key beside a plain one gives two leases for one subnet: the first
    /// in key order counts.
    fn resolve(&mut self, subnet: Ipv4Net, folded: &mut Folded) {
        let prefix = lease::key(subnet);
        let next_hop = self
            .leases
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, known)| known.lease)
            .find(|lease| lease.subnet == subnet)
            .map(|lease| lease.public_ip)
            .filter(|node| subnet != self.own.subnet && *node != self.own.public_ip);
        let before = match next_hop {
            Some(node) => self.routes.insert(subnet, node),
            None => self.routes.remove(&subnet),
        };
        if before != next_hop {
            folded.changes.push((subnet, next_hop));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Ipv4Addr = node(1);

    const fn node(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 0, last)
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn table() -> LeaseTable {
        let network = Network::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        LeaseTable::new(network, Lease { subnet: net("10.5.1.0/24"), public_ip: ME })
    }

    fn entry(key: &str, holder: Ipv4Addr, mod_revision: i64) -> Entry {
        Entry { key: key.into(), value: lease::value(holder), mod_revision, expires: true }
    }

    fn put(key: &str, holder: Ipv4Addr, revision: i64) -> Batch {
        Batch { events: vec![Event::Put(entry(key, holder, revision))], revision }
    }

    fn delete(key: &str, revision: i64) -> Batch {
        Batch { events: vec![Event::Delete { key: key.into() }], revision }
    }

    #[test]
    fn a_lease_gives_a_route_and_its_end_takes_it_away() {
        let mut table = table();
        assert_eq!(
            table.apply_batch(&put("10.5.2.0-24", node(2), 5)).changes,
            [(net("10.5.2.0/24"), Some(node(2)))]
        );
        assert_eq!(
            table.apply_batch(&put("10.5.2.0-24", node(2), 6)).changes,
            [],
            "a renewal changes nothing"
        );
        assert_eq!(
            table.apply_batch(&put("10.5.2.0-24", node(3), 7)).changes,
            [(net("10.5.2.0/24"), Some(node(3)))]
        );
        assert_eq!(table.apply_batch(&delete("10.5.2.0-24", 8)).changes, [(net("10.5.2.0/24"), None)]);
        assert_eq!(table.apply_batch(&delete("10.5.2.0-24", 9)).changes, []);
        assert_eq!(table.revision(), 9);
    }

    #[test]
    fn a_value_that_cannot_be_read_costs_no_route_and_is_complained_of_once() {
        let mut table = table();
        table.apply_batch(&put("10.5.2.0-24", node(2), 5));
        let broken = Entry { value: b"garbage".to_vec(), ..entry("10.5.2.0-24", node(2), 6) };
        for first in [true, false] {
            let folded = table.apply_batch(&Batch { events: vec![Event::Put(broken.clone())], revision: 6 });
            assert_eq!(folded.changes, []);
            assert_eq!(folded.skipped.iter().map(|skipped| skipped.first).collect::<Vec<_>>(), [first]);
        }
        let folded = table.apply_snapshot(&Snapshot { entries: vec![broken], revision: 7 });
        assert_eq!(folded.changes, []);
    }

    #[test]
    fn keys_of_other_forms_and_leases_too_wide_are_skipped() {
        let mut table = table();
        for key in
            ["garbage", "10.5.0.0-16", "10.0.0.0-8", "0.0.0.0-0", "10.6.2.0-24", "10.5.2.1-24", "10.5.2.0-32"]
        {
            let folded = table.apply_batch(&put(key, node(2), 5));
            assert_eq!((folded.changes.len(), folded.skipped.len()), (0, 1), "{key}");
        }
    }

    #[test]
    fn a_lease_that_overlaps_this_nodes_subnet_is_skipped_wider_or_narrower() {
        let mut table = table();
        for key in ["10.5.0.0-17", "10.5.0.0-23", "10.5.1.0-25", "10.5.1.128-25", "10.5.1.0-31"] {
            let folded = table.apply_batch(&put(key, node(2), 5));
            assert_eq!((folded.changes.len(), folded.skipped.len()), (0, 1), "{key}");
            assert!(
                folded.skipped[0].reason.contains("own subnet 10.5.1.0/24"),
                "{}",
                folded.skipped[0].reason
            );
        }
        assert_eq!(table.apply_batch(&put("10.5.1.0-24&fd00::-64", node(2), 6)), Folded::default());
    }

    #[test]
    fn a_lease_of_another_length_counts_where_this_nodes_subnet_is_not_in_it() {
        let mut table = table();
        for (key, subnet) in [("10.5.128.0-17", "10.5.128.0/17"), ("10.5.130.0-28", "10.5.130.0/28")] {
            let subnet = net(subnet);
            assert_eq!(table.apply_batch(&put(key, node(2), 5)).changes, [(subnet, Some(node(2)))]);
            assert!(!table.is_of_usual_length(subnet));
        }
    }

    #[test]
    fn a_snapshot_is_applied_as_a_difference() {
        let mut table = table();
        table.apply_snapshot(&Snapshot {
            entries: vec![
                entry("10.5.2.0-24", node(2), 1),
                entry("10.5.3.0-24", node(3), 2),
                entry("10.5.4.0-24", node(4), 3),
            ],
            revision: 3,
        });
        let folded = table.apply_snapshot(&Snapshot {
            entries: vec![
                entry("10.5.3.0-24", node(3), 2),
                entry("10.5.4.0-24", node(5), 8),
                entry("10.5.6.0-24", node(6), 9),
            ],
            revision: 9,
        });
        assert_eq!(
            folded.changes,
            [
                (net("10.5.2.0/24"), None),
                (net("10.5.4.0/24"), Some(node(5))),
                (net("10.5.6.0/24"), Some(node(6)))
            ]
        );
    }

    #[test]
    fn the_own_subnet_and_leases_that_name_this_node_give_no_route() {
        let mut table = table();
        assert_eq!(table.apply_batch(&put("10.5.1.0-24", ME, 5)).changes, []);
        let own = OwnLease { revision: 5, held: Some((ME, 5)), expires: true, ..OwnLease::default() };
        assert_eq!(table.own(), own);
        assert_eq!(table.apply_batch(&put("10.5.9.0-24", ME, 6)).changes, []);
        assert_eq!(
            table.apply_batch(&put("10.5.9.0-24", node(9), 7)).changes,
            [(net("10.5.9.0/24"), Some(node(9)))]
        );
        assert_eq!(table.apply_batch(&put("10.5.9.0-24", ME, 8)).changes, [(net("10.5.9.0/24"), None)]);
    }

    #[test]
    fn a_lease_for_this_nodes_address_is_told_of_once_however_often_it_comes_back() {
        let mut table = table();
        let told = |folded: Folded| folded.misdirected;
        assert_eq!(told(table.apply_batch(&put("10.5.1.0-24", ME, 5))), []);
        assert_eq!(told(table.apply_batch(&put("10.5.9.0-24", ME, 6))), [net("10.5.9.0/24")]);
        assert_eq!(told(table.apply_batch(&put("10.5.9.0-24", ME, 7))), []);
        table.apply_batch(&delete("10.5.9.0-24", 8));
        assert_eq!(told(table.apply_batch(&put("10.5.9.0-24", ME, 9))), []);
        assert_eq!(told(table.apply_batch(&put("10.5.8.0-24", ME, 10))), [net("10.5.8.0/24")]);
    }

    #[test]
    fn an_own_key_that_cannot_be_read_is_neither_held_as_before_nor_gone() {
        let mut table = table();
        let broken = |revision| Entry { value: Vec::new(), ..entry("10.5.1.0-24", ME, revision) };
        let put_broken = |revision| Batch { events: vec![Event::Put(broken(revision))], revision };
        table.apply_batch(&put("10.5.1.0-24", ME, 5));
        table.apply_batch(&put_broken(6));
        assert_eq!(table.own().unreadable, Some(6));
        table.apply_batch(&put("10.5.1.0-24", ME, 7));
        assert_eq!((table.own().unreadable, table.own().held), (None, Some((ME, 7))));
        table.apply_batch(&put_broken(8));
        table.apply_batch(&delete("10.5.1.0-24", 9));
        assert_eq!((table.own().unreadable, table.own().held), (None, None));
        table.apply_snapshot(&Snapshot { entries: vec![broken(10)], revision: 10 });
        assert_eq!(table.own().unreadable, Some(10));
        table.apply_snapshot(&Snapshot { entries: Vec::new(), revision: 11 });
        assert_eq!(table.own().unreadable, None);
    }

    #[test]
    fn a_new_address_of_this_node_closes_its_own_routes_and_opens_those_of_the_old() {
        let mut table = table();
        table.apply_batch(&put("10.5.2.0-24", ME, 5));
        table.apply_batch(&put("10.5.3.0-24", node(3), 6));
        let folded = table.set_public_ip(node(3));
        assert_eq!(folded.changes, [(net("10.5.2.0/24"), Some(ME)), (net("10.5.3.0/24"), None)]);
    }

    #[test]
    fn the_own_lease_is_judged_by_the_last_event_of_a_batch() {
        let mut table = table();
        table.apply_batch(&put("10.5.1.0-24", ME, 5));
        let events =
            vec![Event::Delete { key: "10.5.1.0-24".into() }, Event::Put(entry("10.5.1.0-24", ME, 7))];
        table.apply_batch(&Batch { events, revision: 7 });
        assert_eq!(table.own().held, Some((ME, 7)));
        table.apply_batch(&put("10.5.1.0-24", node(7), 8));
        assert_eq!(table.own().held, Some((node(7), 8)));
        table.apply_batch(&delete("10.5.1.0-24", 9));
        assert_eq!(table.own().held, None);
    }

    #[test]
    fn a_dual_stack_key_stands_in_when_the_plain_one_goes() {
        let mut table = table();
        table.apply_batch(&put("10.5.2.0-24&fd00::-64", node(6), 5));
        assert_eq!(
            table.apply_batch(&put("10.5.2.0-24", node(2), 6)).changes,
            [(net("10.5.2.0/24"), Some(node(2)))]
        );
        assert_eq!(
            table.apply_batch(&delete("10.5.2.0-24", 7)).changes,
            [(net("10.5.2.0/24"), Some(node(6)))]
        );
        assert_eq!(
            table.apply_batch(&delete("10.5.2.0-24&fd00::-64", 8)).changes,
            [(net("10.5.2.0/24"), None)]
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8),
        Broken(u8),
        Delete(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..6, 2u8..5).prop_map(|(subnet, holder)| Step::Put(subnet, holder)),
            (0u8..6).prop_map(Step::Broken),
            (0u8..6).prop_map(Step::Delete),
        ]
    }

    proptest! {
        #[test]
        fn the_changes_replayed_give_exactly_the_leases_that_hold(
            steps in prop::collection::vec(step(), 0..40), relist in any::<prop::sample::Index>()
        ) {
            let mut table = table();
            let mut replayed = BTreeMap::new();
            let mut model: BTreeMap<u8, Ipv4Addr> = BTreeMap::new();
            let relist = if steps.is_empty() { 0 } else { relist.index(steps.len()) };
            for (at, step) in steps.iter().enumerate() {
                let revision = at as i64 + 1;
                let batch = match step {
                    Step::Put(subnet, holder) => {
                        model.insert(*subnet, node(*holder));
                        put(&format!("10.5.{subnet}.0-24"), node(*holder), revision)
                    }
                    Step::Broken(subnet) => {
                        let key = format!("10.5.{subnet}.0-24");
                        let broken = Entry { key, value: Vec::new(), mod_revision: revision, expires: true };
                        Batch { events: vec![Event::Put(broken)], revision }
                    }
                    Step::Delete(subnet) => {
                        model.remove(subnet);
                        delete(&format!("10.5.{subnet}.0-24"), revision)
                    }
                };
                let mut changes = table.apply_batch(&batch).changes;
                if at == relist {
                    let entries = model.iter().map(|(subnet, holder)| entry(&format!("10.5.{subnet}.0-24"), *holder, 1));
                    changes.extend(table.apply_snapshot(&Snapshot { entries: entries.collect(), revision }).changes);
                }
                for (subnet, hop) in changes {
                    match hop {
                        Some(hop) => replayed.insert(subnet, hop),
                        None => replayed.remove(&subnet),
                    };
                }
            }
            let expected: BTreeMap<_, _> = model
                .iter()
                .filter(|(subnet, _)| **subnet != 1)
                .map(|(subnet, holder)| (net(&format!("10.5.{subnet}.0/24")), *holder))
                .collect();
            prop_assert_eq!(replayed, expected);
        }
    }
}

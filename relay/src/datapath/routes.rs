//! Which node carries which subnet: the table that the control plane writes and the data path reads.
//!
//! Leases nearly always have the network's own subnet length, so the table is a flat array indexed by subnet
//! number, one atomic word an entry: a route changes by one store and is read by one load. A lease of another length
//! switches to longest-prefix match over an immutable copy, until the last such lease is gone.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::Ipv4Net;

/// Subnets that the flat array may hold; a larger network is looked up by longest prefix.
const MAX_FLAT: u64 = 1 << 20;

/// Set in an entry that is in use, since every next hop's bit pattern is a legal one.
const VALID: u64 = 1;

/// Subnets and the nodes that lease them.
#[derive(Debug)]
pub struct Routes {
    network: Ipv4Net,
    base: u32,
    shift: u32,
    flat: Box<[AtomicU64]>,
    use_prefixes: AtomicBool,
    prefixes: ArcSwapOption<Prefixes>,
    /// Every next hop once, in order.
    nodes: ArcSwap<Vec<Ipv4Addr>>,
    all: Mutex<All>,
    len: AtomicUsize,
    revision: AtomicI64,
    subnet_len: u8,
}

/// The writer's side of the table.
#[derive(Debug, Default)]
struct All {
    routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// How many of them have another length than the network's subnets.
    odd: usize,
    /// How many of them each node has.
    nodes: BTreeMap<Ipv4Addr, usize>,
}

impl All {
    /// Changes one route; what was there before, and whether a node came or went with it.
    fn change(&mut self, subnet: Ipv4Net, next_hop: Option<Ipv4Addr>) -> (Option<Ipv4Addr>, bool) {
        let before = match next_hop {
            Some(node) => self.routes.insert(subnet, node),
            None => self.routes.remove(&subnet),
        };
        if before == next_hop {
            return (before, false);
        }
        let mut others = false;
        if let Some(node) = next_hop {
            let count = self.nodes.entry(node).or_default();
            *count += 1;
            others |= *count == 1;
        }
        if let Some(node) = before
            && let Some(count) = self.nodes.get_mut(&node)
        {
            *count -= 1;
            if *count == 0 {
                self.nodes.remove(&node);
                others = true;
            }
        }
        (before, others)
    }
}

/// A change to one subnet's route: the next hop, or none to remove it.
pub type Change = (Ipv4Net, Option<Ipv4Addr>);

impl Routes {
    /// An empty table for subnets of `subnet_len` bits within `network`. `subnet_len` is at least the network's
    /// prefix length and at most 32.
    #[must_use]
    pub fn new(network: Ipv4Net, subnet_len: u8) -> Self {
        let subnets = 1u64 << u32::from(subnet_len.saturating_sub(network.prefix_len()));
        let size = if subnets <= MAX_FLAT { subnets as usize } else { 0 };
        Self {
            network,
            base: network.network().to_bits(),
            shift: 32 - u32::from(subnet_len),
            flat: (0..size).map(|_| AtomicU64::new(0)).collect(),
            use_prefixes: AtomicBool::new(size == 0),
            prefixes: ArcSwapOption::empty(),
            nodes: ArcSwap::default(),
            all: Mutex::default(),
            len: AtomicUsize::new(0),
            revision: AtomicI64::new(0),
            subnet_len,
        }
    }

    /// The node that carries `destination`, if any does.
    #[inline]
    pub fn lookup(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        // Gone between the two loads: the flat array, complete at all times but for odd lengths, has what is left.
        if self.use_prefixes.load(Ordering::Acquire)
            && let Some(prefixes) = self.prefixes.load().as_ref()
        {
            return prefixes.lookup(destination);
        }
        let entry = self.flat.get(self.index(destination)?)?.load(Ordering::Relaxed);
        (entry & VALID != 0).then(|| Ipv4Addr::from_bits((entry >> 32) as u32))
    }

    /// The network whose subnets these are.
    pub fn network(&self) -> Ipv4Net {
        self.network
    }

    /// Whether `address` is the last of the subnet whose route it has, and so all of its hosts'.
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let length = match self.prefixes.load().as_ref() {
            Some(prefixes) => prefixes.length(address),
            None => self.lookup(address).map(|_| self.subnet_len),
        };
        length
            .and_then(|length| Ipv4Net::new(address, length).ok())
            .is_some_and(|subnet| is_broadcast(subnet, address))
    }

    /// Whether some route leads to the node at `address`.
    #[inline]
    pub fn is_node(&self, address: Ipv4Addr) -> bool {
        self.nodes.load().binary_search(&address).is_ok()
    }

    /// Applies `changes` in order, then records the registry revision that the table now reflects.
    pub fn apply(&self, changes: &[Change], revision: i64) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut other_nodes = false;
        for (subnet, next_hop) in changes {
            let (before, others) = all.change(*subnet, *next_hop);
            other_nodes |= others;
            if subnet.prefix_len() != self.subnet_len {
                all.odd += usize::from(next_hop.is_some());
                all.odd -= usize::from(before.is_some());
            } else if let Some(entry) = self.index(subnet.network()).and_then(|index| self.flat.get(index)) {
                let value = next_hop.map_or(0, |node| u64::from(node.to_bits()) << 32 | VALID);
                entry.store(value, Ordering::Relaxed);
            }
        }
        if other_nodes {
            self.nodes.store(Arc::new(all.nodes.keys().copied().collect()));
        }
        if self.flat.is_empty() || all.odd > 0 {
            if !changes.is_empty() {
                self.prefixes.store(Some(Prefixes::new(&all.routes).into()));
                self.use_prefixes.store(true, Ordering::Release);
            }
        } else if self.use_prefixes.swap(false, Ordering::Release) {
            self.prefixes.store(None);
        }
        self.len.store(all.routes.len(), Ordering::Relaxed);
        self.revision.store(revision, Ordering::Release);
    }

    /// The registry revision that the table reflects.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Routes in the table.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every route, in order of subnet.
    pub fn list(&self) -> Vec<(Ipv4Net, Ipv4Addr)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.routes.iter().map(|(subnet, node)| (*subnet, *node)).collect()
    }

    fn index(&self, address: Ipv4Addr) -> Option<usize> {
        let offset = address.to_bits().checked_sub(self.base)?;
        Some(offset.checked_shr(self.shift).unwrap_or(0) as usize)
    }
}

/// Whether `address` is all hosts' of `subnet`: two addresses or one have none (RFC 3021).
#[must_use]
pub fn is_broadcast(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.prefix_len() < 31 && address == subnet.broadcast()
}

/// An immutable longest-prefix-match table: one sorted list for each prefix length in use, longest first.
#[derive(Debug)]
struct Prefixes {
    by_length: Vec<(u32, Vec<(u32, Ipv4Addr)>)>,
}

impl Prefixes {
    fn new(routes: &BTreeMap<Ipv4Net, Ipv4Addr>) -> Self {
        let mut by_length: BTreeMap<u8, Vec<(u32, Ipv4Addr)>> = BTreeMap::new();
        for (subnet, node) in routes {
            by_length.entry(subnet.prefix_len()).or_default().push((subnet.network().to_bits(), *node));
        }
        let by_length = by_length
            .into_iter()
            .rev()
            .map(|(length, mut list)| {
                list.sort_unstable_by_key(|(network, _)| *network);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                (mask, list)
            })
            .collect();
        Self { by_length }
    }

    fn lookup(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        self.find(destination).map(|(_, node)| node)
    }

    /// Bits of the subnet that `address` is in.
    fn length(&self, address: Ipv4Addr) -> Option<u8> {
        self.find(address).map(|(mask, _)| mask.count_ones() as u8)
    }

    fn find(&self, address: Ipv4Addr) -> Option<(u32, Ipv4Addr)> {
        self.by_length.iter().find_map(|(mask, list)| {
            let network = address.to_bits() & mask;
            let at = list.binary_search_by_key(&network, |(base, _)| *base).ok()?;
            Some((*mask, list[at].1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn node(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 0, last)
    }

    fn naive(routes: &BTreeMap<Ipv4Net, Ipv4Addr>, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        routes
            .iter()
            .filter(|(subnet, _)| subnet.contains(&destination))
            .max_by_key(|(subnet, _)| subnet.prefix_len())
            .map(|(_, node)| *node)
    }

    #[test]
    fn an_address_outside_the_network_has_no_route() {
        let routes = Routes::new(net("10.5.0.0/16"), 24);
        routes.apply(&[(net("10.5.0.0/24"), Some(node(1))), (net("10.5.255.0/24"), Some(node(2)))], 7);
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 0, 9)), Some(node(1)));
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 255, 255)), Some(node(2)));
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 4, 255, 255)), None);
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 6, 0, 0)), None);
        assert_eq!(routes.lookup(Ipv4Addr::new(0, 0, 0, 0)), None);
        assert_eq!((routes.len(), routes.revision()), (2, 7));
    }

    #[test]
    fn removing_a_longer_prefix_falls_back_to_the_shorter() {
        let routes = Routes::new(net("10.0.0.0/8"), 24);
        let (wide, narrow) = (net("10.5.0.0/16"), net("10.5.7.0/24"));
        routes.apply(&[(wide, Some(node(1))), (narrow, Some(node(2)))], 1);
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 7, 1)), Some(node(2)));
        routes.apply(&[(narrow, None)], 2);
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 7, 1)), Some(node(1)));
        routes.apply(&[(wide, None), (narrow, Some(node(3)))], 3);
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 7, 1)), Some(node(3)));
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 8, 1)), None);
    }

    #[test]
    fn the_last_address_of_a_leased_subnet_is_a_broadcast_whatever_its_length() {
        let routes = Routes::new(net("10.5.0.0/16"), 24);
        let broadcasts = |routes: &Routes| {
            let candidates = [[7, 255], [7, 127], [8, 255], [15, 255], [99, 255], [7, 0]];
            candidates.map(|[third, last]| routes.is_broadcast(Ipv4Addr::new(10, 5, third, last)))
        };
        routes.apply(&[(net("10.5.7.0/24"), Some(node(1)))], 1);
        assert_eq!(broadcasts(&routes), [true, false, false, false, false, false]);
        routes.apply(&[(net("10.5.8.0/21"), Some(node(2))), (net("10.5.7.0/25"), Some(node(2)))], 2);
        assert_eq!(broadcasts(&routes), [true, true, false, true, false, false]);
        let pair = Routes::new(net("10.5.0.0/16"), 31);
        pair.apply(&[(net("10.5.7.254/31"), Some(node(1)))], 1);
        assert!(!pair.is_broadcast(Ipv4Addr::new(10, 5, 7, 255)));
    }

    #[test]
    fn the_whole_address_space_may_be_the_network() {
        let routes = Routes::new(net("0.0.0.0/0"), 24);
        routes.apply(&[(net("255.255.255.0/24"), Some(node(1)))], 1);
        assert_eq!(routes.lookup(Ipv4Addr::new(255, 255, 255, 255)), Some(node(1)));
        assert_eq!(routes.lookup(Ipv4Addr::new(1, 2, 3, 4)), None);
    }

    #[test]
    fn a_route_stays_while_odd_lengths_come_and_go() {
        let routes = Routes::new(net("10.5.0.0/16"), 24);
        routes.apply(&[(net("10.5.7.0/24"), Some(node(1)))], 1);
        let done = AtomicBool::new(false);
        let looked_up = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut found = true;
                while found && !done.load(Ordering::Relaxed) {
                    found = routes.lookup(Ipv4Addr::new(10, 5, 7, 1)) == Some(node(1));
                }
                found
            });
            for revision in 0..20_000 {
                let hop = (revision % 2 == 0).then(|| node(2));
                routes.apply(&[(net("10.5.64.0/20"), hop)], revision);
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!(looked_up, "a leased subnet had no route for a moment");
    }

    #[test]
    fn a_table_without_its_prefixes_is_looked_up_in_the_array() {
        let routes = Routes::new(net("10.5.0.0/16"), 24);
        routes.apply(&[(net("10.5.7.0/24"), Some(node(1)))], 1);
        // What a reader sees that is overtaken by the end of the last odd route.
        routes.use_prefixes.store(true, Ordering::Release);
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 7, 1)), Some(node(1)));
        assert_eq!(routes.lookup(Ipv4Addr::new(10, 5, 8, 1)), None);
    }

    fn any_change(lengths: impl Strategy<Value = u8>) -> impl Strategy<Value = Change> {
        (lengths, any::<u16>(), prop::option::weighted(0.7, 1u8..9)).prop_map(|(length, low, hop)| {
            let address = Ipv4Addr::from_bits(0x0a05_0000 | u32::from(low));
            (Ipv4Net::new(address, length).unwrap().trunc(), hop.map(node))
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_naive_longest_prefix_match(
            batches in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any_change(Just(24u8)), 0..6),
                    prop::collection::vec(any_change(prop_oneof![Just(20u8), Just(24), Just(28)]), 0..6),
                ], 0..8),
            probes in prop::collection::vec(any::<u16>(), 16),
        ) {
            let routes = Routes::new(net("10.5.0.0/16"), 24);
            let mut model = BTreeMap::new();
            for (revision, batch) in batches.iter().enumerate() {
                routes.apply(batch, revision as i64);
                for (subnet, hop) in batch {
                    match hop {
                        Some(hop) => model.insert(*subnet, *hop),
                        None => model.remove(subnet),
                    };
                }
                let edges = model.keys().flat_map(|subnet: &Ipv4Net| [subnet.network(), subnet.broadcast()]);
                let random = probes.iter().map(|low| Ipv4Addr::from_bits(0x0a05_0000 | u32::from(*low)));
                for address in edges.chain(random) {
                    prop_assert_eq!(routes.lookup(address), naive(&model, address), "{}", address);
                }
                prop_assert_eq!(routes.len(), model.len());
                for last in 0..10 {
                    prop_assert_eq!(routes.is_node(node(last)), model.values().any(|hop| *hop == node(last)));
                }
            }
        }
    }
}

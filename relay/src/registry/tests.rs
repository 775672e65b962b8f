//! What holds for any course of events: several nodes on one registry, and mirrors of it.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use proptest::prelude::*;
use tokio::{sync::watch, time::sleep};

use super::{
    Batch, Entry, Event, Snapshot,
    acquire::{AcquireError, Claim, acquire},
    follow::{FollowStats, Follower},
    hold::hold,
    memory::Memory,
    table::LeaseTable,
};
use crate::{
    datapath::routes::{Change, Routes},
    http::Health,
    lease::{self, Lease},
    network::Network,
};

fn node(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, last)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

/// Seven subnets to lease.
fn small_network() -> Network {
    Network::parse(br#"{"Network":"10.5.0.0/24","SubnetLen":27}"#).unwrap()
}

/// Runs with a clock that jumps over every wait.
fn simulate<T>(course: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(course)
}

/// What may be there before the nodes come.
const ODD: [&str; 3] = ["10.5.0.64-26", "10.5.0.128-28", "10.5.0.224-27"];

#[derive(Debug, Clone)]
struct Starter {
    after: u64,
    previous: Option<u8>,
}

fn starter() -> impl Strategy<Value = Starter> {
    (0u64..40, prop::option::of(0u8..8)).prop_map(|(after, previous)| Starter { after, previous })
}

fn overlapping(subnets: &[Ipv4Net]) -> Option<(Ipv4Net, Ipv4Net)> {
    let pairs = subnets
        .iter()
        .enumerate()
        .flat_map(|(at, one)| subnets[..at].iter().map(move |other| (*one, *other)));
    pairs.into_iter().find(|(one, other)| one.contains(other) || other.contains(one))
}

/// Checks every state that the registry was ever in.
fn never_overlapped(history: &[(i64, Event)]) -> Result<(), TestCaseError> {
    let mut present: BTreeMap<String, Ipv4Net> = BTreeMap::new();
    for (revision, event) in history {
        match event {
            Event::Put(entry) => present.insert(entry.key.clone(), lease::parse_key(&entry.key).unwrap()),
            Event::Delete { key } => present.remove(key),
        };
        let subnets: Vec<Ipv4Net> = present.values().copied().collect();
        let overlap = overlapping(&subnets);
        prop_assert!(overlap.is_none(), "revision {revision}: {overlap:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nodes_that_race_over_a_small_pool_never_overlap_and_use_all_of_it(
        seed in any::<u64>(), starters in prop::collection::vec(starter(), 1..12), odd in prop::sample::subsequence(&ODD, 0..=3)
    ) {
        let registry = Memory::slow(seed);
        for key in &odd {
            registry.put_lease(key, node(200));
        }
        let network = small_network();
        let taken: Vec<Ipv4Net> = odd.iter().map(|key| lease::parse_key(key).unwrap()).collect();
        let free = network.subnets().filter(|subnet| taken.iter().all(|other| overlapping(&[*subnet, *other]).is_none())).count();
        let results = simulate(async {
            let nodes: Vec<_> = starters.iter().enumerate().map(|(at, starter)| {
                let (registry, network, starter) = (Arc::clone(&registry), network.clone(), starter.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(starter.after)).await;
                    let previous = starter.previous.map(|at| Ipv4Net::new(Ipv4Addr::new(10, 5, 0, at * 32), 27).unwrap());
                    let claim = Claim { public_ip: node(u8::try_from(at).unwrap()), previous };
                    acquire(&*registry, &network, claim).await
                })
            }).collect();
            let mut results = Vec::new();
            for node in nodes {
                results.push(node.await.unwrap());
            }
            results
        });
        never_overlapped(&registry.history())?;
        let held: Vec<Ipv4Net> = results.iter().flatten().map(|held| held.lease.subnet).collect();
        prop_assert_eq!(overlapping(&held), None);
        prop_assert!(held.iter().all(|subnet| network.allows(*subnet)));
        // One who lost too many races may be told to come again; nobody is told that all is taken while it is not.
        let exhausted = results.iter().any(|result| matches!(result, Err(AcquireError::OutOfSubnets { .. })));
        prop_assert!(!exhausted || held.len() == free, "{held:?} of {free}");
    }

    #[test]
    fn holders_whose_leases_are_deleted_take_back_their_own_and_nobody_elses(
        seed in any::<u64>(), deletions in prop::collection::vec((0usize..4, 0u64..3000), 0..12)
    ) {
        let registry = Memory::slow(seed);
        let network = small_network();
        simulate(async {
            let mut leases = Vec::new();
            for last in 1..=4 {
                let claim = Claim { public_ip: node(last), previous: None };
                let held = acquire(&*registry, &network, claim).await.unwrap();
                let (own, own_seen) = watch::channel(None);
                let (public_ip, advertised) = watch::channel(held.lease.public_ip);
                let follower = Follower {
                    registry: Arc::clone(&registry),
                    table: LeaseTable::new(network.clone(), held.lease),
                    routes: Arc::new(Routes::new(network.prefix, network.subnet_len)),
                    own,
                    public_ip: advertised.clone(),
                    stats: Arc::new(FollowStats::default()),
                };
                tokio::spawn(follower.run());
                let health = Arc::new(Health::starting("test"));
                tokio::spawn(hold(Arc::clone(&registry), held, own_seen, advertised, Duration::from_secs(3600), health));
                leases.push((held.lease, public_ip));
            }
            for (which, after) in &deletions {
                sleep(Duration::from_millis(*after)).await;
                registry.remove(&lease::key(leases[*which].0.subnet));
            }
            sleep(Duration::from_secs(600)).await;
            for (lease, _) in &leases {
                let entry = registry.entry(&lease::key(lease.subnet)).unwrap();
                assert_eq!(lease::parse_value(&entry.value), Ok(lease.public_ip));
            }
        });
        never_overlapped(&registry.history())?;
        prop_assert_eq!(registry.snapshot().entries.len(), 4);
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Put(usize, u8),
    Delete(usize),
}

/// Plain, wide, narrow, dual-stack, the mirror's own, and what is no lease at all.
const KEYS: [&str; 8] = [
    "10.5.1.0-24",
    "10.5.2.0-24",
    "10.5.2.0-24&fd00::-64",
    "10.5.2.128-25",
    "10.5.2.0-23",
    "10.5.0.0-16",
    "10.6.2.0-24",
    "garbage",
];

fn change() -> impl Strategy<Value = Happening> {
    let key = 0..KEYS.len();
    prop_oneof![
        3 => (key.clone(), 1u8..4).prop_map(|(key, holder)| Happening::Put(key, holder)),
        2 => key.prop_map(Happening::Delete),
    ]
}

fn mirror() -> LeaseTable {
    let network = Network::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
    LeaseTable::new(network, Lease { subnet: net("10.5.1.0/24"), public_ip: node(1) })
}

fn replay(routes: &mut BTreeMap<Ipv4Net, Ipv4Addr>, changes: Vec<Change>) {
    for (subnet, hop) in changes {
        match hop {
            Some(hop) => routes.insert(subnet, hop),
            None => routes.remove(&subnet),
        };
    }
}

proptest! {
    #[test]
    fn any_batching_of_events_with_lists_anywhere_ends_in_the_registrys_state(
        changes in prop::collection::vec(change(), 0..60),
        // How many events the next batch has, and whether it is skipped and listed over instead.
        cuts in prop::collection::vec((1usize..8, prop::bool::weighted(0.2)), 60)
    ) {
        let mut present: BTreeMap<String, Entry> = BTreeMap::new();
        let (mut table, mut routes) = (mirror(), BTreeMap::new());
        let mut revision = 0;
        let mut rest = &changes[..];
        for (length, list) in cuts {
            let (now, later) = rest.split_at(length.min(rest.len()));
            rest = later;
            let mut events = Vec::new();
            for change in now {
                revision += 1;
                match change {
                    Happening::Put(key, holder) => {
                        let value = lease::value(node(*holder));
                        let entry = Entry { key: KEYS[*key].into(), value, mod_revision: revision, expires: true };
                        present.insert(entry.key.clone(), entry.clone());
                        events.push(Event::Put(entry));
                    }
                    Happening::Delete(key) => {
                        if present.remove(KEYS[*key]).is_some() {
                            events.push(Event::Delete { key: KEYS[*key].into() });
                        }
                    }
                }
            }
            let folded = if list {
                table.apply_snapshot(&Snapshot { entries: present.values().cloned().collect(), revision })
            } else {
                table.apply_batch(&Batch { events, revision })
            };
            replay(&mut routes, folded.changes);
        }
        let (mut fresh, mut expected) = (mirror(), BTreeMap::new());
        let listed = Snapshot { entries: present.into_values().collect(), revision };
        replay(&mut expected, fresh.apply_snapshot(&listed).changes);
        prop_assert_eq!(routes, expected);
        prop_assert_eq!(table.own(), fresh.own());
        prop_assert_eq!(table.revision(), revision);
    }

    #[test]
    fn a_mirror_catches_up_through_outages_and_compactions(
        steps in prop::collection::vec((change(), 0u8..8, 0u64..2000), 0..40)
    ) {
        let registry = Memory::new();
        let routes = Arc::new(Routes::new(net("10.5.0.0/16"), 24));
        simulate(async {
            let (own, _own) = watch::channel(None);
            let follower = Follower {
                registry: Arc::clone(&registry),
                table: mirror(),
                routes: Arc::clone(&routes),
                own,
                public_ip: watch::channel(node(1)).1,
                stats: Arc::new(FollowStats::default()),
            };
            let following = tokio::spawn(follower.run());
            for (change, trouble, pause) in &steps {
                match trouble {
                    0 => registry.set_down(true),
                    1 => registry.set_down(false),
                    2 => registry.compact(),
                    _ => {}
                }
                match change {
                    Happening::Put(key, holder) => {
                        registry.put_lease(KEYS[*key], node(*holder));
                    }
                    Happening::Delete(key) => {
                        registry.remove(KEYS[*key]);
                    }
                }
                sleep(Duration::from_millis(*pause)).await;
            }
            registry.set_down(false);
            sleep(Duration::from_secs(30)).await;
            following.abort();
        });
        let mut expected = BTreeMap::new();
        replay(&mut expected, mirror().apply_snapshot(&registry.snapshot()).changes);
        prop_assert_eq!(routes.list().into_iter().collect::<BTreeMap<_, _>>(), expected);
    }
}

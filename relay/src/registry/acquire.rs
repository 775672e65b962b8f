//! Taking a lease at start: the one this node had, else the subnet it had, else a free one.
//!
//! Source: flannel `pkg/subnet/etcd/local_manager.go`, `tryAcquireLease` and `allocateSubnet`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use thiserror::Error;

use super::{Entry, Registry, RegistryError, Written};
use crate::{
    lease::{self, Lease},
    network::Network,
};

/// Free subnets to choose among: enough that nodes that start together seldom meet.
const MAX_CANDIDATES: usize = 100;

/// Times that another node may be faster before the attempt is given up, to be tried again by the caller.
const MAX_RACES: usize = 10;

/// What a node asks for.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The address at which others reach it.
    pub public_ip: Ipv4Addr,
    /// The subnet it had before, by its `subnet.env`.
    pub previous: Option<Ipv4Net>,
}

/// A lease that this node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Subnet and node.
    pub lease: Lease,
    /// The last write.
    pub written: Written,
}

/// No lease could be had.
#[derive(Debug, Error)]
pub enum AcquireError {
    /// The registry failed; trying again may help.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Every subnet is taken.
    #[error(
        "all subnets from {min} to {max} (/{length}) are leased: widen Network, or delete leases of nodes that are gone"
    )]
    OutOfSubnets {
        /// First subnet of the range.
        min: Ipv4Addr,
        /// Last subnet of the range.
        max: Ipv4Addr,
        /// Bits of a subnet.
        length: u8,
    },
}

/// The next thing to do towards a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write this node's own entry again.
    Reuse(Entry, Ipv4Net),
    /// Delete this node's own entry, which the configuration no longer allows.
    Discard(Entry),
    /// Create an entry for this subnet.
    Create(Ipv4Net),
    /// Nothing is free.
    Exhausted,
}

/// Takes a lease for `claim`.
///
/// # Errors
/// The registry fails, or no subnet is free.
pub async fn acquire<R: Registry>(
    registry: &R,
    network: &Network,
    claim: Claim,
) -> Result<Held, AcquireError> {
    let mut conflict = None;
    for _ in 0..MAX_RACES {
        let entries = registry.list().await?.entries;
        let step = next_step(network, claim, &entries, |count| fastrand::usize(..count));
        let outcome = match &step {
            Step::Reuse(entry, subnet) => {
                tracing::info!(%subnet, expires = entry.expires, "taking up the lease of this node's address again");
                let renewed =
                    registry.renew(&entry.key, claim.public_ip, entry.mod_revision, entry.expires).await;
                renewed.map(|written| Some((*subnet, written)))
            }
            Step::Discard(entry) => {
                tracing::warn!(
                    key = entry.key,
                    "deleting this node's old lease, which the network config no longer allows"
                );
                registry.delete(&entry.key, entry.mod_revision).await.map(|()| None)
            }
            Step::Create(subnet) => {
                let created = registry.create(&lease::key(*subnet), claim.public_ip).await;
                created.map(|written| {
                    tracing::info!(%subnet, "leased a free subnet");
                    Some((*subnet, written))
                })
            }
            Step::Exhausted => {
                return Err(AcquireError::OutOfSubnets {
                    min: network.subnet_min,
                    max: network.subnet_max,
                    length: network.subnet_len,
                });
            }
        };
        match outcome {
            Ok(Some((subnet, written))) => {
                return Ok(Held { lease: Lease { subnet, public_ip: claim.public_ip }, written });
            }
            Ok(None) => {}
            Err(error @ RegistryError::Conflict(_)) => {
                tracing::info!(%error, "another node was faster, choosing again");
                conflict = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(conflict.unwrap_or_else(|| RegistryError::Conflict(lease::key(network.prefix))).into())
}

/// Decides from what is registered, `entries` being in byte order of their keys. `choose` picks an index below its
/// argument.
pub fn next_step(
    network: &Network,
    claim: Claim,
    entries: &[Entry],
    choose: impl FnOnce(usize) -> usize,
) -> Step {
    let own = entries.iter().find_map(|entry| {
        let subnet = lease::parse_key(&entry.key).ok()?;
        (lease::parse_value(&entry.value) == Ok(claim.public_ip)).then_some((entry, subnet))
    });
    if let Some((entry, subnet)) = own {
        // A dual-stack key belongs to a configuration that relay declines.
        let usable = network.allows(subnet) && entry.key == lease::key(subnet);
        return if usable { Step::Reuse(entry.clone(), subnet) } else { Step::Discard(entry.clone()) };
    }

    // An entry whose value cannot be read takes its subnet all the same.
    let mut taken: Vec<Ipv4Net> =
        entries.iter().filter_map(|entry| lease::parse_key(&entry.key).ok()).collect();
    if let Some(previous) = claim.previous
        && network.allows(previous)
        && !taken.iter().any(|subnet| overlap(*subnet, previous))
    {
        return Step::Create(previous);
    }
    taken.sort_unstable();
    let taken = Ipv4Net::aggregate(&taken);
    let is_free = |subnet: &Ipv4Net| {
        // `taken` is sorted and disjoint: only the last one that starts at or before, and the next, can overlap.
        let after = taken.partition_point(|other| other.network() <= subnet.network());
        let neighbours = &taken[after.saturating_sub(1)..(after + 1).min(taken.len())];
        !neighbours.iter().any(|other| overlap(*other, *subnet))
    };
    let free: Vec<Ipv4Net> = network.subnets().filter(is_free).take(MAX_CANDIDATES).collect();
    if free.is_empty() { Step::Exhausted } else { Step::Create(free[choose(free.len())]) }
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::memory::Memory;
    use proptest::prelude::*;

    const ME: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

    fn network() -> Network {
        Network::parse(br#"{"Network":"10.3.0.0/16"}"#).unwrap()
    }

    fn entry(key: &str, holder: Ipv4Addr) -> Entry {
        Entry { key: key.into(), value: lease::value(holder), mod_revision: 7, expires: true }
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn step(previous: Option<&str>, entries: &[Entry]) -> Step {
        next_step(&network(), Claim { public_ip: ME, previous: previous.map(net) }, entries, |_| 0)
    }

    #[test]
    fn the_lease_of_the_own_address_is_reused_the_first_in_byte_order_of_several() {
        let entries = [entry("10.3.1.0-24", OTHER), entry("10.3.10.0-24", ME), entry("10.3.2.0-24", ME)];
        assert_eq!(step(Some("10.3.9.0/24"), &entries), Step::Reuse(entries[1].clone(), net("10.3.10.0/24")));
    }

    #[test]
    fn an_own_lease_that_the_config_forbids_is_discarded() {
        for key in ["10.3.4.0-26", "10.3.0.0-24", "10.4.1.0-24", "10.3.4.0-24&fd00::-64"] {
            let entries = [entry(key, ME)];
            assert_eq!(step(None, &entries), Step::Discard(entries[0].clone()), "{key}");
        }
    }

    #[test]
    fn the_previous_subnet_is_taken_when_it_is_free_and_allowed() {
        assert_eq!(step(Some("10.3.9.0/24"), &[]), Step::Create(net("10.3.9.0/24")));
        assert_eq!(
            step(Some("10.3.9.0/24"), &[entry("10.3.9.0-24", OTHER)]),
            Step::Create(net("10.3.1.0/24"))
        );
        assert_eq!(
            step(Some("10.3.9.0/24"), &[entry("10.3.8.0-23", OTHER)]),
            Step::Create(net("10.3.1.0/24"))
        );
        assert_eq!(step(Some("10.9.9.0/24"), &[]), Step::Create(net("10.3.1.0/24")));
    }

    #[test]
    fn a_key_takes_its_subnet_even_when_its_value_cannot_be_read() {
        let broken = Entry { value: b"?".to_vec(), ..entry("10.3.1.0-24", OTHER) };
        assert_eq!(step(None, &[broken]), Step::Create(net("10.3.2.0/24")));
    }

    #[test]
    fn one_of_the_first_hundred_free_subnets_is_chosen() {
        let claim = Claim { public_ip: ME, previous: None };
        let last = next_step(&network(), claim, &[entry("10.3.5.0-24", OTHER)], |count| {
            assert_eq!(count, 100);
            count - 1
        });
        assert_eq!(last, Step::Create(net("10.3.101.0/24")));
    }

    #[test]
    fn a_full_network_is_exhausted() {
        assert_eq!(step(None, &[entry("10.3.0.0-16", OTHER)]), Step::Exhausted);
        let all: Vec<Entry> = network().subnets().map(|subnet| entry(&lease::key(subnet), OTHER)).collect();
        assert_eq!(step(None, &all), Step::Exhausted);
        assert_eq!(step(None, &all[..254]), Step::Create(net("10.3.255.0/24")));
    }

    proptest! {
        #[test]
        fn a_created_subnet_is_allowed_and_overlaps_no_lease(
            leases in prop::collection::vec((any::<u16>(), 17u8..30), 0..60), pick in any::<prop::sample::Index>()
        ) {
            let taken: Vec<Ipv4Net> = leases
                .iter()
                .map(|(low, length)| Ipv4Net::new(Ipv4Addr::from_bits(0x0a03_0000 | u32::from(*low)), *length).unwrap().trunc())
                .collect();
            let entries: Vec<Entry> = taken.iter().map(|subnet| entry(&lease::key(*subnet), OTHER)).collect();
            let claim = Claim { public_ip: ME, previous: None };
            let free: Vec<Ipv4Net> =
                network().subnets().filter(|subnet| !taken.iter().any(|other| overlap(*other, *subnet))).take(100).collect();
            match next_step(&network(), claim, &entries, |count| pick.index(count)) {
                Step::Create(subnet) => prop_assert_eq!(subnet, free[pick.index(free.len())]),
                other => prop_assert!(free.is_empty() && other == Step::Exhausted),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_start_together_get_different_subnets() {
        let registry = Memory::new();
        let network = Network::parse(br#"{"Network":"10.3.0.0/24","SubnetLen":28}"#).unwrap();
        let nodes: Vec<_> = (1..=15)
            .map(|last| {
                let (registry, network) = (std::sync::Arc::clone(&registry), network.clone());
                let claim = Claim { public_ip: Ipv4Addr::new(192, 168, 0, last), previous: None };
                tokio::spawn(async move {
                    loop {
                        match acquire(&*registry, &network, claim).await {
                            Ok(held) => return held.lease.subnet,
                            Err(error) => assert!(matches!(error, AcquireError::Registry(_)), "{error}"),
                        }
                    }
                })
            })
            .collect();
        let mut subnets = std::collections::HashSet::new();
        for node in nodes {
            assert!(subnets.insert(node.await.unwrap()));
        }
        let late = Claim { public_ip: Ipv4Addr::new(192, 168, 0, 99), previous: None };
        assert!(matches!(acquire(&*registry, &network, late).await, Err(AcquireError::OutOfSubnets { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_is_taken_up_without_an_end() {
        let registry = Memory::new();
        registry.reserve("10.3.7.0-24", ME);
        let held = acquire(&*registry, &network(), Claim { public_ip: ME, previous: None }).await.unwrap();
        assert_eq!(held.lease.subnet, net("10.3.7.0/24"));
        assert_eq!(held.written.ttl, None);
        assert!(registry.entry("10.3.7.0-24").is_some_and(|entry| !entry.expires));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_config_forbids_is_replaced_and_a_good_one_renewed() {
        let registry = Memory::new();
        let claim = Claim { public_ip: ME, previous: None };
        registry.put_lease("10.4.0.0-24", ME);
        let held = acquire(&*registry, &network(), claim).await.unwrap();
        assert!(network().allows(held.lease.subnet));
        assert_eq!(registry.entry("10.4.0.0-24"), None);
        let again = acquire(&*registry, &network(), claim).await.unwrap();
        assert_eq!(again.lease, held.lease);
        assert!(again.written.mod_revision > held.written.mod_revision);
    }
}

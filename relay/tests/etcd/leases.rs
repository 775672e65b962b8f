//! Leases that end.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use etcd_client::{Client, GetOptions, LeaseStatus};
use relay::{
    http::Health,
    lease::Lease,
    network::Network,
    registry::{
        Event, Registry, RegistryError, Watch,
        acquire::{AcquireError, Claim, Held, acquire},
        etcd::{Etcd, TlsFiles},
        hold::hold,
        table::OwnLease,
    },
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::server::{Server, answer};

const ME: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const KEY: &str = "10.5.1.0-24";

#[tokio::test]
async fn a_lease_ends_after_its_time_unless_it_is_held() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let registry = Arc::new(server.registry(TlsFiles::default()));
    answer(&registry, Result::is_ok).await;
    let written = registry.create(KEY, ME).await.unwrap();
    registry.create("10.5.2.0-24", ME).await.unwrap();
    assert!(matches!(registry.create(KEY, ME).await, Err(RegistryError::Conflict(_))));
    let lease = Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: ME };
    let own = OwnLease {
        revision: written.mod_revision,
        held: Some((ME, written.mod_revision)),
        expires: true,
        ..OwnLease::default()
    };
    let (_mirror, mirrored) = watch::channel(Some(own));
    let mut events = registry.watch(written.mod_revision + 1).await.unwrap();
    let health = Arc::new(Health::starting("test"));
    let (_address, public_ip) = watch::channel(ME);
    let holding = hold(
        Arc::clone(&registry),
        Held { lease, written },
        mirrored,
        public_ip,
        Duration::from_secs(60),
        health,
    );
    let holding = tokio::spawn(holding);

    // The other one ends while this one is written again and again.
    let mut renewed = 0;
    let ends = async |events: &mut <Etcd as Registry>::Watch, renewed: &mut u32, wanted: &str| {
        loop {
            for event in events.next().await.unwrap().events {
                match event {
                    Event::Put(entry) if entry.key == KEY => *renewed += 1,
                    Event::Put(_) => {}
                    Event::Delete { key } if key == wanted => return,
                    Event::Delete { key } => panic!("{key} ended"),
                }
            }
        }
    };
    timeout(Duration::from_secs(10), ends(&mut events, &mut renewed, "10.5.2.0-24")).await.unwrap();
    assert!(renewed >= 3, "{renewed}");
    holding.abort();
    timeout(Duration::from_secs(10), ends(&mut events, &mut renewed, KEY)).await.unwrap();
}

/// A hundred nodes start at once, and there are a hundred subnets: each gets one of its own, and one more node gets none.
#[tokio::test]
async fn nodes_that_race_for_the_last_subnets_never_share_one() {
    const NODES: u8 = 100;
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let registry = Arc::new(server.registry(TlsFiles::default()));
    answer(&registry, Result::is_ok).await;
    let config = br#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.100.0"}"#;
    let network = Network::parse(config).unwrap();
    let mut racing = JoinSet::new();
    for node in 1..=NODES {
        // A client each, as on machines of their own.
        let (registry, network) = (server.registry(TlsFiles::default()), network.clone());
        let claim = Claim { public_ip: Ipv4Addr::new(192, 0, 2, node), previous: None };
        racing.spawn(async move {
            loop {
                match acquire(&registry, &network, claim).await {
                    Ok(held) => return held.lease.subnet,
                    // The daemon as well tries on: others were faster too often.
                    Err(AcquireError::Registry(RegistryError::Conflict(_))) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let subnets = timeout(Duration::from_secs(60), racing.join_all()).await.unwrap();
    assert_eq!(subnets.iter().collect::<BTreeSet<_>>().len(), usize::from(NODES));
    let late = Claim { public_ip: Ipv4Addr::new(192, 0, 2, NODES + 1), previous: None };
    let refused = acquire(&*registry, &network, late).await;
    assert!(matches!(refused, Err(AcquireError::OutOfSubnets { .. })), "{refused:?}");
}

/// Keys and values byte for byte as flannel writes them, one etcd lease each, and nothing else anywhere.
#[tokio::test]
async fn what_is_written_is_flannel_s_to_the_octet() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let registry = server.registry(TlsFiles::default());
    answer(&registry, Result::is_ok).await;
    let mut client = Client::connect([&server.url], None).await.unwrap();
    let stored = async |client: &mut Client| {
        let everything = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
        let [kv] = everything.kvs() else { panic!("{everything:?}") };
        assert_eq!(kv.key(), b"/test/subnets/10.5.1.0-24");
        assert_eq!(kv.value(), br#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#);
        let leases: Vec<i64> = client.leases().await.unwrap().leases().iter().map(LeaseStatus::id).collect();
        (kv.lease(), leases)
    };
    let written = registry.create(KEY, ME).await.unwrap();
    let (first, leases) = stored(&mut client).await;
    assert_eq!(leases, [first]);
    let written = registry.renew(KEY, ME, written.mod_revision, true).await.unwrap();
    let (second, leases) = stored(&mut client).await;
    assert!(second != first && leases == [second], "the old one is revoked: {leases:?}");
    // A reservation has no lease, and is not given one.
    registry.renew(KEY, ME, written.mod_revision, false).await.unwrap();
    assert_eq!(stored(&mut client).await, (0, Vec::new()));
}

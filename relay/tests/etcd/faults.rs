//! An etcd that is slow, deaf, broken, or of the past: the routes stay, nothing spins, and all comes back by itself.

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use relay::{
    http::Health,
    lease::Lease,
    registry::{
        Registry,
        acquire::Held,
        etcd::{Etcd, EtcdOptions, TlsFiles},
        hold::hold,
    },
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    mirror::Mirror,
    proxy::{Calls, Mode, Proxy},
    server::{Server, answer, registry},
};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Of the node that the mirror stands for.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const OWN_KEY: &str = "10.5.1.0-24";
const LOST: &str = "registry lost; the routes stay";

/// An etcd, a proxy before it, a registry that is written to past the proxy, and a mirror through it. There is a
/// reservation for 10.5.2.0/24, and its route.
async fn behind_a_proxy() -> (Server, Proxy, Etcd, Mirror) {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let direct = server.registry(TlsFiles::default());
    answer(&direct, Result::is_ok).await;
    reserve(&direct, 2).await;
    let proxy = Proxy::start(&server.url).await;
    let mut mirror = Mirror::start(registry(&proxy.url, None, TlsFiles::default()));
    mirror.has_route(2).await;
    mirror.is_connected().await;
    (server, proxy, direct, mirror)
}

/// Leases a subnet for good.
async fn reserve(registry: &Etcd, third: u8) {
    registry.renew(&format!("10.5.{third}.0-24"), NODE, 0, false).await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_takes_its_time_is_followed_all_the_same() {
    let (_server, proxy, direct, mut mirror) = behind_a_proxy().await;
    proxy.set(Mode::Slow(Duration::from_secs(1)));
    reserve(&direct, 3).await;
    mirror.has_route(3).await;
    // A call takes two seconds then, and on a new connection some more.
    mirror.registry.forget_connections();
    let listed = mirror.registry.list().await.unwrap();
    assert_eq!(listed.entries.len(), 2);
    assert_eq!((mirror.reconnects(), mirror.said(LOST)), (0, 0), "{}", mirror.log());
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_given_up_and_replaced() {
    let (_server, proxy, direct, mut mirror) = behind_a_proxy().await;
    let begin = Instant::now();
    proxy.set(Mode::Deaf);
    reserve(&direct, 3).await;
    mirror.is_lost().await;
    mirror.is_tried(1).await;
    assert!(mirror.route(2).is_some() && mirror.route(3).is_none());
    let accepted = proxy.accepted();
    assert!(accepted <= 4 + begin.elapsed().as_secs(), "{accepted} connections");
    proxy.set(Mode::Open);
    mirror.has_route(3).await;
    assert!(mirror.route(2).is_some());
    assert_eq!(mirror.said(LOST), 1, "{}", mirror.log());
    mirror.assert_not_spinning(begin.elapsed());
}

#[tokio::test]
async fn a_port_that_closes_every_connection_is_not_stormed() {
    let (_server, proxy, direct, mut mirror) = behind_a_proxy().await;
    let (begin, before) = (Instant::now(), proxy.accepted());
    proxy.set(Mode::Broken);
    reserve(&direct, 3).await;
    mirror.is_lost().await;
    mirror.is_tried(4).await;
    assert!(mirror.route(2).is_some() && mirror.route(3).is_none());
    mirror.assert_not_spinning(begin.elapsed());
    let connections = proxy.accepted() - before;
    assert!(connections <= 3 * (mirror.reconnects() + 1), "{connections} connections\n{}", mirror.log());
    proxy.set(Mode::Open);
    mirror.has_route(3).await;
    assert_eq!(mirror.said(LOST), 1, "{}", mirror.log());
}

#[tokio::test]
async fn an_etcd_put_back_to_the_past_is_believed() {
    let mut server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let direct = server.registry(TlsFiles::default());
    answer(&direct, Result::is_ok).await;
    reserve(&direct, 2).await;
    server.stop();
    let copied =
        Command::new("cp").args(["-a", "data", "past"]).current_dir(server.path("")).status().unwrap();
    assert!(copied.success());
    server.start_again("data");
    answer(&direct, Result::is_ok).await;
    for third in [3, 4, 5] {
        reserve(&direct, third).await;
    }
    let mut mirror = Mirror::start(server.registry(TlsFiles::default()));
    for third in [2, 3, 4, 5] {
        mirror.has_route(third).await;
    }
    mirror.is_connected().await;

    let begin = Instant::now();
    server.stop();
    mirror.is_lost().await;
    assert!(mirror.route(5).is_some(), "the routes stay while etcd is away");
    server.start_again("past");
    mirror.has_no_route(5).await;
    assert!(mirror.route(2).is_some() && mirror.route(3).is_none());
    answer(&direct, Result::is_ok).await;
    reserve(&direct, 6).await;
    mirror.has_route(6).await;
    assert_eq!(mirror.said("listing all leases again"), 1, "{}", mirror.log());
    mirror.assert_not_spinning(begin.elapsed());
}

/// The calls about leases fail and nothing else does, as with a proxy that does not know them.
#[tokio::test]
async fn a_lease_that_cannot_be_renewed_costs_no_route_and_is_taken_again() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let direct = server.registry(TlsFiles::default());
    answer(&direct, Result::is_ok).await;
    let calls = Calls::start(&server.url).await;
    let mut mirror = Mirror::start(registry(&calls.url, None, TlsFiles::default()));
    mirror.is_connected().await;
    let written = mirror.registry.create(OWN_KEY, OWN).await.unwrap();
    let lease = Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: OWN };
    let health = Arc::new(Health::starting("test"));
    health.started();
    let (_address, public_ip) = watch::channel(OWN);
    let margin = Duration::from_secs(60);
    let held = Held { lease, written };
    tokio::spawn(hold(
        Arc::clone(&mirror.registry),
        held,
        mirror.own.clone(),
        public_ip,
        margin,
        Arc::clone(&health),
    ));
    reserve(&direct, 2).await;
    mirror.has_route(2).await;

    let begin = Instant::now();
    calls.refuse_leases(true);
    // It lives for two seconds, and then it is gone.
    mirror.until("end of the own lease", |_| health.not_ready().is_some()).await;
    reserve(&direct, 3).await;
    mirror.has_route(3).await;
    assert!(mirror.route(2).is_some());
    mirror.until("refusals", |_| calls.refused() >= 4).await;
    let most = 8 + 2 * begin.elapsed().as_secs();
    assert!(calls.refused() <= most, "{} calls in {:?}", calls.refused(), begin.elapsed());
    calls.refuse_leases(false);
    mirror.until("lease taken again", |_| health.not_ready().is_none()).await;
    let listed = direct.list().await.unwrap();
    assert!(listed.entries.iter().any(|entry| entry.key == OWN_KEY && entry.expires));
    assert!(mirror.route(2).is_some() && mirror.route(3).is_some());
}

/// The answer to a write is lost and the write is done after all: the key must not be undone by what is tidied up.
#[tokio::test]
async fn a_write_that_is_done_late_keeps_its_lease() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let direct = server.registry(TlsFiles::default());
    answer(&direct, Result::is_ok).await;
    let calls = Calls::start(&server.url).await;
    let ttl = Duration::from_secs(60);
    let endpoints = vec![calls.url.clone()];
    let (user, tls, prefix) = (None, TlsFiles::default(), "/test".into());
    let registry = Etcd::new(EtcdOptions { endpoints, prefix, user, tls, ttl });
    calls.give_up_writes(true);
    registry.create(OWN_KEY, OWN).await.unwrap_err();
    let done = async {
        while direct.list().await.unwrap().entries.is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), done).await.unwrap();
}

/// More than gRPC's usual limit of 4 MiB, which 35,000 leases come to.
#[tokio::test]
async fn a_list_of_many_mebibytes_is_taken() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let direct = server.registry(TlsFiles::default());
    answer(&direct, Result::is_ok).await;
    let mut client = etcd_client::Client::connect([&server.url], None).await.unwrap();
    for third in 2..8 {
        let key = format!("/test/subnets/10.5.{third}.0-24");
        client.put(key, vec![b' '; 1 << 20], None).await.unwrap();
    }
    assert_eq!(direct.list().await.unwrap().entries.len(), 6);
}

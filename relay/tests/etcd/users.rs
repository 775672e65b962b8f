//! Names and passwords, right and wrong.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use relay::registry::{Registry, etcd::TlsFiles};

use crate::{
    mirror::Mirror,
    proxy::{Mode, Proxy},
    server::{Server, answer, registry},
};

const ME: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const KEY: &str = "10.5.1.0-24";

#[tokio::test]
async fn a_user_with_rights_may_all_that_the_daemon_does() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    server.ask_for_users().await;
    let registry = server.registry_of("relay:right");
    answer(&registry, Result::is_ok).await;
    let written = registry.create(KEY, ME).await.unwrap();
    let written = registry.renew(KEY, ME, written.mod_revision, true).await.unwrap();
    registry.watch(written.mod_revision).await.unwrap();
    registry.delete(KEY, written.mod_revision).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_to_a_user_is_told() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    server.ask_for_users().await;
    let says = |words: &'static str| {
        move |said: &Result<i64, String>| said.as_ref().is_err_and(|said| said.contains(words))
    };
    answer(&server.registry_of("relay:wrong"), says("--etcd-password")).await;
    answer(&server.registry_of("stranger:right"), says("--etcd-username")).await;
    answer(&server.registry(TlsFiles::default()), says("--etcd-username")).await;
    answer(&server.registry_of("nobody:right"), says("permission below --etcd-prefix")).await;
    let reader = server.registry_of("reader:right");
    answer(&reader, Result::is_ok).await;
    let error = reader.create(KEY, ME).await.unwrap_err().to_string();
    assert!(error.contains("permission below --etcd-prefix"), "{error}");
    let leases = server.root().await.leases().await.unwrap();
    assert_eq!(leases.leases().len(), 0, "an attempt leaves no etcd lease behind");
}

/// The token that etcd gives for a password ends; a new one is asked for.
#[tokio::test]
async fn a_token_that_ends_is_replaced_without_a_word() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &["--auth-token-ttl=1"]);
    server.ask_for_users().await;
    let registry = server.registry_of("relay:right");
    answer(&registry, Result::is_ok).await;
    // With calls close together the token stays alive; the pauses let it end.
    for pause in [0, 1500, 2500, 0] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        registry.list().await.unwrap();
    }
}

/// The watch is refused for the old token by a cancellation, not by an error that names the token.
#[tokio::test]
async fn a_watch_that_is_lost_after_its_token_has_ended_comes_back() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &["--auth-token-ttl=1"]);
    server.ask_for_users().await;
    let writer = server.registry_of("relay:right");
    answer(&writer, Result::is_ok).await;
    writer.renew("10.5.2.0-24", ME, 0, false).await.unwrap();
    let proxy = Proxy::start(&server.url).await;
    let user = ("reader".to_owned(), "right".to_owned());
    let mut mirror = Mirror::start(registry(&proxy.url, Some(user), TlsFiles::default()));
    mirror.has_route(2).await;
    mirror.is_connected().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;

    let begin = Instant::now();
    proxy.set(Mode::Broken);
    mirror.is_lost().await;
    proxy.set(Mode::Open);
    writer.renew("10.5.3.0-24", ME, 0, false).await.unwrap();
    mirror.has_route(3).await;
    assert!(mirror.route(2).is_some());
    mirror.assert_not_spinning(begin.elapsed());
}

/// A token that names the revision of the users and roles, as a JWT does, is stale after any change of them.
#[tokio::test]
async fn a_token_from_before_a_change_of_users_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "of the test").unwrap();
    let token = "--auth-token=jwt,sign-method=HS256,priv-key=secret";
    let server = Server::start("http", directory, &[token]);
    server.ask_for_users().await;
    let registry = server.registry_of("relay:right");
    answer(&registry, Result::is_ok).await;
    let mut root = server.root().await;
    root.user_add("newcomer", "right", None).await.unwrap();
    registry.list().await.unwrap();
}

/// The way to etcd is so long that connecting, with the token, and the call do not fit into one call's patience.
#[tokio::test]
async fn connecting_does_not_count_against_the_call() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    server.ask_for_users().await;
    answer(&server.registry_of("relay:right"), Result::is_ok).await;
    let proxy = Proxy::start(&server.url).await;
    proxy.set(Mode::Slow(Duration::from_millis(1400)));
    let user = ("relay".to_owned(), "right".to_owned());
    let begin = Instant::now();
    registry(&proxy.url, Some(user), TlsFiles::default()).list().await.unwrap();
    assert!(begin.elapsed() > Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// Rights that are taken away while the daemon runs: the routes stay, and it comes back by itself.
#[tokio::test]
async fn a_user_who_loses_the_right_to_read_keeps_the_routes() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    server.ask_for_users().await;
    let writer = server.registry_of("relay:right");
    answer(&writer, Result::is_ok).await;
    writer.renew("10.5.2.0-24", ME, 0, false).await.unwrap();
    let mut mirror = Mirror::start(server.registry_of("reader:right"));
    mirror.has_route(2).await;

    let mut root = server.root().await;
    root.user_revoke_role("reader", "reader").await.unwrap();
    // The watch is looked at again only when it is set up anew.
    mirror.registry.forget_connections();
    let begin = Instant::now();
    mirror.move_away().await;
    mirror.is_lost().await;
    assert!(mirror.route(2).is_some());
    root.user_grant_role("reader", "reader").await.unwrap();
    writer.renew("10.5.3.0-24", ME, 0, false).await.unwrap();
    mirror.has_route(3).await;
    assert!(mirror.route(2).is_some());
    mirror.assert_not_spinning(begin.elapsed());
}

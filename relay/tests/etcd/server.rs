//! An etcd on loopback.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Permission};
use relay::registry::{
    Registry,
    etcd::{Etcd, EtcdOptions, TlsFiles},
};
use tokio::time::{sleep, timeout};

/// How long something is waited for that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// An etcd that ends with the test, and the files made for it.
pub(crate) struct Server {
    child: Child,
    peer: String,
    options: Vec<String>,
    pub(crate) url: String,
    directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    pub(crate) fn start(scheme: &str, directory: tempfile::TempDir, options: &[&str]) -> Self {
        let url = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(&url, &peer, &options, &directory, "data");
        Self { child, peer, options, url, directory }
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on this directory of data.
    pub(crate) fn start_again(&mut self, data: &str) {
        self.stop();
        self.child = spawn(&self.url, &self.peer, &self.options, &self.directory, data);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn registry(&self, tls: TlsFiles) -> Etcd {
        registry(&self.url, None, tls)
    }

    /// A registry that is known by a name, a colon, and a password.
    pub(crate) fn registry_of(&self, user: &str) -> Etcd {
        let (name, password) = user.split_once(':').unwrap();
        registry(&self.url, Some((name.into(), password.into())), TlsFiles::default())
    }

    /// Who may do everything, once [`Server::ask_for_users`] was called.
    pub(crate) async fn root(&self) -> Client {
        let options = ConnectOptions::new().with_user("root", "root");
        Client::connect([&self.url], Some(options)).await.unwrap()
    }

    /// Makes etcd ask for names and passwords: `root:root`, `relay:right` who may read and write below `/test`,
    /// `reader:right` who may read there, `nobody:right` who may do nothing.
    pub(crate) async fn ask_for_users(&self) {
        answer(&self.registry(TlsFiles::default()), Result::is_ok).await;
        let mut client = Client::connect([&self.url], None).await.unwrap();
        let below = |permission: Permission| Some(permission.with_prefix());
        for (user, password, permission) in [
            ("root", "root", None),
            ("relay", "right", below(Permission::read_write("/test"))),
            ("reader", "right", below(Permission::read("/test"))),
            ("nobody", "right", None),
        ] {
            client.user_add(user, password, None).await.unwrap();
            client.role_add(user).await.unwrap();
            if let Some(permission) = permission {
                client.role_grant_permission(user, permission).await.unwrap();
            }
            client.user_grant_role(user, user).await.unwrap();
        }
        client.auth_enable().await.unwrap();
    }
}

/// A port that nothing listens on, as etcd takes no port 0. Below those that the kernel gives to connections, and
/// never the same again: one found by binding to 0 may be somebody's by the time that etcd wants it.
fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..PORTS)));
    loop {
        let port = FIRST_PORT + NEXT.fetch_add(1, Relaxed) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A registry below `/test` whose leases live for two seconds.
pub(crate) fn registry(url: &str, user: Option<(String, String)>, tls: TlsFiles) -> Etcd {
    let endpoints = vec![url.to_owned()];
    Etcd::new(EtcdOptions { endpoints, prefix: "/test".into(), user, tls, ttl: Duration::from_secs(2) })
}

fn spawn(url: &str, peer: &str, options: &[String], directory: &tempfile::TempDir, data: &str) -> Child {
    Command::new("etcd")
        .args(["--data-dir", data, "--listen-client-urls", url, "--advertise-client-urls", url])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--heartbeat-interval=50", "--election-timeout=500"])
        .args(options)
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Tries until `registry` answers as wanted; other answers come while etcd starts.
pub(crate) async fn answer(registry: &Etcd, wanted: impl Fn(&Result<i64, String>) -> bool) {
    let mut last = Err("never asked".into());
    let tried = timeout(PATIENCE, async {
        loop {
            last = registry.list().await.map(|listed| listed.revision).map_err(|error| error.to_string());
            if wanted(&last) {
                return;
            }
            // Another answer may come of another handshake only.
            registry.forget_connections();
            sleep(Duration::from_millis(50)).await;
        }
    });
    if tried.await.is_err() {
        panic!("{last:?}");
    }
}

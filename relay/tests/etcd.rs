//! The registry against a real etcd on loopback: TLS, and leases that end.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use relay::{
    http::Health,
    lease::Lease,
    registry::{
        Event, Registry, RegistryError, Watch,
        acquire::Held,
        etcd::{Etcd, EtcdOptions, TlsFiles},
        hold::hold,
        table::OwnLease,
    },
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

const ME: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const KEY: &str = "10.5.1.0-24";

/// An etcd that ends with the test, and the files made for it.
struct Server {
    child: Child,
    url: String,
    directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(scheme: &str, directory: tempfile::TempDir, options: &[&str]) -> Self {
        // etcd takes no port 0; the two are free a moment before.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("{scheme}://127.0.0.1:{}", free());
        let peer = format!("http://127.0.0.1:{}", free());
        let child = Command::new("etcd")
            .args(["--data-dir", "data", "--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &format!("default={peer}"),
                "--heartbeat-interval=50",
                "--election-timeout=500",
            ])
            .args(options)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, url, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn registry(&self, tls: TlsFiles) -> Etcd {
        let endpoints = vec![self.url.clone()];
        Etcd::new(EtcdOptions {
            endpoints,
            prefix: "/test".into(),
            user: None,
            tls,
            ttl: Duration::from_secs(2),
        })
    }
}

/// Tries until `registry` answers as wanted; other answers come while etcd starts.
async fn answer(registry: &Etcd, wanted: impl Fn(&Result<i64, String>) -> bool) {
    let mut last = Err("never asked".into());
    let tried = timeout(Duration::from_secs(20), async {
        loop {
            last = registry.list().await.map(|listed| listed.revision).map_err(|error| error.to_string());
            if wanted(&last) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    if tried.await.is_err() {
        panic!("{last:?}");
    }
}

/// An authority, a certificate for 127.0.0.1 and one for a client, all by openssl(1).
fn certificates() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let run = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"));
    for name in ["server", "client"] {
        run(&format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
    directory
}

const TLS: [&str; 2] = ["--cert-file=server.pem", "--key-file=server.key"];

#[tokio::test]
async fn an_authority_alone_is_enough_for_tls_and_none_is_told_of() {
    let server = Server::start("https", certificates(), &TLS);
    let authority = TlsFiles { authority: Some(server.path("ca.pem")), identity: None };
    answer(&server.registry(authority), Result::is_ok).await;
    let told = |said: &Result<i64, String>| said.as_ref().is_err_and(|said| said.contains("--etcd-cafile"));
    answer(&server.registry(TlsFiles::default()), told).await;
}

#[tokio::test]
async fn a_client_certificate_opens_an_etcd_that_wants_one() {
    let options = [TLS[0], TLS[1], "--client-cert-auth", "--trusted-ca-file=ca.pem"];
    let server = Server::start("https", certificates(), &options);
    let authority = Some(server.path("ca.pem"));
    let identity = Some((server.path("client.pem"), server.path("client.key")));
    answer(&server.registry(TlsFiles { authority: authority.clone(), identity }), Result::is_ok).await;
    let told = |said: &Result<i64, String>| said.as_ref().is_err_and(|said| said.contains("--etcd-certfile"));
    answer(&server.registry(TlsFiles { authority, identity: None }), told).await;
}

#[tokio::test]
async fn tls_files_do_no_harm_to_an_http_endpoint_and_a_wrong_scheme_is_told_of() {
    let mut server = Server::start("http", certificates(), &[]);
    let tls = TlsFiles { authority: Some(server.path("ca.pem")), identity: None };
    answer(&server.registry(tls.clone()), Result::is_ok).await;
    server.url = server.url.replace("http:", "https:");
    let told = |said: &Result<i64, String>| said.as_ref().is_err_and(|said| said.contains("speak TLS"));
    answer(&server.registry(tls), told).await;
}

#[tokio::test]
async fn a_lease_ends_after_its_time_unless_it_is_held() {
    let server = Server::start("http", tempfile::tempdir().unwrap(), &[]);
    let registry = Arc::new(server.registry(TlsFiles::default()));
    answer(&registry, Result::is_ok).await;
    let written = registry.create(KEY, ME).await.unwrap();
    registry.create("10.5.2.0-24", ME).await.unwrap();
    assert!(matches!(registry.create(KEY, ME).await, Err(RegistryError::Conflict(_))));
    let lease = Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: ME };
    let own = OwnLease { revision: written.mod_revision, held: Some((ME, written.mod_revision)) };
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

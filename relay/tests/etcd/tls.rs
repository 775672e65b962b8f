//! Certificates, right and wrong.

use std::{fs, process::Command};

use relay::registry::etcd::TlsFiles;

use crate::server::{Server, answer};

/// An authority, and certificates by it: for 127.0.0.1, for a client, and for a client by a stranger; for each of the
/// first two one that has expired. All by openssl(1).
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
    for authority in ["ca", "other"] {
        run(&format!(
            "req -x509 {key} -subj /CN={authority} -days 2 -keyout {authority}.key -out {authority}.pem"
        ));
    }
    for (name, authority, days) in [
        ("server", "ca", 2),
        ("client", "ca", 2),
        ("stranger", "other", 2),
        // It ends with the second in which it begins.
        ("old-server", "ca", 0),
        ("old-client", "ca", 0),
    ] {
        run(&format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        run(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days {days} -extfile names -out {name}.pem"
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

/// Whether an answer is an error with this in it.
fn says(words: &'static str) -> impl Fn(&Result<i64, String>) -> bool {
    move |said| said.as_ref().is_err_and(|said| said.contains(words))
}

#[tokio::test]
async fn a_client_certificate_that_etcd_does_not_take_is_told_of() {
    let options = [TLS[0], TLS[1], "--client-cert-auth", "--trusted-ca-file=ca.pem"];
    let server = Server::start("https", certificates(), &options);
    let with = |name: &str| {
        let identity = (server.path(&format!("{name}.pem")), server.path(&format!("{name}.key")));
        server.registry(TlsFiles { authority: Some(server.path("ca.pem")), identity: Some(identity) })
    };
    answer(&with("client"), Result::is_ok).await;
    for name in ["stranger", "old-client"] {
        answer(&with(name), says("--etcd-certfile")).await;
    }
}

#[tokio::test]
async fn a_server_certificate_of_a_stranger_or_of_the_past_is_told_of() {
    let server = Server::start("https", certificates(), &TLS);
    let authority = |name: &str| TlsFiles { authority: Some(server.path(name)), identity: None };
    answer(&server.registry(authority("ca.pem")), Result::is_ok).await;
    answer(&server.registry(authority("other.pem")), says("--etcd-cafile")).await;
    let old = ["--cert-file=old-server.pem", "--key-file=old-server.key"];
    let server = Server::start("https", certificates(), &old);
    let tls = TlsFiles { authority: Some(server.path("ca.pem")), identity: None };
    answer(&server.registry(tls), says("has expired")).await;
}

#[tokio::test]
async fn files_that_are_no_certificates_are_told_of() {
    let server = Server::start("https", certificates(), &TLS);
    fs::write(server.path("empty.pem"), "").unwrap();
    let tls = TlsFiles { authority: Some(server.path("nowhere.pem")), identity: None };
    answer(&server.registry(tls), says("nowhere.pem")).await;
    let tls = TlsFiles { authority: Some(server.path("empty.pem")), identity: None };
    answer(&server.registry(tls), says("--etcd-cafile")).await;
}

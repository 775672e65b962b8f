//! What people, other programs and etcd write.

use std::{env, io::Write, net::Ipv4Addr, path::Path, str, sync::Arc};

use ipnet::Ipv4Net;
use relay::{
    host::subnet_env::{self, SubnetEnv},
    http::{self, Health, Sources},
    lease,
    network::Network,
    registry::{Registry, file::File},
};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("an event loop")
}

/// A key is of flannel's form or refused, and survives being written.
pub fn lease_key(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(subnet) = lease::parse_key(text) else { return };
    assert_eq!(subnet, subnet.trunc());
    assert!(subnet.prefix_len() <= 31);
    let written = lease::key(subnet);
    assert_eq!(lease::parse_key(&written), Ok(subnet));
    let (address, _) = written.split_once('-').expect("a dash");
    assert!(text.starts_with(&format!("{address}-")), "{text}");
    let dual = format!("{written}&fd00:12:13::-56");
    assert_eq!(lease::parse_key(&dual), Ok(subnet));
}

/// A value names an address that others can reach or is refused; the address survives being written.
pub fn lease_value(input: &[u8]) {
    let Ok(address) = lease::parse_value(input) else { return };
    assert!(lease::is_node_address(address));
    let written = lease::value(address);
    assert_eq!(written, format!(r#"{{"PublicIP":"{address}","PublicIPv6":null}}"#).as_bytes());
    assert_eq!(lease::parse_value(&written), Ok(address));
}

/// A config that is taken keeps flannel's rules, and says the same when its defaults are written out.
pub fn network_config(input: &[u8]) {
    let Ok(network) = Network::parse(input) else { return };
    let Network { prefix, subnet_len, subnet_min, subnet_max, port, nftables } = network;
    assert_eq!(prefix, prefix.trunc());
    assert!((prefix.prefix_len() + 2..=30).contains(&subnet_len));
    assert!(port != 0 && subnet_min <= subnet_max);
    for bound in [subnet_min, subnet_max] {
        let subnet = Ipv4Net::new(bound, subnet_len).expect("a length up to 30");
        assert_eq!(subnet, subnet.trunc());
        assert!(network.allows(subnet) && network.covers(subnet), "{subnet}");
    }
    assert_eq!(network.subnets().next().map(|subnet| subnet.network()), Some(subnet_min));
    assert!(!network.covers(prefix));
    let written = serde_json::json!({
        "Network": prefix.to_string(),
        "SubnetLen": subnet_len,
        "SubnetMin": subnet_min.to_string(),
        "SubnetMax": subnet_max.to_string(),
        "EnableNFTables": nftables,
        "Backend": { "Type": "udp", "Port": port },
    });
    assert_eq!(Network::parse(written.to_string().as_bytes()), Ok(network));
}

/// What is remembered has no host bits, and is remembered again out of what is written.
pub fn subnet_env(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Some(subnet) = subnet_env::remembered(text) else { return };
    assert_eq!(subnet, subnet.trunc());
    let env = SubnetEnv { network: subnet, subnet, mtu: 1472, ip_masq: true };
    assert_eq!(subnet_env::remembered(&env.text()), Some(subnet));
}

/// Every answer is a whole HTTP answer, and the connection ends when the request does.
pub fn control_request(input: &[u8]) {
    let answer = runtime().block_on(async {
        let (mut ours, theirs) = tokio::io::duplex(64 << 10);
        http::serve_connection(
            theirs,
            &Arc::new(Sources::new(Arc::new(Health::starting("a test")), std::num::NonZeroUsize::MIN)),
        );
        // A server that has seen enough closes first.
        let _ = ours.write_all(input).await;
        let _ = ours.shutdown().await;
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.expect("a pipe in memory");
        answer
    });
    let answer = String::from_utf8(answer).expect("pages are text");
    if answer.is_empty() {
        return;
    }
    assert!(answer.starts_with("HTTP/1."), "{answer}");
    let statuses = [200, 400, 404, 405, 414, 431, 503];
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    assert!(status.is_some_and(|status: u16| statuses.contains(&status)), "{answer}");
    assert!(answer.contains("\r\n\r\n"), "{answer}");
}

/// A file is a registry in which every subnet has one node, or an error on one line.
pub fn registry_file(input: &[u8]) {
    let in_memory = Path::new("/dev/shm");
    let place = if in_memory.is_dir() { in_memory } else { &env::temp_dir() };
    let mut file = NamedTempFile::new_in(place).expect("a file");
    file.write_all(input).expect("room for it");
    let registry = File::new(file.path().to_owned());
    let (config, listed) = runtime().block_on(async { (registry.config().await, registry.list().await) });
    let (config, listed) = match (config, listed) {
        (Ok(config), Ok(listed)) => (config, listed),
        (Err(error), Err(_)) => {
            let error = error.to_string();
            assert!(!error.contains('\n'), "{error}");
            return;
        }
        answers => panic!("{answers:?}"),
    };
    assert!(Network::parse(&config).is_ok());
    assert!(listed.entries.is_sorted_by(|one, next| one.key < next.key));
    let mut subnets: Vec<Ipv4Net> = Vec::new();
    for entry in &listed.entries {
        let subnet = lease::parse_key(&entry.key).expect("a key");
        assert!(lease::parse_value(&entry.value).is_ok_and(|node: Ipv4Addr| lease::is_node_address(node)));
        assert!(subnets.iter().all(|other| !other.contains(&subnet) && !subnet.contains(other)));
        subnets.push(subnet);
    }
}

//! What a member is told, as etcd's environment variables.
//!
//! The environment rather than flags, because etcd ignores variables that its version does not know.

use std::net::Ipv4Addr;

use super::{CLIENT_PORT, MemberSpec, PEER_PORT};

/// How a member listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listen {
    /// On all addresses of its namespace, so that the address may come later.
    Tcp,
    /// On Unix sockets in its working directory: the client's at [`client_socket`], a peer's at
    /// [`peer_socket`].
    Unix,
}

/// The settings of one member.
#[derive(Debug)]
pub(super) struct Options<'a> {
    /// The member's name.
    pub(super) name: &'a str,
    /// Its address on the underlay.
    pub(super) address: Ipv4Addr,
    /// All members, itself included.
    pub(super) members: &'a [MemberSpec],
    /// Its data directory, as etcd sees it.
    pub(super) data: &'a str,
    /// How it listens.
    pub(super) listen: Listen,
}

/// The name of the socket that `member` takes clients at.
pub(super) fn client_socket(member: &str) -> String {
    format!("{member}:{CLIENT_PORT}")
}

/// The name of the socket that `member` takes peers at.
///
/// etcd uses the host part of a `unix://` URL, port included, as the socket's path, and allows no further path
/// (etcd 3.4 `pkg/types/urls.go`, `pkg/transport/unix_listener.go`).
pub(super) fn peer_socket(member: &str) -> String {
    format!("{member}:{PEER_PORT}")
}

impl Options<'_> {
    /// The environment, in no particular order.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let (heartbeat, election) = intervals(self.members.len());
        let (listen_client, listen_peer) = match self.listen {
            Listen::Tcp => (format!("http://0.0.0.0:{CLIENT_PORT}"), format!("http://0.0.0.0:{PEER_PORT}")),
            Listen::Unix => {
                (format!("unix://{}", client_socket(self.name)), format!("unix://{}", peer_socket(self.name)))
            }
        };
        let cluster = self.members.iter().map(|peer| {
            let url = self.peer_url(&peer.name, peer.address);
            format!("{}={url}", peer.name)
        });
        vec![
            ("ETCD_NAME", self.name.to_owned()),
            ("ETCD_DATA_DIR", self.data.to_owned()),
            ("ETCD_LISTEN_CLIENT_URLS", listen_client),
            ("ETCD_ADVERTISE_CLIENT_URLS", format!("http://{}:{CLIENT_PORT}", self.address)),
            ("ETCD_LISTEN_PEER_URLS", listen_peer),
            ("ETCD_INITIAL_ADVERTISE_PEER_URLS", self.peer_url(self.name, self.address)),
            ("ETCD_INITIAL_CLUSTER", cluster.collect::<Vec<_>>().join(",")),
            ("ETCD_INITIAL_CLUSTER_STATE", "new".to_owned()),
            ("ETCD_HEARTBEAT_INTERVAL", heartbeat.to_string()),
            ("ETCD_ELECTION_TIMEOUT", election.to_string()),
            // A lab's data need not survive the machine.
            ("ETCD_UNSAFE_NO_FSYNC", "true".to_owned()),
            // Else it writes to the journal where it believes to be a service.
            ("ETCD_LOG_OUTPUTS", "stderr".to_owned()),
        ]
    }

    fn peer_url(&self, name: &str, address: Ipv4Addr) -> String {
        match self.listen {
            Listen::Tcp => format!("http://{address}:{PEER_PORT}"),
            Listen::Unix => format!("unix://{}", peer_socket(name)),
        }
    }
}

/// Heartbeat interval and election timeout in ms; etcd wants the latter to be at least five times the former.
///
/// A single member elects itself after one timeout and never loses an election, so its timeout may be the
/// least. Members of a cluster must bear a busy machine's scheduling delays without a new election. With
/// either, the shortest lease that etcd grants is 1 s: three halves of the election timeout, rounded up (etcd
/// 3.4 `etcdserver/server.go`).
fn intervals(members: usize) -> (u32, u32) {
    if members == 1 { (10, 50) } else { (30, 300) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::netns::Namespace;

    fn environment(listen: Listen, members: usize) -> Vec<(&'static str, String)> {
        let namespace = Namespace::open("own", Path::new("/proc/self/ns/net")).unwrap();
        let members: Vec<_> = (1..=members)
            .map(|number| MemberSpec {
                name: format!("etcd{number}"),
                address: Ipv4Addr::new(10, 0, 0, 10 + u8::try_from(number).unwrap()),
                namespace: namespace.clone(),
            })
            .collect();
        let (name, address) = (members[0].name.as_str(), members[0].address);
        Options { name, address, members: &members, data: "/data", listen }.environment()
    }

    fn value<'a>(environment: &'a [(&str, String)], key: &str) -> &'a str {
        &environment.iter().find(|(name, _)| *name == key).unwrap().1
    }

    #[test]
    fn clients_are_told_the_address_however_the_member_listens() {
        for listen in [Listen::Tcp, Listen::Unix] {
            let environment = environment(listen, 1);
            assert_eq!(value(&environment, "ETCD_ADVERTISE_CLIENT_URLS"), "http://10.0.0.11:2379");
        }
    }

    #[test]
    fn peers_are_named_by_address_or_by_socket() {
        let cluster = |listen| value(&environment(listen, 2), "ETCD_INITIAL_CLUSTER").to_owned();
        assert_eq!(cluster(Listen::Tcp), "etcd1=http://10.0.0.11:2380,etcd2=http://10.0.0.12:2380");
        assert_eq!(cluster(Listen::Unix), "etcd1=unix://etcd1:2380,etcd2=unix://etcd2:2380");
    }

    #[test]
    fn an_election_takes_at_least_five_heartbeats() {
        for members in 1..=7 {
            let (heartbeat, election) = intervals(members);
            assert!(election >= 5 * heartbeat, "etcd refuses this: {heartbeat} {election}");
        }
    }
}

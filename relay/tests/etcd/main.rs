//! The registry against a real etcd on loopback: TLS, users, what stands between, and leases that end.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

mod faults;
mod leases;
mod mirror;
mod proxy;
mod server;
mod tls;
mod users;

//! The lease in etcd, while the program starts.

use super::Shell;

/// An etcd on loopback with a network config, by its gateway for JSON: no client of it may be there.
const ETCD: &str = "etcd --data-dir data >etcd.log 2>&1 & \
     key=$(printf /coreos.com/network/config | base64); value=$(printf '{\"Network\":\"10.5.0.0/16\"}' | base64); \
     put=\"{\\\"key\\\":\\\"$key\\\",\\\"value\\\":\\\"$value\\\"}\"; \
     until { printf 'POST /v3/kv/put HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n%s' ${#put} \"$put\" >&4 && \
             grep -q '\"revision\"' <&4; } 4<>/dev/tcp/127.0.0.1/2379; do sleep 0.02; done 2>/dev/null";

/// Puts an `iptables` before all others of `PATH` that waits for a file `let-go`.
const WAITING: &str = "mkdir bin; printf '%s\\n' '#!/bin/sh' 'until [ -e let-go ]; do sleep 0.02; done' \
     \"exec $(command -v iptables) \\\"\\$@\\\"\" >bin/iptables; chmod +x bin/iptables; PATH=$PWD/bin:$PATH";

#[test]
fn a_lease_is_renewed_however_long_the_start_takes() {
    let script = format!(
        "{ETCD}; {WAITING}; $RELAY --iface=u0 --subnet-file=subnet.env --subnet-lease-ttl=2 2>log & relay=$!; \
         until grep -q 'lease written' log; do kill -0 $relay || break; sleep 0.02; done; grep -c ' ready' log; \
         touch let-go; until grep -q ' ready' log; do kill -0 $relay || break; sleep 0.02; done; \
         grep -c 'has expired' log; kill -TERM $relay; wait $relay; echo $?"
    );
    let mut shell = Shell::start(&script);
    let printed = shell.printed();
    assert_eq!(printed.lines().collect::<Vec<_>>(), ["0", "0", "0"], "{}", shell.log());
}

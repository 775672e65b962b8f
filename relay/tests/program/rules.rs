//! Packet filter rules, where the tool that sets them fails.

use super::{REGISTRY, RELAY, Shell};

/// Puts an `iptables` before all others of `PATH` that fails until there is a file `mended`, as one does whose lock is
/// held or whose kernel lacks a table. A version it tells all the same.
const FAILING: &str = "mkdir bin; for tool in iptables iptables-restore; do \
     printf '%s\\n' '#!/bin/sh' '[ -e mended ] || [ \"$1\" = --version ] || \
         { echo \"the lock is held\" >&2; exit 4; }' \"exec $(command -v $tool) \\\"\\$@\\\"\" >bin/$tool; \
     chmod +x bin/$tool; done; PATH=$PWD/bin:$PATH";

/// What the program says of itself until it is ready, and the rules that masquerade then.
fn masquerading(flags: &str) -> String {
    format!(
        "{FAILING}; {REGISTRY}; {RELAY} {flags} 2>log & relay=$!; \
         until grep -q 'rules not set' log && ip route get 10.5.2.2 2>/dev/null | grep -q flannel0; do \
             kill -0 $relay || break; sleep 0.02; done; \
         $RELAY status --subnet-file=subnet.env; grep -c ' ready' log; \
         touch mended; until grep -q ' ready' log; do kill -0 $relay || break; sleep 0.02; done; \
         iptables -t nat -S FLANNEL-POSTRTG | grep -c MASQUERADE; kill -TERM $relay; wait $relay; echo $?"
    )
}

#[test]
fn a_node_is_ready_only_once_its_containers_are_masqueraded() {
    let mut shell = Shell::start(&masquerading("--ip-masq --iptables-resync=1"));
    let printed = shell.printed();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.ends_with(&["0", "2", "0"]), "{printed}\n{}", shell.log());
    assert!(
        printed.contains("setting the rules of --ip-masq") && printed.contains("the lock is held"),
        "{printed}"
    );
}

#[test]
fn a_tool_that_hangs_ends_with_the_program() {
    let script = format!(
        "mkdir bin; printf '%s\\n' '#!/bin/sh' 'exec sleep 1000' >bin/iptables; chmod +x bin/iptables; \
         {REGISTRY}; PATH=$PWD/bin:$PATH {RELAY} --ip-masq 2>log & relay=$!; \
         until grep -qsx sleep /proc/[0-9]*/comm; do kill -0 $relay || break; done; \
         kill -TERM $relay; wait $relay; echo $?; while grep -qsx sleep /proc/[0-9]*/comm; do :; done"
    );
    let mut shell = Shell::start(&script);
    assert_eq!(shell.printed(), "0", "{}", shell.log());
}

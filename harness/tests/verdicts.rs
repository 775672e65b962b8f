//! What fails a case whatever its snapshot says, and what does not.

mod common;

use std::fs;
use std::process::Command;

/// Runs a case that has these steps after its lab, and returns whether it passed, and all that was printed.
fn run(case: &str) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("case.toml"), format!("about = 'x'\n{case}")).expect("a suite file");
    let output = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(["run", "case.toml", "--etcd", "process", "--failures", "failures"])
        .current_dir(directory.path())
        .env("RELAY", common::relay())
        .env("INSTA_UPDATE", "always")
        .env("HARNESS_LOG", "harness::lab=debug")
        .env_remove("CI")
        .output()
        .expect("harness starts");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn segments_that_are_lost_where_nobody_counts_it_fail_a_transfer() {
    let case = "[[steps]]
exec = { host = 'b', command = \"nft 'add table ip thief; add chain ip thief forward { type filter hook forward priority 0; }'\" }

[[steps]]
exec = { host = 'b', command = 'nft add rule ip thief forward iifname flannel0 ip length gt 500 numgen inc mod 50 20 drop' }

[[steps]]
transfer = { from = 'c1', to = 'c2', octets = 10000000 }
";
    let (passed, text) = run(case);
    assert!(
        !passed && text.contains("c1's kernel counted") && text.contains("TcpExt TCPFastRetrans"),
        "{text}"
    );
}

#[test]
fn a_relay_that_takes_anothers_place_goes_on_counting() {
    let metric = r#"relay_drops_total{direction="outbound",reason="no-route"}"#;
    let steps = "steps = [
    { stop-relay = { node = 'a' } },
    { start-relay = { node = 'a' } },
    { ping = { from = 'c1', to = '10.5.99.1', count = 2 } },
]";
    let expect = |bounds: &str| {
        format!(
            "[[steps]]
ping = {{ from = 'c1', to = '10.5.99.1', count = 3 }}

[[steps]]

[steps.expect]
growth = [{{ host = 'a', metric = '{metric}', {bounds} }}]
{steps}
"
        )
    };
    let (passed, text) = run(&expect("at-least = 2, at-most = 2"));
    assert!(passed, "{text}");
    let (passed, text) = run(&expect("at-most = 1"));
    let told = format!("{metric} of a grew by 2; it was to grow by 1 at most");
    assert!(!passed && text.contains(&told), "{text}");
}

#[test]
fn what_is_broken_elsewhere_has_no_answer_given_up_that_comes_late() {
    // c1 learns where to send its request to only when it asks a third time.
    let case = "[lab]
nodes = ['a', 'b', 'c']
started = ['a', 'b']

[[steps]]
exec = { host = 'a', command = 'sysctl -qw net.ipv4.conf.cni0.arp_ignore=8' }

[[steps]]
exec = { host = 'a', command = \"bash -c '(sleep 1.6; sysctl -qw net.ipv4.conf.cni0.arp_ignore=0) >/dev/null 2>&1 &'\" }

[[steps]]
ping = { from = 'c1', to = 'c2' }
";
    let (passed, text) = run(case);
    assert!(passed, "{text}");
}

#[test]
fn a_loss_that_nothing_accounts_for_is_told_with_the_kernels_reason_where_root_may_look() {
    let case = "[[steps]]
exec = { host = 'a', command = \"nft 'add table ip thief; add chain ip thief forward { type filter hook forward priority 0; }'\" }

[[steps]]
exec = { host = 'a', command = 'nft add rule ip thief forward icmp type echo-request drop' }

[[steps]]
ping = { from = 'c1', to = 'c2' }
";
    let (passed, text) = run(case);
    assert!(!passed && text.contains("=> lost after a cni0 <: unexplained"), "{text}");
    let told = text.contains("soon after it was last seen: NETFILTER_DROP in nft_do_chain");
    // Root of a container may be kept from it.
    let is_forbidden = text.contains("not looked at error=") && text.contains(" (os error 1)");
    assert!(told || is_forbidden || !nix::unistd::geteuid().is_root(), "{text}");
}

//! `harness check` finds what relay would refuse, with its place, and says so when there is no relay to ask.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

/// Exit status and all that is printed, by this relay.
fn check(text: &str, relay: &Path) -> (Option<i32>, String) {
    checked(text, Command::new(env!("CARGO_BIN_EXE_harness")).env("RELAY", relay))
}

fn checked(text: &str, harness: &mut Command) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("case.toml"), text).expect("a suite file");
    fs::write(directory.path().join("registry.toml"), "[config]\nNetwork = 'nowhere'\n").expect("a registry");
    let harness = harness.args(["check", "case.toml"]).current_dir(directory.path());
    let output = harness.output().expect("harness starts");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code(), text(&output.stderr) + &text(&output.stdout))
}

/// A case with these lines in its `[lab]`, and these steps.
fn case(lab: &str, steps: &str) -> String {
    format!("about = 'x'\nsteps = [{steps}]\n[lab]\n{lab}\n")
}

const LEASES: &str = "{ leases = {} }";

#[test]
fn what_relay_would_refuse_is_shown_where_it_stands() {
    let start = |flags: &str| format!("{{ start-relay = {{ node = 'a', flags = [{flags}] }} }}");
    let metric =
        |name: &str| format!("{{ expect-metric = {{ node = 'a', metric = '{name}', at-least = 1 }} }}");
    let started = "started = ['b']";
    for (text, culprit, said) in [
        (
            case("flags = ['--ip-masq', '--ofload=none']", LEASES),
            "'--ofload=none'",
            "unexpected argument '--ofload'",
        ),
        (case("flags = ['--offload=most']", LEASES), "'--offload=most'", "'most'"),
        (case(started, &start("'-public-ip', 'x', '--ip-masq'")), "'-public-ip'", "invalid value 'x'"),
        (case("flags = ['--registry=file:registry.toml']", LEASES), "'--registry", "Network is \"nowhere\""),
        (case("config = '{\"Network\":\"10.5.0.0/99\"}'", LEASES), "'{\"Network", "must be an IPv4 network"),
        (case("", &metric("relay_rotes")), "'relay_rotes", "did you mean `relay_routes`?"),
        (
            case("", &metric("relay_drops_total{direction=\"outbound\",reason=\"no-rout\"}")),
            "'relay_drops",
            "did you mean `relay_drops_total{direction=\"outbound\",reason=\"no-route",
        ),
        (
            case(
                "",
                "{ repeat = { times = 2, steps = [{ expect = { growth = [{ host = 'a', metric = 'x', at-most = 1 }], \
                 steps = [{ leases = {} }] } }] } }",
            ),
            "'x', at-most",
            "`relay list-metrics` lists them",
        ),
    ] {
        let (status, printed) = check(&text, &common::relay());
        // Long lines are broken wherever they are too long.
        let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ").replace(" | ", " ");
        assert_eq!(status, Some(1), "{printed}");
        let (before, _) = text.split_once(culprit).expect("it stands there");
        let (lines, line) = (before.lines().count(), before.lines().last().unwrap_or_default());
        let place = format!("case.toml:{lines}:{}]", line.len() + 1);
        assert!(printed.contains(&place), "{place}: {printed}");
        assert!(printed.contains(said), "{said}: {printed}");
    }
}

#[test]
fn what_relay_takes_is_no_mistake() {
    let steps = "{ expect-metric = { node = 'a', metric = 'relay_kernel_drops_total{at=\"tun\"}', at-most = 0 } }, \
                 { stop-relay = { node = 'a' } }, \
                 { start-relay = { node = 'a', flags = ['--public-ip', '172.20.0.9'] } }, \
                 { stop-relay = { node = 'a' } }, \
                 { start-relay = { node = 'a', flags = ['--no-such-flag'], outcome = 'fails' } }";
    let lab = "flags = ['--ip-masq', '-iptables-resync', '1']\nconfig = '{\"Network\":\"10.5.0.0/16\"}'";
    let (status, printed) = check(&case(lab, steps), &common::relay());
    assert_eq!(status, Some(0), "{printed}");
}

#[test]
fn a_relay_that_was_named_and_cannot_be_asked_is_an_error() {
    let text = case("flags = ['--no-such-flag']", LEASES);
    // No program, and one that knows nothing of such questions.
    for program in ["/nonexistent", "/bin/false"] {
        let (status, printed) = check(&text, Path::new(program));
        assert_eq!(status, Some(2), "{printed}");
        assert!(printed.contains(program.trim_start_matches("/bin")), "{printed}");
    }
}

#[test]
fn without_a_relay_only_that_is_said() {
    let harness = Path::new(env!("CARGO_BIN_EXE_harness"));
    let alone = tempfile::tempdir_in(harness.parent().expect("it is in a directory")).expect("a directory");
    let program = alone.path().join("harness");
    // A copy might still be written to in a process that another test begins, and could not be run then.
    fs::hard_link(harness, &program).expect("another name for harness");
    let text = case("flags = ['--no-such-flag']", LEASES);
    let without = || checked(&text, Command::new(&program).env_remove("RELAY").env("PATH", alone.path()));
    let (status, printed) = without();
    assert_eq!(status, Some(0), "{printed}");
    assert!(printed.contains("what only relay knows was not checked"), "{printed}");
    std::os::unix::fs::symlink("/bin/false", alone.path().join("relay")).expect("a relay that is none");
    let (status, printed) = without();
    assert_eq!(status, Some(0), "{printed}");
    assert!(printed.contains("lists no metrics"), "{printed}");
}

#[test]
fn relay_takes_what_the_suites_say_to_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(["check", concat!(env!("CARGO_MANIFEST_DIR"), "/../suites")])
        .env("RELAY", common::relay())
        .output()
        .expect("harness starts");
    let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !printed.contains("was not checked"), "{printed}");
}

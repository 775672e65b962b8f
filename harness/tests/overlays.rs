//! Other overlays than relay run the same cases, and are told from it by its snapshots, which they leave alone.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PING: &str = "about = 'A ping.'\nsteps = [{ ping = { from = 'c1', to = 'c2' } }]\n";

/// Runs what stands in `directory`, or fails with all that was printed.
fn harness(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(arguments)
        .args(["--etcd", "process"])
        .current_dir(directory)
        .env("RELAY", common::relay())
        .env("INSTA_UPDATE", "always")
        .env_remove("CI")
        .output()
        .expect("harness starts")
}

fn printed(output: &Output) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn another_overlay_is_told_from_relay_by_a_snapshot_that_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("ping.toml"), PING).expect("a suite file");
    let run = |overlay: &[&str]| {
        let arguments = [&["run", "ping.toml", "--failures", "failures"], overlay].concat();
        harness(directory.path(), &arguments)
    };
    let relay = run(&[]);
    assert!(relay.status.success(), "{}", printed(&relay));
    let snapshot = fs::read_to_string(at("ping.snap")).expect("a snapshot");

    // A relay takes one from the TTL; the kernel takes none for its own tunnel.
    for (overlay, line) in [
        ("vxlan", "+    a     eth0      >          in udp a:other > b:8472 (ttl 64, len 134)"),
        ("plain", "+    a     eth0      >  ttl 63"),
    ] {
        let other = run(&["--overlay", overlay]);
        let text = printed(&other);
        assert_eq!(other.status.code(), Some(1), "{text}");
        assert!(text.contains("ping  differs") && text.contains("1 different from relay"), "{text}");
        assert!(
            text.contains("-    a     eth0      >  ttl 62  in udp a:8285 > b:8285 (ttl 64, len 112)"),
            "{text}"
        );
        assert!(text.contains(line), "{text}");
        assert_eq!(fs::read_to_string(at("ping.snap")).expect("a snapshot"), snapshot);
        assert!(!at("ping.snap.new").exists());
    }
}

#[test]
fn data_that_vxlan_carries_is_in_no_recording_either() {
    let directory = tempfile::tempdir().expect("a directory");
    let transfer = "transfer = { from = 'c1', to = 'c2', octets = 100000000 }";
    fs::write(directory.path().join("bulk.toml"), format!("about = 'x'\nsteps = [{{ {transfer} }}]\n"))
        .expect("a suite file");
    let run =
        harness(directory.path(), &["run", "bulk.toml", "--overlay", "vxlan", "--failures", "failures"]);
    let text = printed(&run);
    assert!(text.contains("bulk  differs") && text.contains("the case has no snapshot"), "{text}");
}

#[test]
fn a_flanneld_does_as_relay_does() {
    let directory = tempfile::tempdir().expect("a directory");
    // Without packets: what a flanneld sends before it knows its peers is lost, and nobody can ask whether it does.
    fs::write(directory.path().join("leases.toml"), "about = 'Leases.'\nsteps = [{ leases = {} }]\n")
        .expect("a suite file");
    let relay = common::relay();
    let relay = relay.to_str().expect("a path");
    let first = ["run", "leases.toml", "--failures", "failures"];
    for arguments in [&first[..], &[&first[..], &["--overlay", "flanneld", "--flanneld", relay]].concat()] {
        let run = harness(directory.path(), arguments);
        assert!(run.status.success(), "{}", printed(&run));
    }
}

#[test]
fn a_step_that_an_overlay_does_not_have_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    for (step, lacks) in [
        ("wait-route = { node = 'a', to = 'b', via = 'b' }", "vxlan has no routes that follow the leases"),
        ("expect-metric = { node = 'a', metric = 'relay_routes', at-least = 1 }", "vxlan has no metrics"),
        ("pause-relay = { node = 'a' }", "vxlan has no process"),
        ("expect-log = { node = 'a', contains = 'x' }", "vxlan has no log"),
    ] {
        fs::write(directory.path().join("case.toml"), format!("about = 'x'\nsteps = [{{ {step} }}]\n"))
            .expect("a suite file");
        let arguments = ["run", "case.toml", "--overlay", "vxlan", "--failures", "failures"];
        let run = harness(directory.path(), &arguments);
        let text = printed(&run);
        assert_eq!(run.status.code(), Some(1), "{text}");
        assert!(text.contains("case  unfit") && text.contains(lacks), "{text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_built() {
    let directory = tempfile::tempdir().expect("a directory");
    for (arguments, why) in [
        (&["record", "--overlay", "vxlan", "--to", "x.toml", "leases"][..], "snapshots are relay's"),
        (&["up", "--overlay", "plain", "--relay-flag=--v=1"], "--relay-flag says nothing to plain"),
        (&["up", "--flanneld", "/bin/true"], "--overlay flanneld"),
        (&["up", "--overlay", "flanneld", "--flanneld", "/nonexistent"], "no flanneld program"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .expect("harness starts");
        let text = printed(&run);
        assert_eq!(run.status.code(), Some(2), "{text}");
        assert!(text.contains(why), "{text}");
    }
    assert!(!directory.path().join("x.toml").exists());
}

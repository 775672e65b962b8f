//! `harness run` tells a mistake of its command line once, what a case saw that ended early, and what is known when it is
//! itself ended.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PING: &str = "about = 'A ping.'\nsteps = [{ ping = { from = 'c1', to = 'c2' } }]\n";

/// `harness run` with these arguments, in a directory.
fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(["run", "--etcd", "process", "--failures", "failures"]).args(arguments);
    command.current_dir(directory).env("RELAY", common::relay()).env("INSTA_UPDATE", "always");
    command.env_remove("CI");
    command
}

/// Its exit status, and all that it prints.
fn run(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(directory, arguments).output().expect("harness starts");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (status.code(), text(&stdout) + &text(&stderr))
}

#[test]
fn a_mistake_of_the_command_line_is_told_before_any_case_is_run() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("ping.toml"), PING).expect("a suite file");
    for (argument, told) in [
        ("--relay-flag=--ofload=none", "unexpected argument '--ofload'"),
        ("--relay-flag=b:--offload=most", "relay refuses the flags of b `--offload=most`"),
        ("--relay-flag=z:--offload=none", "no case that is to be run has a node `z`"),
        ("--sysctl=net.ipv4.no_such=1", "net.ipv4.no_such = 1"),
        ("--sysctl=kernel.panic=1", "settings of its own below net. alone"),
    ] {
        let (status, text) = run(directory.path(), &["ping.toml", argument]);
        assert!(status == Some(2) && text.contains(told) && !text.contains("1 case"), "{argument}: {text}");
    }
}

#[test]
fn a_case_that_ends_early_is_compared_with_as_much_of_its_snapshot() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("case.toml"), PING).expect("a suite file");
    let (status, text) = run(directory.path(), &["case.toml"]);
    assert_eq!(status, Some(0), "{text}");
    let broken = PING.replace(
        " }]",
        " }, { wait-route = { node = 'a', to = '10.5.99.0/24', via = 'b', within-ms = 1 } }]",
    );
    fs::write(at("case.toml"), broken).expect("a suite file");

    let told = "what was seen until then differs from its snapshot";
    let (status, text) = run(directory.path(), &["case.toml"]);
    let seen = "seen so far failures/case/actual.txt";
    assert!(status == Some(1) && text.contains("step 2, `wait-route") && text.contains(seen), "{text}");
    assert!(!text.contains(told), "{text}");

    let snapshot = fs::read_to_string(at("case.snap")).expect("a snapshot");
    fs::write(at("case.snap"), snapshot.replacen("ttl 61", "ttl 60", 1)).expect("a snapshot");
    let (_, text) = run(directory.path(), &["case.toml"]);
    let place = "first difference, in step 1, `ping c1 > c2`";
    let difference = "at b flannel0 <: expected ttl 60, got ttl 61";
    assert!([told, place, difference].iter().all(|part| text.contains(part)), "{text}");

    // Nobody has seen it yet.
    fs::remove_file(at("case.snap")).expect("a snapshot");
    let (_, text) = run(directory.path(), &["case.toml"]);
    assert!(text.contains("[1] c1 > c2  icmp echo-request") && !text.contains(told), "{text}");
}

#[test]
fn what_is_known_is_told_when_the_first_failure_ends_it() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["one.toml", "two.toml"] {
        fs::write(directory.path().join(name), "about = ''").expect("a suite file");
    }
    let (status, text) = run(directory.path(), &["one.toml", "two.toml", "--fail-fast", "--jobs", "1"]);
    assert!(status == Some(1) && text.contains("ended with the first failure"), "{text}");
    assert!(text.contains("0 passed, 1 failed"), "{text}");
}

#[test]
fn what_is_known_is_told_when_a_signal_ends_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("1.toml"), PING).expect("a suite file");
    let steps =
        "steps = [{ say = 'It waits.' }, { exec = { host = 'a', command = 'sleep 50', within-ms = 60000 } }]";
    fs::write(at("2.toml"), format!("about = 'x'\n{steps}")).expect("a suite file");
    let mut harness = command(directory.path(), &["1.toml", "2.toml", "--jobs", "1", "-v"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("harness starts");
    let mut output = BufReader::new(harness.stdout.take().expect("a pipe"));
    let mut text = String::new();
    while !text.contains("It waits.") {
        assert!(output.read_line(&mut text).expect("lines") > 0, "{text}");
    }
    let pid = Pid::from_raw(harness.id().try_into().expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("SIGTERM");
    let status = harness.wait().expect("harness is waited for");
    output.read_to_string(&mut text).expect("lines");
    assert_eq!(status.code(), Some(128 + 15), "{text}");
    let waiting = "  not finished: 2, step 2/2 exec a: sleep 50";
    assert!(text.contains("interrupted") && text.contains(waiting), "{text}");
    assert!(text.contains("1 passed, 0 failed"), "{text}");
}

#[test]
fn a_case_that_fails_while_the_machine_stands_still_is_run_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let begun = directory.path().join("begun");
    let command_line = format!("bash -c 'touch {}; sleep 0.5'", begun.display());
    let exec = format!("{{ exec = {{ host = 'a', command = \"{command_line}\" }} }}");
    let steps = format!("steps = [{{ expect = {{ within-ms = 3000, steps = [{exec}] }} }}]");
    fs::write(directory.path().join("case.toml"), format!("about = 'x'\n{steps}")).expect("a suite file");
    let harness = command(directory.path(), &["case.toml"]).stdout(Stdio::piped()).spawn();
    let harness = harness.expect("harness starts");
    let pid = Pid::from_raw(harness.id().try_into().expect("a pid"));
    while !begun.exists() {
        assert!(kill(pid, None).is_ok(), "harness has ended");
    }
    kill(pid, Signal::SIGSTOP).expect("SIGSTOP");
    std::thread::sleep(std::time::Duration::from_millis(3500));
    kill(pid, Signal::SIGCONT).expect("SIGCONT");
    let output = harness.wait_with_output().expect("harness is waited for");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("ran again: this machine stood still for "), "{text}");
}

//! `harness up` tells how to get into its hosts, tells of what ends there, and starts it again when asked to.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For what takes a second or two on a machine at rest.
const PATIENCE: Duration = Duration::from_secs(60);

struct Up {
    harness: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Up {
    fn start() -> Self {
        let mut harness = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(["up", "--etcd", "process"])
            .env("RELAY", common::relay())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("harness starts");
        let input = harness.stdin.take().expect("a pipe");
        let output = BufReader::new(harness.stdout.take().expect("a pipe"));
        let (told, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        Self { harness, input, lines }
    }

    /// All that is printed up to a line that begins so.
    fn until(&self, beginning: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no `{beginning}` after {seen:#?}")
            };
            let is_last = line.starts_with(beginning);
            seen.push(line);
            if is_last {
                return seen;
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.harness.id().try_into().expect("a pid"))
    }

    /// The child of harness whose command line has this in it.
    fn child(&self, part: &str) -> Pid {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let parent = format!("PPid:\t{}", self.pid());
        let mut children = pids.filter(|pid| {
            let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let (status, words) = (read("status"), read("cmdline"));
            String::from_utf8_lossy(&status).lines().any(|line| line == parent)
                && String::from_utf8_lossy(&words).contains(part)
        });
        Pid::from_raw(children.next().expect("it runs"))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Of a test that failed: what has ended already is no error.
        let _ = self.harness.kill();
        let _ = self.harness.wait();
    }
}

#[test]
fn a_lab_can_be_entered_and_what_ends_in_it_is_told_and_started_again() {
    let mut up = Up::start();
    let said = up.until("Ctrl-C");

    let ways: Vec<(&str, &str)> = said
        .iter()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(" nsenter "))
        .filter_map(|(host, way)| Some((host.split_whitespace().next()?, way)))
        .collect();
    for (host, address) in [("a", "172.20.0.1/24"), ("c2", "10.5.2.2/24"), ("etcd", "172.20.0.254/24")] {
        let (_, way) = ways.iter().find(|(name, _)| *name == host).expect("a way into each host");
        let script = format!("nsenter {way} ip -o -4 address show dev eth0");
        let shown = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(address), "{script}: {shown}");
    }
    let etcd = "etcdctl --endpoints=http://172.20.0.254:2379 get --prefix /coreos.com/network";
    assert!(said.iter().any(|line| line.ends_with(etcd)), "{said:#?}");

    for (part, name, how) in [
        ("/a/subnet.env", "the daemon on a", "signal 9"),
        ("/etcd\0", "etcd member etcd", "signal: 9 (SIGKILL)"),
    ] {
        kill(up.child(part), Signal::SIGKILL).expect("SIGKILL");
        let told = up.until("Enter starts it again.");
        assert!(told.contains(&format!("{name} ended by itself ({how})")), "{told:#?}");
        let mut log = told.iter().skip_while(|line| *line != "the end of its log:").skip(1);
        assert!(log.any(|line| line.starts_with("  ") && line.len() > 20), "{told:#?}");
        up.input.write_all(b"\n").expect("standard input is read");
        up.until(&format!("{name} is ready."));
    }

    // Both, and the daemon first: it needs etcd to become ready.
    for (part, told) in [("/a/subnet.env", "the daemon on a ended"), ("/etcd\0", "etcd member etcd ended")] {
        kill(up.child(part), Signal::SIGKILL).expect("SIGKILL");
        up.until(told);
    }
    up.input.write_all(b"\n").expect("standard input is read");
    up.until("etcd member etcd is ready.");
    up.until("the daemon on a is ready.");

    kill(up.pid(), Signal::SIGINT).expect("SIGINT");
    assert!(up.harness.wait().expect("harness is waited for").success());
}

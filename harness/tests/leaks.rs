//! Nothing outlives a run of the harness, however it ends.

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::relay;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything must be gone so long after the end: the reaper needs a moment, namespaces end in a kernel thread.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// For a lab to be built on a busy machine.
const RUNS_WITHIN: Duration = Duration::from_secs(60);
/// The variable that marks all processes of one run.
const MARK: &str = "HARNESS_LEAK_TEST";

/// A run of `harness`, told from all others by its mark.
struct Marked {
    mark: String,
    harness: std::process::Child,
    /// The mount namespaces of its own that it was seen in. Whatever lives in one is of this run; and all network
    /// namespaces of its labs are held by mounts there or by such processes.
    sandboxes: RefCell<BTreeSet<PathBuf>>,
}

impl Marked {
    fn start(arguments: &[&str], round: usize, output: Stdio) -> Self {
        Self::start_with(arguments, round, output, &std::env::temp_dir())
    }

    fn start_with(arguments: &[&str], round: usize, output: Stdio, temporary: &Path) -> Self {
        let mark = format!("{}-{round}", std::process::id());
        let harness = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(arguments)
            .env(MARK, &mark)
            .env("TMPDIR", temporary)
            .env("RELAY", relay())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .expect("harness starts");
        Self { mark, harness, sandboxes: RefCell::default() }
    }

    /// The processes of the run that there are now: pid and environment.
    fn processes(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir("/proc").expect("/proc is readable").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let sandbox = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = sandbox(std::process::id());
        let wanted = format!("{MARK}={}", self.mark);
        let mut found = Vec::new();
        for pid in pids {
            let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let sandbox = sandbox(pid).filter(|sandbox| Some(sandbox) != ours.as_ref());
            let marked = environment.split('\0').any(|entry| entry == wanted);
            let known = sandbox.as_ref().is_some_and(|sandbox| self.sandboxes.borrow().contains(sandbox));
            if marked {
                self.sandboxes.borrow_mut().extend(sandbox);
            }
            if marked || known {
                found.push((pid, environment));
            }
        }
        found
    }

    /// Whether a process of the run has just this command line.
    fn runs(&self, command: &str) -> bool {
        self.processes().iter().any(|(pid, _)| describe(*pid).trim_end() == format!("{pid} {command}"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.harness.id().try_into().expect("a pid")), signal).expect("a signal is sent");
    }

    /// The labels of the run's containers, as its reaper knows them.
    fn owners(&self) -> BTreeSet<String> {
        let value = |environment: &str| {
            environment.split('\0').find_map(|entry| entry.strip_prefix("HARNESS_REAPER=").map(str::to_owned))
        };
        self.processes().iter().filter_map(|(_, environment)| value(environment)).collect()
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        // Of a test that failed: what has ended already is no error.
        let _ = self.harness.kill();
        let _ = self.harness.wait();
    }
}

/// A process that is of no run.
struct Bystander(std::process::Child);

impl Bystander {
    fn start() -> Self {
        Self(
            Command::new("sleep")
                .arg("7773")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a process"),
        )
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the machine shows of labs, but for processes.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: String,
    links: BTreeSet<String>,
    named_namespaces: BTreeSet<String>,
}

fn traces() -> Traces {
    let names = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    Traces {
        mounts: fs::read_to_string("/proc/self/mounts").expect("mounts are readable"),
        links: names("/sys/class/net"),
        named_namespaces: names("/run/netns"),
    }
}

fn containers(owner: &str) -> Vec<String> {
    let filter = format!("label=harness.owner={owner}");
    let output = Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &filter]).output();
    let output =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    output.lines().map(str::to_owned).collect()
}

fn engine_answers() -> bool {
    Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success())
}

/// Waits until `left` names nothing more.
fn wait_until_gone(what: &str, left: impl Fn() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < GONE_WITHIN, "{what} left behind: {left:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < RUNS_WITHIN, "{what}: not so");
        thread::sleep(Duration::from_millis(20));
    }
}

fn assert_nothing_left(run: &Marked, owners: &BTreeSet<String>, before: &Traces) {
    wait_until_gone("processes", || run.processes().iter().map(|(pid, _)| describe(*pid)).collect());
    wait_until_gone("containers", || owners.iter().flat_map(|owner| containers(owner)).collect());
    wait_until_gone("socket directories", || {
        let owned = |name: &str| owners.iter().any(|owner| name.starts_with(owner.as_str()));
        let entries = fs::read_dir(std::env::temp_dir()).expect("temporary directory").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| owned(name))
            .collect()
    });
    assert_eq!(traces(), *before, "mounts, links or named namespaces left behind");
}

fn describe(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " "))
}

fn suites() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("suites").display().to_string()
}

#[test]
fn a_run_that_is_killed_at_any_moment_leaves_nothing_behind() {
    let before = traces();
    let kinds: &[&str] = if engine_answers() { &["process", "container"] } else { &["process"] };
    // Moments from before the first namespace to after the first cases, irregular so as not to hit one phase only.
    let moments = [3, 21, 55, 89, 144, 233, 377, 610, 987, 1597];
    let failures = std::env::temp_dir().join(format!("{MARK}-{}", std::process::id()));
    for (round, moment) in moments.into_iter().enumerate() {
        let kind = kinds[round % kinds.len()];
        let arguments = ["run", "--etcd", kind, "--failures", &failures.display().to_string(), &suites()];
        let mut run = Marked::start(&arguments, round, Stdio::null());
        let start = Instant::now();
        let mut owners = BTreeSet::new();
        // The moment itself is what is tested; until then the run's containers are looked for.
        while start.elapsed() < Duration::from_millis(moment) {
            owners.extend(run.owners());
            thread::sleep(Duration::from_millis(2));
        }
        run.harness.kill().expect("harness is killed");
        owners.extend(run.owners());
        run.harness.wait().expect("harness is waited for");
        assert_nothing_left(&run, &owners, &before);
    }
    let _ = fs::remove_dir_all(failures);
}

#[test]
fn what_a_program_has_started_ends_with_a_run_that_is_killed() {
    let before = traces();
    let directory = tempfile::tempdir().expect("a directory");
    let suite = directory.path().join("case.toml");
    // One that its parent waits for, and one in a session of its own, with nothing of the run's in its environment.
    let command = "bash -c 'setsid env --ignore-environment sleep 7771 & sleep 7772; true'";
    let step = format!("[[steps]]\nexec = {{ host = \"a\", command = \"{command}\", within-ms = 60000 }}\n");
    fs::write(&suite, format!("about = \"A program starts others.\"\n\n{step}")).expect("a suite file");
    let failures = directory.path().join("failures").display().to_string();
    let suite = suite.display().to_string();
    // Outside of the lab, and nobody's to kill.
    let mut bystander = Bystander::start();
    let arguments = ["run", "--etcd", "process", "--failures", &failures, &suite];
    let mut run = Marked::start(&arguments, 200, Stdio::null());
    wait_until("the programs run", || run.runs("sleep 7771") && run.runs("sleep 7772"));
    run.harness.kill().expect("harness is killed");
    run.harness.wait().expect("harness is waited for");
    assert_nothing_left(&run, &BTreeSet::new(), &before);
    let ended = bystander.0.try_wait().expect("bystander is looked after");
    assert!(ended.is_none(), "a process outside of the lab was killed");
}

#[test]
fn a_recording_that_is_ended_leaves_no_draft_behind() {
    let before = traces();
    let temporary = tempfile::tempdir().expect("a directory");
    let arguments = ["record", "--etcd", "process", "exec", "a", "sleep 7774"];
    let mut run = Marked::start_with(&arguments, 300, Stdio::null(), temporary.path());
    let entries = || -> Vec<String> {
        let entries = fs::read_dir(temporary.path()).expect("the directory is there").flatten();
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    wait_until("the program runs", || run.runs("sleep 7774"));
    assert_eq!(entries().len(), 1, "there is a draft");
    run.signal(Signal::SIGTERM);
    run.harness.wait().expect("harness is waited for");
    assert_nothing_left(&run, &BTreeSet::new(), &before);
    wait_until_gone("drafts", entries);
}

#[test]
fn a_lab_that_is_interrupted_leaves_nothing_behind() {
    let before = traces();
    let mut run = Marked::start(&["up", "--etcd", "process"], 100, Stdio::piped());
    let output = BufReader::new(run.harness.stdout.take().expect("a pipe"));
    let stands = output.lines().map_while(Result::ok).any(|line| line.starts_with("Ctrl-C"));
    assert!(stands, "the lab does not come up");
    let count = run.processes().len();
    assert!(count >= 5, "harness, its reaper, two relays and etcd run: {count}");
    run.signal(Signal::SIGINT);
    let status = run.harness.wait().expect("harness is waited for");
    assert!(status.success(), "{status}");
    assert_nothing_left(&run, &BTreeSet::new(), &before);
}

//! The end after SIGTERM, of the real program in a network of its own: in bounded time, whatever hangs.
//!
//! Each test starts `unshare`, which makes namespaces for network and processes; all that it starts ends with it.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

use std::{
    fs,
    io::Read,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// A relay that does not end is given up after this; one that ends takes two seconds at most, on a machine at rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// A link that swallows all that is sent, and nothing else.
const UNDERLAY: &str = "ip link set lo up && ip link add u0 type veth peer u1 && ip link set u1 up \
                        && ip address add 192.0.2.1/24 dev u0 && ip link set u0 arp off up";

/// A shell in namespaces of its own.
struct Shell {
    child: Child,
    output: ChildStdout,
    directory: tempfile::TempDir,
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shell {
    /// Runs `script` after [`UNDERLAY`], with `$RELAY` as the program, in a directory of its own.
    fn start(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("unshare")
            .args(["--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", "-c", &format!("{UNDERLAY} || exit; {script}")])
            .env("RELAY", env!("CARGO_BIN_EXE_relay"))
            .env("RUST_LOG", "info")
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        Self { child, output, directory }
    }

    /// What the script printed, once it has ended; panics with the log when it does not.
    fn printed(&mut self) -> String {
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "not ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut printed = String::new();
        self.output.read_to_string(&mut printed).unwrap();
        printed.trim_end().to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// Waits for a line of the relay's log, then sends SIGTERM, and prints the exit code.
fn then_terminate(line: &str) -> String {
    format!("until grep -q '{line}' log; do sleep 0.02; done; kill -TERM $!; wait $!; echo $?")
}

#[test]
fn an_etcd_that_cannot_be_reached_holds_up_nothing() {
    let script = "$RELAY --iface=u0 --subnet-file=subnet.env --etcd-endpoints=http://192.0.2.9:2379 2>log & ";
    let mut shell = Shell::start(&(script.to_owned() + &then_terminate("underlay chosen")));
    assert_eq!(shell.printed(), "0", "{}", shell.log());
}

/// What makes a registry of two nodes, this one the first, in `registry.toml`.
const REGISTRY: &str = "printf '%s\\n' '[config]' 'Network = \"10.5.0.0/16\"' '[subnets]' \
                        '\"10.5.1.0/24\" = \"192.0.2.1\"' '\"10.5.2.0/24\" = \"192.0.2.2\"' >registry.toml";

/// The program with that registry.
const RELAY: &str = "$RELAY --iface=u0 --subnet-file=subnet.env --registry=file:registry.toml \
                     --iptables-forward-rules=false";

#[test]
fn a_flood_out_of_the_tun_holds_up_nothing() {
    let script = format!(
        "{REGISTRY}; \
         flood() {{ until ip route get 10.5.2.2 | grep flannel0; do sleep 0.02; done; exec 9>/dev/udp/10.5.2.2/9; \
                    while :; do printf '%01400d' 0 >&9; done; }} >/dev/null 2>&1; \
         flood & flood & \
         {RELAY} 2>log & relay=$!; \
         until $RELAY status --subnet-file=subnet.env 2>/dev/null | grep -q 'outbound *[0-9][0-9][0-9]'; do \
             kill -0 $relay || break; sleep 0.02; done; \
         kill -TERM $relay; wait $relay; echo $?; ip link show flannel0 2>&1; cat subnet.env"
    );
    let mut shell = Shell::start(&script);
    let rest = shell.printed();
    let (code, rest) = rest.split_once('\n').unwrap_or((&rest, ""));
    assert_eq!(code, "0", "{}", shell.log());
    assert!(rest.contains("does not exist") && rest.contains("FLANNEL_SUBNET=10.5.1.1/24"), "{rest}");
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_packets_nor_the_end() {
    // A pipe that is full before the first line.
    let script = format!(
        "mkfifo unread; exec 8<>unread; dd if=/dev/zero of=unread bs=4096 oflag=nonblock 2>/dev/null; {REGISTRY}; \
         {RELAY} 2>unread & relay=$!; \
         until ip route get 10.5.2.2 2>/dev/null | grep -q flannel0; do sleep 0.02; done; exec 9>/dev/udp/10.5.2.2/9; \
         until $RELAY status --subnet-file=subnet.env 2>/dev/null | grep -q 'outbound *[0-9]*[1-9]'; do \
             printf x >&9; sleep 0.02; done; \
         kill -TERM $relay; wait $relay; echo $?"
    );
    assert_eq!(Shell::start(&script).printed(), "0");
}

#[test]
fn an_event_loop_that_is_stuck_holds_up_the_end_for_a_while_only() {
    // It reads the subnet file, which is a pipe that nothing comes out of: opening the other end waits for it to be there.
    let script = format!(
        "{REGISTRY}; mkfifo subnet.env; {RELAY} 2>log & relay=$!; exec 9>subnet.env; \
         kill -TERM $relay; wait $relay; echo $?"
    );
    let mut shell = Shell::start(&script);
    assert_eq!(shell.printed(), "1", "{}", shell.log());
    assert!(shell.log().contains("not stopped in time"), "{}", shell.log());
}

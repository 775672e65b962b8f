//! The real program, in a network of its own.
//!
//! Each test starts `unshare`, which makes namespaces for network and processes; all that it starts ends with it.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

mod lease;
mod rules;
mod stop;

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

/// What makes a registry of two nodes, this one the first, in `registry.toml`.
const REGISTRY: &str = "printf '%s\\n' '[config]' 'Network = \"10.5.0.0/16\"' '[subnets]' \
                        '\"10.5.1.0/24\" = \"192.0.2.1\"' '\"10.5.2.0/24\" = \"192.0.2.2\"' >registry.toml";

/// The program with that registry.
const RELAY: &str = "$RELAY --iface=u0 --subnet-file=subnet.env --registry=file:registry.toml \
                     --iptables-forward-rules=false";

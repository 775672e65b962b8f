//! TCP by iperf3.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Error, system};
use crate::netns::Namespace;

/// The server's port, iperf3's own.
const PORT: u16 = 5201;
/// For the server to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);

/// Which way the streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client.
    Forward,
    /// To the client.
    Reverse,
    /// As many each way at once.
    Both,
}

/// A server for one client, since one that has just served may still be busy. Ended when dropped.
struct Server(Child);

impl Server {
    /// Starts it in `namespace` and waits until it listens.
    fn start(namespace: &Namespace) -> Result<Self, Error> {
        let child = namespace
            .command("iperf3")
            .args(["--server", "--version4"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(system("starting iperf3 (install it, by `ci/bench` or by hand)"))?;
        let server = Self(child);
        let start = Instant::now();
        // Local address 0.0.0.0, the port, any peer, state TCP_LISTEN (proc_pid_net(5)).
        let listening = format!(" 00000000:{PORT:04X} 00000000:0000 0A ");
        while start.elapsed() < LISTENS_WITHIN {
            let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?;
            if sockets.is_ok_and(|sockets| sockets.contains(&listening)) {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Error::Wrong(format!("iperf3 did not listen on port {PORT} within {LISTENS_WITHIN:?}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that runs, with its server.
pub(crate) struct Streams {
    client: Child,
    _server: Server,
}

/// What it says at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Done {
    /// What the receivers got, in Gbit/s, both ways together.
    pub(crate) gigabits_per_second: f64,
    /// The same, in Gbit.
    pub(crate) gigabits: f64,
    /// Segments that were sent again.
    pub(crate) retransmits: u64,
}

impl Streams {
    /// Starts both. To be called by a thread that lives as long as they do.
    pub(crate) fn start(
        from: &Namespace,
        (to, address): (&Namespace, Ipv4Addr),
        streams: u32,
        way: Way,
        seconds: u64,
    ) -> Result<Self, Error> {
        let server = Server::start(to)?;
        let mut command = from.command("iperf3");
        command.args(["--json", "--client", &address.to_string()]);
        command.args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()]);
        match way {
            Way::Forward => {}
            Way::Reverse => drop(command.arg("--reverse")),
            Way::Both => drop(command.arg("--bidir")),
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self { client: command.spawn().map_err(system("starting iperf3"))?, _server: server })
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Result<Done, Error> {
        let output = self.client.wait_with_output().map_err(system("reading what iperf3 says"))?;
        let text: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
            Error::Wrong(format!("iperf3 ended with {} and no JSON: {error}", output.status))
        })?;
        if let Some(error) = text.get("error").and_then(Value::as_str) {
            return Err(Error::Wrong(format!("iperf3: {error}")));
        }
        Ok(Done::read(&text))
    }
}

impl Done {
    fn read(text: &Value) -> Self {
        let number = |sum: &str, key: &str| {
            let value = text.get("end").and_then(|end| end.get(sum)?.get(key)?.as_f64());
            value.unwrap_or(0.0)
        };
        let received = ["sum_received", "sum_received_bidir_reverse"];
        let total = |key| received.iter().map(|sum| number(sum, key)).sum::<f64>();
        let sent = ["sum_sent", "sum_sent_bidir_reverse"];
        Self {
            gigabits_per_second: total("bits_per_second") / 1e9,
            gigabits: total("bytes") * 8.0 / 1e9,
            retransmits: sent.iter().map(|sum| number(sum, "retransmits")).sum::<f64>() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_summed() {
        let text = serde_json::json!({"end": {
            "sum_sent": {"retransmits": 2, "bits_per_second": 9e9, "bytes": 9},
            "sum_received": {"bits_per_second": 1e9, "bytes": 250e6},
            "sum_sent_bidir_reverse": {"retransmits": 3},
            "sum_received_bidir_reverse": {"bits_per_second": 2e9, "bytes": 500e6},
        }});
        let done = Done { gigabits_per_second: 3.0, gigabits: 6.0, retransmits: 5 };
        assert_eq!(Done::read(&text), done);
    }
}

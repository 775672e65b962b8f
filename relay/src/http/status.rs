//! What a person asks of a running daemon: `relay status` and `relay routes`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// This node's part of the overlay, once it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The whole overlay network.
    pub network: Ipv4Net,
    /// The subnet leased by this node.
    pub subnet: Ipv4Net,
    /// The address at which other nodes reach it.
    pub public_ip: Ipv4Addr,
    /// The interface that carries the tunnel.
    pub interface: String,
    /// Where the tunnel's socket is bound.
    pub bound: SocketAddrV4,
    /// The TUN device.
    pub device: String,
    /// Its MTU in octets.
    pub mtu: u32,
}

/// How the registry is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// Whether the watch is running.
    pub connected: bool,
    /// The revision that the route table reflects.
    pub revision: i64,
    /// Times that the watch had to be set up again.
    pub reconnects: u64,
    /// Entries that could not be used.
    pub skipped: u64,
}

/// This node's lease in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Seconds since it was last written.
    pub age_seconds: u64,
    /// Seconds until it ends unless renewed; none for a reservation.
    pub ends_in_seconds: Option<u64>,
}

/// Packets that took one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Taken in.
    pub packets_in: u64,
    /// Passed on.
    pub packets_out: u64,
    /// Ended here, by reason; those that never happened are left out.
    pub drops: Vec<(String, u64)>,
}

/// The state of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// Why it is not ready, if it is not.
    pub not_ready: Option<String>,
    /// Its part of the overlay.
    pub node: Option<Node>,
    /// Its lease.
    pub lease: Option<LeaseStatus>,
    /// The registry.
    pub registry: RegistryStatus,
    /// Routes to other nodes.
    pub routes: usize,
    /// From the TUN to other nodes.
    pub outbound: Way,
    /// From other nodes to the TUN.
    pub inbound: Way,
}

/// One line of `relay routes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The node that has it.
    pub public_ip: Ipv4Addr,
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padding applies to text, not to what displays itself in parts.
        write!(formatter, "{:<18}  {}", self.subnet.to_string(), self.public_ip)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(formatter, "{name:<10}{text}");
        line(
            "state",
            self.not_ready.as_ref().map_or("ready".into(), |reason| format!("not ready: {reason}")),
        )?;
        line("version", format!("{}, up {}", self.version, span(self.uptime_seconds)))?;
        if let Some(node) = &self.node {
            line("network", node.network.to_string())?;
            line("subnet", node.subnet.to_string())?;
            line("device", format!("{}, mtu {}", node.device, node.mtu))?;
            line(
                "underlay",
                format!("{} on {}, advertised as {}", node.bound, node.interface, node.public_ip),
            )?;
        }
        if let Some(lease) = &self.lease {
            let end = lease
                .ends_in_seconds
                .map_or("reserved".into(), |seconds| format!("ends in {}", span(seconds)));
            line(
                "lease",
                format!("written {} ago, {end} unless renewed", span(lease.age_seconds))
                    .replace("reserved unless renewed", "reserved"),
            )?;
        }
        let registry = &self.registry;
        let connected = if registry.connected { "connected" } else { "not connected" };
        line(
            "registry",
            format!(
                "{connected}, revision {}, {} reconnects, {} entries skipped",
                registry.revision, registry.reconnects, registry.skipped
            ),
        )?;
        line("routes", self.routes.to_string())?;
        for (name, way) in [("outbound", &self.outbound), ("inbound", &self.inbound)] {
            let drops: u64 = way.drops.iter().map(|(_, count)| count).sum();
            line(name, format!("{} packets in, {} out, {drops} dropped", way.packets_in, way.packets_out))?;
            for (reason, count) in &way.drops {
                line("", format!("  {count} {reason}"))?;
            }
        }
        Ok(())
    }
}

/// A length of time to two units.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0".into(),
            uptime_seconds: 3725,
            not_ready: None,
            node: Some(Node {
                network: "10.5.0.0/16".parse().unwrap(),
                subnet: "10.5.1.0/24".parse().unwrap(),
                public_ip: Ipv4Addr::new(192, 0, 2, 1),
                interface: "eth0".into(),
                bound: "192.0.2.1:8285".parse().unwrap(),
                device: "flannel0".into(),
                mtu: 1472,
            }),
            lease: Some(LeaseStatus { age_seconds: 59, ends_in_seconds: Some(86_341) }),
            registry: RegistryStatus { connected: true, revision: 7, reconnects: 0, skipped: 1 },
            routes: 2,
            outbound: Way { packets_in: 5, packets_out: 4, drops: vec![("no-route".into(), 1)] },
            inbound: Way { packets_in: 0, packets_out: 0, drops: Vec::new() },
        }
    }

    #[test]
    fn the_state_is_readable() {
        let text = "\
state     ready
version   0.1.0, up 1 h 2 min
network   10.5.0.0/16
subnet    10.5.1.0/24
device    flannel0, mtu 1472
underlay  192.0.2.1:8285 on eth0, advertised as 192.0.2.1
lease     written 59 s ago, ends in 23 h 59 min unless renewed
registry  connected, revision 7, 0 reconnects, 1 entries skipped
routes    2
outbound  5 packets in, 4 out, 1 dropped
            1 no-route
inbound   0 packets in, 0 out, 0 dropped
";
        assert_eq!(status().to_string(), text);
    }

    #[test]
    fn the_state_survives_json() {
        let json = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    }
}

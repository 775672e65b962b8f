//! What the daemon counts, as Prometheus text (exposition format 0.0.4).

use std::{
    fmt::{Display, Write},
    num::NonZeroUsize,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{
    Health, kernel,
    status::{Node, RegistryStatus, Route, Status, Way},
};
use crate::{
    datapath::{
        counters::{Bulk, Counters, Direction, DropReason, ICMP_TYPES, IcmpSuppressed, Unexpected},
        routes::Routes,
    },
    registry::follow::FollowStats,
};

/// Where the numbers come from.
#[derive(Debug)]
pub struct Sources {
    /// Whether the daemon is ready.
    pub health: Arc<Health>,
    /// The data path's counts.
    pub counters: Arc<Counters>,
    /// The registry's state.
    pub follow: Arc<FollowStats>,
    /// The route table, once the network is known.
    pub routes: OnceLock<Arc<Routes>>,
    /// This node's part of the overlay, once it has one.
    pub node: Mutex<Option<Node>>,
    started: Instant,
}

impl Sources {
    /// All counts zero, of so many queues, and no routes yet.
    #[must_use]
    pub fn new(health: Arc<Health>, queues: NonZeroUsize) -> Self {
        Self {
            health,
            counters: Arc::new(Counters::new(queues)),
            follow: Arc::default(),
            routes: OnceLock::new(),
            node: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// The route table, in order of subnet.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let routes = self.routes.get().map(|routes| routes.list()).unwrap_or_default();
        routes.into_iter().map(|(subnet, public_ip)| Route { subnet, public_ip }).collect()
    }

    /// The daemon's state.
    #[must_use]
    pub fn status(&self) -> Status {
        let routes = self.routes.get();
        let way = |direction: &Direction, reasons: &[DropReason]| Way {
            packets_in: direction.packets_in.get(),
            packets_out: direction.packets_out.get(),
            drops: reasons
                .iter()
                .map(|reason| (reason.name().to_owned(), direction.drops(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            not_ready: self.health.not_ready(),
            node: self.node.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            lease: self.health.lease(),
            registry: RegistryStatus {
                connected: self.follow.connected.load(Relaxed),
                revision: routes.map_or(0, |routes| routes.revision()),
                reconnects: self.follow.reconnects.load(Relaxed),
                skipped: self.follow.skipped.load(Relaxed),
            },
            routes: routes.map_or(0, |routes| routes.len()),
            outbound: way(&self.counters.outbound(), DropReason::OUTBOUND),
            inbound: way(&self.counters.inbound(), DropReason::INBOUND),
        }
    }

    /// All metrics as text.
    #[must_use]
    pub fn render(&self) -> String {
        self.page(Page::default())
    }

    /// The names of all metrics, their labels and what they are, as [`Sources::render`] has them at any time.
    #[must_use]
    pub fn names() -> String {
        let nothing = Self::new(Arc::new(Health::starting("")), NonZeroUsize::MIN);
        nothing.page(Page { only_names: true, ..Page::default() })
    }

    fn page(&self, mut page: Page) -> String {
        let (outbound, inbound) = (&self.counters.outbound(), &self.counters.inbound());
        for (place, what, packets, bytes) in [
            ("tun_read", "read from the TUN", &outbound.packets_in, &outbound.bytes_in),
            ("udp_sent", "sent to other nodes", &outbound.packets_out, &outbound.bytes_out),
            ("udp_received", "received on the tunnel's port", &inbound.packets_in, &inbound.bytes_in),
            ("tun_written", "written to the TUN", &inbound.packets_out, &inbound.bytes_out),
        ] {
            page.single(
                &format!("relay_{place}_packets_total"),
                "counter",
                &format!("Packets {what}."),
                packets.get(),
            );
            page.single(
                &format!("relay_{place}_bytes_total"),
                "counter",
                &format!("Octets of packets {what}."),
                bytes.get(),
            );
        }

        let drops = "relay_drops_total";
        page.head(drops, "counter", "Packets that ended in the relay, by reason.");
        for (name, direction, reasons) in
            [("outbound", outbound, DropReason::OUTBOUND), ("inbound", inbound, DropReason::INBOUND)]
        {
            for reason in reasons {
                let labels = format!(r#"direction="{name}",reason="{}""#, reason.name());
                page.labelled(drops, &labels, direction.drops(*reason));
            }
        }

        let sent = "relay_icmp_sent_total";
        page.head(sent, "counter", "ICMP errors sent to the sources of rejected packets.");
        for (index, name) in ICMP_TYPES.iter().enumerate() {
            let count = outbound.icmp_sent()[index] + inbound.icmp_sent()[index];
            page.labelled(sent, &format!(r#"type="{name}""#), count);
        }
        let suppressed = "relay_icmp_suppressed_total";
        page.head(suppressed, "counter", "ICMP errors that were not sent.");
        for (index, cause) in IcmpSuppressed::ALL.iter().enumerate() {
            let count = outbound.icmp_suppressed()[index] + inbound.icmp_suppressed()[index];
            page.labelled(suppressed, &format!(r#"cause="{}""#, cause.name()), count);
        }

        page.single(
            "relay_udp_fragmented_packets_total",
            "counter",
            "Packets among those sent to other nodes that were longer than the path and went in fragments.",
            outbound.fragmented.get(),
        );
        let unexpected = "relay_ecn_unexpected_total";
        page.head(
            unexpected,
            "counter",
            "Packets let in although their ECN field and their datagram's do not go together.",
        );
        for pair in Unexpected::ALL {
            page.labelled(unexpected, &format!(r#"pair="{}""#, pair.name()), inbound.unexpected(pair));
        }

        let in_use = "relay_offload_in_use";
        page.head(in_use, "gauge", "Whether the kernel handles this many packets at a time.");
        for kind in Bulk::ALL {
            let labels = format!(r#"kind="{}""#, kind.name());
            page.labelled(in_use, &labels, u8::from(self.counters.in_use(kind)));
        }

        let routes = self.routes.get();
        page.single("relay_routes", "gauge", "Routes in the table.", routes.map_or(0, |routes| routes.len()));
        page.single(
            "relay_registry_revision",
            "gauge",
            "Registry revision that the route table reflects.",
            routes.map_or(0, |routes| routes.revision()),
        );
        let connected = u8::from(self.follow.connected.load(Relaxed));
        page.single(
            "relay_registry_connected",
            "gauge",
            "Whether the watch on the registry is running.",
            connected,
        );
        for (name, help, count) in [
            (
                "reconnects",
                "Times that the watch on the registry had to be set up again.",
                &self.follow.reconnects,
            ),
            ("lists", "Times that all leases were listed.", &self.follow.lists),
            ("skipped", "Registry entries that could not be used.", &self.follow.skipped),
        ] {
            page.single(&format!("relay_registry_{name}_total"), "counter", help, count.load(Relaxed));
        }
        let lease = self.health.lease();
        let help = "Seconds since this node's lease was written.";
        page.optional("relay_lease_age_seconds", "gauge", help, lease.map(|lease| lease.age_seconds));
        let help = "Seconds until this node's lease ends unless renewed.";
        let left = lease.and_then(|lease| lease.ends_in_seconds);
        page.optional("relay_lease_ends_in_seconds", "gauge", help, left);
        let ready = u8::from(self.health.not_ready().is_none());
        page.single("relay_ready", "gauge", "Whether the daemon is ready.", ready);
        self.kernel(&mut page);
        page.text
    }

    /// What only the kernel knows.
    fn kernel(&self, page: &mut Page) {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dropped = [
            ("tun", node.as_ref().and_then(|node| kernel::dropped_by_device(&node.device))),
            ("udp", node.as_ref().and_then(|node| kernel::dropped_by_sockets(node.bound.port()))),
        ];
        if node.is_some() || page.only_names {
            let drops = "relay_kernel_drops_total";
            page.head(
                drops,
                "counter",
                "Packets that the kernel dropped before the daemon could take them in.",
            );
            for (at, count) in dropped {
                if let Some(count) = count.or(page.only_names.then_some(0)) {
                    page.labelled(drops, &format!(r#"at="{at}""#), count);
                }
            }
        }
        let help = "Processor time taken, by the process and by the kernel for it.";
        page.optional("process_cpu_seconds_total", "counter", help, kernel::processor_seconds());
        page.optional("process_resident_memory_bytes", "gauge", "Memory in use.", kernel::resident_bytes());
        let help = "File descriptors that are open.";
        page.optional("process_open_fds", "gauge", help, kernel::open_descriptors());
    }
}

#[derive(Default)]
struct Page {
    text: String,
    /// Samples are without values, and none is left out.
    only_names: bool,
}

impl Page {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(format_args!("{name}"), value);
    }

    /// One that is absent while nothing is known.
    fn optional(&mut self, name: &str, kind: &str, help: &str, value: Option<impl Display + Default>) {
        if value.is_some() || self.only_names {
            self.single(name, kind, help, value.unwrap_or_default());
        }
    }

    fn labelled(&mut self, name: &str, labels: &str, value: impl Display) {
        self.sample(format_args!("{name}{{{labels}}}"), value);
    }

    fn sample(&mut self, name: std::fmt::Arguments<'_>, value: impl Display) {
        if self.only_names {
            self.line(name);
        } else {
            self.line(format_args!("{name} {value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drop_reason_is_shown_with_zero_before_it_happens() {
        let sources = Sources::new(Arc::new(Health::starting("test")), NonZeroUsize::MIN);
        let text = sources.render();
        for reason in DropReason::OUTBOUND {
            let line =
                format!("relay_drops_total{{direction=\"outbound\",reason=\"{}\"}} 0\n", reason.name());
            assert!(text.contains(&line), "{line}");
        }
        for reason in DropReason::INBOUND {
            let line = format!("relay_drops_total{{direction=\"inbound\",reason=\"{}\"}} 0\n", reason.name());
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn the_names_are_those_of_the_samples_and_those_that_may_be_absent() {
        let sources = Sources::new(Arc::new(Health::starting("test")), NonZeroUsize::MIN);
        let names = Sources::names();
        let named: Vec<&str> = names.lines().collect();
        for line in sources.render().lines() {
            let line = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
            assert!(named.contains(&line), "{line}");
        }
        for absent in [
            "relay_lease_age_seconds",
            "relay_lease_ends_in_seconds",
            r#"relay_kernel_drops_total{at="tun"}"#,
        ] {
            assert!(named.contains(&absent) && !sources.render().contains(absent), "{absent}");
        }
    }

    #[test]
    fn counts_appear_under_the_names_that_dashboards_know() {
        let sources = Sources::new(Arc::new(Health::starting("test")), NonZeroUsize::MIN);
        sources.counters.queues[0].outbound.received(1, 100);
        sources.counters.queues[0].outbound.received(1, 50);
        sources.counters.queues[0].outbound.passed(1, 100);
        sources.counters.queues[0].outbound.dropped(DropReason::NoRoute, 1);
        let text = sources.render();
        for line in [
            "relay_tun_read_packets_total 2",
            "relay_tun_read_bytes_total 150",
            "relay_udp_sent_packets_total 1",
            "relay_udp_sent_bytes_total 100",
            "relay_udp_received_packets_total 0",
            "relay_tun_written_packets_total 0",
            r#"relay_drops_total{direction="outbound",reason="no-route"} 1"#,
            r#"relay_icmp_sent_total{type="net-unreachable"} 0"#,
            "relay_routes 0",
            "relay_registry_revision 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
    }
}

//! From what one relay costs etcd to what a cluster does.

use super::cost::{Event, Idle};
use crate::bench::figure::{Figure, Section};

/// Seconds between two renewals of a lease with the default flags: a life of 24 h, renewed an hour before its end.
const RENEWED_EVERY: f64 = 23.0 * 3600.0;
/// Requests of a renewal: grant an etcd lease, put the key, look at the old etcd lease, revoke it.
const REQUESTS: f64 = 4.0;

/// What was measured of one relay.
#[derive(Debug)]
pub(super) struct Costs {
    /// Octets that it receives in a start.
    pub(super) list: u64,
    /// Doing nothing.
    pub(super) idle: Idle,
    /// For an event.
    pub(super) event: Event,
    /// Octets received and sent for a renewal.
    pub(super) renewal: (f64, f64),
}

impl Costs {
    /// On one relay's link.
    pub(super) fn section(&self) -> Section {
        let both = |(received, sent): (f64, f64)| received + sent;
        let figures = vec![
            Figure::new("list_octets", "a start: all leases listed, received", self.list as f64, "octets"),
            Figure::new("event_octets", "an event alone, to the relay", self.event.single.0, "octets"),
            Figure::new("event_back_octets", "                and back", self.event.single.1, "octets"),
            Figure::new(
                "event_batched_octets",
                "an event among others, to the relay",
                self.event.batched.0,
                "octets",
            ),
            Figure::new(
                "renewal_octets",
                "a renewal, both ways, its own event included",
                both(self.renewal),
                "octets",
            ),
            Figure::new(
                "idle_octets",
                "an idle second, both ways",
                both(self.idle.wire_per_second()),
                "octets",
            ),
        ];
        Section { title: "One relay and etcd, octets on the link with all headers".to_owned(), figures }
    }

    /// Of so many nodes together, computed.
    pub(super) fn of_cluster(&self, nodes: u32) -> Section {
        let n = f64::from(nodes);
        let renewals = n / RENEWED_EVERY;
        let deliveries = renewals * n;
        let (to, back) = self.event.single;
        let megabits = |octets: f64| octets * 8.0 / 1e6;
        let (idle_in, idle_out) = self.idle.wire_per_second();
        let figures = vec![
            Figure::new("cluster_watches", "watch streams", n, ""),
            Figure::new("cluster_renewals", "renewals a second", renewals, "1/s"),
            Figure::new("cluster_requests", "  requests a second for them", renewals * REQUESTS, "1/s"),
            Figure::new(
                "cluster_renewal_mbit",
                "  traffic for them",
                megabits(renewals * (self.renewal.0 + self.renewal.1)),
                "Mbit/s",
            ),
            Figure::new("cluster_events", "events delivered a second", deliveries, "1/s"),
            Figure::new(
                "cluster_event_mbit",
                "  traffic for them, out of etcd",
                megabits(deliveries * to),
                "Mbit/s",
            ),
            Figure::new(
                "cluster_back_mbit",
                "                     into etcd",
                megabits(deliveries * back),
                "Mbit/s",
            ),
            Figure::new(
                "cluster_idle_mbit",
                "keeping idle connections, both ways",
                megabits(n * (idle_in + idle_out)),
                "Mbit/s",
            ),
            Figure::new("cluster_change_mbit", "one lease changes: sent to all", megabits(n * to), "Mbit"),
            Figure::new(
                "cluster_start_gb",
                "all start at once: lists sent",
                n * self.list as f64 / 1e9,
                "GB",
            ),
        ];
        Section { title: format!("A cluster of {nodes} nodes and etcd, computed from these"), figures }
    }
}

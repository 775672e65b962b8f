//! Reading a daemon's `/metrics`: the Prometheus text format, as much of it as counters need.

use std::collections::BTreeMap;

use super::{Counters, DropCause, Way};

/// One sample: a metric's name, its labels and its value.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: &'a str,
}

impl<'a> Sample<'a> {
    /// `name{label="value",…} value` or `name value`; none for comments and blank lines.
    fn parse(line: &'a str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.trim().rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        Some(Self { name, labels, value })
    }

    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key.trim() == name).then(|| value.trim_matches('"'))
        })
    }

    fn count(&self) -> u64 {
        self.value.parse().unwrap_or(0)
    }
}

impl Counters {
    /// Reads the relay's metrics. Metrics of other names are passed over.
    pub(super) fn from_metrics(text: &str) -> Self {
        let mut counters = Self::default();
        for sample in text.lines().filter_map(Sample::parse) {
            match sample.name {
                "relay_tun_read_packets_total" => counters.device_read = sample.count(),
                "relay_udp_sent_packets_total" => counters.sent = sample.count(),
                "relay_udp_received_packets_total" => counters.received = sample.count(),
                "relay_tun_written_packets_total" => counters.device_written = sample.count(),
                "relay_registry_revision" => counters.revision = sample.value.parse().unwrap_or(0),
                "relay_icmp_sent_total" => {
                    if let Some(kind) = sample.label("type") {
                        counters.icmp.insert(kind.to_owned(), sample.count());
                    }
                }
                "relay_drops_total" => {
                    let way = match sample.label("direction") {
                        Some("outbound") => Way::Outbound,
                        Some("inbound") => Way::Inbound,
                        _ => continue,
                    };
                    let Some(reason) = sample.label("reason") else { continue };
                    counters.drops.insert(DropCause { way, reason: reason.to_owned() }, sample.count());
                }
                _ => {}
            }
        }
        counters
    }
}

/// The values of all samples whose metric is a counter, by the metric's name with its labels.
pub(super) fn totals(text: &str) -> BTreeMap<String, f64> {
    let mut counter = None;
    let mut totals = BTreeMap::new();
    for line in text.lines() {
        // It stands before the metric's samples.
        if let Some(metric) = line.strip_prefix("# TYPE ") {
            counter = metric.strip_suffix(" counter");
        }
        if Sample::parse(line).is_some_and(|sample| counter == Some(sample.name))
            && let Some((series, value)) = line.trim().rsplit_once(' ')
            && let Ok(value) = value.parse()
        {
            totals.insert(series.to_owned(), value);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name_and_label() {
        let text = "# HELP relay_drops_total Packets dropped.\n# TYPE relay_drops_total counter\n\
                    relay_drops_total{direction=\"outbound\",reason=\"no-route\"} 3\n\
                    relay_drops_total{direction=\"inbound\",reason=\"ttl-expired\"} 1\n\
                    relay_tun_read_packets_total 10\nrelay_registry_revision 42\n\
                    relay_icmp_sent_total{type=\"net-unreachable\"} 2\nother 9\n";
        let counters = Counters::from_metrics(text);
        assert_eq!(counters.device_read, 10);
        assert_eq!(counters.revision, 42);
        assert_eq!(counters.dropped(Way::Outbound), 3);
        assert_eq!(counters.dropped(Way::Inbound), 1);
        assert_eq!(counters.icmp["net-unreachable"], 2);
        let cause = DropCause { way: Way::Outbound, reason: "no-route".to_owned() };
        assert_eq!(counters.drops_since(&Counters::default())[0], (cause, 3));
    }

    #[test]
    fn what_counts_is_told_from_what_rises_and_falls() {
        let text = "# HELP relay_drops_total Packets dropped.\n# TYPE relay_drops_total counter\n\
                    relay_drops_total{direction=\"outbound\",reason=\"no-route\"} 3\n\
                    # TYPE relay_routes gauge\nrelay_routes 7\n\
                    # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 0.5\n";
        let expected = [
            ("process_cpu_seconds_total", 0.5),
            (r#"relay_drops_total{direction="outbound",reason="no-route"}"#, 3.0),
        ];
        assert_eq!(totals(text), expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}

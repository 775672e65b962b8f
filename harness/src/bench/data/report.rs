//! What all rounds showed: medians, how far they spread, and how they compare.

use serde::Serialize;

use super::cell::Samples;
use super::metric::{METRICS, Metric};
use super::{NO_OFFLOAD, REFERENCE, RELAY};
use crate::bench::chart;
use crate::bench::figure::{Aim, Figure, Section, number, table};
use crate::bench::machine::{Machine, load};
use crate::bench::statistics::Sorted;

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// The load average over a minute, when the run had ended.
    pub load_at_the_end: f64,
    /// How many there were.
    pub rounds: u32,
    /// The overlays, in the order in which they took turns.
    pub contenders: Vec<String>,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What the relay is to reach, and what it has.
    pub aims: Section,
}

/// One metric of all contenders.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What it is.
    #[serde(flatten)]
    pub metric: Metric,
    /// For each contender, in the order of the report's; none for one that has no such thing.
    pub results: Vec<Option<Outcome>>,
}

/// One metric of one contender.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Of all rounds.
    pub median: f64,
    /// Of all rounds.
    pub min: f64,
    /// Of all rounds.
    pub max: f64,
    /// The median of the rounds' ratios to the reference, if that was measured.
    pub ratio: Option<f64>,
    /// Round by round.
    pub samples: Vec<f64>,
}

impl Report {
    pub(super) fn new(machine: Machine, rounds: u32, all: Vec<(String, Vec<Samples>)>) -> Self {
        let row = |metric: &Metric| Row {
            metric: *metric,
            results: all
                .iter()
                .map(|(_, samples)| outcome(metric.key, samples, of(&all, REFERENCE)))
                .collect(),
        };
        Self {
            machine,
            load_at_the_end: load(),
            rounds,
            rows: METRICS.iter().map(row).filter(|row| row.results.iter().any(Option::is_some)).collect(),
            aims: aims(&all),
            contenders: all.into_iter().map(|(name, _)| name).collect(),
        }
    }

    /// As a table: a row a metric, a column a contender.
    pub fn table(&self) -> String {
        let label = METRICS.iter().map(|metric| metric.what.chars().count()).max().unwrap_or(0) + 2;
        let width = if self.rounds > 1 { 27 } else { 16 };
        let mut text = format!("\n{:label$}", self.counted_rounds());
        for name in &self.contenders {
            text += &format!("  {name:>width$}");
        }
        text += &format!("\n{:label$}", if self.rounds > 1 { "median (least-most) ratio" } else { "" });
        for name in &self.contenders {
            let compared = name != REFERENCE && self.contenders.iter().any(|other| other == REFERENCE);
            let ratio = if compared { "x vxlan" } else { "" };
            text += &format!("  {ratio:>width$}");
        }
        text.push('\n');
        let mut section = "";
        for row in &self.rows {
            if row.metric.section != section {
                section = row.metric.section;
                text += &format!("\n{section}\n");
            }
            text += &format!("  {:1$}", row.metric.what, label - 2);
            for (result, name) in row.results.iter().zip(&self.contenders) {
                text += &format!("  {:>width$}", shown(result.as_ref(), name));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text + &table(std::slice::from_ref(&self.aims))
    }

    /// How many rounds there were, in words.
    pub(crate) fn counted_rounds(&self) -> String {
        if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) }
    }

    /// As a chart, in SVG.
    pub fn chart(&self) -> String {
        chart::draw(self)
    }
}

fn shown(result: Option<&Outcome>, name: &str) -> String {
    let Some(result) = result else { return "-".to_owned() };
    let ratio = match result.ratio {
        Some(ratio) if name != REFERENCE && ratio.is_finite() => format!("{ratio:>6.2}"),
        _ => " ".repeat(6),
    };
    let (min, max) = (number(result.min), number(result.max));
    let spread = if result.samples.len() > 1 { format!(" ({min}-{max})") } else { String::new() };
    format!("{}{spread}{ratio}", number(result.median))
}

/// The rounds of the contender of this name.
fn of<'a>(all: &'a [(String, Vec<Samples>)], name: &str) -> Option<&'a [Samples]> {
    all.iter().find(|(found, _)| found == name).map(|(_, samples)| samples.as_slice())
}

fn outcome(key: &str, rounds: &[Samples], reference: Option<&[Samples]>) -> Option<Outcome> {
    let samples: Vec<f64> = rounds.iter().filter_map(|round| round.get(key).copied()).collect();
    if samples.is_empty() {
        return None;
    }
    let sorted: Sorted = samples.iter().copied().collect();
    let ratio = reference.and_then(|reference| ratio(rounds, key, reference, key));
    Some(Outcome { median: sorted.median(), min: sorted.min(), max: sorted.max(), ratio, samples })
}

/// The median over the rounds of one number's ratio to another of the same round.
fn ratio(ones: &[Samples], one: &str, others: &[Samples], other: &str) -> Option<f64> {
    let pairs = ones.iter().zip(others);
    let ratios: Sorted = pairs.filter_map(|(a, b)| Some(a.get(one)? / b.get(other)?)).collect();
    Some(ratios.median()).filter(|median| median.is_finite())
}

/// What the relay is to reach, as far as what was measured can tell.
fn aims(all: &[(String, Vec<Samples>)]) -> Section {
    let mut figures = Vec::new();
    if let Some(relay) = of(all, RELAY) {
        let mut against = |name, key, what, metric, aim| {
            if let Some(ratio) = of(all, name).and_then(|other| ratio(relay, metric, other, metric)) {
                figures.push(Figure::new(key, what, ratio, "x").aim(aim));
            }
        };
        let (least, most) = (Aim::AtLeast, Aim::AtMost);
        against(REFERENCE, "aim_tcp_1", "TCP, 1 stream, to vxlan", "tcp_1", least(0.6));
        against(REFERENCE, "aim_tcp_1_floor", "  the least that is accepted", "tcp_1", least(0.42));
        against(REFERENCE, "aim_tcp_4", "TCP, 4 streams, to vxlan", "tcp_4", least(0.6));
        against(REFERENCE, "aim_tcp_4_floor", "  the least that is accepted", "tcp_4", least(0.42));
        against(
            REFERENCE,
            "aim_over_vxlan",
            "64 octets, sender flat out, to vxlan",
            "udp_over_64",
            least(2.0),
        );
        against(
            NO_OFFLOAD,
            "aim_over_none",
            "                            to none",
            "udp_over_64",
            least(4.0),
        );
        against(REFERENCE, "aim_free", "64 octets, loss-free, to vxlan", "udp_free_64", least(1.5));
        against(NO_OFFLOAD, "aim_latency", "round trip p50, to none", "latency_p50", most(1.0));
        for (key, what, triple, best) in [
            ("aim_triple", "64 octets, at 3 x loss-free, to the best load", "udp_triple_64", "udp_best_64"),
            ("aim_gso_triple", "    with UDP_SEGMENT", "udp_gso_triple_64", "udp_gso_best_64"),
        ] {
            if let Some(share) = ratio(relay, triple, relay, best) {
                figures.push(Figure::new(key, what, share, "x").aim(least(0.9)));
            }
        }
        if let Some(memory) = outcome("rss_peak", relay, None) {
            let what = "peak resident memory";
            figures.push(Figure::new("aim_rss", what, memory.max, "MiB").aim(most(64.0)));
        }
    }
    Section { title: "Aims of the relay, medians of the rounds' ratios".to_owned(), figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(key: &'static str, values: &[f64]) -> Vec<Samples> {
        values.iter().map(|value| Samples::from([(key, *value)])).collect()
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine was twice as fast in the second round.
        let all = vec![
            (RELAY.to_owned(), rounds("tcp_1", &[5.0, 10.0, 5.0])),
            (REFERENCE.to_owned(), rounds("tcp_1", &[10.0, 20.0, 8.0])),
        ];
        let outcome = outcome("tcp_1", &all[0].1, of(&all, REFERENCE)).unwrap();
        assert_eq!((outcome.median, outcome.min, outcome.max), (5.0, 5.0, 10.0));
        assert_eq!(outcome.ratio, Some(0.5));
    }

    #[test]
    fn aims_are_judged_where_both_sides_were_measured() {
        let all = vec![
            (RELAY.to_owned(), rounds("tcp_1", &[5.0])),
            (REFERENCE.to_owned(), rounds("tcp_1", &[10.0])),
        ];
        let met: Vec<_> = aims(&all).figures.iter().map(|figure| (figure.key, figure.met)).collect();
        assert_eq!(met, [("aim_tcp_1", Some(false)), ("aim_tcp_1_floor", Some(true))]);
    }

    #[test]
    fn keys_are_unique() {
        let mut keys: Vec<_> = METRICS.iter().map(|metric| metric.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), METRICS.len());
    }
}

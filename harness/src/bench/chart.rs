//! The results as a picture (SVG 1.1): a panel of bars a question.

use std::fmt::Write;

use super::data::report::{Outcome, Report};
use super::figure::number;

/// A question, and the metrics that answer it.
struct Panel {
    title: &'static str,
    /// What is better, for who looks at it for the first time.
    note: &'static str,
    /// By key, with what each is called in the panel.
    metrics: &'static [(&'static str, &'static str)],
}

const PANELS: [Panel; 6] = [
    Panel {
        title: "TCP, Gbit/s",
        note: "longer is better",
        metrics: &[("tcp_1", "1 stream"), ("tcp_4", "4 streams"), ("tcp_16", "16 streams")],
    },
    Panel {
        title: "UDP without loss, thousand packets a second",
        note: "longer is better",
        metrics: &[
            ("udp_free_64", "64 octets"),
            ("udp_free_512", "512 octets"),
            ("udp_free_1400", "1,400 octets"),
        ],
    },
    Panel {
        title: "64 octets under overload, thousand packets a second delivered",
        note: "longer is better",
        metrics: &[
            ("udp_over_64", "sender flat out"),
            ("udp_triple_64", "3 x loss-free"),
            ("udp_gso_64", "UDP_SEGMENT"),
        ],
    },
    Panel {
        title: "Round trip, µs",
        note: "shorter is better",
        metrics: &[("latency_p50", "p50"), ("latency_p99", "p99")],
    },
    Panel {
        title: "Round trip beside a TCP stream, µs",
        note: "shorter is better",
        metrics: &[("loaded_p50", "p50"), ("loaded_p99", "p99")],
    },
    Panel {
        title: "Processor time, whole machine, s a Gbit",
        note: "shorter is better",
        metrics: &[("cpu_machine", "1 stream"), ("cpu_machine_4", "4 streams")],
    },
];

/// Fills for the contenders, told apart by the colour-blind, too (Okabe and Ito).
const FILLS: [&str; 6] = ["#0072b2", "#e69f00", "#999999", "#56b4e9", "#009e73", "#cc79a7"];

const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = 560.0;
const LABEL_WIDTH: f64 = 100.0;
/// Right of the longest bar, for its number.
const NUMBER_WIDTH: f64 = 60.0;
const BAR: f64 = 13.0;
const GAP: f64 = 10.0;
const MARGIN: f64 = 24.0;
/// Above a panel's bars.
const HEAD: f64 = 46.0;
/// Above the first panel.
const TOP: f64 = 92.0;

/// Draws all panels.
pub(crate) fn draw(report: &Report) -> String {
    let contenders = report.contenders.len();
    let height = |panel: &Panel| HEAD + panel.metrics.len() as f64 * (contenders as f64 * BAR + GAP) + MARGIN;
    let mut body = String::new();
    let mut y = TOP;
    for row in PANELS.chunks(COLUMNS) {
        for (panel, column) in row.iter().zip(0u8..) {
            let x = MARGIN + f64::from(column) * (PANEL_WIDTH + MARGIN);
            draw_panel(&mut body, report, panel, x, y);
        }
        y += row.iter().map(height).fold(0.0, f64::max);
    }
    let width = MARGIN + COLUMNS as f64 * (PANEL_WIDTH + MARGIN);
    let legend = legend(report);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{y}\" viewBox=\"0 0 {width} {y}\" \
         font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{legend}{body}</svg>\n"
    )
}

/// The headline and which colour is whose.
fn legend(report: &Report) -> String {
    let mut text = format!(
        "<text x=\"{MARGIN}\" y=\"30\" font-size=\"18\" font-weight=\"bold\">Overlays between two nodes on one machine</text>\n\
         <text x=\"{MARGIN}\" y=\"50\" fill=\"#555\">{}; medians of {} in turns, lines from the least to the most</text>\n",
        escaped(&report.machine.to_string()),
        report.counted_rounds(),
    );
    let mut x = MARGIN;
    for (name, fill) in report.contenders.iter().zip(FILLS.iter().cycle()) {
        let _ = writeln!(text, "<rect x=\"{x}\" y=\"66\" width=\"12\" height=\"12\" fill=\"{fill}\"/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"76\">{}</text>", x + 18.0, escaped(name));
        x += 46.0 + 7.0 * name.chars().count() as f64;
    }
    text
}

fn draw_panel(text: &mut String, report: &Report, panel: &Panel, x: f64, y: f64) {
    let _ = writeln!(
        text,
        "<text x=\"{x}\" y=\"{}\" font-size=\"14\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{x}\" y=\"{}\" font-size=\"11\" fill=\"#777\">{}</text>",
        y + 18.0,
        escaped(panel.title),
        y + 34.0,
        panel.note,
    );
    let results = |key: &str| report.rows.iter().find(|row| row.metric.key == key).map(|row| &row.results);
    let all = panel.metrics.iter().filter_map(|(key, _)| results(key)).flatten().flatten();
    let most = all.map(|result| result.max).filter(|max| max.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let zero = x + LABEL_WIDTH;
    let scale = (PANEL_WIDTH - LABEL_WIDTH - NUMBER_WIDTH) / most;
    let mut top = y + HEAD;
    for (key, label) in panel.metrics {
        let Some(results) = results(key) else { continue };
        let middle = top + results.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            zero - 8.0,
            escaped(label)
        );
        for (result, fill) in results.iter().zip(FILLS.iter().cycle()) {
            if let Some(result) = result {
                draw_bar(text, result, (zero, top), scale, fill);
            }
            top += BAR;
        }
        top += GAP;
    }
    let _ = writeln!(
        text,
        "<line x1=\"{zero}\" y1=\"{}\" x2=\"{zero}\" y2=\"{}\" stroke=\"#333\"/>",
        y + HEAD - 3.0,
        top - GAP + 3.0
    );
}

/// A bar up to the median, a line over the spread, and the median's number behind both.
fn draw_bar(text: &mut String, result: &Outcome, (x, y): (f64, f64), scale: f64, fill: &str) {
    let at = |value: f64| x + value * scale;
    let middle = y + BAR / 2.0;
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#333\" stroke-width=\"1.2\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10.5\">{}</text>",
        y + 1.0,
        result.median * scale,
        BAR - 2.0,
        at(result.min),
        at(result.max),
        at(result.max) + 5.0,
        middle + 3.8,
        number(result.median),
    );
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

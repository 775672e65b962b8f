//! What was measured, as a table and as JSON.

use serde::Serialize;

/// One measured number.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name for programs: `first_packet_p99`.
    pub key: &'static str,
    /// Its name for people.
    pub what: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim: Option<Aim>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// What a number is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Figure {
    /// A number that nothing is asked of.
    pub fn new(key: &'static str, what: &'static str, value: f64, unit: &'static str) -> Self {
        Self { key, what, value, unit, aim: None, met: None }
    }

    /// The same, and what it is to be.
    #[must_use]
    pub fn aim(mut self, aim: Aim) -> Self {
        self.met = Some(match aim {
            Aim::AtMost(limit) => self.value <= limit,
            Aim::AtLeast(limit) => self.value >= limit,
        });
        self.aim = Some(aim);
        self
    }
}

/// Figures that belong together.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// What they are about, with how many and how long.
    pub title: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// Sections as text, a line a figure.
pub fn table(sections: &[Section]) -> String {
    let all = || sections.iter().flat_map(|section| &section.figures);
    let width = all().map(|figure| figure.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for section in sections {
        text += &format!("\n{}\n", section.title);
        for figure in &section.figures {
            let (number, unit) = (number(figure.value), figure.unit);
            let aim = match figure.aim {
                None => String::new(),
                Some(Aim::AtMost(limit)) => format!("aim <= {}", self::number(limit)),
                Some(Aim::AtLeast(limit)) => format!("aim >= {}", self::number(limit)),
            };
            let verdict = match figure.met {
                None => "",
                Some(true) => "met",
                Some(false) => "MISSED",
            };
            let line = format!("  {:<width$}  {number:>10} {unit:<10}  {aim:<14}  {verdict}", figure.what);
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}

/// A number with three digits that count, or all of those before the point.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size >= 100.0 {
        grouped(value.round())
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// A whole number with a comma between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_what_counts() {
        let shown = |value| number(value);
        assert_eq!(shown(0.0), "0");
        assert_eq!(shown(0.0421), "0.0421");
        assert_eq!(shown(0.5), "0.50");
        assert_eq!(shown(9.994), "9.99");
        assert_eq!(shown(42.35), "42.4");
        assert_eq!(shown(999.6), "1,000");
        assert_eq!(shown(1_234_567.0), "1,234,567");
        assert_eq!(shown(-1234.0), "-1,234");
    }

    #[test]
    fn a_table_says_which_aims_are_missed() {
        let figures = vec![
            Figure::new("one", "one of them", 12.0, "ms").aim(Aim::AtMost(10.0)),
            Figure::new("other", "the other", 2000.0, "1/s").aim(Aim::AtLeast(1000.0)),
            Figure::new("third", "a third", 1.0, "s"),
        ];
        let text = table(&[Section { title: "Both".to_owned(), figures }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "Both");
        assert!(lines[2].contains("12.0 ms") && lines[2].ends_with("aim <= 10.0     MISSED"), "{text}");
        assert!(lines[3].contains("2,000 1/s") && lines[3].ends_with("met"), "{text}");
        assert!(lines[4].ends_with('s'), "{text}");
    }
}

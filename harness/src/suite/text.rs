//! The words and numbers of a suite file, each knowing where it was written.

use std::fmt;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// A piece of text and the octets of the file that it was read from. Compares by its text alone.
#[derive(Debug, Clone, Default)]
pub struct Text {
    text: String,
    span: Range<usize>,
}

impl Text {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where it stands in the file, quotes included; empty for a default that nobody wrote.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), span: 0..0 }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Text {}

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), text: spanned.into_inner() })
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Hexadecimal digits as octets, blanks passed over. None if they are none, or one too few.
pub(crate) fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !character.is_ascii_whitespace())
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// A table from names to texts, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub Vec<(Text, Text)>);

impl Serialize for Pairs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl JsonSchema for Pairs {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pairs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}

/// The values of a sweep, in the order written: numbers, and runs of them such as `"1-8"`, ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values(pub Vec<Run>);

/// Consecutive values of a sweep.
#[derive(Debug, Clone)]
pub struct Run {
    /// The lowest.
    pub first: u16,
    /// The highest, `first` if it stands alone.
    pub last: u16,
    /// Where it stands in the file.
    pub span: Range<usize>,
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        (self.first, self.last) == (other.first, other.last)
    }
}

impl Eq for Run {}

impl Values {
    /// Every value, in the order written.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|run| run.first..=run.last)
    }

    /// How many values there are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|run| usize::from(run.last - run.first) + 1).sum()
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Run { first, last, .. }) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = Vec::<Spanned<Ends>>::deserialize(deserializer)?;
        let run =
            |ends: Spanned<Ends>| Run { first: ends.get_ref().0, last: ends.get_ref().1, span: ends.span() };
        Ok(Self(runs.into_iter().map(run).collect()))
    }
}

/// The ends of a run as an item of the list: a number, or `"first-last"`.
struct Ends(u16, u16);

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrRun;

        impl Visitor<'_> for NumberOrRun {
            type Value = Ends;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0 to 65535, or a run of them such as \"1-8\"")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Ends, E> {
                let value = u16::try_from(value)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(value), &self))?;
                Ok(Ends(value, value))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ends, E> {
                let wrong = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                let (first, last) = text.split_once('-').ok_or_else(wrong)?;
                let number = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(E::custom(format_args!("{text:?} runs backwards: write \"{last}-{first}\"")));
                }
                Ok(Ends(first, last))
            }
        }

        deserializer.deserialize_any(NumberOrRun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        pairs: Pairs,
        values: Values,
    }

    const TEXT: &str = "values = [64, '1-3', 0, 65535]\npairs = { b = 'y', a = 'x' }";

    #[test]
    fn a_text_knows_where_it_was_written() {
        let File { pairs: Pairs(pairs), .. } = toml::from_str(TEXT).unwrap();
        let written = pairs.iter().flat_map(|(key, value)| [&TEXT[key.span()], &TEXT[value.span()]]);
        assert_eq!(written.collect::<Vec<_>>(), ["b", "'y'", "a", "'x'"]);
    }

    #[test]
    fn a_sweep_has_every_value_of_its_runs_in_the_order_written() {
        let File { values, .. } = toml::from_str(TEXT).unwrap();
        assert_eq!(values.iter().collect::<Vec<_>>(), [64, 1, 2, 3, 0, 65535]);
        assert_eq!((values.count(), values.to_string().as_str()), (6, "64,1-3,0,65535"));
    }

    #[test]
    fn what_is_no_number_and_no_run_is_refused() {
        for wrong in ["-1", "65536", "'1'", "'1-'", "'-1'", "'1-2-3'", "'2-1'", "true", "1.5", "'0-65536'"] {
            let text = format!("pairs = {{}}\nvalues = [{wrong}]");
            assert!(toml::from_str::<File>(&text).is_err(), "{wrong}");
        }
    }
}

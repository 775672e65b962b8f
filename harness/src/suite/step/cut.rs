//! Partitions of the underlay.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Text;

/// Keys of `cut`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cut {
    /// Nodes, machines and etcd members.
    #[schemars(length(min = 1))]
    pub from: Vec<Text>,
    /// The hosts of the underlay that each of `from` is cut off from.
    #[schemars(length(min = 1))]
    pub to: Vec<Text>,
    /// Whether only what `from` sends to `to` is stopped, and what `to` sends back passes.
    #[serde(default)]
    pub one_way: bool,
}

/// Keys of `heal`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Heal {
    /// Nodes, machines and etcd members. Left out, with `to`: all cuts are undone.
    #[schemars(length(min = 1))]
    pub from: Option<Vec<Text>>,
    /// The hosts of the underlay that each of `from` is joined to again, both ways.
    #[schemars(length(min = 1))]
    pub to: Option<Vec<Text>>,
}

impl Cut {
    /// The directed pairs of hosts between which nothing passes.
    pub fn pairs(&self) -> Vec<(String, String)> {
        pairs(&self.from, &self.to, self.one_way)
    }
}

impl Heal {
    /// The directed pairs of hosts that are joined again; none for all.
    pub fn pairs(&self) -> Option<Vec<(String, String)>> {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => Some(pairs(from, to, false)),
            _ => None,
        }
    }
}

fn pairs(from: &[Text], to: &[Text], one_way: bool) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for one in from {
        for other in to {
            pairs.push((one.to_string(), other.to_string()));
            if !one_way {
                pairs.push((other.to_string(), one.to_string()));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(from: &[&str], to: &[&str], one_way: bool) -> Vec<(String, String)> {
        let texts = |words: &[&str]| words.iter().map(|word| Text::from(*word)).collect();
        Cut { from: texts(from), to: texts(to), one_way }.pairs()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn every_one_of_some_is_cut_from_every_one_of_others() {
        let expected = [("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")];
        assert_eq!(cut(&["a", "b"], &["c"], false), owned(&expected));
    }

    #[test]
    fn one_way_leaves_the_way_back() {
        assert_eq!(cut(&["a"], &["b", "c"], true), owned(&[("a", "b"), ("a", "c")]));
    }
}

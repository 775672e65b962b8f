//! Steps that have to keep within bounds.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Step;
use crate::suite::text::Text;

/// Keys of `expect`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expect {
    /// Milliseconds that the steps may take, all together.
    #[schemars(range(min = 1, max = 120000))]
    pub within_ms: Option<u32>,
    /// Counters, and by how much they may grow meanwhile.
    #[serde(default)]
    pub growth: Vec<Growth>,
    /// What is done meanwhile.
    #[schemars(length(min = 1))]
    pub steps: Vec<Step>,
}

/// By how much a counter may grow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Growth {
    /// The host whose counter it is: a node, for a relay's metric.
    pub host: Text,
    /// A metric of the relay, as `/metrics` writes it: `process_resident_memory_bytes`. A relay that takes the place of
    /// another goes on from what that had counted.
    pub metric: Option<Text>,
    /// A counter of the host's kernel, as nstat(8) writes it: `IpReasmFails`.
    pub kernel: Option<Text>,
    /// The least that it is to grow by.
    #[schemars(range(min = 0, max = 4294967295_u32))]
    pub at_least: Option<u32>,
    /// The most that it may grow by.
    #[schemars(range(min = 0, max = 4294967295_u32))]
    pub at_most: Option<u32>,
}

impl Growth {
    /// The counter's name.
    pub fn name(&self) -> &str {
        self.metric.as_ref().or(self.kernel.as_ref()).map_or("", Text::as_str)
    }

    /// Whether growth by that much is within its bounds.
    pub fn allows(&self, grown: f64) -> bool {
        self.at_least.is_none_or(|least| grown >= f64::from(least))
            && self.at_most.is_none_or(|most| grown <= f64::from(most))
    }

    /// What its bounds are, in words.
    pub fn bounds(&self) -> String {
        match (self.at_least, self.at_most) {
            (Some(least), Some(most)) if least == most => format!("by {least}"),
            (Some(least), Some(most)) => format!("by {least} to {most}"),
            (Some(least), None) => format!("by {least} or more"),
            (None, Some(0)) => "not at all".to_owned(),
            (None, Some(most)) => format!("by {most} at most"),
            (None, None) => String::new(),
        }
    }
}

impl Expect {
    /// The step in one line: the bounds.
    pub(in crate::suite) fn title(&self) -> (String, Vec<String>) {
        let time = self.within_ms.map(|most| format!("within {most} ms"));
        let growth = self.growth.iter().map(|growth| {
            format!("{} {} grows {}", growth.host, growth.name(), growth.bounds()).trim_end().to_owned()
        });
        ("expect".to_owned(), time.into_iter().chain(growth).collect())
    }
}

//! `parallel`: steps that are done at once.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Step;

/// Keys of `parallel`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Parallel {
    /// What is done at once: the steps of each branch, one after the other.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub branches: Vec<Vec<Step>>,
}

//! Steps that are about etcd, and what is in it.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::suite::text::Text;

/// What stands for the etcd member that leads. No member is called so.
pub const LEADER: &str = "leader";

/// Keys of `put-lease`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PutLease {
    /// The subnet: a node's name for its own, or a prefix such as `10.5.99.0/24`, which need not be a sane one.
    pub subnet: Text,
    /// Who holds it: a node's name for its underlay address, or an address.
    pub owner: Text,
    /// Seconds until etcd lets it expire. Left out: it stays.
    #[schemars(range(min = 1, max = 60))]
    pub expires_s: Option<u8>,
    /// The nodes whose relays are waited for, for when others cannot know. Left out: all that run.
    pub seen_by: Option<Vec<Text>>,
}

/// Keys of `delete-lease`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeleteLease {
    /// The subnet: a node's name for its own, or a prefix such as `10.5.99.0/24`.
    pub subnet: Text,
    /// The nodes whose relays are waited for, for when others cannot know. Left out: all that run.
    pub seen_by: Option<Vec<Text>>,
}

/// Keys of `put-key`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PutKey {
    /// The key, below the overlay's prefix: `subnets/10.5.9.0-24`.
    pub key: Text,
    /// The value, whatever it is.
    pub value: Text,
}

/// Keys of `start-etcd`, `stop-etcd`, `save-etcd` and `restore-etcd`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Etcd {
    /// The member. May be left out if there is only one. `leader` is, to stop it, the one that leads; to start it, the one
    /// that led when it was stopped.
    pub member: Option<Text>,
}

impl Etcd {
    /// The member's name.
    pub fn member(&self) -> &str {
        self.member.as_deref().unwrap_or("etcd")
    }
}

/// `compact-etcd` has no keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactEtcd {}

/// `leases` has no keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Leases {}

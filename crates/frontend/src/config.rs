//! Settings of the query frontend.

use serde::{Deserialize, Serialize};

/// Settings of the query frontend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most bytes of remembered answers to label and series requests. More makes dashboards' variables and label
    /// browsers cheaper, less saves memory. Answers are remembered per table version, so they are never stale.
    pub metadata_cache_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { metadata_cache_bytes: 16 << 20 }
    }
}

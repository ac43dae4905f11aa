//! The limits that say what goes, and when.

use serde::{Deserialize, Serialize};

/// A rule of `retention_stream`: streams that are kept for a time of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRetention {
    /// Which streams, as a selector of LogQL.
    pub selector: String,
    /// Of the rules that match a stream the one with the highest priority counts; of several such the shortest.
    #[serde(default)]
    pub priority: i64,
    /// How long their entries are kept after their time, nanoseconds; a day at least.
    pub period: i64,
}

/// `deletion_mode`: what becomes of delete requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeletionMode {
    /// None are taken, and those that were have no effect.
    Disabled,
    /// Queries do not see what they name; it stays stored.
    FilterOnly,
    /// Queries do not see what they name, and it is removed once the time to cancel has passed.
    #[default]
    FilterAndDelete,
}

//! What one query must not see, as the services tell each other: entries that are deleted or have expired.
//!
//! These are words only; `skald-removal` compiles them, because deletes are LogQL.

use std::sync::Arc;

use crate::time::{TimeRange, Timestamp};

/// The time before which nothing has expired.
pub const NEVER: Timestamp = Timestamp::MIN;

/// A delete request as queries apply it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeleteRule {
    /// The generation of the tenant's requests that it came with. Blocks tell up to which one they are done.
    pub generation: u64,
    /// The second in which it was accepted: it is about what was received in this second or before.
    pub accepted: i64,
    /// Which times.
    pub range: TimeRange,
    /// Which entries, as a log query.
    pub query: Arc<str>,
}

/// Streams that expire at a time of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CutoffRule {
    /// Which streams, as a selector.
    pub selector: Arc<str>,
    /// What is older has expired; [`NEVER`] for nothing.
    pub cutoff: Timestamp,
}

/// All that a query must not see of one tenant. The same for all who work on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemovalSpec {
    /// The generation of the tenant's requests.
    pub generation: u64,
    /// Delete requests.
    pub deletes: Vec<DeleteRule>,
    /// The first rule that matches a stream says when its entries expire.
    pub cutoffs: Vec<CutoffRule>,
    /// When entries of all other streams do.
    pub cutoff: Timestamp,
}

impl Default for RemovalSpec {
    fn default() -> Self {
        Self { generation: 0, deletes: Vec::new(), cutoffs: Vec::new(), cutoff: NEVER }
    }
}

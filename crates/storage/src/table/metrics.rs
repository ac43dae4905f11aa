//! The instruments of the tables.

use prometheus::{DEFAULT_BUCKETS, Histogram, IntCounter, Registry};
use skald_runtime::Instruments;

/// The instruments of the tables.
#[derive(Clone, Debug)]
pub(super) struct TableMetrics {
    /// Commits that were confirmed, with the seconds they took.
    pub(super) commit_seconds: Histogram,
    /// Attempts that found their number taken or ended in an error.
    pub(super) commit_retries: IntCounter,
    /// Commits that were given up without being confirmed.
    pub(super) commits_unconfirmed: IntCounter,
}

impl TableMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = Instruments(registry);
        Ok(Self {
            commit_seconds: r.histogram(
                "skald_table_commit_duration_seconds",
                "Time from the begin of a commit to a table until it was confirmed.",
                DEFAULT_BUCKETS,
            )?,
            commit_retries: r.counter(
                "skald_table_commit_retries_total",
                "Attempts to commit that found their number taken or failed, and were made again.",
            )?,
            commits_unconfirmed: r.counter(
                "skald_table_commits_unconfirmed_total",
                "Commits that were given up for a time-out.",
            )?,
        })
    }
}

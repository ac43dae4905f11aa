//! The instruments of the tables.

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

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
        let commit_seconds = Histogram::with_opts(HistogramOpts::new(
            "skald_table_commit_duration_seconds",
            "Time from the begin of a commit to a table until it was confirmed.",
        ))?;
        let commit_retries = IntCounter::new(
            "skald_table_commit_retries_total",
            "Attempts to commit that found their number taken or failed, and were made again.",
        )?;
        let commits_unconfirmed = IntCounter::new(
            "skald_table_commits_unconfirmed_total",
            "Commits that were given up for a time-out.",
        )?;
        registry.register(Box::new(commit_seconds.clone()))?;
        registry.register(Box::new(commit_retries.clone()))?;
        registry.register(Box::new(commits_unconfirmed.clone()))?;
        Ok(Self { commit_seconds, commit_retries, commits_unconfirmed })
    }
}

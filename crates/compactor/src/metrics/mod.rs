//! The instruments of the compactor, under Loki's names where it has the thing.

mod removal;

use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Registry};
use skald_runtime::Instruments;

pub(crate) use removal::{Action, RemovalMetrics};

fn outcome(is_success: bool) -> &'static str {
    if is_success { "success" } else { "failure" }
}

/// The instruments of the compactor.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// What retention and deletes do.
    pub(crate) removal: RemovalMetrics,
    /// Rounds over all tables, by outcome.
    pub(crate) rounds: IntCounterVec,
    /// Seconds that the last round took.
    pub(crate) round_seconds: Gauge,
    /// When the last round without an error ended.
    pub(crate) last_success: Gauge,
    /// 1 while it works.
    pub(crate) running: IntGauge,
    /// Rewrites that were committed, by reason.
    pub(crate) rewrites: IntCounterVec,
    /// Rewrites that another one was faster than.
    pub(crate) conflicts: IntCounter,
    /// Rewrites that failed.
    pub(crate) failures: IntCounter,
    /// Blocks that went into rewrites, and came out.
    pub(crate) blocks_read: IntCounter,
    pub(crate) blocks_written: IntCounter,
    /// Their bytes.
    pub(crate) bytes_read: IntCounter,
    pub(crate) bytes_written: IntCounter,
    /// Rows.
    pub(crate) rows_written: IntCounter,
    /// Those of them that were not encoded anew.
    pub(crate) rows_copied: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) rows_removed: IntCounter,
    /// Rows that were copied to the archive.
    pub(crate) rows_archived: IntCounter,
    /// Blocks that were looked at, and of which nothing had to go.
    pub(crate) blocks_unchanged: IntCounter,
    /// Blocks that were removed whole.
    pub(crate) blocks_dropped: IntCounter,
    /// Files that were removed.
    pub(crate) files_removed: IntCounter,
    pub(crate) file_bytes_removed: IntCounter,
    /// Files that wait to be removed.
    pub(crate) files_waiting: IntGauge,
    /// Tenants that are this compactor's own.
    pub(crate) tenants: IntGauge,
    /// Merges that are due, over all of them.
    pub(crate) pending: IntGauge,
}

impl Metrics {
    /// A round over all tables is over, at `now` (seconds since the Unix epoch).
    pub(crate) fn round(&self, took: Duration, is_success: bool, now: f64) {
        self.rounds.with_label_values(&[outcome(is_success)]).inc();
        if is_success {
            self.last_success.set(now);
        }
        self.removal.round(took, is_success, now);
    }

    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = Instruments(registry);
        Ok(Self {
            removal: RemovalMetrics::new(&r)?,
            rounds: r.counters(
                "loki_boltdb_shipper_compact_tables_operation_total",
                "Total number of tables compaction done by status.",
                &["status"],
            )?,
            round_seconds: r.seconds(
                "loki_boltdb_shipper_compact_tables_operation_duration_seconds",
                "Time (in seconds) spent in compacting all the tables.",
            )?,
            last_success: r.seconds(
                "loki_boltdb_shipper_compact_tables_operation_last_successful_run_timestamp_seconds",
                "Unix timestamp of the last successful compaction run.",
            )?,
            running: r.gauge(
                "loki_boltdb_shipper_compactor_running",
                "Value will be 1 if compactor is currently running on this instance.",
            )?,
            rewrites: r.counters(
                "skald_compactor_rewrites_total",
                "Rewrites of blocks that were committed, by reason.",
                &["reason"],
            )?,
            conflicts: r.counter(
                "skald_compactor_conflicts_total",
                "Rewrites that lost against another one and were begun anew.",
            )?,
            failures: r.counter("skald_compactor_failures_total", "Rewrites that failed.")?,
            blocks_read: r.counter("skald_compactor_blocks_read_total", "Blocks that were rewritten.")?,
            blocks_written: r
                .counter("skald_compactor_blocks_written_total", "Blocks that were written by rewrites.")?,
            bytes_read: r.counter(
                "skald_compactor_read_bytes_total",
                "Bytes that rewrites read from the object store.",
            )?,
            bytes_written: r.counter(
                "skald_compactor_written_bytes_total",
                "Bytes of the blocks that were written by rewrites.",
            )?,
            rows_written: r.counter("skald_compactor_rows_written_total", "Rows that rewrites wrote.")?,
            rows_copied: r.counter(
                "skald_compactor_rows_copied_total",
                "Those of the rows written whose row groups were copied without decoding them.",
            )?,
            duplicates: r.counter(
                "skald_compactor_duplicates_erased_total",
                "Rows that were left out because another one was the same.",
            )?,
            rows_removed: r.counter(
                "skald_compactor_rows_removed_total",
                "Rows that were left out because retention or a delete request says so.",
            )?,
            rows_archived: r.counter(
                "skald_compactor_rows_archived_total",
                "Rows that were copied to the archive because they have expired.",
            )?,
            blocks_unchanged: r.counter(
                "skald_compactor_blocks_unchanged_total",
                "Blocks that a delete request might have been about, and of which nothing had to go.",
            )?,
            blocks_dropped: r.counter(
                "skald_compactor_blocks_dropped_total",
                "Blocks that were removed whole, because nothing in them stays.",
            )?,
            files_removed: r.counter(
                "skald_compactor_vacuumed_files_total",
                "Files that no table named any more and that were removed.",
            )?,
            file_bytes_removed: r.counter("skald_compactor_vacuumed_bytes_total", "Bytes of these files.")?,
            files_waiting: r.gauge(
                "skald_compactor_vacuum_waiting_files",
                "Files that no table names and that are kept until their delay is over.",
            )?,
            tenants: r.gauge("skald_compactor_tenants", "Tenants that this compactor works on.")?,
            pending: r.gauge("skald_compactor_pending_merges", "Merges that are due.")?,
        })
    }
}

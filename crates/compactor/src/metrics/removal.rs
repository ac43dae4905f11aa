//! What retention and deletes do, under the names that dashboards and alerts for Loki have. Where Loki marks chunks of a day's
//! index, blocks of a day are counted; where it sweeps chunks, files that vacuum removes.

use std::time::Duration;

use prometheus::{Gauge, HistogramVec, IntCounter, IntCounterVec, IntGauge, exponential_buckets};
use skald_runtime::Instruments;

use super::outcome;

/// See the module's page.
#[derive(Clone, Debug)]
pub(crate) struct RemovalMetrics {
    /// Blocks that were removed or rewritten because something had to go, by day.
    pub(crate) marked: IntCounterVec,
    tables: IntCounterVec,
    table_seconds: HistogramVec,
    file_seconds: HistogramVec,
    /// Files that wait to be removed.
    pub(crate) files_waiting: IntGauge,
    /// Since when the first of them waits.
    pub(crate) waiting_since: Gauge,
    rounds: IntCounterVec,
    round_seconds: Gauge,
    last_success: Gauge,
    /// Lines that left the tables, by tenant.
    pub(crate) lines: IntCounterVec,
    /// Their bytes.
    pub(crate) bytes: IntCounter,
    /// Delete requests that were carried out for good, by tenant.
    pub(crate) requests_done: IntCounterVec,
    /// Delete requests that are not carried out yet.
    pub(crate) requests_open: IntGauge,
    /// Seconds since the oldest of them was accepted.
    pub(crate) oldest_request: Gauge,
    loads: IntCounterVec,
}

/// What a pass did to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing went.
    None,
    /// Something did.
    Modified,
    /// Everything did.
    Deleted,
}

/// Seconds by `status`, in eight buckets of which each is four times the one before.
fn seconds(r: &Instruments<'_>, name: &str, help: &str, first: f64) -> prometheus::Result<HistogramVec> {
    r.histograms(name, help, &["status"], &exponential_buckets(first, 4.0, 8)?)
}

impl RemovalMetrics {
    pub(super) fn new(r: &Instruments<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            marked: r.counters(
                "loki_boltdb_shipper_retention_marker_count_total",
                "Blocks that retention or a delete request removed or had rewritten, by day.",
                &["table"],
            )?,
            tables: r.counters(
                "loki_boltdb_shipper_retention_marker_table_processed_total",
                "Looks at a table, by what was done: none, modified, or deleted when nothing was left.",
                &["action"],
            )?,
            table_seconds: seconds(
                r,
                "loki_boltdb_shipper_retention_marker_table_processed_duration_seconds",
                "Seconds that looks at a table took, merges included.",
                0.01,
            )?,
            file_seconds: seconds(
                r,
                "loki_boltdb_shipper_retention_sweeper_chunk_deleted_duration_seconds",
                "Seconds that it took to remove a file which no table names.",
                0.001,
            )?,
            files_waiting: r.gauge(
                "loki_boltdb_shipper_retention_sweeper_marker_files_current",
                "Files that no table names and that are kept until their delay is over.",
            )?,
            waiting_since: r.seconds(
                "loki_boltdb_shipper_retention_sweeper_marker_file_processing_current_time",
                "Unix timestamp since which the first of these files waits; 0 without any.",
            )?,
            rounds: r.counters(
                "loki_compactor_apply_retention_operation_total",
                "Rounds over all tables to apply retention and delete requests, by outcome.",
                &["status"],
            )?,
            round_seconds: r.seconds(
                "loki_compactor_apply_retention_operation_duration_seconds",
                "Seconds that the last of these rounds took.",
            )?,
            last_success: r.seconds(
                "loki_compactor_apply_retention_last_successful_run_timestamp_seconds",
                "Unix timestamp of the last of these rounds without an error.",
            )?,
            lines: r.counters(
                "loki_compactor_deleted_lines",
                "Lines that retention and delete requests took out of the tables, by tenant.",
                &["user"],
            )?,
            bytes: r.counter(
                "skald_compactor_removed_bytes_total",
                "Bytes of the lines that retention and delete requests took out of the tables.",
            )?,
            requests_done: r.counters(
                "loki_compactor_delete_requests_processed_total",
                "Delete requests that were carried out for good, by tenant.",
                &["user"],
            )?,
            requests_open: r.gauge(
                "loki_compactor_pending_delete_requests_count",
                "Delete requests that are not carried out yet.",
            )?,
            oldest_request: r.seconds(
                "loki_compactor_oldest_pending_delete_request_age_seconds",
                "Seconds since the oldest delete request was accepted that is not carried out yet.",
            )?,
            loads: r.counters(
                "loki_compactor_load_pending_requests_attempts_total",
                "Attempts to read a tenant's delete requests, by outcome.",
                &["status"],
            )?,
        })
    }

    /// A pass over a table is over.
    pub(crate) fn looked_at(&self, took: Duration, action: Option<Action>) {
        self.table_seconds.with_label_values(&[outcome(action.is_some())]).observe(took.as_secs_f64());
        let action = match action {
            None => return,
            Some(Action::None) => "none",
            Some(Action::Modified) => "modified",
            Some(Action::Deleted) => "deleted",
        };
        self.tables.with_label_values(&[action]).inc();
    }

    /// A file was removed, or could not be.
    pub(crate) fn swept(&self, took: Duration, is_removed: bool) {
        self.file_seconds.with_label_values(&[outcome(is_removed)]).observe(took.as_secs_f64());
    }

    /// A round over all tables is over, at `now` (seconds since the Unix epoch).
    pub(crate) fn round(&self, took: Duration, is_success: bool, now: f64) {
        self.rounds.with_label_values(&[outcome(is_success)]).inc();
        self.round_seconds.set(took.as_secs_f64());
        if is_success {
            self.last_success.set(now);
        }
    }

    /// A tenant's requests were asked for.
    pub(crate) fn loaded(&self, is_success: bool) {
        self.loads.with_label_values(&[outcome(is_success)]).inc();
    }
}

//! All instruments of this crate. Where Loki has the thing, the name is Loki's.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use skald_runtime::Instruments;

/// Instruments of the ingester.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Raw bytes of lines that were taken in.
    pub bytes_received: IntCounter,
    /// Entries that were taken in, exact duplicates not counted.
    pub entries_received: IntCounter,
    /// Entries that were there already.
    pub duplicate_entries: IntCounter,
    /// Entries refused, by reason and tenant.
    pub discarded_samples: IntCounterVec,
    /// Their bytes.
    pub discarded_bytes: IntCounterVec,
    /// Live streams of each tenant.
    pub memory_streams: IntGaugeVec,
    /// Live streams of all tenants.
    pub streams: IntGauge,
    /// Streams seen for the first time, by tenant.
    pub streams_created: IntCounterVec,
    /// Streams that have entries in memory, once per segment; 0 when nothing is in memory.
    pub memory_chunks: IntGauge,
    /// Bytes that count against the memory budget.
    pub memory_bytes: IntGauge,
    /// Pushes refused because the memory budget was full.
    pub memory_refusals: IntCounter,
    /// Streams (once per segment) flushed, by the reason their segment was sealed.
    pub chunks_flushed: IntCounterVec,
    /// Segments flushed, by outcome.
    pub flushes: IntCounterVec,
    /// Seconds from the start of a flush to its commit.
    pub flush_seconds: Histogram,
    /// Bytes of the blocks written.
    pub flushed_bytes: IntCounter,
    /// Segments that wait for their flush or are in it.
    pub flush_queue_length: IntGauge,
    /// Streams, once per segment, that were written in place of the replica whose turn it was.
    pub streams_taken_over: IntCounter,
    /// Queries refused because their table version was too old.
    pub snapshots_too_old: IntCounter,
    /// Live tails.
    pub tails: IntGauge,
    /// Entries that live tails lost because their readers were slow.
    pub tail_dropped_entries: IntCounter,
    /// Those of patterns.
    pub patterns: PatternMetrics,
    /// The log's own.
    pub wal: WalMetrics,
}

/// Instruments of pattern mining.
#[derive(Clone, Debug)]
pub struct PatternMetrics {
    /// Lines, by what became of them.
    pub lines: IntCounterVec,
    /// Batches that were not looked at because too many waited.
    pub skipped_batches: IntCounter,
    /// Bytes of memory for patterns and counts.
    pub bytes: IntGauge,
}

/// Instruments of the write-ahead log.
#[derive(Clone, Debug)]
pub struct WalMetrics {
    /// Records written.
    pub records_logged: IntCounter,
    /// Bytes written.
    pub bytes_logged: IntCounter,
    /// Places where a file was damaged in a way that a crash does not explain.
    pub corruptions: IntCounter,
    /// Torn ends cut off at start.
    pub torn_tails: IntCounter,
    /// Groups of records refused for want of space.
    pub disk_full_failures: IntCounter,
    /// 1 while the log is replayed.
    pub replay_active: IntGauge,
    /// Seconds the last replay took.
    pub replay_seconds: Gauge,
    /// Records replayed into memory.
    pub recovered_records: IntCounter,
    /// Bytes of the log on disk.
    pub disk_bytes: IntGauge,
    /// Seconds of one sync.
    pub sync_seconds: Histogram,
}

impl Metrics {
    /// Registers all instruments.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = Instruments(registry);
        Ok(Self {
            bytes_received: r.counter("loki_ingester_bytes_received_total", "Raw bytes of lines taken in")?,
            entries_received: r.counter("skald_ingester_entries_received_total", "Entries taken in")?,
            duplicate_entries: r
                .counter("skald_ingester_duplicate_entries_total", "Entries that were in memory already")?,
            discarded_samples: discarded(&r, "loki_discarded_samples_total", "Entries refused, by reason.")?,
            discarded_bytes: discarded(&r, "loki_discarded_bytes_total", "Bytes of refused entries, by reason.")?,
            memory_streams: r.gauges("loki_ingester_memory_streams", "Live streams", &["tenant"])?,
            streams: r.gauge("loki_ingester_streams", "Live streams of all tenants")?,
            streams_created: r.counters(
                "loki_ingester_streams_created_total",
                "Streams seen for the first time",
                &["tenant"],
            )?,
            memory_chunks: r
                .gauge("loki_ingester_memory_chunks", "Streams with entries in memory, once per segment")?,
            memory_bytes: r
                .gauge("skald_ingester_memory_bytes", "Bytes that count against the memory budget")?,
            memory_refusals: r.counter(
                "skald_ingester_memory_refusals_total",
                "Pushes refused because the memory budget was full",
            )?,
            chunks_flushed: r.counters(
                "loki_ingester_chunks_flushed_total",
                "Streams flushed, once per segment, by the reason their segment was sealed",
                &["reason"],
            )?,
            flushes: r.counters("skald_ingester_flushes_total", "Flushes, by outcome", &["outcome"])?,
            flush_seconds: r.histogram(
                "skald_ingester_flush_duration_seconds",
                "Time from the start of a flush to its commit",
                &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
            )?,
            flushed_bytes: r.counter("skald_ingester_flushed_bytes_total", "Bytes of the blocks written")?,
            flush_queue_length: r.gauge("loki_ingester_flush_queue_length", "Segments not flushed yet")?,
            streams_taken_over: r.counter(
                "skald_ingester_streams_taken_over_total",
                "Streams, once per segment, written in place of the replica whose turn it was",
            )?,
            snapshots_too_old: r.counter(
                "skald_ingester_snapshots_too_old_total",
                "Queries refused because their table version was too old",
            )?,
            tails: r.gauge("loki_ingester_tailers", "Live tails")?,
            tail_dropped_entries: r.counter(
                "skald_ingester_tail_dropped_entries_total",
                "Entries that live tails lost because their readers were slow",
            )?,
            patterns: PatternMetrics {
                lines: r.counters(
                    "skald_pattern_ingester_lines_total",
                    "Lines, by what became of them: mined, sampled_out (another line stood for them), refused (no memory)",
                    &["outcome"],
                )?,
                skipped_batches: r.counter(
                    "skald_pattern_ingester_skipped_batches_total",
                    "Batches that were not looked at because too many waited; the next one stood for them",
                )?,
                bytes: r.gauge("skald_pattern_ingester_bytes", "Bytes of memory for patterns and their counts")?,
            },
            wal: WalMetrics::new(&r)?,
        })
    }
}

impl WalMetrics {
    fn new(r: &Instruments<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            records_logged: r.counter("loki_ingester_wal_records_logged_total", "Records written")?,
            bytes_logged: r.counter("loki_ingester_wal_logged_bytes_total", "Bytes written")?,
            corruptions: r.counter("loki_ingester_wal_corruptions_total", "Places of damage found")?,
            torn_tails: r.counter("skald_ingester_wal_torn_tails_total", "Torn ends cut off at start")?,
            disk_full_failures: r.counter(
                "loki_ingester_wal_disk_full_failures_total",
                "Groups of records refused for want of space",
            )?,
            replay_active: r.gauge("loki_ingester_wal_replay_active", "1 while the log is replayed")?,
            replay_seconds: r
                .seconds("loki_ingester_wal_replay_duration_seconds", "Time the last replay took")?,
            recovered_records: r
                .counter("skald_ingester_wal_recovered_records_total", "Records replayed into memory")?,
            disk_bytes: r.gauge("skald_ingester_wal_disk_bytes", "Bytes of the log on disk")?,
            sync_seconds: r.histogram(
                "skald_ingester_wal_sync_duration_seconds",
                "Time of one sync",
                &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0],
            )?,
        })
    }
}

/// By reason and tenant. Distributors count under the same name in the same process.
fn discarded(r: &Instruments<'_>, name: &str, help: &str) -> prometheus::Result<IntCounterVec> {
    r.counters_of("ingester", name, help, &["reason", "tenant"])
}

#[cfg(test)]
impl Metrics {
    /// Instruments of a test.
    pub(crate) fn of_test() -> Self {
        Self::new(&Registry::new()).unwrap()
    }
}

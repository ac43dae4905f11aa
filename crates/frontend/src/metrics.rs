//! The instruments of the query frontend.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};
use skald_runtime::Instruments;

/// Bounds of the durations of queries, in seconds.
const BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0];

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) query_seconds: HistogramVec,
    pub(crate) snapshot_too_old: IntCounter,
    pub(crate) ingesters_lacking: IntCounter,
    pub(crate) queue_length: IntGauge,
    pub(crate) blocked_queries: IntCounterVec,
    pub(crate) tails: IntGauge,
    pub(crate) tail_bytes: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let r = Instruments(registry);
        Ok(Self {
            query_seconds: r.histograms(
                "loki_logql_querystats_latency_seconds",
                "Duration of LogQL queries.",
                &["type", "range", "status_code"],
                BUCKETS,
            )?,
            snapshot_too_old: r.counter(
                "skald_query_frontend_snapshot_too_old_total",
                "Times a query started over because an ingester had let go of entries that a newer table version covers.",
            )?,
            ingesters_lacking: r.counter(
                "skald_query_frontend_ingesters_lacking_total",
                "Times an ingester did not answer a query in time, or at all.",
            )?,
            queue_length: r.gauge("skald_query_frontend_queue_length", "Tasks that wait for their turn.")?,
            blocked_queries: r.counters(
                "loki_blocked_queries",
                "Queries refused by blocked_queries, per tenant.",
                &["user"],
            )?,
            tails: r.gauge("loki_querier_tail_active", "Live tails.")?,
            tail_bytes: r.counter(
                "loki_querier_tail_bytes_total",
                "Bytes of the lines that live tails have sent.",
            )?,
        })
    }
}

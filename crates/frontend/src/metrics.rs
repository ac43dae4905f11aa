//! The instruments of the query frontend.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

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
        let query_seconds = HistogramVec::new(
            HistogramOpts::new("loki_logql_querystats_latency_seconds", "Duration of LogQL queries.")
                .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0]),
            &["type", "range", "status_code"],
        )?;
        let snapshot_too_old = IntCounter::new(
            "skald_query_frontend_snapshot_too_old_total",
            "Times a query started over because an ingester had let go of entries that a newer table version covers.",
        )?;
        let ingesters_lacking = IntCounter::new(
            "skald_query_frontend_ingesters_lacking_total",
            "Times an ingester did not answer a query in time, or at all.",
        )?;
        registry.register(Box::new(ingesters_lacking.clone()))?;
        let queue_length =
            IntGauge::new("skald_query_frontend_queue_length", "Tasks that wait for their turn.")?;
        registry.register(Box::new(queue_length.clone()))?;
        let tails = IntGauge::new("loki_querier_tail_active", "Live tails.")?;
        let tail_bytes = IntCounter::new(
            "loki_querier_tail_bytes_total",
            "Bytes of the lines that live tails have sent.",
        )?;
        registry.register(Box::new(tails.clone()))?;
        registry.register(Box::new(tail_bytes.clone()))?;
        let blocked_queries = IntCounterVec::new(
            prometheus::Opts::new("loki_blocked_queries", "Queries refused by blocked_queries, per tenant."),
            &["user"],
        )?;
        registry.register(Box::new(blocked_queries.clone()))?;
        registry.register(Box::new(query_seconds.clone()))?;
        registry.register(Box::new(snapshot_too_old.clone()))?;
        Ok(Self {
            query_seconds,
            snapshot_too_old,
            ingesters_lacking,
            queue_length,
            blocked_queries,
            tails,
            tail_bytes,
        })
    }
}

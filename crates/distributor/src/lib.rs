//! The distributor: validates pushes, applies the tenant's limits, gives each stream its identity, and sends each
//! replica its part.
//!
//! It keeps no data: whatever it knows (parsed labels, rate buckets) may be forgotten at any time. It never copies a
//! line unless a push has to be divided among ingesters.

mod metrics;
mod rate;
mod replicate;
mod streams;
mod validate;

use std::sync::Arc;

use async_trait::async_trait;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use skald_cluster::Topology;
use skald_model::{Batch, Error, Kind, Push, Result, TenantId, TenantLimits};
use skald_runtime::Clock;

use crate::metrics::Metrics;
use crate::rate::RateLimiter;
use crate::streams::StreamCache;

/// Settings of the distributor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most bytes of distinct label texts whose parsed form is kept. More saves parsing when there are many streams;
    /// less saves memory.
    pub stream_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { stream_cache_bytes: 16 << 20 }
    }
}

/// The service. See the crate's documentation.
pub struct Distributor {
    topology: Arc<Topology>,
    limits: Arc<dyn TenantLimits>,
    clock: Arc<dyn Clock>,
    /// Nanoseconds.
    epoch_length: i64,
    streams: StreamCache,
    rate: RateLimiter,
    metrics: Metrics,
}

impl Distributor {
    /// A distributor that sends to the ingesters of `topology`. `epoch_length` in nanoseconds must be the same in the
    /// whole cluster (`ingester.flush_interval`).
    pub fn new(
        config: &Config,
        clock: Arc<dyn Clock>,
        limits: Arc<dyn TenantLimits>,
        topology: Arc<Topology>,
        epoch_length: i64,
        registry: &Registry,
    ) -> std::result::Result<Self, prometheus::Error> {
        Ok(Self {
            topology,
            limits,
            clock,
            epoch_length: epoch_length.max(1),
            streams: StreamCache::new(config.stream_cache_bytes),
            rate: RateLimiter::default(),
            metrics: Metrics::new(registry)?,
        })
    }
}

#[async_trait]
impl skald_rpc::Distributor for Distributor {
    async fn push(&self, tenant: &TenantId, push: Push) -> Result<()> {
        if push.streams.is_empty() {
            return Err(Error::new(
                Kind::Unprocessable,
                "error at least one valid stream is required for ingestion",
            ));
        }
        let now = self.clock.now();
        let limits = self.limits.of(tenant);
        let validated = validate::validate(push, &self.streams, tenant, &limits, now)?;
        self.metrics.discarded(tenant, &validated.refused);
        let refusal = validated.refused.to_error();
        let batch = validated.batch;
        if batch.entries.refs.is_empty() {
            return refusal.map_or(Ok(()), Err);
        }
        let (lines, bytes) = (batch.entries.refs.len() as u64, payload_bytes(&batch));
        if let Err(wait) = self.rate.take(tenant, &limits, bytes, now) {
            self.metrics.rate_limited(tenant, lines, bytes);
            return Err(rate::refusal(tenant, &limits, lines, bytes, wait));
        }
        self.metrics.received(tenant, lines, bytes);
        let epoch = now.div_euclid(self.epoch_length);
        replicate::replicate(&self.topology.view(), tenant, epoch, batch).await.inspect_err(|_| {
            self.metrics.append_failures.inc();
        })?;
        refusal.map_or(Ok(()), Err)
    }
}

/// Bytes that count against rates: lines and structured metadata.
fn payload_bytes(batch: &Batch) -> u64 {
    batch.entries.refs.iter().map(|e| u64::from(e.line_len) + u64::from(e.metadata_len)).sum()
}

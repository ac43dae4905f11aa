//! The distributor: validates pushes, applies the tenant's limits, gives each stream its identity, and sends each
//! replica its part.
//!
//! It keeps no data: whatever it knows (parsed labels, rate buckets) may be forgotten at any time. It never copies a
//! line unless a push has to be divided among ingesters.

pub mod level;
mod metrics;
mod rate;
mod replicate;
mod rules;
mod shards;
mod streams;
mod validate;

use std::sync::Arc;

use async_trait::async_trait;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use skald_cluster::Topology;
use skald_model::{Error, Kind, Limits, Push, Result, TenantId, TenantLimits};
use skald_runtime::Clock;

use crate::metrics::Metrics;
use crate::rate::RateLimiter;
use crate::rules::RuleCache;
use crate::shards::Sharder;
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
    rules: RuleCache,
    streams: StreamCache,
    rate: RateLimiter,
    sharder: Sharder,
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
            rules: RuleCache::default(),
            streams: StreamCache::new(config.stream_cache_bytes),
            rate: RateLimiter::default(),
            sharder: Sharder::default(),
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
        let rules = self.rules.of(&self.limits.of(tenant));
        let limits = &rules.limits;
        if now < limits.block_ingestion_until {
            self.metrics.blocked(tenant, &push);
            return blocked(tenant, limits);
        }
        let validated = validate::validate(push, &self.streams, tenant, &rules, now)?;
        self.metrics.discarded(tenant, &validated.refused);
        self.metrics.truncated(tenant, validated.truncated);
        let refusal = validated.refused.to_error(limits);
        let (mut batch, bytes) = (validated.batch, validated.bytes);
        if batch.entries.refs.is_empty() {
            return refusal.map_or(Ok(()), Err);
        }
        let view = self.topology.view();
        let lines = batch.entries.refs.len() as u64;
        let rate = rate::rate_of(limits, view.distributors());
        if let Err(wait) = self.rate.take(tenant, limits, rate, bytes, now) {
            self.metrics.rate_limited(tenant, lines, bytes);
            return Err(rate::refusal(tenant, rate, lines, bytes, wait));
        }
        self.metrics.received(tenant, lines, bytes);
        self.sharder.divide(tenant, &mut batch, &limits.shard_streams, now);
        let epoch = now.div_euclid(self.epoch_length);
        replicate::replicate(&view, tenant, epoch, batch).await.inspect_err(|_| {
            self.metrics.append_failures.inc();
        })?;
        refusal.map_or(Ok(()), Err)
    }
}

/// The answer to a push while the tenant's pushes are blocked.
fn blocked(tenant: &TenantId, limits: &Limits) -> Result<()> {
    let status = limits.block_ingestion_status_code;
    if status == 200 {
        return Ok(());
    }
    let until = validate::rfc3339(limits.block_ingestion_until);
    Err(Error::new(
        Kind::Blocked(status),
        format!("ingestion blocked for user {tenant} until '{until}' with status code '{status}'"),
    ))
}

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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use skald_cluster::Topology;
use skald_model::time::SECOND;
use skald_model::{Error, Kind, Limits, Push, PushStamp, Result, TenantId, TenantLimits};
use skald_runtime::Clock;

use crate::metrics::Metrics;
use crate::rate::RateLimiter;
use crate::replicate::Replicator;
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
    /// How long a replica may take before the next ingester on the ring is sent its part. Less keeps pushes short while
    /// one hangs, more spares copies while disks are slow.
    #[serde(with = "skald_runtime::units::duration")]
    pub spare_after: Duration,
    /// Most bytes of pushes that were answered and are still on their way to their last replica. When it is full, pushes
    /// are answered once all replicas have them.
    pub background_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_cache_bytes: 16 << 20,
            spare_after: Duration::from_secs(1),
            background_bytes_max: 64 << 20,
        }
    }
}

/// The service. See the crate's documentation.
pub struct Distributor {
    topology: Arc<Topology>,
    limits: Arc<dyn TenantLimits>,
    clock: Arc<dyn Clock>,
    /// Tells this process's pushes from all others.
    origin: u64,
    pushes: AtomicU64,
    rules: RuleCache,
    streams: StreamCache,
    rate: RateLimiter,
    sharder: Sharder,
    replicator: Replicator,
    metrics: Metrics,
}

impl Distributor {
    /// A distributor that sends to the ingesters of `topology`.
    pub fn new(
        config: &Config,
        clock: Arc<dyn Clock>,
        limits: Arc<dyn TenantLimits>,
        topology: Arc<Topology>,
        registry: &Registry,
    ) -> std::result::Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry)?;
        let replicator =
            Replicator::new(config.spare_after, config.background_bytes_max, metrics.spares.clone());
        Ok(Self {
            topology,
            limits,
            clock,
            // 0 has a meaning of its own.
            origin: skald_runtime::random().max(1),
            pushes: AtomicU64::new(1),
            rules: RuleCache::default(),
            streams: StreamCache::new(config.stream_cache_bytes),
            rate: RateLimiter::default(),
            sharder: Sharder::default(),
            replicator,
            metrics,
        })
    }

    /// Waits until the pushes that were answered are with all replicas, and takes no more in.
    pub async fn shutdown(&self) {
        self.replicator.shutdown().await;
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
        let sequence = self.pushes.fetch_add(1, Ordering::Relaxed);
        let stamp =
            PushStamp { origin: self.origin, sequence, second: now.div_euclid(SECOND), partial: false };
        let shard_size = limits.ingestion_tenant_shard_size;
        self.replicator.replicate(&view, tenant, stamp, batch, shard_size).await.inspect_err(|_| {
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

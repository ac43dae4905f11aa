//! Token buckets for the tenants' ingestion rates.

use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skald_model::limits::RateStrategy;
use skald_model::time::SECOND;
use skald_model::{Error, Limits, TenantId, Timestamp};

/// One bucket per tenant, in this process.
#[derive(Default)]
pub(crate) struct RateLimiter {
    buckets: Mutex<FxHashMap<TenantId, Bucket>>,
}

/// Buckets that are kept at least; beyond, those that are full again are forgotten, which changes nothing.
const BUCKETS_KEPT: usize = 10_000;

struct Bucket {
    /// Bytes that were taken and have not come back.
    missing: f64,
    filled: Timestamp,
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.saturating_sub(from).max(0) as f64 / SECOND as f64
}

const MB: f64 = (1 << 20) as f64;

impl RateLimiter {
    /// Takes `bytes` from the tenant's bucket, which fills with `rate` bytes per second, or says how long it takes until
    /// they would be there.
    pub(crate) fn take(
        &self,
        tenant: &TenantId,
        limits: &Limits,
        rate: f64,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(), Duration> {
        let burst = limits.ingestion_burst_size_mb * MB;
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_KEPT && !buckets.contains_key(tenant) {
            // By the rate of the one that asks, which is nearly everybody's.
            buckets.retain(|_, b| b.missing > rate * seconds(b.filled, now));
        }
        let bucket = buckets.entry(tenant.clone()).or_insert(Bucket { missing: 0.0, filled: now });
        bucket.missing = (bucket.missing - rate * seconds(bucket.filled, now)).max(0.0);
        bucket.filled = now;
        let excess = bucket.missing + bytes as f64 - burst;
        if excess <= 0.0 {
            bucket.missing += bytes as f64;
            return Ok(());
        }
        let wait = if rate > 0.0 { excess / rate } else { 60.0 };
        Err(Duration::from_secs_f64(wait.clamp(1.0, 60.0)))
    }
}

/// Bytes per second that one of `distributors` grants.
pub(crate) fn rate_of(limits: &Limits, distributors: usize) -> f64 {
    let whole = limits.ingestion_rate_mb * MB;
    match limits.ingestion_rate_strategy {
        RateStrategy::Local => whole,
        RateStrategy::Global => whole / distributors.max(1) as f64,
    }
}

/// The refusal in Loki's words.
pub(crate) fn refusal(tenant: &TenantId, rate: f64, lines: u64, bytes: u64, wait: Duration) -> Error {
    Error::limit(
        format!(
            "ingestion rate limit exceeded for user {tenant} (limit: {} bytes/sec) while attempting to ingest '{lines}' \
             lines totaling '{bytes}' bytes, reduce log volume or contact your Loki administrator to see if the limit can \
             be increased (limits_config.ingestion_rate_mb, limits_config.ingestion_burst_size_mb)",
            rate as u64
        ),
        wait,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let limits = Limits { ingestion_rate_mb: 1.0, ingestion_burst_size_mb: 2.0, ..Limits::default() };
        let tenant = TenantId::new("t").unwrap();
        let rate = RateLimiter::default();
        let take =
            |tenant: &TenantId, bytes, now| rate.take(tenant, &limits, rate_of(&limits, 1), bytes, now);
        assert!(take(&tenant, 2 << 20, 0).is_ok());
        assert_eq!(take(&tenant, 2 << 20, 0), Err(Duration::from_secs(2)));
        assert!(take(&tenant, 1 << 20, SECOND).is_ok());
        assert!(take(&tenant, 1, SECOND).is_err());
        assert!(take(&TenantId::new("u").unwrap(), 2 << 20, SECOND).is_ok());
    }

    #[test]
    fn the_global_rate_is_divided_among_distributors() {
        let limits = Limits { ingestion_rate_mb: 4.0, ..Limits::default() };
        assert_eq!(rate_of(&limits, 4), MB);
        let local = Limits { ingestion_rate_strategy: RateStrategy::Local, ..limits };
        assert_eq!(rate_of(&local, 4), 4.0 * MB);
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let (rate, limits) = (RateLimiter::default(), Limits::default());
        let take = |id: &str, now| {
            rate.take(&TenantId::new(id).unwrap(), &limits, rate_of(&limits, 1), 1 << 20, now)
        };
        for i in 0..BUCKETS_KEPT {
            take(&format!("t{i}"), 0).unwrap();
        }
        take("late", 0).unwrap();
        assert_eq!(rate.buckets.lock().len(), BUCKETS_KEPT + 1);
        take("later", 10 * SECOND).unwrap();
        assert_eq!(rate.buckets.lock().len(), 1);
    }
}

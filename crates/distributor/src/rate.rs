//! Token buckets for the tenants' ingestion rates.

use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skald_model::time::SECOND;
use skald_model::{Error, Limits, TenantId, Timestamp};

/// One bucket per tenant, in this process.
#[derive(Default)]
pub(crate) struct RateLimiter {
    buckets: Mutex<FxHashMap<TenantId, Bucket>>,
}

struct Bucket {
    /// Bytes that may be taken at once; never more than the burst.
    tokens: f64,
    filled: Timestamp,
}

const MB: f64 = (1 << 20) as f64;

impl RateLimiter {
    /// Takes `bytes` from the tenant's bucket, or says how long it takes until they would be there.
    pub(crate) fn take(
        &self,
        tenant: &TenantId,
        limits: &Limits,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(), Duration> {
        let (rate, burst) = (limits.ingestion_rate_mb * MB, limits.ingestion_burst_size_mb * MB);
        let mut buckets = self.buckets.lock();
        let bucket = buckets.entry(tenant.clone()).or_insert(Bucket { tokens: burst, filled: now });
        let elapsed = (now - bucket.filled).max(0) as f64 / SECOND as f64;
        bucket.tokens = (bucket.tokens + elapsed * rate).min(burst);
        bucket.filled = now;
        let missing = bytes as f64 - bucket.tokens;
        if missing <= 0.0 {
            bucket.tokens -= bytes as f64;
            return Ok(());
        }
        let wait = if rate > 0.0 { missing / rate } else { 60.0 };
        Err(Duration::from_secs_f64(wait.clamp(1.0, 60.0)))
    }
}

/// The refusal in Loki's words.
pub(crate) fn refusal(tenant: &TenantId, limits: &Limits, lines: u64, bytes: u64, wait: Duration) -> Error {
    Error::limit(
        format!(
            "ingestion rate limit exceeded for user {tenant} (limit: {} bytes/sec) while attempting to ingest '{lines}' \
             lines totaling '{bytes}' bytes, reduce log volume or contact your Loki administrator to see if the limit can \
             be increased (limits_config.ingestion_rate_mb, limits_config.ingestion_burst_size_mb)",
            (limits.ingestion_rate_mb * MB) as u64
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
        assert!(rate.take(&tenant, &limits, 2 << 20, 0).is_ok());
        assert_eq!(rate.take(&tenant, &limits, 2 << 20, 0), Err(Duration::from_secs(2)));
        assert!(rate.take(&tenant, &limits, 1 << 20, SECOND).is_ok());
        assert!(rate.take(&tenant, &limits, 1, SECOND).is_err());
        assert!(rate.take(&TenantId::new("u").unwrap(), &limits, 2 << 20, SECOND).is_ok());
    }
}

//! What has to be looked after from time to time: epochs that have ended, idle streams, failed flushes, the log's size.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHasher;
use skald_model::time::SECOND;
use skald_model::{TenantId, Timestamp};

use crate::config::Config;
use crate::core::Core;
use crate::tenant::SealReason;

/// How often to look.
pub(crate) fn period(config: &Config) -> Duration {
    (config.flush_interval / 20).clamp(Duration::from_millis(20), Duration::from_secs(1))
}

/// Looks after everything once.
pub(crate) async fn tick(core: Arc<Core>) {
    let now = core.clock.now();
    let idle_cut = now.saturating_sub(nanos(core.config.chunk_idle_period));
    let pinning =
        core.log.wal().map(|w| w.pinning_beyond(core.config.wal.size_target_bytes)).unwrap_or_default();
    let mut streams = 0;
    for tenant in core.all() {
        let (reason, tenant_streams) = {
            let mut state = tenant.lock();
            state.forget_idle(idle_cut);
            let epoch_ended = state.active_age().is_some_and(|(since, second, bytes)| {
                is_due(&core.config, &tenant.id, Active { since, second, bytes }, now)
            });
            let reason = if epoch_ended {
                Some(SealReason::Epoch)
            } else {
                pinning.contains(&tenant.id).then_some(SealReason::Log)
            };
            (reason, state.streams_len())
        };
        streams += tenant_streams;
        let gauge = core.metrics.memory_streams.with_label_values(&[tenant.id.as_str()]);
        gauge.set(tenant_streams as i64);
        match reason {
            Some(reason) => core.seal_and_schedule(&tenant, reason),
            None => core.schedule(&tenant),
        }
    }
    core.metrics.streams.set(streams as i64);
    core.metrics.memory_bytes.set(core.memory.used() as i64);
    core.retire_idle(idle_cut);
}

/// A growing segment as the schedule sees it.
#[derive(Clone, Copy, Debug)]
struct Active {
    since: Timestamp,
    /// The lowest of its stamps.
    second: i64,
    bytes: usize,
}

/// Whether the segment should be sealed: its epoch has ended, and it is worth a file or has waited long enough.
fn is_due(config: &Config, tenant: &TenantId, active: Active, now: Timestamp) -> bool {
    let interval = nanos(config.flush_interval).max(1);
    let epoch = active.second.saturating_mul(SECOND).div_euclid(interval);
    let epoch_end = epoch.saturating_add(1).saturating_mul(interval);
    let seal_at =
        epoch_end.saturating_add(nanos(config.flush_grace)).saturating_add(offset(tenant, interval));
    let waited = now.saturating_sub(active.since);
    let worth_a_file = active.bytes as u64 >= config.min_flush_bytes;
    now >= seal_at && (worth_a_file || waited >= nanos(config.max_flush_delay))
}

/// Spreads the flushes of tenants over the epoch. The same for all replicas.
fn offset(tenant: &TenantId, interval: i64) -> i64 {
    let mut hasher = FxHasher::default();
    hasher.write(tenant.as_str().as_bytes());
    (hasher.finish() % interval.unsigned_abs()) as i64
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::tenant;

    const MINUTE: i64 = 60 * SECOND;

    #[test]
    fn seals_after_the_epoch_its_grace_and_the_tenants_offset() {
        let config = Config::default();
        let id = tenant("t");
        let seal_at = 15 * MINUTE + 10 * SECOND + offset(&id, 5 * MINUTE);
        let active = Active { since: 12 * MINUTE, second: 14 * 60, bytes: 2 << 20 };
        assert!(!is_due(&config, &id, active, seal_at - 1));
        assert!(is_due(&config, &id, active, seal_at));
    }

    #[test]
    fn a_small_tenant_is_carried_over_for_a_bounded_time() {
        let config = Config::default();
        let small = Active { since: 12 * MINUTE, second: 12 * 60, bytes: 100 };
        assert!(!is_due(&config, &tenant("t"), small, 41 * MINUTE));
        assert!(is_due(&config, &tenant("t"), small, 42 * MINUTE));
    }

    #[test]
    fn offsets_differ_and_stay_inside_the_epoch() {
        let offsets: std::collections::BTreeSet<_> =
            (0..50).map(|i| offset(&tenant(&format!("t{i}")), 5 * MINUTE)).collect();
        assert!(offsets.len() > 40);
        assert!(offsets.iter().all(|o| (0..5 * MINUTE).contains(o)));
    }
}

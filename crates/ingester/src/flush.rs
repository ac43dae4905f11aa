//! The way of sealed segments to the table.

use std::sync::Arc;
use std::time::Duration;

use skald_model::{Error, Kind, Result, TenantId};
use skald_runtime::CancellationToken;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::core::Core;
use crate::replicas;
use crate::table::Standing;
use crate::tenant::{SealReason, Tenant};

/// The pause after a first failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The tenants whose flushes are due, shared by the workers.
pub(crate) type Queue = Arc<tokio::sync::Mutex<UnboundedReceiver<Arc<Tenant>>>>;

/// Flushes one segment after the other until it is cancelled.
///
/// A flush that is cancelled has committed or not; the next start asks the table.
pub(crate) async fn work(core: Arc<Core>, queue: Queue, token: CancellationToken) {
    loop {
        let next = async { queue.lock().await.recv().await };
        let tenant = tokio::select! {
            biased;
            () = token.cancelled() => return,
            next = next => match next {
                Some(tenant) => tenant,
                None => return,
            },
        };
        let outcome = tokio::select! {
            biased;
            () = token.cancelled() => return,
            outcome = flush_one(&core, &tenant) => outcome,
        };
        match outcome {
            Ok(wait) => {
                match wait {
                    Some(wait) => tenant.lock().flush_waits(Instant::now() + wait),
                    None => tenant.lock().flush_succeeded(),
                }
                remove_covered(&core).await;
            }
            Err(error) => {
                let pause = |failures| backoff(failures, core.config.flush_op_backoff_max, &tenant.id);
                let pause = tenant.lock().flush_failed(Instant::now(), pause);
                core.metrics.flushes.with_label_values(&["error"]).inc();
                tracing::warn!(tenant = %tenant.id, %error, ?pause,
                    "failed to flush; the entries stay in memory and in the log, and it is tried again");
                tenant.report_failure(error);
            }
        }
        // At the end of the queue, so that tenants take turns.
        core.schedule(&tenant);
        if core.memory.used() > core.memory.total() / 4 * 3 {
            core.relieve(0);
        }
    }
}

/// Brings the oldest sealed segment of the tenant into the table, or nearer to it. Returns how long to wait for others
/// then, if there is something to wait for.
async fn flush_one(core: &Arc<Core>, tenant: &Arc<Tenant>) -> Result<Option<Duration>> {
    if let Some(writers) = &core.writers {
        return replicas::advance(core, tenant, writers).await;
    }
    // What an earlier try or an earlier process committed without knowing is not written again.
    let before = core.table.standing(&tenant.id).await?;
    core.settle(tenant, before);
    let part = tenant.lock().next_part(core.clock.now(), core.config.flush_abandon_after);
    let Some(part) = part else { return Ok(None) };
    let timer = core.metrics.flush_seconds.start_timer();
    let committing = || tenant.lock().commit_begins(before.version);
    let version = core.table.commit(&tenant.id, &part, &committing).await?;
    timer.observe_duration();
    core.metrics.flushes.with_label_values(&["success"]).inc();
    let committed = part.segment.lsns().map(|(_, last)| last);
    // Before anybody is told that the memory is free.
    drop(part);
    core.settle(tenant, Standing { version, committed });
    Ok(None)
}

/// Deletes files of the log that nobody needs.
pub(crate) async fn remove_covered(core: &Arc<Core>) {
    let core = core.clone();
    let removal = skald_runtime::blocking(move || core.log.wal().map(|wal| wal.remove_covered()));
    match removal.await {
        Ok(Some(Err(error))) => tracing::warn!(%error, "failed to remove covered files of the log"),
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the removal of covered files of the log panicked"),
    }
}

/// Doubles from pause to pause, and differs between tenants that failed at once.
pub(crate) fn backoff(failures: u32, longest: Duration, tenant: &TenantId) -> Duration {
    let grown = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    let spread: u32 =
        tenant.as_str().bytes().fold(failures, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    grown.mul_f64(0.5 + 0.5 * f64::from(spread % 1000) / 1000.0)
}

/// Seals what the tenants have and waits until the table has it. The first failed try of any of them ends it.
pub(crate) async fn flush_now(core: &Arc<Core>, tenants: Vec<Arc<Tenant>>) -> Result<()> {
    let mut waiting = Vec::new();
    for tenant in tenants {
        // Failures count from here on.
        let progress = tenant.progress();
        let failures = progress.borrow().failures;
        core.seal_and_schedule(&tenant, SealReason::Forced);
        let last = {
            let mut state = tenant.lock();
            state.hurry();
            state.last_sealed()
        };
        core.schedule(&tenant);
        waiting.extend(last.map(|lsn| (tenant, progress, lsn, failures)));
    }
    for (tenant, mut progress, lsn, failures) in waiting {
        let done = progress.wait_for(|p| p.covered >= lsn || p.failures > failures).await;
        let done = done.map_err(|_| Error::unavailable("ingester is shutting down"))?;
        if done.covered < lsn {
            let error = done.error.clone().unwrap_or_else(|| Error::new(Kind::Unavailable, "flush failed"));
            return Err(error.context(&format!("failed to flush tenant {}", tenant.id)));
        }
    }
    remove_covered(core).await;
    Ok(())
}

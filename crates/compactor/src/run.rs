//! Rounds over the tables.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use skald_model::{Result, TenantId};
use skald_runtime::CancellationToken;
use tokio::time::Instant;

use crate::Compactor;
use crate::metrics::Action;
use crate::work::Progress;

impl Compactor {
    /// Goes over all tables again and again until it is cancelled. Whatever is under way then is dropped: it has been
    /// committed or not, and what was uploaded in vain is found by vacuum.
    pub(crate) async fn run(self: Arc<Self>, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.rounds() => {}
        }
        self.metrics.running.set(0);
    }

    async fn rounds(&self) {
        // Compactors that start together do not look at everything together.
        let spread = skald_runtime::random() % 1000;
        tokio::time::sleep(self.config.compaction_interval.mul_f64(spread as f64 / 1000.0)).await;
        loop {
            let begun = Instant::now();
            self.metrics.running.set(1);
            let is_done = self.round().await;
            self.metrics.running.set(0);
            self.metrics.round_seconds.set(begun.elapsed().as_secs_f64());
            // What a tenant had no time for goes on at once.
            let pause = if is_done { self.config.compaction_interval } else { Duration::ZERO };
            tokio::time::sleep_until(begun + pause.max(ROUND_MIN)).await;
        }
    }

    /// Looks at each table once; whether nothing is left to do.
    pub async fn round(&self) -> bool {
        let begun = Instant::now();
        let outcome = self.tenants().await;
        let ended = |is_success: bool| {
            self.metrics.round(begun.elapsed(), is_success, self.parts.clock.now() as f64 / 1e9);
        };
        let tenants = match outcome {
            Ok(tenants) => tenants,
            Err(error) => {
                tracing::warn!(%error, "failed to list the tables; the next round tries again");
                ended(false);
                return true;
            }
        };
        self.metrics.tenants.set(tenants.len() as i64);
        self.status.retain(|tenant| tenants.contains(tenant));
        let deadline = Instant::now() + self.config.compaction_interval;
        let mut passes = Vec::with_capacity(tenants.len());
        for tenant in &tenants {
            passes.push(self.pass_and_report(tenant, deadline).boxed());
        }
        let at_once = self.config.max_compaction_parallelism.max(1);
        let outcomes: Vec<_> = futures::stream::iter(passes).buffer_unordered(at_once).collect().await;
        self.show_all();
        ended(outcomes.iter().all(Option::is_some));
        !outcomes.contains(&Some(Progress::OutOfTime))
    }

    /// Sets the gauges that are about all tables.
    fn show_all(&self) {
        let all = self.status.all();
        let metrics = &self.metrics;
        metrics.pending.set(all.iter().map(|s| s.pending_merges as i64).sum());
        let waiting = all.iter().map(|s| s.files_waiting as i64).sum();
        metrics.files_waiting.set(waiting);
        metrics.removal.files_waiting.set(waiting);
        let since = all.iter().filter_map(|s| s.waiting_since).min();
        metrics.removal.waiting_since.set(since.unwrap_or(0) as f64 / 1e9);
        metrics.removal.requests_open.set(all.iter().map(|s| s.open_requests as i64).sum());
        let oldest = all.iter().filter_map(|s| s.oldest_request).min();
        let age = oldest.map_or(0, |at| self.parts.clock.now().saturating_sub(at).max(0));
        metrics.removal.oldest_request.set(age as f64 / 1e9);
    }

    /// The tenants that are this compactor's own.
    async fn tenants(&self) -> Result<Vec<TenantId>> {
        let mut tenants = self.parts.catalog.tenants().await?;
        tenants.retain(|tenant| self.parts.ownership.owns(tenant));
        Ok(tenants)
    }

    /// Works on one table; `None` if that failed.
    async fn pass_and_report(&self, tenant: &TenantId, deadline: Instant) -> Option<Progress> {
        let (begun, removed_before) = (Instant::now(), self.status.of(tenant).rows_removed);
        let outcome = self.pass(tenant, deadline).await;
        let status = self.status.of(tenant);
        let action = match status.rows_removed - removed_before {
            0 => Action::None,
            _ if status.blocks == 0 => Action::Deleted,
            _ => Action::Modified,
        };
        self.metrics.removal.looked_at(begun.elapsed(), outcome.is_ok().then_some(action));
        let now = self.parts.clock.now();
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.status.change(tenant, |s| (s.last_run, s.last_error) = (Some(now), error));
        match outcome {
            Ok(progress) => Some(progress),
            Err(error) => {
                tracing::warn!(%tenant, %error, "failed to compact a table; the next round tries again");
                None
            }
        }
    }
}

/// From the begin of one round to the next, at least.
const ROUND_MIN: Duration = Duration::from_millis(100);

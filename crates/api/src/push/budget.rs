//! The memory of pushes on their way, bounded over all requests.
//!
//! A request takes its share as its body comes in, and more before it is decoded. Whoever finds nothing left waits a
//! moment, which slows the sender down, and is then refused with 429.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntGauge, Registry};
use skald_model::{Error, Result};
use skald_runtime::Instruments;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit.
const UNIT: usize = 1024;
/// Bodies above this are decoded where that keeps nobody waiting, in bytes.
const BLOCKING_ABOVE: usize = 512 << 10;

/// The memory for all pushes on their way.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    units: usize,
    wait: Duration,
    in_use: IntGauge,
    refused: IntCounter,
}

impl Budget {
    /// `bytes` in all, for which a request waits up to `wait`.
    pub(crate) fn new(bytes: usize, wait: Duration, registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let r = Instruments(registry);
        let in_use = r.gauge(
            "skald_push_bytes_in_flight",
            "Memory of pushes on their way, in bytes, as counted against distributor.inflight_bytes_max.",
        )?;
        let refused = r.counter(
            "skald_push_in_flight_refusals_total",
            "Pushes refused because too many bytes of pushes were on their way.",
        )?;
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Ok(Arc::new(Self { permits: Arc::new(Semaphore::new(units)), units, wait, in_use, refused }))
    }

    /// A request's share, still of nothing.
    pub(crate) fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: self.clone(), held: None }
    }
}

/// What one request holds. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    held: Option<OwnedSemaphorePermit>,
}

impl Charge {
    fn units(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Holds `bytes` in all from now on; less than that changes nothing. A request that needs more than there is at all
    /// gets all of it.
    ///
    /// # Errors
    /// `LimitExceeded` when they have not come free in time.
    pub(crate) async fn grow_to(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.div_ceil(UNIT).min(self.budget.units).saturating_sub(self.units());
        if more == 0 {
            return Ok(());
        }
        let permits = || self.budget.permits.clone();
        let permit = match permits().try_acquire_many_owned(more as u32) {
            Ok(permit) => Some(permit),
            Err(_) => {
                let acquire = permits().acquire_many_owned(more as u32);
                tokio::time::timeout(self.budget.wait, acquire).await.ok().and_then(std::result::Result::ok)
            }
        };
        let Some(permit) = permit else {
            self.budget.refused.inc();
            let all = skald_runtime::units::format_bytes((self.budget.units * UNIT) as u64);
            return Err(Error::limit(
                format!(
                    "too many bytes of pushes are on their way ({all}); nothing was stored, try again (setting \
                     distributor.inflight_bytes_max)"
                ),
                self.budget.wait.max(Duration::from_secs(1)),
            ));
        };
        self.budget.in_use.add((more * UNIT) as i64);
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }

    /// Runs `work`, which decodes a body: here if the body is small, else on a thread for work that takes long.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn decode<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.units() * UNIT <= BLOCKING_ABOVE {
            return work();
        }
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::internal(format!("failed to decode the push: {e}"))))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.in_use.sub((self.units() * UNIT) as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes: usize) -> Arc<Budget> {
        Budget::new(bytes, Duration::from_millis(1), &Registry::new()).unwrap()
    }

    #[tokio::test]
    async fn what_is_not_free_is_refused_and_what_is_dropped_is_free() {
        let budget = budget(10 * UNIT);
        let (mut a, mut b) = (budget.charge(), budget.charge());
        a.grow_to(6 * UNIT).await.unwrap();
        a.grow_to(5 * UNIT).await.unwrap();
        b.grow_to(4 * UNIT).await.unwrap();
        let refusal = b.grow_to(4 * UNIT + 1).await.unwrap_err();
        assert_eq!(refusal.kind, skald_model::Kind::LimitExceeded);
        assert!(refusal.message.contains("10KB") && refusal.retry_after.is_some(), "{refusal}");
        assert_eq!((budget.in_use.get(), budget.refused.get()), (10 * UNIT as i64, 1));
        drop(a);
        b.grow_to(5 * UNIT).await.unwrap();
        drop(b);
        assert_eq!(budget.in_use.get(), 0);
    }

    #[tokio::test]
    async fn a_push_larger_than_the_budget_gets_all_of_it() {
        let budget = budget(10 * UNIT);
        let mut whole = budget.charge();
        whole.grow_to(1 << 40).await.unwrap();
        assert!(budget.charge().grow_to(1).await.is_err());
    }

    #[tokio::test]
    async fn work_is_done_wherever_it_is_done() {
        let budget = budget(10 << 20);
        let mut charge = budget.charge();
        for bytes in [1, 5 << 20] {
            charge.grow_to(bytes).await.unwrap();
            assert_eq!(charge.decode(move || Ok(bytes)).await.unwrap(), bytes);
        }
    }
}

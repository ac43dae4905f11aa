//! Where scans of memory run: off the async runtime, no more at a time than the configuration allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use skald_model::{Error, Result};
use tokio::sync::Semaphore;

/// Runs heavy work on blocking threads, bounded.
#[derive(Debug)]
pub(crate) struct Pool(Arc<Semaphore>);

/// Tells work that nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// An error once the caller has gone.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::new(skald_model::Kind::Cancelled, "the query was cancelled")),
            false => Ok(()),
        }
    }
}

struct CancelOnDrop(Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Pool {
    pub(crate) fn new(concurrent: usize) -> Self {
        Self(Arc::new(Semaphore::new(concurrent.max(1))))
    }

    /// Runs `work` when its turn comes. Returns its result and the seconds it waited. When the future is dropped, work
    /// that runs is told so.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancelled) -> Result<T> + Send + 'static,
    ) -> Result<(T, f64)> {
        let queued = Instant::now();
        let permit = self.0.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::unavailable("ingester is shutting down"))?;
        let waited = queued.elapsed().as_secs_f64();
        let cancelled = Cancelled::default();
        let guard = CancelOnDrop(cancelled.clone());
        let span = tracing::Span::current();
        let work = skald_runtime::blocking(move || {
            let _permit = permit;
            span.in_scope(|| work(&cancelled))
        });
        let result = work
            .await
            .map_err(|_| Error::internal("a scan of memory panicked; see the log of the ingester"))?;
        drop(guard);
        Ok((result?, waited))
    }
}

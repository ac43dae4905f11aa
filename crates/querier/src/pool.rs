//! Where scans run: off the async runtime, no more at a time than there are cores for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use skald_model::{Error, Kind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Scans of blocks that may be under way for each that may run: while some are read for, others run.
const OPEN_PER_RUNNING: usize = 2;

/// Runs CPU-heavy work on blocking threads, bounded.
pub(crate) struct ScanPool {
    permits: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

/// Told to work whose caller has gone away.
#[derive(Clone, Default)]
pub(crate) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// Whether nobody waits for the result any more.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if nobody waits for the result any more.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            return Err(Error::new(Kind::Cancelled, "the caller has gone away"));
        }
        Ok(())
    }
}

/// Sets the flag when the future that waits is dropped.
struct OnDrop(Cancelled);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl ScanPool {
    /// A pool for `concurrent` scans at a time; 0 means one per core.
    pub(crate) fn new(concurrent: usize) -> Self {
        let cores = || std::thread::available_parallelism().map_or(2, usize::from);
        let permits = if concurrent == 0 { cores() } else { concurrent };
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            open: Arc::new(Semaphore::new(
                permits.saturating_mul(OPEN_PER_RUNNING).min(Semaphore::MAX_PERMITS),
            )),
        }
    }

    /// Leave to keep the buffers and the state of one block's scan until the permit is dropped. Queries over many blocks
    /// ask for it block by block, so that memory does not grow with their number, and whoever has one must not ask for
    /// another. Returns the seconds that it took, too.
    pub(crate) async fn open(&self) -> Result<(OwnedSemaphorePermit, f64)> {
        let queued = Instant::now();
        let permit = self.open.clone().acquire_owned().await.map_err(|_| stopping())?;
        Ok((permit, queued.elapsed().as_secs_f64()))
    }

    /// Runs `work` when its turn comes; returns its result and the seconds it had to wait.
    ///
    /// When the returned future is dropped, work that has not begun never does, and work that has sees its flag set.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancelled) -> Result<T> + Send + 'static,
    ) -> Result<(T, f64)> {
        let queued = Instant::now();
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| stopping())?;
        let waited = queued.elapsed().as_secs_f64();
        let cancelled = Cancelled::default();
        let guard = OnDrop(cancelled.clone());
        let span = tracing::Span::current();
        let outcome = skald_runtime::blocking(move || {
            let _permit = permit;
            span.in_scope(|| work(&cancelled))
        })
        .await;
        drop(guard);
        match outcome {
            Ok(result) => result.map(|r| (r, waited)),
            Err(e) if e.is_panic() => Err(Error::internal("a scan panicked; the log has the details")),
            Err(_) => Err(stopping()),
        }
    }
}

fn stopping() -> Error {
    Error::new(Kind::Unavailable, "the querier is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_than_the_permits_run_at_once() {
        let pool = Arc::new(ScanPool::new(2));
        let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks = (0..8).map(|_| {
            let (pool, running) = (pool.clone(), running.clone());
            tokio::spawn(async move {
                pool.run(move |_| {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(now)
                })
                .await
            })
        });
        for t in tasks.collect::<Vec<_>>() {
            assert!(t.await.unwrap().unwrap().0 <= 2);
        }
    }

    #[tokio::test]
    async fn a_dropped_caller_is_seen_by_the_work() {
        let pool = Arc::new(ScanPool::new(1));
        let (started, on_start) = std::sync::mpsc::channel();
        let (done, on_done) = tokio::sync::oneshot::channel();
        let caller = {
            let pool = pool.clone();
            tokio::spawn(async move {
                pool.run(move |cancelled| {
                    let _ = started.send(());
                    while !cancelled.is_set() {
                        std::thread::yield_now();
                    }
                    let _ = done.send(());
                    Ok(())
                })
                .await
            })
        };
        tokio::task::spawn_blocking(move || on_start.recv()).await.unwrap().unwrap();
        caller.abort();
        on_done.await.unwrap();
        assert!(pool.run(|_| Ok(7)).await.unwrap().0 == 7);
    }
}

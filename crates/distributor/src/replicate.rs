//! Sends each ingester its part of a batch, and answers as soon as every stream has its quorum.
//!
//! A push is a task of its own: whoever waits for the answer may go away, and what is left when the answer is known goes on,
//! so that all replicas get their part. Both only within a budget of memory, as nobody else accounts for it then. Where a replica fails or is slow and a stream would miss its quorum, the next
//! ingester on the ring takes its part; when there is none, it is tried again. All sends of a push have one stamp, so an
//! ingester that gets a part twice knows it.

mod quorum;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use prometheus::IntCounter;
use skald_cluster::View;
use skald_model::{Batch, Error, PushStamp, Result, TenantId};
use skald_rpc::ingester::IngesterPush;
use skald_runtime::Tasks;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::quorum::{Quorum, Send};

/// How long to wait before a failed replica is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// How long pushes that were answered may take to reach the last replica at shutdown.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(15);

/// Sends batches to ingesters.
pub(crate) struct Replicator {
    tasks: Tasks,
    spare_after: Duration,
    background: Arc<Background>,
    spares: IntCounter,
}

impl Replicator {
    /// A replica that has not answered after `spare_after` is replaced. Pushes that were answered may hold
    /// `background_bytes_max`.
    pub(crate) fn new(spare_after: Duration, background_bytes_max: usize, spares: IntCounter) -> Self {
        let background = Arc::new(Background { bytes_max: background_bytes_max, bytes: AtomicUsize::new(0) });
        Self { tasks: Tasks::new(), spare_after, background, spares }
    }

    /// Stores `batch` on the replicas of its streams, chosen among `shard_size` ingesters (0 is all). `Ok` when each
    /// stream is on a quorum of them.
    ///
    /// A refusal that sending again will not change (400) is returned as such once the rest is stored; a quorum that
    /// cannot be had is an error that may be retried.
    pub(crate) async fn replicate(
        &self,
        view: &Arc<View>,
        tenant: &TenantId,
        stamp: PushStamp,
        batch: Batch,
        shard_size: usize,
    ) -> Result<()> {
        let ingesters = view.ingesters();
        if ingesters.is_empty() {
            return Err(Error::unavailable("no ingester is known yet; the push can be repeated"));
        }
        if let [only] = ingesters
            && view.write_quorum() == 1
        {
            let push = IngesterPush { tenant: tenant.clone(), stamp, batch: Arc::new(batch) };
            return only.service.push(push).await;
        }
        let subset = view.subset(tenant, shard_size);
        let replicas = batch.streams.iter().map(|s| view.replicas(s.id, subset.as_ref())).collect();
        let push = Push {
            quorum: Quorum::new(view.clone(), batch.streams.iter().map(|s| s.id).collect(), replicas),
            view: view.clone(),
            tenant: tenant.clone(),
            stamp,
            batch,
            spare_after: self.spare_after,
            background: self.background.clone(),
            spares: self.spares.clone(),
            bytes: 0,
        };
        let (answer, answered) = oneshot::channel();
        self.tasks.spawn("distributor-push", move |_| push.run(answer));
        let gone = |_| Err(Error::unavailable("the distributor shuts down; the push can be repeated"));
        answered.await.unwrap_or_else(gone)
    }

    /// Waits until the pushes that were answered are with all replicas.
    pub(crate) async fn shutdown(&self) {
        self.tasks.shutdown(SHUTDOWN_DEADLINE).await;
    }
}

/// Memory of pushes that were answered and are still on their way to some replica.
struct Background {
    bytes_max: usize,
    bytes: AtomicUsize,
}

/// A share of it, until it is dropped.
struct Share {
    background: Arc<Background>,
    bytes: usize,
}

impl Background {
    fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let add = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Share { background: self.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.background.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One push on its way.
struct Push {
    quorum: Quorum,
    view: Arc<View>,
    tenant: TenantId,
    stamp: PushStamp,
    batch: Batch,
    spare_after: Duration,
    background: Arc<Background>,
    spares: IntCounter,
    /// Memory of the batch and of the parts that do not share it.
    bytes: usize,
}

/// The number of a send and what became of it.
type Sent = (usize, Result<()>);

impl Push {
    async fn run(mut self, answer: oneshot::Sender<Result<()>>) {
        let mut answer = Some(answer);
        let mut share = None;
        let mut sends: FuturesUnordered<BoxFuture<'static, Sent>> = FuturesUnordered::new();
        self.bytes = self.batch.entries.memory_bytes();
        let first = self.quorum.begin();
        self.send(first, &mut sends);
        let mut slow = std::pin::pin!(tokio::time::sleep(self.spare_after));
        let mut is_armed = true;
        loop {
            if let Some(outcome) = self.quorum.outcome() {
                // What is left goes on without anybody waiting only while there is memory for it.
                if share.is_none() && !sends.is_empty() {
                    share = self.background.take(self.bytes);
                }
                if (share.is_some() || sends.is_empty())
                    && let Some(answer) = answer.take()
                {
                    // Whoever has gone away does not need it.
                    let _ = answer.send(outcome);
                }
            }
            if sends.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some((number, outcome)) = sends.next() => self.quorum.take(number, outcome),
                () = gone(&mut answer), if share.is_none() => {
                    // The request held the memory of the push. Nothing was promised yet.
                    share = self.background.take(self.bytes);
                    if share.is_none() {
                        return;
                    }
                }
                () = &mut slow, if is_armed => {
                    is_armed = false;
                    self.quorum.pending_are_slow();
                }
            }
            let more = self.quorum.replace();
            if !more.is_empty() {
                slow.as_mut().reset(Instant::now() + self.spare_after);
                is_armed = true;
            }
            self.spares.inc_by(more.len() as u64);
            self.send(more, &mut sends);
        }
        if let Some(answer) = answer {
            let _ = answer.send(self.quorum.failure());
        }
        drop(share);
    }

    fn send(&mut self, sends: Vec<Send>, into: &mut FuturesUnordered<BoxFuture<'static, Sent>>) {
        for Send { number, ingester, streams, is_retry } in sends {
            let batch = match streams.iter().all(|mine| *mine) {
                true => self.batch.clone(),
                false => {
                    let part = part(&self.batch, &streams);
                    self.bytes += part.entries.memory_bytes();
                    part
                }
            };
            let push =
                IngesterPush { tenant: self.tenant.clone(), stamp: self.stamp, batch: Arc::new(batch) };
            let service = self.view.ingesters()[ingester].service.clone();
            into.push(Box::pin(async move {
                if is_retry {
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                (number, service.push(push).await)
            }));
        }
    }
}

/// Returns when nobody waits for the answer any more, if it has not been given.
async fn gone(answer: &mut Option<oneshot::Sender<Result<()>>>) {
    match answer {
        Some(answer) => answer.closed().await,
        None => std::future::pending().await,
    }
}

/// These streams of a batch, with memory of their own.
fn part(batch: &Batch, streams: &[bool]) -> Batch {
    let mut next = streams.iter();
    batch.select(|_| next.next() == Some(&true))
}

#[cfg(test)]
mod tests;

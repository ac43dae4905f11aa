//! Live tails: what is appended is handed on by reference to whoever follows.
//!
//! A push pays for a look at a counter; with tails of its tenant also for putting a reference into each tail's inbox. The
//! rest (labels, filters, the pipeline) is done in a task of each tail. Nothing waits for a tail: an inbox or an outgoing
//! buffer without room loses entries, and the reader is told which.
//!
//! Whether an append is to be handed on is looked up under the lock of its tenant, before its entries become visible. So
//! who subscribes first and queries then sees every entry in one of the two.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use skald_logql::LogQuery;
use skald_model::{EntryHash, EntryLabels, Error, LogEntry, Result, StreamId, TenantId, Timestamp};
use skald_rpc::tail::{Dropped, DroppedEntry, TailBatch, TailReader, TailWriter};
use skald_runtime::CancellationToken;
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::query::Stages;
use crate::segment::HeldBatch;

/// Most batches that wait for the task of one tail.
const INBOX_BATCHES: usize = 256;
/// Entries that a tail looks at before others get their turn on its thread, and gathers before it hands them on.
const TURN_ENTRIES: usize = 512;

/// The tails of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    /// All there are, so that a push without tails costs one load.
    count: AtomicUsize,
    next: AtomicU64,
    ended: AtomicBool,
    by_tenant: RwLock<FxHashMap<TenantId, Vec<Arc<Inbox>>>>,
}

/// Batches for one tail.
#[derive(Debug)]
struct Inbox {
    id: u64,
    sender: mpsc::Sender<Arc<HeldBatch>>,
    shared: Arc<Waiting>,
    bytes_max: usize,
}

/// What an inbox holds, and what it had no room for.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    missed: Mutex<Dropped>,
}

/// The task's end of an inbox.
pub(crate) struct Arrivals {
    receiver: mpsc::Receiver<Arc<HeldBatch>>,
    shared: Arc<Waiting>,
}

/// A place among the tails of a tenant, given back when dropped.
pub(crate) struct Subscription {
    tails: Arc<Tails>,
    tenant: TenantId,
    id: u64,
    metrics: Metrics,
}

/// What a tail's reader holds: its place and its buffer.
pub(crate) struct Followed {
    reader: TailReader,
    _subscription: Subscription,
}

impl Tails {
    /// Takes a place, if the tenant has fewer than `tails_max` tails. `bytes_max` bounds what waits for the tail's task.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        tenant: &TenantId,
        tails_max: usize,
        bytes_max: usize,
        metrics: &Metrics,
    ) -> Result<(Subscription, Arrivals)> {
        let (sender, receiver) = mpsc::channel(INBOX_BATCHES);
        let shared = Arc::<Waiting>::default();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut all = self.by_tenant.write();
        if self.ended.load(Ordering::Relaxed) {
            return Err(Error::unavailable("ingester is shutting down"));
        }
        let of_tenant = all.get(tenant).map_or(0, Vec::len);
        if of_tenant >= tails_max {
            return Err(Error::invalid(format!(
                "max concurrent tail requests limit exceeded, count > limit ({} > {tails_max})",
                of_tenant + 1
            )));
        }
        let inbox = Inbox { id, sender, shared: shared.clone(), bytes_max };
        all.entry(tenant.clone()).or_default().push(Arc::new(inbox));
        // Under the lock, so that the counter is never below what the map holds.
        self.count.fetch_add(1, Ordering::SeqCst);
        metrics.tails.inc();
        let (tails, tenant, metrics) = (self.clone(), tenant.clone(), metrics.clone());
        Ok((Subscription { tails, tenant, id, metrics }, Arrivals { receiver, shared }))
    }

    /// Whether anybody follows the tenant.
    pub(crate) fn follow(&self, tenant: &TenantId) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.by_tenant.read().contains_key(tenant)
    }

    /// Hands an appended batch to the tails of its tenant.
    pub(crate) fn publish(&self, tenant: &TenantId, held: &Arc<HeldBatch>) {
        for inbox in self.by_tenant.read().get(tenant).into_iter().flatten() {
            inbox.put(held);
        }
    }

    /// Ends all tails (their tasks see the end of what arrives) and takes no new ones.
    pub(crate) fn end(&self) {
        let mut by_tenant = self.by_tenant.write();
        self.ended.store(true, Ordering::Relaxed);
        let all = std::mem::take(&mut *by_tenant);
        let ended = all.values().map(Vec::len).sum::<usize>();
        self.count.fetch_sub(ended, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_tenant.read().values().map(Vec::len).sum()
    }
}

impl Inbox {
    fn put(&self, held: &Arc<HeldBatch>) {
        let bytes = held.reserved_bytes();
        let waiting = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room = waiting == 0 || waiting + bytes <= self.bytes_max;
        if has_room && self.sender.try_send(held.clone()).is_ok() {
            return;
        }
        self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut missed = self.shared.missed.lock();
        for stream in &held.batch.streams {
            let Some(first) = held.batch.of(stream).first() else { continue };
            missed.add(first.timestamp, &stream.labels);
            missed.entries += stream.entries.len() as u64 - 1;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.metrics.tails.dec();
        let mut all = self.tails.by_tenant.write();
        let Some(of_tenant) = all.get_mut(&self.tenant) else { return };
        let Some(at) = of_tenant.iter().position(|i| i.id == self.id) else { return };
        of_tenant.swap_remove(at);
        if of_tenant.is_empty() {
            all.remove(&self.tenant);
        }
        self.tails.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Followed {
    pub(crate) fn new(reader: TailReader, subscription: Subscription) -> Self {
        Self { reader, _subscription: subscription }
    }
}

impl Stream for Followed {
    type Item = Result<TailBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.reader.poll_next_unpin(cx)
    }
}

/// Runs a tail: takes what arrives, hands on what passes the query. Ends when the reader has gone or all tails end.
pub(crate) async fn run(
    mut arrivals: Arrivals,
    query: LogQuery,
    writer: TailWriter,
    metrics: Metrics,
    token: CancellationToken,
) {
    let mut matcher = Matcher::new(query);
    loop {
        let arrived = tokio::select! {
            biased;
            () = token.cancelled() => None,
            arrived = arrivals.receiver.recv() => arrived,
        };
        let Some(held) = arrived else { return };
        let mut entries = Entries { batch: &held.batch, stream: 0, entry: 0 };
        loop {
            let found = match matcher.next(&mut entries) {
                Ok(found) => found,
                Err(error) => return writer.fail(error),
            };
            if !found.is_empty() {
                metrics.tail_dropped_entries.inc_by(writer.write(found));
            }
            if entries.is_done() {
                break;
            }
            tokio::task::yield_now().await;
        }
        arrivals.shared.bytes.fetch_sub(held.reserved_bytes(), Ordering::Relaxed);
        let missed = std::mem::take(&mut *arrivals.shared.missed.lock());
        let missed = matcher.own(missed);
        if !missed.is_empty() {
            metrics.tail_dropped_entries.inc_by(missed.entries);
            writer.lost(missed);
        }
    }
}

/// How far a batch has been looked at.
struct Entries<'a> {
    batch: &'a skald_model::Batch,
    stream: usize,
    entry: usize,
}

impl Entries<'_> {
    fn is_done(&self) -> bool {
        self.stream >= self.batch.streams.len()
    }
}

/// A query at work.
struct Matcher {
    query: LogQuery,
    stages: Stages,
}

/// An entry that passed, its line still among the others' lines.
struct Passed {
    timestamp: Timestamp,
    line: std::ops::Range<usize>,
    labels: Arc<EntryLabels>,
    stream: StreamId,
    identity: EntryHash,
}

impl Matcher {
    fn new(query: LogQuery) -> Self {
        let stages = Stages::new(&query);
        Self { query, stages }
    }

    /// Looks at the next entries, and returns those that pass. Their lines lie together in a buffer of their own: the
    /// push's body would stay in memory as long as the shortest of its lines waits for its reader.
    fn next(&mut self, at: &mut Entries<'_>) -> Result<Vec<LogEntry>> {
        let (mut lines, mut passed) = (Vec::new(), Vec::new());
        let mut turn = TURN_ENTRIES;
        let batch = at.batch;
        while turn > 0
            && let Some(stream) = batch.streams.get(at.stream)
        {
            let entries = &batch.of(stream)[at.entry..];
            if at.entry == 0 && !self.query.selector.matches(stream.labels.as_ref()) {
                at.stream += 1;
                turn -= 1;
                continue;
            }
            if let Some(invalid) = &self.query.invalid {
                return Err(invalid.clone().into());
            }
            let looked_at = entries.len().min(turn);
            for entry in &entries[..looked_at] {
                let (line, metadata) = (batch.entries.line(entry), batch.entries.metadata(entry));
                if !self.query.predicate.matches(line) {
                    continue;
                }
                let start = entry.line_start as usize;
                let shared = batch.entries.body.slice(start..start + line.len());
                let done = self.stages.process(entry.timestamp, &shared, &stream.labels, metadata);
                let Some(done) = done else { continue };
                let from = lines.len();
                lines.extend_from_slice(&done.line);
                passed.push(Passed {
                    timestamp: entry.timestamp,
                    line: from..lines.len(),
                    labels: done.labels,
                    stream: stream.id,
                    identity: EntryHash::of(entry.timestamp, line, metadata),
                });
            }
            turn -= looked_at;
            at.entry += looked_at;
            if looked_at == entries.len() {
                (at.stream, at.entry) = (at.stream + 1, 0);
                turn = turn.saturating_sub(1);
            }
        }
        let lines = Bytes::from(lines);
        let entry = |p: Passed| LogEntry {
            timestamp: p.timestamp,
            line: lines.slice(p.line),
            labels: p.labels,
            stream: p.stream,
            identity: p.identity,
        };
        Ok(passed.into_iter().map(entry).collect())
    }

    /// The part of what was missed that this query can have asked for. The lines are gone, so only labels tell; when
    /// none of the listed streams is asked for, the others are taken for strangers, too.
    fn own(&self, missed: Dropped) -> Dropped {
        let listed: Vec<DroppedEntry> =
            missed.listed.into_iter().filter(|d| self.query.selector.matches(d.labels.as_ref())).collect();
        let entries = if listed.is_empty() { 0 } else { missed.entries };
        Dropped { entries, listed }
    }
}

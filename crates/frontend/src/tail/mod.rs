//! Live tails over all ingesters: the newest entries there are, then what each ingester appends, each entry once.
//!
//! Ingesters are followed before the query for what is there already, so that every entry is in one of the two; entries
//! that are in both, or come from several replicas, are known by their identity. An ingester that comes, or comes back,
//! is followed as soon as the view of members has it, and a query brings what it took in until then.
//!
//! The stream does nothing while its reader does not ask: what there is no room for is then lost where it was appended,
//! and the reader is told.

mod order;
mod seen;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, FuturesUnordered, SelectAll, StreamExt as _};
use prometheus::IntGauge;
use skald_logql::ast::Expr;
use skald_logql::syntax::canonical;
use skald_model::time::SECOND;
use skald_model::{Direction, Error, Kind, LogEntry, Result, Timestamp};
use skald_rpc::frontend::{QueryData, RangeQuery};
use skald_rpc::tail::{Dropped, TailBatch, TailQuery, TailStream, TailTask};
use skald_rpc::{Ingester, QueryFrontend as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use self::order::Held;
use self::seen::Seen;
use crate::Frontend;
use crate::replicas::{Warnings, gather};

/// What the configuration says about tails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) duration_max: Duration,
    pub(crate) held_bytes_max: usize,
}

/// How often an ingester that does not answer is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// How far before the moment at which an ingester was found missing its entries are asked for once it is there.
const CATCH_UP_MARGIN: i64 = 2 * SECOND;
/// Most entries that are asked for then.
const CATCH_UP_LIMIT: usize = 1000;

/// Checks the query, follows all ingesters, and takes what is there already.
pub(crate) async fn begin(frontend: Frontend, query: TailQuery) -> Result<TailStream> {
    let limits = frontend.limits.of(&query.tenant);
    let expr = Frontend::parse(&query.query, &limits)?;
    if !matches!(expr, Expr::Log(_)) {
        return Err(Error::invalid("only log selector is supported"));
    }
    let deadline = Instant::now() + frontend.tail.duration_max;
    let task = TailTask { tenant: query.tenant.clone(), query: canonical(&expr).into() };
    let held = Held::new(query.delay, frontend.tail.held_bytes_max);
    let changes = frontend.topology.changes();
    let counted = Counted::new(&frontend.metrics.tails);
    let tail = Tail { changes, frontend, query, task, deadline, _counted: counted };
    let mut sources = Sources::default();
    tail.follow_all(&mut sources).await?;
    let first = tail.query(tail.query.start, tail.query.limit).await?;
    let mut seen = Seen::default();
    let mut first = TailBatch { entries: first, ..TailBatch::default() };
    first.entries.retain(|e| seen.insert(e));
    let mut retry = interval_at(Instant::now() + RETRY_PERIOD, RETRY_PERIOD);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let running = Running { tail, sources, seen, held, retry };
    let first = (!first.entries.is_empty()).then_some(Ok(first));
    let rest = stream::unfold(Some(running), |running| async {
        let mut running = running?;
        match running.next().await {
            Ok(batch) => Some((Ok(batch), Some(running))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(stream::iter(first).chain(rest).boxed())
}

/// What does not change while a tail runs.
struct Tail {
    frontend: Frontend,
    query: TailQuery,
    task: TailTask,
    deadline: Instant,
    changes: watch::Receiver<()>,
    _counted: Counted,
}

/// A tail at work.
struct Running {
    tail: Tail,
    sources: Sources,
    seen: Seen,
    held: Held,
    retry: tokio::time::Interval,
}

/// The ingesters that are followed, or will be.
#[derive(Default)]
struct Sources {
    names: HashSet<String>,
    following: SelectAll<BoxStream<'static, FromIngester>>,
    joining: FuturesUnordered<BoxFuture<'static, Joined>>,
    /// Answers to queries for what ingesters took in while they were not followed.
    missed: FuturesUnordered<BoxFuture<'static, Result<Vec<LogEntry>>>>,
}

/// An item of an ingester's stream, or its end.
enum FromIngester {
    Batch(TailBatch),
    End(String, Option<Error>),
}

/// What became of an attempt to follow an ingester.
struct Joined {
    name: String,
    since: Timestamp,
    outcome: Result<TailStream>,
}

/// Counts a tail while it is there.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Tail {
    /// Follows all ingesters of the view. Some may be missing; they are tried again later.
    async fn follow_all(&self, sources: &mut Sources) -> Result<()> {
        let view = self.frontend.topology.view();
        let replicas = self.frontend.replicas(&self.task.tenant, view.clone(), &Warnings::default());
        let all = view.ingesters().iter().enumerate().map(|(position, m)| {
            let task = self.task.clone();
            (position, async move { m.service.tail(task).await })
        });
        let may_leave = |missing: &[usize]| replicas.is_sure_without(missing);
        let mut last_error = None;
        for (position, outcome) in gather(all, self.frontend.ingester_timeout, may_leave, true).await {
            match outcome {
                Ok(stream) => sources.add(view.ingesters()[position].name.clone(), stream),
                // The query is wrong, or there are too many tails: others would say the same.
                Err(error) if error.kind == Kind::InvalidArgument => return Err(error),
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if sources.names.is_empty() => Err(error.context("no ingester can be followed")),
            _ => Ok(()),
        }
    }

    /// Leaves out what has expired already when it comes. A delete request is about nothing that comes after it.
    fn without_expired(&self, entries: &mut Vec<LogEntry>) {
        let (tenant, now) = (&self.query.tenant, self.frontend.clock.now());
        match self.frontend.resolver.expired(tenant, now) {
            Ok(None) => {}
            Ok(Some(rules)) => {
                entries.retain(|e| e.timestamp >= rules.cutoff_of(e.labels.stream.as_ref()));
            }
            Err(error) => tracing::warn!(%tenant, %error, "a tail shows what may have expired"),
        }
    }

    /// The newest entries since `start`, oldest first.
    async fn query(&self, start: Timestamp, limit: usize) -> Result<Vec<LogEntry>> {
        let query = self.range_query(start, limit);
        entries_of(&self.frontend, query).await
    }

    fn range_query(&self, start: Timestamp, limit: usize) -> RangeQuery {
        let limits = self.frontend.limits.of(&self.query.tenant);
        let now = self.frontend.clock.now();
        // Senders' clocks may be ahead: entries from the near future have been acknowledged, too.
        let mut end = now.saturating_add(limits.creation_grace_period.max(SECOND));
        if limits.max_query_length > 0 {
            end = end.min(start.saturating_add(limits.max_query_length)).max(now);
        }
        RangeQuery {
            tenant: self.query.tenant.clone(),
            query: self.query.query.clone(),
            start,
            end,
            step: SECOND,
            interval: 0,
            limit,
            direction: Direction::Backward,
            tags: String::new(),
        }
    }
}

async fn entries_of(frontend: &Frontend, query: RangeQuery) -> Result<Vec<LogEntry>> {
    match frontend.query_range(query).await?.data {
        QueryData::Streams(mut entries) => {
            entries.reverse();
            Ok(entries)
        }
        _ => Err(Error::internal("a log query was not answered with entries")),
    }
}

impl Sources {
    fn add(&mut self, name: String, stream: TailStream) {
        self.names.insert(name.clone());
        let items = stream.map(Some).chain(stream::iter([None]));
        let items = items.scan(false, move |ended, item| {
            let item = match item {
                _ if *ended => None,
                Some(Ok(batch)) => Some(FromIngester::Batch(batch)),
                Some(Err(error)) => Some(FromIngester::End(name.clone(), Some(error))),
                None => Some(FromIngester::End(name.clone(), None)),
            };
            *ended |= matches!(item, Some(FromIngester::End(..)));
            futures::future::ready(item)
        });
        self.following.push(items.boxed());
    }

    fn join(&mut self, name: &str, service: Arc<dyn Ingester>, task: TailTask, since: Timestamp) {
        self.names.insert(name.to_owned());
        let name = name.to_owned();
        self.joining.push(async move { Joined { name, since, outcome: service.tail(task).await } }.boxed());
    }
}

impl Running {
    /// Waits for the next batch. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Result<TailBatch> {
        loop {
            if let Some(batch) = self.held.due(Instant::now()) {
                let bytes: usize = batch.entries.iter().map(|e| e.line.len()).sum();
                self.tail.frontend.metrics.tail_bytes.inc_by(bytes as u64);
                return Ok(batch);
            }
            let due = self.held.due_at();
            let Self { tail, sources, retry, .. } = self;
            let Sources { names, following, joining, missed } = sources;
            tokio::select! {
                () = sleep_until(tail.deadline) => {
                    return Err(Error::new(Kind::Timeout, "reached tail max duration limit"));
                }
                Some(item) = following.next(), if !following.is_empty() => match item {
                    FromIngester::Batch(batch) => self.take(batch),
                    FromIngester::End(name, error) => {
                        tracing::debug!(ingester = name, ?error, "a followed ingester has ended the tail");
                        names.remove(&name);
                    }
                },
                Some(joined) = joining.next(), if !joining.is_empty() => self.joined(joined),
                Some(found) = missed.next(), if !missed.is_empty() => match found {
                    Ok(entries) => self.take(TailBatch { entries, dropped: Dropped::default() }),
                    Err(error) => tracing::warn!(%error, "failed to bring what an ingester took in before it was followed"),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                Ok(()) = tail.changes.changed() => self.join_missing(),
                _ = retry.tick() => self.join_missing(),
            }
        }
    }

    fn take(&mut self, mut batch: TailBatch) {
        batch.entries.retain(|e| self.seen.insert(e));
        self.tail.without_expired(&mut batch.entries);
        if !batch.entries.is_empty() || !batch.dropped.is_empty() {
            self.held.add(batch, Instant::now());
        }
    }

    /// Begins to follow the ingesters that are there and not followed.
    fn join_missing(&mut self) {
        let view = self.tail.frontend.topology.view();
        let since = self.tail.frontend.clock.now().saturating_sub(CATCH_UP_MARGIN);
        for member in
            view.ingesters().iter().filter(|m| !self.sources.names.contains(&m.name)).collect::<Vec<_>>()
        {
            self.sources.join(&member.name, member.service.clone(), self.tail.task.clone(), since);
        }
    }

    fn joined(&mut self, joined: Joined) {
        let Joined { name, since, outcome } = joined;
        match outcome {
            Ok(stream) => {
                self.sources.add(name, stream);
                let (frontend, query) =
                    (self.tail.frontend.clone(), self.tail.range_query(since, CATCH_UP_LIMIT));
                self.sources.missed.push(async move { entries_of(&frontend, query).await }.boxed());
            }
            Err(error) => {
                tracing::debug!(ingester = name, %error, "an ingester cannot be followed");
                self.sources.names.remove(&name);
            }
        }
    }
}

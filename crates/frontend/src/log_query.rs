//! Log queries: memory first, then blocks in order of time, until the limit is full.

use std::sync::Arc;

use futures::stream::{FuturesOrdered, TryStreamExt as _};
use skald_logql::ast::LogExpr;
use skald_model::{Direction, Error, Limits, LogEntry, LogMerger, QueryStats, Result, Selector, TimeRange};
use skald_rpc::frontend::{QueryData, QueryResponse, RangeQuery};
use skald_rpc::memory::QueryShare;
use skald_rpc::querier::{BlockRef, LogTask};
use skald_rpc::{Ingester, Querier};
use skald_storage::table::{BlockEntry, NO_VERSION, Snapshot};

use crate::Frontend;
use crate::queriers::Route;
use crate::removals::{self, Left, Rules};
use crate::replicas::{Replicas, Warnings};

/// Runs a log query. `text` is the query in the form for tasks, which is read alike whatever the tenant's limits are.
pub(crate) async fn run(
    frontend: &Frontend,
    query: &RangeQuery,
    expr: &LogExpr,
    text: &str,
    limits: &Limits,
) -> Result<QueryResponse> {
    if query.limit > limits.max_entries_limit_per_query && limits.max_entries_limit_per_query > 0 {
        return Err(Error::invalid(format!(
            "max entries limit per query exceeded, limit > max_entries_limit_per_query ({} > {})",
            query.limit, limits.max_entries_limit_per_query
        )));
    }
    let Some(range) = range_of(frontend, query, expr, limits)? else {
        return Ok(QueryResponse::new(QueryData::Streams(Vec::new()), QueryStats::default()));
    };
    let task = LogTask {
        tenant: query.tenant.clone(),
        query: text.into(),
        range,
        direction: query.direction,
        limit: query.limit,
        version: NO_VERSION,
        blocks: Vec::new(),
        max_bytes: if limits.max_query_bytes_read == 0 { u64::MAX } else { limits.max_query_bytes_read },
        removals: None,
    };
    let warnings = Warnings::default();
    let page = |task: LogTask| {
        frontend.at_one_version(&query.tenant, &warnings, move |replicas, snapshot, rules| {
            let task = LogTask { version: snapshot.version, ..task.clone() };
            async move {
                let range = task.range;
                let rules = removals::within(&rules, range);
                let selector = &expr.selector;
                frontend
                    .check_log_bytes(&query.tenant, selector, range, &replicas, &snapshot, &rules)
                    .await?;
                let task = LogTask { removals: removals::spec(&rules, range), ..task };
                let share = frontend.memory.share();
                let parallelism = limits.max_query_parallelism;
                collect(frontend, replicas, snapshot, (selector, &rules), task, parallelism, share).await
            }
        })
    };
    let found =
        if query.interval > 0 { thinned(task, query.interval, page).await? } else { page(task).await? };
    let Found { entries, mut stats, share } = found;
    stats.entries_returned = entries.len() as u64;
    let memory = Some(Arc::new(share));
    let warnings = warnings.list();
    Ok(QueryResponse { memory, warnings, ..QueryResponse::new(QueryData::Streams(entries), stats) })
}

/// An answer with the memory that it holds.
struct Found {
    entries: Vec<LogEntry>,
    stats: QueryStats,
    share: QueryShare,
}

/// Entries that a page of a thinned query reads at least; most of them are dropped.
const THINNED_PAGE: usize = 1000;

/// The answer without entries nearer than `interval` to the last one kept: page after page, each beginning where the
/// next entry may be kept, so that memory holds one page however much is dropped.
async fn thinned<F>(mut task: LogTask, interval: i64, page: impl Fn(LogTask) -> F) -> Result<Found>
where
    F: Future<Output = Result<Found>>,
{
    let limit = task.limit;
    let (mut kept, mut stats) = (Vec::<LogEntry>::new(), QueryStats::default());
    task.limit = limit.max(THINNED_PAGE);
    loop {
        let Found { entries, stats: page_stats, mut share } = page(task.clone()).await?;
        stats.merge(&page_stats);
        let full = entries.len() >= task.limit;
        for e in entries {
            let end_first = task.direction == Direction::Backward;
            if kept.len() == limit || !task.range.contains(e.timestamp) {
                continue;
            }
            // What is left of the range begins where the next entry is due.
            match end_first {
                true => task.range.end = e.timestamp.saturating_sub(interval).saturating_add(1),
                false => task.range.start = e.timestamp.saturating_add(interval),
            }
            kept.push(e);
        }
        share.resize(kept.iter().map(LogEntry::memory_bytes).sum()).await?;
        if !full || kept.len() == limit || task.range.is_empty() {
            return Ok(Found { entries: kept, stats, share });
        }
    }
}

/// The range that the query reads: as given, or the last `[range]` before the end where one trails the query. `None`
/// when the look-back limit leaves nothing.
fn range_of(
    frontend: &Frontend,
    query: &RangeQuery,
    expr: &LogExpr,
    limits: &Limits,
) -> Result<Option<TimeRange>> {
    let mut range = TimeRange::new(query.start, query.end);
    if let Some(trailing) = expr.range {
        range.start = range.start.max(query.end.saturating_sub(trailing));
    }
    // A range of one point asks for that point.
    if range.start == range.end {
        range.end = range.end.saturating_add(1);
    }
    limit_range(range, limits, frontend.clock.now())
}

/// Applies `max_query_length` and `max_query_lookback`.
pub(crate) fn limit_range(mut range: TimeRange, limits: &Limits, now: i64) -> Result<Option<TimeRange>> {
    if limits.max_query_lookback > 0 {
        let oldest = now.saturating_sub(limits.max_query_lookback);
        if range.end < oldest {
            return Ok(None);
        }
        range.start = range.start.max(oldest);
    }
    let length = range.end.saturating_sub(range.start);
    if limits.max_query_length > 0 && length > limits.max_query_length {
        return Err(Error::invalid(format!(
            "the query time range exceeds the limit (query length: {}, limit: {})",
            skald_logql::units::format_go_duration(length),
            skald_logql::units::format_prometheus_duration(limits.max_query_length)
        )));
    }
    Ok(Some(range))
}

/// Collects the answer at one table version.
async fn collect(
    frontend: &Frontend,
    replicas: Arc<Replicas>,
    snapshot: Arc<Snapshot>,
    (selector, rules): (&Selector, &Rules),
    task: LogTask,
    parallelism: usize,
    mut share: QueryShare,
) -> Result<Found> {
    let mut merger = LogMerger::new(task.direction, task.limit);
    let mut stats = QueryStats::default();

    let view = replicas.view();
    let ask = |i: Arc<dyn Ingester>| {
        let task = task.clone();
        async move { i.query_logs(task).await }
    };
    for (_, result) in replicas.ask(ask).await? {
        stats.ingesters += 1;
        stats.merge(&result.stats);
        merger.add(result.entries);
        share.resize(merger.memory_bytes()).await?;
    }

    let mut blocks = BlockQueue::new(&snapshot, (selector, rules), task.range, task.direction);
    stats.blocks_pruned += blocks.pruned;
    // The answer often lies in the first block alone; where it does not, more are read at a time.
    let mut wave = 1;
    loop {
        let range = merger.open_range(task.range);
        let next = blocks.take(range, wave.min(parallelism.max(1)));
        if next.is_empty() {
            break;
        }
        let spent = stats.block_bytes + stats.head_bytes;
        let tasks = next.iter().map(|b| {
            let task = LogTask {
                range,
                blocks: vec![block_ref(b)],
                removals: removals::spec_of_block(rules, b, &task.removals),
                max_bytes: task.max_bytes.saturating_sub(spent),
                ..task.clone()
            };
            async move {
                let route = Route { tenant: &task.tenant, key: &b.path, part: 0 };
                let run = |querier: Arc<dyn Querier>| {
                    let task = task.clone();
                    async move { querier.query_logs(task).await }
                };
                frontend.queriers.run(view, route, run).await
            }
        });
        let mut tasks: FuturesOrdered<_> = tasks.collect();
        while let Some((result, waited)) = tasks.try_next().await? {
            stats.subqueries += 1;
            stats.queue_seconds += waited;
            stats.merge(&result.stats);
            merger.add(result.entries);
            share.resize(merger.memory_bytes()).await?;
        }
        wave *= 2;
    }
    stats.blocks_pruned += blocks.left() as u64;
    let (entries, duplicates) = merger.finish();
    stats.duplicates += duplicates;
    Ok(Found { entries, stats, share })
}

/// How a task names a block.
pub(crate) fn block_ref(b: &BlockEntry) -> BlockRef {
    BlockRef {
        path: b.path.as_str().into(),
        size: b.summary.file_size,
        tail_offset: b.summary.tail_offset,
        received_min: b.origin.received_min,
        deletes: b.origin.deletes,
    }
}

/// The blocks of a range, those first that can hold what comes first in the answer.
struct BlockQueue {
    blocks: std::collections::VecDeque<Arc<BlockEntry>>,
    pruned: u64,
}

impl BlockQueue {
    fn new(
        snapshot: &Snapshot,
        (selector, rules): (&Selector, &Rules),
        range: TimeRange,
        direction: Direction,
    ) -> Self {
        let left = Left::of(snapshot.select(range, selector), rules, range);
        let mut blocks: Vec<_> = left.blocks.into_iter().cloned().collect();
        let pruned = (snapshot.blocks.len() - blocks.len()) as u64;
        match direction {
            Direction::Backward => blocks.sort_by_key(|b| std::cmp::Reverse(b.summary.max_ts)),
            Direction::Forward => blocks.sort_by_key(|b| b.summary.min_ts),
        }
        Self { blocks: blocks.into(), pruned }
    }

    /// The next blocks, up to `count`, that hold anything inside `range`.
    fn take(&mut self, range: TimeRange, count: usize) -> Vec<Arc<BlockEntry>> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let Some(b) = self.blocks.pop_front() else { break };
            if range.overlaps(b.summary.min_ts, b.summary.max_ts) {
                taken.push(b);
            } else {
                self.pruned += 1;
            }
        }
        taken
    }

    fn left(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests;

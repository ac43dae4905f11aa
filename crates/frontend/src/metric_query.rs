//! Metric queries: partial aggregates from blocks and memory, merged and evaluated here.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::{try_join, try_join_all};
use skald_cluster::View;
use skald_logql::ast::{Expr, MetricExpr};
use skald_logql::metric::{MetricQuery, Partial, QueryLimits, QueryValue, Steps};
use skald_logql::syntax::canonical;
use skald_logql::tenants::metric_for;
use skald_model::{Direction, EntryHash, Error, Limits, QueryStats, Result, StreamId, TenantId, TimeRange};
use skald_rpc::frontend::{
    InstantQuery, MetadataRequest, QueryData, QueryResponse, RangeQuery, Series, wants_partial_results,
};
use skald_rpc::ingester::StreamInfo;
use skald_rpc::memory::QueryShare;
use skald_rpc::querier::{LogTask, MetricResult, MetricTask};
use skald_storage::table::Snapshot;

use crate::admission::{bytes_of, check_bytes, check_streams};
use crate::log_query::{block_ref, limit_range};
use crate::{Frontend, metadata};

/// Entries of one stream that are compared at a time when memory and table hold it over the same times.
const COMPARED_PAGE: usize = 10_000;
/// Entries that are compared in one query at most.
const COMPARED_MAX: usize = 1_000_000;

/// Runs a metric query over a range. `text` is the query in the form for tasks, which is read alike whatever the tenant's
/// limits are.
pub(crate) async fn range(
    frontend: &Frontend,
    query: &RangeQuery,
    expr: &MetricExpr,
    text: &str,
    limits: &Limits,
) -> Result<QueryResponse> {
    if limit_range(TimeRange::new(query.start, query.end), limits, frontend.clock.now())?.is_none() {
        return Ok(respond(QueryValue::Matrix(Vec::new()), QueryStats::default()));
    }
    // Loki splits range queries by time, and aligns them with the step for it.
    let steps = if limits.split_queries_by_interval > 0 {
        Steps::aligned(query.start, query.end, query.step)
    } else {
        Steps::range(query.start, query.end, query.step)
    };
    run(frontend, &query.tenant, (text, &query.tags), expr, steps, limits).await
}

/// Runs a metric query at one point in time.
pub(crate) async fn instant(
    frontend: &Frontend,
    query: &InstantQuery,
    expr: &MetricExpr,
    text: &str,
    limits: &Limits,
) -> Result<QueryResponse> {
    run(frontend, &query.tenant, (text, &query.tags), expr, Steps::instant(query.time), limits).await
}

async fn run(
    frontend: &Frontend,
    tenant: &TenantId,
    (text, tags): (&str, &str),
    expr: &MetricExpr,
    steps: Steps,
    limits: &Limits,
) -> Result<QueryResponse> {
    let query = MetricQuery::compile(expr)?;
    let partial = wants_partial_results(tags);
    let max_series = QueryLimits { max_series: if partial { 0 } else { limits.max_query_series } };
    if query.leaves().is_empty() {
        return Ok(respond(query.evaluate(&[], steps, max_series)?, QueryStats::default()));
    }
    let finish = async |merged: Vec<Partial>, stats, mut share: QueryShare| {
        share.resize(share.bytes() + query.evaluation_bytes(&merged, steps)).await?;
        let mut response = respond(query.evaluate(&merged, steps, max_series)?, stats);
        drop(merged);
        if partial {
            cut_series(&mut response, limits.max_query_series);
        }
        share.resize(response.data.memory_bytes()).await?;
        response.memory = Some(Arc::new(share));
        Ok(response)
    };
    if !tenant.is_joined() {
        let (partials, stats, share) = gather(frontend, tenant, text, &query, steps, limits).await?;
        return finish(partials, stats, share).await;
    }
    let (mut merged, mut stats) = (Vec::<Partial>::new(), QueryStats::default());
    let mut share = frontend.memory.share();
    for tenant in tenant.parts() {
        let expr = metric_for(expr, tenant.as_str());
        let query = MetricQuery::compile(&expr)?;
        let text = canonical(&Expr::Metric(expr));
        let (partials, tenant_stats, own) = gather(frontend, &tenant, &text, &query, steps, limits).await?;
        stats.merge(&tenant_stats);
        match merged.is_empty() {
            true => merged = partials,
            false => merged.iter_mut().zip(partials).for_each(|(all, one)| all.merge(one)),
        }
        drop(own);
        share.resize(merged.iter().map(Partial::memory_bytes).sum()).await?;
    }
    finish(merged, stats, share).await
}

/// The merged states of the query's range aggregations over one tenant's entries.
async fn gather(
    frontend: &Frontend,
    tenant: &TenantId,
    text: &str,
    query: &MetricQuery,
    steps: Steps,
    limits: &Limits,
) -> Result<(Vec<Partial>, QueryStats, QueryShare)> {
    let task = MetricTask {
        tenant: tenant.clone(),
        query: text.into(),
        start: steps.start(),
        end: steps.end(),
        step: steps.step(),
        version: 0,
        blocks: Vec::new(),
        shard: (0, 1),
        max_bytes: if limits.max_query_bytes_read == 0 { u64::MAX } else { limits.max_query_bytes_read },
        exclude: Arc::default(),
    };
    frontend
        .at_one_version(tenant, |view, snapshot| {
            let task = MetricTask { version: snapshot.version, ..task.clone() };
            collect(frontend, query, task, steps, limits, view, snapshot)
        })
        .await
}

/// Keeps the first `max` series (0 keeps all) and says so.
fn cut_series(response: &mut QueryResponse, max: usize) {
    if let QueryData::Matrix(series) | QueryData::Vector(series) = &mut response.data
        && max > 0
        && series.len() > max
    {
        series.truncate(max);
        response.warnings.push(format!(
            "maximum number of series ({max}) reached for a single query; returning partial results"
        ));
    }
}

fn respond(value: QueryValue, stats: QueryStats) -> QueryResponse {
    let data = match value {
        QueryValue::Scalar(time, value) => QueryData::Scalar(time, value),
        QueryValue::Vector(samples) => QueryData::Vector(
            samples
                .into_iter()
                .map(|s| Series { labels: s.labels, samples: vec![(s.timestamp, s.value)] })
                .collect(),
        ),
        QueryValue::Matrix(series) => QueryData::Matrix(
            series.into_iter().map(|s| Series { labels: s.labels, samples: s.points }).collect(),
        ),
    };
    QueryResponse::new(data, stats)
}

/// Collects the merged states of the query's range aggregations at one table version.
async fn collect(
    frontend: &Frontend,
    query: &MetricQuery,
    task: MetricTask,
    steps: Steps,
    limits: &Limits,
    view: Arc<View>,
    snapshot: Arc<Snapshot>,
) -> Result<(Vec<Partial>, QueryStats, QueryShare)> {
    let mut stats = QueryStats::default();
    let mut share = frontend.memory.share();
    let wanted = |b: &&Arc<skald_storage::table::BlockEntry>| {
        query.leaves().iter().any(|l| b.summary.may_hold(&l.selector, l.times(steps)))
    };
    let blocks: Vec<_> = snapshot.blocks.iter().filter(wanted).map(|b| block_ref(b)).collect();
    stats.blocks_pruned = (snapshot.blocks.len() - blocks.len()) as u64;

    // Memory is asked at once, because it keeps for a short time only what a newer version covers. The table seldom has
    // any of it; then memory is asked again.
    let ask = |task: &MetricTask| {
        let asked: Vec<_> = view.ingesters().iter().map(|m| m.service.query_metric(task.clone())).collect();
        try_join_all(asked)
    };
    let copies = copies(frontend, query, &task, steps, limits, &view, &snapshot);
    let (mut results, exclude) = try_join(ask(&task), copies).await?;
    let task = MetricTask { exclude, ..task };
    if !task.exclude.is_empty() {
        results = ask(&task).await?;
    }
    stats.ingesters = results.len() as u64;
    if !blocks.is_empty() {
        // One task holds all the blocks, because only who sees all of a stream can count each of its entries once.
        let key = format!("{}/{}", task.tenant, task.query);
        let querier = view.querier(&key).ok_or_else(|| Error::unavailable("no querier is known yet"))?;
        results.push(querier.service.query_metric(MetricTask { blocks, ..task }).await?);
    }
    let mut partials: Vec<Partial> = query.leaves().iter().map(|l| l.empty()).collect();
    // Its own encoded state beside what all of them have been decoded to.
    let mut encoded: usize = results.iter().map(|r| r.partials.len()).sum();
    for result in results {
        share.resize(encoded + partials.iter().map(Partial::memory_bytes).sum::<usize>()).await?;
        encoded -= result.partials.len();
        stats.subqueries += 1;
        stats.merge(&result.stats);
        let malformed = || Error::internal("a task's partial states are not well formed");
        let states = MetricResult::unpack(&result.partials).ok_or_else(malformed)?;
        for (merged, state) in partials.iter_mut().zip(states) {
            if !state.is_empty() {
                merged.merge(Partial::decode(state).map_err(|_| malformed())?);
            }
        }
    }
    share.resize(partials.iter().map(Partial::memory_bytes).sum()).await?;
    Ok((partials, stats, share))
}

/// The entries that memory holds and the table, too: a push that was repeated after its first copy had been flushed.
/// Memory is asked to leave them out. Only streams that both hold over the same times are compared.
async fn copies(
    frontend: &Frontend,
    query: &MetricQuery,
    task: &MetricTask,
    steps: Steps,
    limits: &Limits,
    view: &Arc<View>,
    snapshot: &Arc<Snapshot>,
) -> Result<Arc<HashSet<(StreamId, EntryHash)>>> {
    let mut out = HashSet::new();
    let (mut compared, mut bytes) = (0, 0);
    for leaf in query.leaves() {
        let request = MetadataRequest {
            tenant: task.tenant.clone(),
            range: leaf.times(steps),
            selectors: vec![leaf.selector.to_string()],
        };
        let found = metadata::find_at(frontend, &request, view.clone(), snapshot.clone()).await?;
        let table = found.table_streams();
        check_streams(&leaf.selector, found.memory.len().max(table.len()), limits)?;
        bytes += bytes_of(&found.memory) + bytes_of(table);
        check_bytes(bytes, limits)?;
        for (stream, range) in overlaps(&found.memory, found.table_streams()) {
            let task = LogTask {
                tenant: task.tenant.clone(),
                query: stream.labels.to_string().into(),
                range,
                direction: Direction::Forward,
                limit: COMPARED_PAGE,
                version: snapshot.version,
                blocks: Vec::new(),
                max_bytes: task.max_bytes,
            };
            let ask = |t| ask_memory(view, t);
            let memory = identities(task.clone(), ask, &mut compared, |_| true).await?;
            let ask = |t| ask_table(view, snapshot, t);
            out.extend(identities(task, ask, &mut compared, |entry| memory.contains(entry)).await?);
        }
    }
    Ok(Arc::new(out))
}

/// Streams that both sides hold, with the times that both span.
fn overlaps<'a>(memory: &'a [StreamInfo], table: &'a [StreamInfo]) -> Vec<(&'a StreamInfo, TimeRange)> {
    let both = |m: &'a StreamInfo| {
        // The table's streams are sorted by labels.
        let at = table.binary_search_by(|t| t.labels.cmp(&m.labels)).ok()?;
        let (min, max) = (m.min_ts.max(table[at].min_ts), m.max_ts.min(table[at].max_ts));
        (min <= max).then(|| (m, TimeRange::new(min, max.saturating_add(1))))
    };
    memory.iter().filter_map(both).collect()
}

type Identities = HashSet<(StreamId, EntryHash)>;

/// The identities of those entries of a task that are to be kept, read page by page.
async fn identities<F>(
    mut task: LogTask,
    ask: impl Fn(LogTask) -> F,
    compared: &mut usize,
    keep: impl Fn(&(StreamId, EntryHash)) -> bool,
) -> Result<Identities>
where
    F: Future<Output = Result<Vec<(i64, StreamId, EntryHash)>>>,
{
    let mut out = HashSet::new();
    loop {
        let page = ask(task.clone()).await?;
        let full = page.len() >= task.limit;
        let last = page.last().map(|e| e.0);
        *compared += page.len();
        out.extend(page.into_iter().map(|(_, stream, hash)| (stream, hash)).filter(&keep));
        if *compared > COMPARED_MAX {
            return Err(Error::invalid(format!(
                "memory and table hold more than {COMPARED_MAX} entries of the same streams and times, which would have to \
                 be compared; narrow the query's time range or its selector, or flush"
            )));
        }
        match last {
            // The next page begins at the time where this one ended, as there may be more entries of it.
            Some(t) if full && t > task.range.start => task.range.start = t,
            // A whole page of one time.
            Some(_) if full => task.limit = task.limit.saturating_mul(2),
            _ => return Ok(out),
        }
    }
}

async fn ask_memory(view: &View, task: LogTask) -> Result<Vec<(i64, StreamId, EntryHash)>> {
    let asked = view.ingesters().iter().map(|m| m.service.query_logs(task.clone()));
    let mut merger = skald_model::LogMerger::new(task.direction, task.limit);
    try_join_all(asked).await?.into_iter().for_each(|r| merger.add(r.entries));
    Ok(merger.finish().0.into_iter().map(|e| (e.timestamp, e.stream, e.identity)).collect())
}

async fn ask_table(
    view: &View,
    snapshot: &Snapshot,
    task: LogTask,
) -> Result<Vec<(i64, StreamId, EntryHash)>> {
    let overlapping =
        |b: &&Arc<skald_storage::table::BlockEntry>| task.range.overlaps(b.summary.min_ts, b.summary.max_ts);
    let blocks = snapshot.blocks.iter().filter(overlapping).map(|b| block_ref(b)).collect();
    let querier = view.querier(&task.query).ok_or_else(|| Error::unavailable("no querier is known yet"))?;
    let found = querier.service.query_logs(LogTask { blocks, ..task }).await?;
    Ok(found.entries.into_iter().map(|e| (e.timestamp, e.stream, e.identity)).collect())
}

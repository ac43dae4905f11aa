//! Metric queries: partial aggregates from blocks and memory, merged and evaluated here.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{try_join, try_join_all};
use parking_lot::Mutex;
use skald_logql::ast::{Expr, MetricExpr};
use skald_logql::metric::{MetricQuery, Partial, QueryLimits, QueryValue, Steps};
use skald_logql::syntax::canonical;
use skald_logql::tenants::metric_for;
use skald_model::rendezvous::rank;
use skald_model::{Error, Limits, QueryStats, Result, StreamId, TenantId, TimeRange};
use skald_rpc::frontend::{
    InstantQuery, MetadataRequest, QueryData, QueryResponse, RangeQuery, Series, wants_partial_results,
};
use skald_rpc::ingester::{HeldStreams, IdentitiesRequest, StreamInfo, StreamsRequest, check_identities};
use skald_rpc::memory::QueryShare;
use skald_rpc::querier::{BlockIdentitiesRequest, MetricResult, MetricTask};
use skald_rpc::{Ingester, Querier};
use skald_storage::table::{BlockEntry, Snapshot};

use crate::admission::{bytes_of, check_bytes, check_streams};
use crate::log_query::{block_ref, limit_range};
use crate::metadata::TableStreams;
use crate::queriers::Route;
use crate::removals::{self, Left, Rules};
use crate::replicas::{COMPARED_MAX, Compared, Identity, Plan, Replicas, Side, Warnings};
use crate::{Frontend, metadata, replicas};

/// How often ingesters are asked again what they hold when they disagree about much.
const DISPUTE_ATTEMPTS: usize = 2;
/// Entries that are compared without asking again.
const DISPUTED_MAX: u64 = 50_000;

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
    let warnings = Warnings::default();
    let finish = async |merged: Vec<Partial>, stats, mut share: QueryShare| {
        share.resize(share.bytes() + query.evaluation_bytes(&merged, steps)).await?;
        let mut response = respond(query.evaluate(&merged, steps, max_series)?, stats);
        drop(merged);
        response.warnings = warnings.list();
        if partial {
            cut_series(&mut response, limits.max_query_series);
        }
        share.resize(response.data.memory_bytes()).await?;
        response.memory = Some(Arc::new(share));
        Ok(response)
    };
    if !tenant.is_joined() {
        let gathered = gather(frontend, tenant, (text, &query), steps, limits, &warnings).await?;
        let (partials, stats, share) = gathered;
        return finish(partials, stats, share).await;
    }
    let (mut merged, mut stats) = (Vec::<Partial>::new(), QueryStats::default());
    let mut share = frontend.memory.share();
    for tenant in tenant.parts() {
        let expr = metric_for(expr, tenant.as_str());
        let query = MetricQuery::compile(&expr)?;
        let text = canonical(&Expr::Metric(expr));
        let (partials, tenant_stats, own) =
            gather(frontend, &tenant, (&text, &query), steps, limits, &warnings).await?;
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
    (text, query): (&str, &MetricQuery),
    steps: Steps,
    limits: &Limits,
    warnings: &Warnings,
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
        cut: None,
        skip: Arc::default(),
        removals: None,
    };
    frontend
        .at_one_version(tenant, warnings, |replicas, snapshot, rules| {
            let range = hull(query, steps);
            let rules = removals::within(&rules, range);
            let removals = removals::spec(&rules, range);
            let task = MetricTask { version: snapshot.version, removals, ..task.clone() };
            collect(Job { frontend, query, task, steps, limits, replicas, snapshot, rules })
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
///
/// Ingesters are first asked what they hold, then what each of them is to evaluate. One alone is asked for its states while
/// the table's streams are looked up: where these show entries that the table has, too, it is asked again. What it holds
/// comes first because that is quick; an ingester that has worked for long meanwhile may have let go of what the version
/// lacks.
async fn collect(job: Job<'_>) -> Result<(Vec<Partial>, QueryStats, QueryShare)> {
    let mut stats = QueryStats::default();
    let mut share = job.frontend.memory.share();
    let mut results = if job.replicas.is_single() {
        let held = job.held().await?;
        let (first, table) = try_join(job.at_once(&held), job.table()).await?;
        let memory = job.memory(held, &table, Some(first));
        let (memory, blocks) = try_join(memory, job.blocks(&mut stats)).await?;
        // `None` only if the tenant takes partial answers.
        [memory.unwrap_or_default(), blocks].concat()
    } else {
        let (held, table) = try_join(job.held(), job.table()).await?;
        job.check(&held, &table)?;
        let held = Mutex::new(Some(held));
        let memory = job.replicas.until_settled(|| async {
            let first = held.lock().take();
            let held = match first {
                Some(held) => held,
                None => job.held().await?,
            };
            job.memory(held, &table, None).await
        });
        let (memory, blocks) = try_join(memory, job.blocks(&mut stats)).await?;
        [memory, blocks].concat()
    };
    let mut partials: Vec<Partial> = job.query.leaves().iter().map(|l| l.empty()).collect();
    // Its own encoded state beside what all of them have been decoded to.
    let mut encoded: usize = results.iter().map(|r| r.partials.len()).sum();
    for result in results.drain(..) {
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

/// What ingesters hold, by their positions.
type AllHeld = Vec<(usize, HeldStreams)>;

/// One attempt of a query: what is asked, and the version that it is asked at.
struct Job<'a> {
    frontend: &'a Frontend,
    query: &'a MetricQuery,
    task: MetricTask,
    steps: Steps,
    limits: &'a Limits,
    replicas: Arc<Replicas>,
    snapshot: Arc<Snapshot>,
    rules: Rules,
}

/// The times that a query looks at.
fn hull(query: &MetricQuery, steps: Steps) -> TimeRange {
    let times = query.leaves().iter().map(|l| l.times(steps));
    let hull = |a: TimeRange, b: TimeRange| TimeRange::new(a.start.min(b.start), a.end.max(b.end));
    times.reduce(hull).unwrap_or(TimeRange::new(0, 0))
}

impl Job<'_> {
    /// The states of all that the one ingester has told that it holds, whatever else has it, too.
    async fn at_once(&self, held: &AllHeld) -> Result<Vec<MetricResult>> {
        let task = &MetricTask { cut: held.first().map(|(_, held)| held.cut), ..self.task.clone() };
        let ask = |i: Arc<dyn Ingester>| {
            let task = task.clone();
            async move { i.query_metric(task).await }
        };
        Ok(self.replicas.ask(ask).await?.into_iter().map(|(_, result)| result).collect())
    }

    /// What ingesters hold of the streams that the query is about.
    async fn held(&self) -> Result<AllHeld> {
        let leaves = self.query.leaves();
        let mut selectors: Vec<_> = leaves.iter().map(|l| l.selector.to_string()).collect();
        selectors.sort();
        selectors.dedup();
        let request = StreamsRequest {
            tenant: self.task.tenant.clone(),
            version: self.task.version,
            range: hull(self.query, self.steps),
            selectors,
            removals: self.task.removals.clone(),
        };
        let ask = |i: Arc<dyn Ingester>| {
            let request = request.clone();
            async move { i.streams(request).await }
        };
        self.replicas.ask(ask).await
    }

    /// The table's streams of each range aggregation.
    async fn table(&self) -> Result<Vec<Arc<TableStreams>>> {
        let asked = self.query.leaves().iter().map(|leaf| {
            let request = MetadataRequest {
                tenant: self.task.tenant.clone(),
                range: leaf.times(self.steps),
                selectors: vec![leaf.selector.to_string()],
            };
            let view = self.replicas.view();
            async move {
                metadata::table_streams(self.frontend, &request, view, &self.snapshot, &self.rules).await
            }
        });
        let tables = try_join_all(asked).await?;
        self.check(&Vec::new(), &tables)?;
        Ok(tables)
    }

    /// Holds what the query would read to the tenant's limits.
    fn check(&self, held: &AllHeld, tables: &[Arc<TableStreams>]) -> Result<()> {
        let mut memory: HashMap<StreamId, &StreamInfo> = HashMap::new();
        for s in held.iter().flat_map(|(_, held)| &held.streams) {
            let most = memory.entry(s.id).or_insert(s);
            if s.entries > most.entries {
                *most = s;
            }
        }
        let mut bytes = 0;
        for (leaf, table) in self.query.leaves().iter().zip(tables) {
            let times = leaf.times(self.steps);
            let passes = |s: &&&StreamInfo| {
                times.overlaps(s.min_ts, s.max_ts) && leaf.selector.matches(s.labels.as_ref())
            };
            let (streams, of_memory) =
                memory.values().filter(passes).fold((0, 0), |(n, bytes), s| (n + 1, bytes + s.bytes));
            check_streams(&leaf.selector, table.streams().len().max(streams), self.limits)?;
            bytes += of_memory + bytes_of(table.streams());
            check_bytes(bytes, self.limits)?;
        }
        Ok(())
    }

    /// The states of what ingesters hold, each entry once and none that the table has. `first` is the answer of one that
    /// was asked at once, which does where there is nothing to leave out. `None` when an ingester was lost on the way.
    async fn memory(
        &self,
        mut held: AllHeld,
        tables: &[Arc<TableStreams>],
        first: Option<Vec<MetricResult>>,
    ) -> Result<Option<Vec<MetricResult>>> {
        let mut plan = self.plan(&held, tables);
        // Mostly it is a push on its way that they disagree about.
        for _ in 0..DISPUTE_ATTEMPTS {
            if plan.disputed > DISPUTED_MAX {
                held = self.held().await?;
                plan = self.plan(&held, tables);
            }
        }
        if first.is_some() {
            self.check(&held, tables)?;
        }
        let Some(compared) = self.compare(&held, &plan).await? else { return Ok(None) };
        let mut exclude = replicas::exclusions(compared, &plan.evaluated.keys().copied().collect::<Vec<_>>());
        if first.is_some() && exclude.is_empty() {
            return Ok(first);
        }
        let tasks = plan.evaluated.into_iter().map(|(n, skip)| {
            let (position, held) = &held[n];
            let task = MetricTask {
                cut: Some(held.cut),
                skip: Arc::new(skip),
                exclude: Arc::new(exclude.remove(&n).unwrap_or_default()),
                ..self.task.clone()
            };
            let ingester = self.replicas.view().ingesters()[*position].service.clone();
            (*position, async move { ingester.query_metric(task).await })
        });
        let results = self.replicas.ask_these(tasks).await?;
        Ok(results.map(|all| all.into_iter().map(|(_, result)| result).collect()))
    }

    fn plan(&self, held: &AllHeld, tables: &[Arc<TableStreams>]) -> Plan {
        let view = self.replicas.view();
        let streams: Vec<&[StreamInfo]> = held.iter().map(|(_, held)| &held.streams[..]).collect();
        let table = |s: &StreamInfo| {
            let times = tables.iter().filter_map(|t| t.times(s));
            times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        };
        let positions = |numbers: &[usize]| numbers.iter().map(|n| held[*n].0).collect::<Vec<_>>();
        let sure_without = |numbers: &[usize]| self.replicas.is_sure_without(&positions(numbers));
        // By a hash of the query, so that different queries are a load for different ingesters.
        let names = held.iter().map(|(position, _)| &*view.ingesters()[*position].name);
        let preference: Vec<usize> = rank(&self.task.query, names).collect();
        replicas::plan(&streams, table, view.write_quorum(), sure_without, &preference)
    }

    /// The identities of the entries that have to be compared. `None` when an ingester was lost on the way.
    async fn compare(&self, held: &AllHeld, plan: &Plan) -> Result<Option<Compared>> {
        let compared = Mutex::new((Compared::new(), 0));
        let take = |side, identities: Vec<Identity>| {
            let mut compared = compared.lock();
            compared.1 += identities.len();
            compared.0.entry(side).or_default().extend(identities);
            check_identities(compared.1, COMPARED_MAX)
        };
        let of = |side| plan.compared.get(&side).map_or_else(Vec::new, |s| replicas::requests(s));
        let table = async {
            for (range, streams) in of(Side::Table) {
                for identities in self.identities_of_table(range, streams).await? {
                    take(Side::Table, identities)?;
                }
            }
            Ok(())
        };
        let memory = held.iter().enumerate().map(|(n, (position, held))| {
            let ingester = self.replicas.view().ingesters()[*position].service.clone();
            let (take, requests) = (&take, of(Side::Ingester(n)));
            let ask = async move {
                for (range, streams) in requests {
                    let tenant = self.task.tenant.clone();
                    let (version, cut) = (self.task.version, held.cut);
                    let removals = self.task.removals.clone();
                    let request = IdentitiesRequest { tenant, version, cut, range, streams, removals };
                    take(Side::Ingester(n), ingester.identities(request).await?)?;
                }
                Ok(())
            };
            (*position, ask)
        });
        let (all, ()) = try_join(self.replicas.ask_these(memory), table).await?;
        Ok(all.map(|_| compared.into_inner().0))
    }

    async fn identities_of_table(
        &self,
        range: TimeRange,
        streams: Vec<StreamId>,
    ) -> Result<Vec<Vec<Identity>>> {
        let blocks = self.snapshot.blocks.iter();
        let blocks = blocks.filter(|b| range.overlaps(b.summary.min_ts, b.summary.max_ts));
        let Left { blocks, spec: removals, .. } = Left::of(blocks, &self.rules, range);
        let ask = |querier: Arc<dyn Querier>, blocks| {
            let tenant = self.task.tenant.clone();
            let (streams, removals) = (streams.clone(), removals.clone());
            let request = BlockIdentitiesRequest { tenant, blocks, range, streams, removals };
            async move { querier.identities(request).await }
        };
        let view = self.replicas.view();
        metadata::by_querier(self.frontend, view, &self.task.tenant, blocks, ask).await
    }

    /// The states of what the table holds. A task has all the blocks, because only who sees all of a stream can count each
    /// of its entries once. Where there is much to read and there are several queriers, each gets a share of the streams.
    async fn blocks(&self, stats: &mut QueryStats) -> Result<Vec<MetricResult>> {
        let leaves = self.query.leaves();
        let wanted = |b: &&Arc<BlockEntry>| {
            leaves.iter().any(|l| b.summary.may_hold(&l.selector, l.times(self.steps)))
        };
        let wanted = self.snapshot.blocks.iter().filter(wanted);
        let Left { blocks: wanted, spec: removals, .. } =
            Left::of(wanted, &self.rules, hull(self.query, self.steps));
        stats.blocks_pruned = (self.snapshot.blocks.len() - wanted.len()) as u64;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let view = self.replicas.view();
        let bytes = wanted.iter().map(|b| b.summary.raw_bytes).sum();
        let shards = shards(bytes, view.queriers().len(), self.limits.max_query_parallelism);
        let blocks: Vec<_> = wanted.into_iter().map(|b| block_ref(b)).collect();
        let key = format!("{}/{}", self.task.tenant, self.task.query);
        let tasks = (0..shards).map(|shard| {
            let (blocks, removals) = (blocks.clone(), removals.clone());
            let shard_of = (shard as u32, shards as u32);
            let task = MetricTask { blocks, removals, shard: shard_of, ..self.task.clone() };
            let route = Route { tenant: &self.task.tenant, key: &key, part: shard };
            async move {
                let run = |querier: Arc<dyn Querier>| {
                    let task = task.clone();
                    async move { querier.query_metric(task).await }
                };
                self.frontend.queriers.run(view, route, run).await
            }
        });
        let mut results = Vec::with_capacity(shards);
        for (result, waited) in try_join_all(tasks).await? {
            stats.queue_seconds += waited;
            results.push(result);
        }
        Ok(results)
    }
}

/// Raw bytes of lines that are worth a task of their own: a querier scans them in some tenths of a second.
const SHARD_BYTES: u64 = 256 << 20;

/// Into how many tasks a scan of blocks with so many raw bytes is divided.
fn shards(bytes: u64, queriers: usize, parallelism_max: usize) -> usize {
    let worth = usize::try_from(bytes / SHARD_BYTES).unwrap_or(usize::MAX);
    worth.min(queriers).min(parallelism_max).max(1)
}

#[cfg(test)]
mod tests;

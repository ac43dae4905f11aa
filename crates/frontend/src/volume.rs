//! How much streams hold: `index/stats`, `index/volume` and `index/volume_range`.
//!
//! Counted from the stream indexes of blocks and from memory at one table version; no line is read. Copies of an entry
//! in several blocks (before compaction joins them) count each.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use skald_logql::syntax::{ParseOptions, parse_selector};
use skald_logql::tenants::TENANT_LABEL;
use skald_model::{
    Error, GroupVolume, Limits, MatchOp, Matcher, QueryStats, Result, Selector, StreamId, TenantId,
    TimeRange, VolumeCollector, VolumeGroups, VolumeSpec,
};
use skald_rpc::frontend::{IndexStats, MetadataRequest, QueryData, QueryResponse, Series, VolumeQuery};
use skald_rpc::ingester::{HeldStreams, StreamsRequest, VolumesRequest};
use skald_rpc::querier::{BlockStreamsRequest, BlockVolumesRequest};
use skald_rpc::{Ingester, Querier};
use skald_storage::table::Snapshot;

use crate::log_query::limit_range;
use crate::metadata::{by_querier, clamp};
use crate::remembered::{Key, Remembered};
use crate::removals::{self, Left, Rules};
use crate::replicas::{Replicas, Warnings};
use crate::{Frontend, replicas, tenants};

/// Series of an answer for a request that does not say how many.
const DEFAULT_LIMIT: usize = 100;
const MILLISECOND: i64 = 1_000_000;

pub(crate) async fn index_stats(frontend: &Frontend, request: MetadataRequest) -> Result<IndexStats> {
    let limits = frontend.limits.of(&request.tenant);
    let [text] = &request.selectors[..] else {
        return Err(Error::invalid("index statistics are for one selector"));
    };
    let selector = selector(text, &limits, false)?;
    let spec = VolumeSpec { step: 0, groups: VolumeGroups::Streams, whole_kib: false };
    let Some(range) = limit_range(request.range, &limits, frontend.clock.now())? else {
        return Ok(IndexStats::default());
    };
    let (groups, _) = count(frontend, &limits, &request.tenant, &selector, range, spec).await?;
    let mut stats = IndexStats { streams: groups.len() as u64, ..IndexStats::default() };
    for step in groups.iter().flat_map(|g| &g.steps) {
        stats.chunks += step.chunks;
        stats.entries += step.entries;
        stats.bytes += step.bytes;
    }
    Ok(stats)
}

pub(crate) async fn volume(frontend: &Frontend, query: VolumeQuery) -> Result<QueryResponse> {
    let limits = frontend.limits.of_query(&query.tenant);
    if !limits.volume_enabled {
        return Err(Error::invalid("volume queries are disabled (limits_config.volume_enabled)"));
    }
    let mut selector = selector(&query.query, &limits, true)?;
    let tenants = split_tenants(&query.tenant, &mut selector);
    let groups = groups(&query, &selector);
    // Streams without one of the labels asked for have no part in the answer.
    if !query.by_name {
        for name in &query.target_labels {
            if !selector.matchers.iter().any(|m| *m.name == **name) {
                let present = Matcher::new(name, MatchOp::Match, ".+");
                selector.matchers.push(present.map_err(Error::internal)?);
            }
        }
    }
    let range = limit_range(TimeRange::new(query.start, query.end), &limits, frontend.clock.now())?;
    let spec = VolumeSpec { step: query.step, groups, whole_kib: limits.loki_strict };
    let (found, warnings) = match range {
        Some(range) => count_all(frontend, &limits, &tenants, &selector, range, spec.clone()).await?,
        None => Default::default(),
    };
    let limit = if query.limit == 0 { DEFAULT_LIMIT } else { query.limit };
    let limit = if limits.volume_max_series == 0 { limit } else { limit.min(limits.volume_max_series) };
    let data = answer(&query, &spec, largest(found, limit));
    Ok(QueryResponse { warnings, ..QueryResponse::new(data, QueryStats::default()) })
}

fn selector(text: &str, limits: &Limits, allow_empty: bool) -> Result<Selector> {
    let options = ParseOptions { loki_strict: limits.loki_strict };
    parse_selector(text, options, allow_empty).map_err(|e| Error::invalid(e.to_string()))
}

fn groups(query: &VolumeQuery, selector: &Selector) -> VolumeGroups {
    if query.by_name {
        return VolumeGroups::Names(query.target_labels.clone());
    }
    let mut names = query.target_labels.clone();
    if names.is_empty() {
        names = selector.matchers.iter().map(|m| m.name.to_string()).collect();
    }
    names.sort();
    names.dedup();
    if names.is_empty() { VolumeGroups::Streams } else { VolumeGroups::Labels(names) }
}

/// The `limit` largest groups, largest first.
fn largest(mut groups: Vec<GroupVolume>, limit: usize) -> Vec<GroupVolume> {
    let total = |g: &GroupVolume| g.steps.iter().map(|s| s.bytes).sum::<u64>();
    // They come in order of labels, and the sort is stable.
    groups.sort_by_cached_key(|g| std::cmp::Reverse(total(g)));
    groups.truncate(limit);
    groups
}

/// A matrix with a point at the last millisecond of each step (the last point at the end of the range), or a vector if
/// the range has only one step, or nothing to show. So Loki answers.
fn answer(query: &VolumeQuery, spec: &VolumeSpec, groups: Vec<GroupVolume>) -> QueryData {
    let last = spec.step_of(query.end.saturating_sub(1));
    let one_step = spec.step_of(query.start) >= last;
    let vector = one_step || groups.is_empty();
    let at = |step: i64| match step >= last {
        true => query.end,
        false => spec.end_of(step).saturating_sub(MILLISECOND),
    };
    let series = groups.into_iter().map(|g| Series {
        labels: if query.by_name { name_only(&g) } else { g.labels },
        samples: g.steps.iter().map(|s| (at(s.step), s.bytes as f64)).collect(),
    });
    if vector { QueryData::Vector(series.collect()) } else { QueryData::Matrix(series.collect()) }
}

/// The label of a group by name, with an empty value.
fn name_only(group: &GroupVolume) -> skald_model::Labels {
    let mut packed = Vec::new();
    for (name, _) in group.labels.iter() {
        skald_model::labels::pack_pair(&mut packed, name, "");
    }
    skald_model::LabelsRef::from_trusted(&packed).to_owned()
}

/// The tenants that are asked. Matchers of the tenant's label are taken out of the selector if it is for several.
fn split_tenants(tenant: &TenantId, selector: &mut Selector) -> Vec<TenantId> {
    if !tenant.is_joined() {
        return vec![tenant.clone()];
    }
    let asked = tenant.parts().filter(|t| tenants::selector_for(selector, t).is_some()).collect();
    selector.matchers.retain(|m| &*m.name != TENANT_LABEL);
    asked
}

/// [`count`] over several tenants; groups of the same labels are added up, as nothing in the answer tells them apart.
async fn count_all(
    frontend: &Frontend,
    limits: &Limits,
    tenants: &[TenantId],
    selector: &Selector,
    range: TimeRange,
    spec: VolumeSpec,
) -> Result<(Vec<GroupVolume>, Vec<String>)> {
    if let [tenant] = tenants {
        return count(frontend, limits, tenant, selector, range, spec).await;
    }
    let mut all = VolumeCollector::new(spec.clone(), range);
    let mut said = BTreeSet::new();
    for tenant in tenants {
        let (groups, warnings) = count(frontend, limits, tenant, selector, range, spec.clone()).await?;
        said.extend(warnings);
        for group in groups {
            all.merge(group)?;
        }
    }
    Ok((all.finish(), said.into_iter().collect()))
}

/// The volumes, and what has to be said beside them.
async fn count(
    frontend: &Frontend,
    limits: &Limits,
    tenant: &TenantId,
    selector: &Selector,
    range: TimeRange,
    spec: VolumeSpec,
) -> Result<(Vec<GroupVolume>, Vec<String>)> {
    let selectors = vec![selector.to_string()];
    let warnings = Warnings::default();
    let work = frontend.at_one_version(tenant, &warnings, |replicas, snapshot, rules| {
        count_at(frontend, tenant, &selectors, selector, range, spec.clone(), replicas, snapshot, rules)
    });
    Ok((frontend.timed(limits, work).await?, warnings.list()))
}

#[expect(
    clippy::too_many_arguments,
    reason = "one attempt: what is asked, and the version that it is asked at"
)]
async fn count_at(
    frontend: &Frontend,
    tenant: &TenantId,
    selectors: &[String],
    selector: &Selector,
    range: TimeRange,
    spec: VolumeSpec,
    replicas: Arc<Replicas>,
    snapshot: Arc<Snapshot>,
    rules: Rules,
) -> Result<Vec<GroupVolume>> {
    let request = StreamsRequest {
        tenant: tenant.clone(),
        version: snapshot.version,
        range,
        selectors: selectors.to_vec(),
        removals: removals::spec(&rules, range),
    };
    let mut all = VolumeCollector::new(spec.clone(), range);
    for group in replicas.until_settled(|| of_memory(&replicas, &request, &spec)).await? {
        all.merge(group)?;
    }

    let left = Left::of(snapshot.select(range, selector), &rules, range);
    let range = clamp(range, left.blocks.iter().map(|b| (b.summary.min_ts, b.summary.max_ts)));
    let key = Key::new(tenant, &snapshot, range, selectors, Some(&spec), &left);
    let Left { blocks, spec: removals, .. } = left;
    let table = match frontend.remembered.get(&key) {
        Some(Remembered::Volumes(table)) => table,
        _ => {
            let ask = |querier: Arc<dyn Querier>, blocks| {
                let (tenant, selectors) = (tenant.clone(), selectors.to_vec());
                let removals = removals.clone();
                let streams = BlockStreamsRequest { tenant, blocks, range, selectors, removals };
                let spec = spec.clone();
                async move { querier.volumes(BlockVolumesRequest { streams, spec }).await }
            };
            let found = by_querier(frontend, replicas.view(), tenant, blocks, ask).await?;
            let mut table = VolumeCollector::new(spec.clone(), range);
            for group in found.into_iter().flatten() {
                table.merge(group)?;
            }
            let table = Arc::new(table.finish());
            frontend.remembered.insert(key, Remembered::Volumes(table.clone()));
            table
        }
    };
    for group in table.iter() {
        all.merge(group.clone())?;
    }
    Ok(all.finish())
}

/// What ingesters hold. A stream that several of them have is counted by the one that has most of it. `None` when one of
/// them was lost on the way.
async fn of_memory(
    replicas: &Replicas,
    request: &StreamsRequest,
    spec: &VolumeSpec,
) -> Result<Option<Vec<GroupVolume>>> {
    let ask = |i: Arc<dyn Ingester>, skip: HashSet<StreamId>| {
        let request = VolumesRequest { streams: request.clone(), spec: spec.clone(), skip: Arc::new(skip) };
        async move { i.volumes(request).await }
    };
    let answers = if replicas.is_single() {
        Some(replicas.ask(|i| ask(i, HashSet::new())).await?)
    } else {
        let streams = |i: Arc<dyn Ingester>| {
            let request = request.clone();
            async move { i.streams(request).await }
        };
        let held = replicas.ask(streams).await?;
        let count = |held: &HeldStreams| held.streams.iter().map(|s| (s.id, s.entries)).collect::<Vec<_>>();
        let counts: Vec<_> = held.iter().map(|(_, held)| count(held)).collect();
        let parts = held.iter().zip(replicas::counted_elsewhere(&counts));
        let counting = parts.filter(|((_, held), skip)| held.streams.len() > skip.len());
        let questions = counting.map(|((position, _), skip)| {
            let ingester = replicas.view().ingesters()[*position].service.clone();
            (*position, ask(ingester, skip))
        });
        replicas.ask_these(questions).await?
    };
    Ok(answers.map(|all| all.into_iter().flat_map(|(_, groups)| groups).collect()))
}

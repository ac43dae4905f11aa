//! Label names, label values and series.
//!
//! What the table holds at one version never changes, so its part of an answer is remembered under that version (see
//! [`crate::remembered`]). What ingesters hold is asked anew each time and joined.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

use futures::future::{try_join, try_join_all};
use skald_cluster::View;
use skald_model::time::DAY;
use skald_model::{Error, Labels, Result, TenantId, TimeRange, Timestamp};
use skald_rpc::frontend::{DetectedLabel, MetadataRequest};
use skald_rpc::ingester::{StreamInfo, StreamsRequest};
use skald_rpc::querier::{BlockRef, BlockStreamsRequest};
use skald_rpc::{Ingester, Querier};
use skald_storage::table::{BlockEntry, Snapshot};

use crate::log_query::block_ref;
use crate::queriers::Route;
use crate::remembered::{Key, Remembered};
use crate::removals::{self, Left, Rules};
use crate::replicas::{Replicas, Warnings};
use crate::{Frontend, replicas};

/// The streams of a table in a range, and what has been derived from them so far.
pub(crate) struct TableStreams {
    streams: Vec<StreamInfo>,
    names: OnceLock<Vec<String>>,
}

impl TableStreams {
    /// Bytes of memory that it takes, roughly.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.streams.iter().map(|s| s.labels.packed().len() + 96).sum()
    }

    /// All of them, sorted by labels.
    pub(crate) fn streams(&self) -> &[StreamInfo] {
        &self.streams
    }

    /// Between which times the table has a stream.
    pub(crate) fn times(&self, stream: &StreamInfo) -> Option<(Timestamp, Timestamp)> {
        let at = self.streams.binary_search_by(|t| t.labels.cmp(&stream.labels)).ok()?;
        Some((self.streams[at].min_ts, self.streams[at].max_ts))
    }
}

/// What a request is about: the table's streams and the ingesters' at one version.
pub(crate) struct Found {
    table: Arc<TableStreams>,
    /// Each once, as the ingester has it that has most of it.
    pub(crate) memory: Vec<StreamInfo>,
}

impl Found {
    /// The table's streams, sorted by labels.
    pub(crate) fn table_streams(&self) -> &[StreamInfo] {
        &self.table.streams
    }
}

pub(crate) async fn label_names(frontend: &Frontend, request: MetadataRequest) -> Result<Vec<String>> {
    let found = find(frontend, whole_days(request)).await?;
    let of_table = found.table.names.get_or_init(|| names(&found.table.streams).map(String::from).collect());
    if found.memory.is_empty() {
        return Ok(of_table.clone());
    }
    let all: BTreeSet<&str> = of_table.iter().map(String::as_str).chain(names(&found.memory)).collect();
    Ok(all.into_iter().map(String::from).collect())
}

fn names(streams: &[StreamInfo]) -> impl Iterator<Item = &str> {
    let all: BTreeSet<&str> = streams.iter().flat_map(|s| s.labels.iter().map(|(n, _)| n)).collect();
    all.into_iter()
}

pub(crate) async fn label_values(
    frontend: &Frontend,
    request: MetadataRequest,
    name: &str,
) -> Result<Vec<String>> {
    let found = find(frontend, whole_days(request)).await?;
    let streams = found.table.streams.iter().chain(&found.memory);
    let values: BTreeSet<&str> = streams.filter_map(|s| s.labels.get(name)).collect();
    Ok(values.into_iter().map(String::from).collect())
}

pub(crate) async fn detected_labels(
    frontend: &Frontend,
    request: MetadataRequest,
) -> Result<Vec<DetectedLabel>> {
    let found = find(frontend, request).await?;
    Ok(detected(found.table.streams.iter().chain(&found.memory).map(|s| &s.labels)))
}

/// The labels of streams that are worth showing, with the number of their values.
pub(crate) fn detected<'a>(streams: impl Iterator<Item = &'a Labels>) -> Vec<DetectedLabel> {
    let mut values: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for (name, value) in streams.flat_map(|labels| labels.iter()) {
        values.entry(name).or_default().insert(value);
    }
    let worth_showing = |(name, values): &(&str, HashSet<&str>)| {
        ALWAYS_SHOWN.contains(name) || !values.iter().all(|v| is_id(v))
    };
    let label = |(name, values): (&str, HashSet<&str>)| DetectedLabel {
        name: name.to_owned(),
        cardinality: values.len() as u64,
    };
    values.into_iter().filter(worth_showing).map(label).collect()
}

/// Labels that are shown even if all their values are ids.
const ALWAYS_SHOWN: [&str; 4] = ["cluster", "namespace", "instance", "pod"];

/// Whether a value is a number or a UUID, by which nobody would want to break logs down.
fn is_id(value: &str) -> bool {
    value.parse::<f64>().is_ok() || is_uuid(value)
}

fn is_uuid(value: &str) -> bool {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let fits = |(i, b): (usize, u8)| match DASHES.contains(&i) {
        true => b == b'-',
        false => b.is_ascii_hexdigit(),
    };
    value.len() == 36 && value.bytes().enumerate().all(fits)
}

pub(crate) async fn series(frontend: &Frontend, request: MetadataRequest) -> Result<Vec<StreamInfo>> {
    let found = find(frontend, request).await?;
    if found.memory.is_empty() {
        return Ok(found.table.streams.clone());
    }
    let mut all = found.table.streams.clone();
    all.extend(found.memory);
    Ok(StreamInfo::join(all))
}

/// Label names and values are those of the days that the range touches, as in Loki, whose index has a file per day. Series
/// keep to the range.
fn whole_days(mut request: MetadataRequest) -> MetadataRequest {
    let TimeRange { start, end } = request.range;
    if start <= end {
        let next_day = end.saturating_sub(1).div_euclid(DAY).saturating_add(1);
        request.range =
            TimeRange::new(start.div_euclid(DAY).saturating_mul(DAY), next_day.saturating_mul(DAY));
    }
    request
}

async fn find(frontend: &Frontend, request: MetadataRequest) -> Result<Found> {
    let limits = frontend.limits.of(&request.tenant);
    if request.range.end < request.range.start {
        return Err(Error::invalid(format!(
            "this data is no longer available, it is past now - max_query_lookback ({})",
            skald_logql::units::format_go_duration(limits.max_query_lookback)
        )));
    }
    // There is no place for warnings in these answers.
    let warnings = Warnings::default();
    let attempt = |replicas, snapshot, rules| find_at(frontend, &request, replicas, snapshot, rules);
    frontend.timed(&limits, frontend.at_one_version(&request.tenant, &warnings, attempt)).await
}

pub(crate) async fn find_at(
    frontend: &Frontend,
    request: &MetadataRequest,
    replicas: Arc<Replicas>,
    snapshot: Arc<Snapshot>,
    rules: Rules,
) -> Result<Found> {
    let removals = removals::spec(&rules, request.range);
    let ask = |i: Arc<dyn Ingester>| {
        let request = StreamsRequest {
            tenant: request.tenant.clone(),
            version: snapshot.version,
            range: request.range,
            selectors: request.selectors.clone(),
            removals: removals.clone(),
        };
        async move { i.streams(request).await }
    };
    let table = table_streams(frontend, request, replicas.view(), &snapshot, &rules);
    let (held, table) = try_join(replicas.ask(ask), table).await?;
    Ok(Found { table, memory: replicas::once(held.into_iter().map(|(_, held)| held.streams).collect()) })
}

/// The streams of the table that a request is about.
pub(crate) async fn table_streams(
    frontend: &Frontend,
    request: &MetadataRequest,
    view: &View,
    snapshot: &Snapshot,
    rules: &Rules,
) -> Result<Arc<TableStreams>> {
    let timely = |b: &&Arc<BlockEntry>| request.range.overlaps(b.summary.min_ts, b.summary.max_ts);
    let left = Left::of(snapshot.blocks.iter().filter(timely), rules, request.range);
    let range = clamp(request.range, left.blocks.iter().map(|b| (b.summary.min_ts, b.summary.max_ts)));
    let key = Key::new(&request.tenant, snapshot, range, &request.selectors, None, &left);
    let Left { blocks, spec: removals, .. } = left;
    if let Some(Remembered::Streams(table)) = frontend.remembered.get(&key) {
        return Ok(table);
    }
    let ask = |querier: Arc<dyn Querier>, blocks| {
        let (tenant, selectors) = (request.tenant.clone(), request.selectors.clone());
        let removals = removals.clone();
        let request = BlockStreamsRequest { tenant, blocks, range, selectors, removals };
        async move { querier.streams(request).await }
    };
    let found = by_querier(frontend, view, &request.tenant, blocks, ask).await?;
    let streams = StreamInfo::join(found.into_iter().flatten());
    let table = Arc::new(TableStreams { streams, names: OnceLock::new() });
    frontend.remembered.insert(key, Remembered::Streams(table.clone()));
    Ok(table)
}

/// Asks each querier for those of the blocks that it is likely to have cached.
pub(crate) async fn by_querier<'a, T, F>(
    frontend: &Frontend,
    view: &View,
    tenant: &TenantId,
    blocks: impl IntoIterator<Item = &'a Arc<BlockEntry>>,
    ask: impl Fn(Arc<dyn Querier>, Vec<BlockRef>) -> F,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    let mut parts: BTreeMap<Option<&str>, Vec<&Arc<BlockEntry>>> = BTreeMap::new();
    for b in blocks {
        parts.entry(view.querier(&b.path).map(|m| &*m.name)).or_default().push(b);
    }
    let asked = parts.into_values().map(|blocks| {
        let refs: Vec<_> = blocks.iter().map(|b| block_ref(b)).collect();
        let ask = &ask;
        // Any of the blocks leads to their querier.
        let route = Route { tenant, key: &blocks[0].path, part: 0 };
        async move { frontend.queriers.run(view, route, |querier| ask(querier, refs.clone())).await }
    });
    Ok(try_join_all(asked).await?.into_iter().map(|(answer, _)| answer).collect())
}

/// The part of `range` that the blocks span, so that requests which differ only outside of it share an answer.
pub(crate) fn clamp(range: TimeRange, blocks: impl Iterator<Item = (i64, i64)>) -> TimeRange {
    let (min, max) = blocks.fold((i64::MAX, i64::MIN), |(a, b), (min, max)| (a.min(min), b.max(max)));
    if min > max {
        return TimeRange::new(0, 0);
    }
    range.intersect(&TimeRange::new(min, max.saturating_add(1)))
}

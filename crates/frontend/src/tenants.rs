//! Queries for several tenants: run for each, joined with the label `__tenant_id__`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use skald_logql::ast::{Expr, LogExpr};
use skald_logql::syntax::canonical;
use skald_logql::tenants::{TENANT_LABEL, log_for};
use skald_model::{
    EntryLabels, Labels, LabelsBuilder, Limits, LogEntry, LogMerger, QueryStats, Result, Selector, TenantId,
};
use skald_rpc::frontend::{DetectedLabel, IndexStats, MetadataRequest, QueryData, QueryResponse, RangeQuery};
use skald_rpc::ingester::StreamInfo;
use skald_rpc::patterns::{PatternSeries, PatternsQuery};

use crate::{Frontend, log_query, metadata, patterns, volume};

/// Tenants that are asked at a time.
const AT_A_TIME: usize = 8;

/// A log query for several tenants.
pub(crate) async fn log(
    frontend: &Frontend,
    query: &RangeQuery,
    expr: &LogExpr,
    limits: &Limits,
) -> Result<QueryResponse> {
    let asked = query.tenant.parts().map(|tenant| async move {
        let expr = log_for(expr, tenant.as_str());
        let text = canonical(&Expr::Log(expr.clone()));
        let query = RangeQuery { tenant, ..query.clone() };
        log_query::run(frontend, &query, &expr, &text, limits).await
    });
    let mut asked = stream::iter(asked).buffered(AT_A_TIME);
    let mut merger = LogMerger::new(query.direction, query.limit);
    let mut share = frontend.memory.share();
    let mut stats = QueryStats::default();
    let mut warnings = BTreeSet::new();
    while let Some(response) = asked.try_next().await? {
        stats.merge(&response.stats);
        warnings.extend(response.warnings);
        if let QueryData::Streams(entries) = response.data {
            merger.add(with_stream_label(entries));
        }
        drop(response.memory);
        share.resize(merger.memory_bytes()).await?;
    }
    let mut entries = merger.finish().0;
    if query.interval > 0 {
        let mut last: Option<i64> = None;
        entries.retain(|e| {
            let keep = last.is_none_or(|last| last.abs_diff(e.timestamp) >= query.interval.unsigned_abs());
            if keep {
                last = Some(e.timestamp);
            }
            keep
        });
    }
    stats.entries_returned = entries.len() as u64;
    let (memory, warnings) = (Some(Arc::new(share)), warnings.into_iter().collect());
    Ok(QueryResponse { memory, warnings, ..QueryResponse::new(QueryData::Streams(entries), stats) })
}

/// The label of the tenant, which a stage has made, as one of the stream.
fn with_stream_label(mut entries: Vec<LogEntry>) -> Vec<LogEntry> {
    // Entries of one label set share the allocation.
    let mut known: HashMap<*const EntryLabels, Arc<EntryLabels>> = HashMap::new();
    let mut before = Vec::new();
    for entry in &mut entries {
        let labels =
            known.entry(Arc::as_ptr(&entry.labels)).or_insert_with(|| Arc::new(moved(&entry.labels)));
        // What a pointer stands for must not go while it is a key.
        before.push(std::mem::replace(&mut entry.labels, labels.clone()));
    }
    entries
}

fn moved(labels: &EntryLabels) -> EntryLabels {
    let Some(tenant) = labels.parsed.get(TENANT_LABEL) else { return labels.clone() };
    let mut stream = LabelsBuilder::from_labels(&labels.stream);
    stream.set(TENANT_LABEL, tenant);
    let parsed = Labels::from_pairs(labels.parsed.iter().filter(|(name, _)| *name != TENANT_LABEL));
    EntryLabels { stream: stream.build(), structured_metadata: labels.structured_metadata.clone(), parsed }
}

/// Names of labels of all tenants.
pub(crate) async fn label_names(frontend: &Frontend, request: &MetadataRequest) -> Result<Vec<String>> {
    let asked = requests(request)?.into_iter().map(|r| metadata::label_names(frontend, r));
    let found: Vec<_> = stream::iter(asked).buffered(AT_A_TIME).try_collect().await?;
    let mut names: BTreeSet<String> = found.into_iter().flatten().collect();
    if !names.is_empty() {
        names.insert(TENANT_LABEL.to_owned());
    }
    Ok(names.into_iter().collect())
}

/// Values of a label of all tenants; the values of `__tenant_id__` are the tenants.
pub(crate) async fn label_values(
    frontend: &Frontend,
    request: &MetadataRequest,
    name: &str,
) -> Result<Vec<String>> {
    let requests = requests(request)?;
    if name == TENANT_LABEL {
        return Ok(requests.into_iter().map(|r| r.tenant.to_string()).collect());
    }
    let asked = requests.into_iter().map(|r| metadata::label_values(frontend, r, name));
    let found: Vec<_> = stream::iter(asked).buffered(AT_A_TIME).try_collect().await?;
    let values: BTreeSet<String> = found.into_iter().flatten().collect();
    Ok(values.into_iter().collect())
}

/// Streams of all tenants.
pub(crate) async fn series(frontend: &Frontend, request: &MetadataRequest) -> Result<Vec<StreamInfo>> {
    let asked = requests(request)?.into_iter().map(|r| async move {
        let tenant = r.tenant.clone();
        Ok::<_, skald_model::Error>((tenant, metadata::series(frontend, r).await?))
    });
    let found: Vec<_> = stream::iter(asked).buffered(AT_A_TIME).try_collect().await?;
    let labelled = found.into_iter().flat_map(|(tenant, streams)| {
        streams
            .into_iter()
            .map(move |stream| StreamInfo { labels: labelled(&stream.labels, &tenant), ..stream })
    });
    Ok(StreamInfo::join(labelled))
}

fn labelled(labels: &Labels, tenant: &TenantId) -> Labels {
    let mut labels = LabelsBuilder::from_labels(labels);
    labels.set(TENANT_LABEL, tenant.as_str());
    labels.build()
}

/// Labels of all tenants with the number of their values; those of `__tenant_id__` are the tenants.
pub(crate) async fn detected_labels(
    frontend: &Frontend,
    request: &MetadataRequest,
) -> Result<Vec<DetectedLabel>> {
    let streams = series(frontend, request).await?;
    Ok(metadata::detected(streams.iter().map(|s| &s.labels)))
}

/// How much the streams of all tenants hold.
pub(crate) async fn index_stats(frontend: &Frontend, request: &MetadataRequest) -> Result<IndexStats> {
    let asked = requests(request)?.into_iter().map(|r| volume::index_stats(frontend, r));
    let found: Vec<_> = stream::iter(asked).buffered(AT_A_TIME).try_collect().await?;
    Ok(found.into_iter().fold(IndexStats::default(), |all, one| IndexStats {
        streams: all.streams + one.streams,
        chunks: all.chunks + one.chunks,
        bytes: all.bytes + one.bytes,
        entries: all.entries + one.entries,
    }))
}

/// Patterns of the lines of all tenants, each counted over all of them.
pub(crate) async fn patterns(frontend: &Frontend, query: &PatternsQuery) -> Result<Vec<PatternSeries>> {
    // Only the selector of the query counts.
    let Expr::Log(log) = Frontend::parse(&query.query, &frontend.limits.of_query(&query.tenant))? else {
        return Ok(Vec::new());
    };
    let asked = query.tenant.parts().filter_map(|tenant| {
        let selector = selector_for(&log.selector, &tenant)?.to_string();
        Some(patterns::run(frontend, PatternsQuery { tenant, query: selector, ..query.clone() }))
    });
    let found: Vec<_> = stream::iter(asked.collect::<Vec<_>>()).buffered(AT_A_TIME).try_collect().await?;
    Ok(PatternSeries::join(found.into_iter().flatten()))
}

/// What `selector` asks of the streams of one of several tenants; `None` if the tenant is not one that it names.
pub(crate) fn selector_for(selector: &Selector, tenant: &TenantId) -> Option<Selector> {
    let (ours, rest): (Vec<_>, Vec<_>) =
        selector.matchers.iter().cloned().partition(|m| &*m.name == TENANT_LABEL);
    ours.iter().all(|m| m.matches(tenant.as_str())).then_some(Selector { matchers: rest })
}

/// The request for each tenant that one of its selectors passes.
fn requests(request: &MetadataRequest) -> Result<Vec<MetadataRequest>> {
    let mut out = Vec::new();
    for tenant in request.tenant.parts() {
        let mut selectors = Vec::new();
        for text in &request.selectors {
            let selector = skald_logql::parse_selector(text, skald_logql::ParseOptions::default(), true)
                .map_err(|e| skald_model::Error::invalid(e.to_string()))?;
            selectors.extend(selector_for(&selector, &tenant).map(|selector| selector.to_string()));
        }
        if request.selectors.is_empty() || !selectors.is_empty() {
            out.push(MetadataRequest { tenant, range: request.range, selectors });
        }
    }
    Ok(out)
}

//! How much there is: `index/stats`, `index/volume`, `index/volume_range`, `index/shards`.

use axum::extract::{Request, State};
use serde_json::json;
use skald_model::{TenantId, TimeRange, Timestamp};
use skald_rpc::frontend::{IndexStats, MetadataRequest, VolumeQuery};

use super::params::Params;
use super::streams::Flags;
use super::{Answer, QueryState, answer, request, time};
use crate::error::ApiError;

type Result<T> = std::result::Result<T, ApiError>;

/// `/loki/api/v1/index/stats`
pub(crate) async fn stats(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = stats_request(&params, tenant, state.clock.now())?;
    let stats = state.frontend.index_stats(request).await?;
    Ok(answer::json_response(stats_json(&stats).to_string().into_bytes()))
}

/// `/loki/api/v1/index/shards`: one shard that holds all. Skald divides queries by blocks, so there is nothing to gain
/// from more.
pub(crate) async fn shards(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = stats_request(&params, tenant, state.clock.now())?;
    let stats = state.frontend.index_stats(request).await?;
    let shard = json!({ "bounds": { "min": 0, "max": u64::MAX }, "stats": stats_json(&stats) });
    Ok(answer::json_response(json!({ "shards": [shard], "statistics": {} }).to_string().into_bytes()))
}

/// `/loki/api/v1/index/volume`
pub(crate) async fn volume(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, parts, params) = state.open(request).await?;
    let query = volume_query(&params, tenant, state.clock.now(), 0)?;
    Ok(answer::respond(state.frontend.volume(query).await?, &Flags::of(&parts.headers)))
}

/// `/loki/api/v1/index/volume_range`
pub(crate) async fn volume_range(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, parts, params) = state.open(request).await?;
    let now = state.clock.now();
    let (start, end) = bounds(&params, now)?;
    let step = request::step(&params, start, end)?;
    let query = volume_query(&params, tenant, now, step)?;
    Ok(answer::respond(state.frontend.volume(query).await?, &Flags::of(&parts.headers)))
}

fn stats_json(stats: &IndexStats) -> serde_json::Value {
    let IndexStats { streams, chunks, bytes, entries } = stats;
    json!({ "streams": streams, "chunks": chunks, "bytes": bytes, "entries": entries })
}

fn stats_request(params: &Params, tenant: TenantId, now: Timestamp) -> Result<MetadataRequest> {
    let (start, end) = bounds(params, now)?;
    let selectors = vec![params.first("query").to_owned()];
    Ok(MetadataRequest { tenant, range: TimeRange::new(start, end), selectors })
}

fn bounds(params: &Params, now: Timestamp) -> Result<(Timestamp, Timestamp)> {
    let (start, end) = request::bounds(params, now)?;
    if end < start {
        return Err(ApiError::bad_request("end timestamp must not be before or equal to start time"));
    }
    Ok((start, end))
}

fn volume_query(params: &Params, tenant: TenantId, now: Timestamp, step: i64) -> Result<VolumeQuery> {
    let (start, end) = bounds(params, now)?;
    let limit = match params.first("limit") {
        "" => 0,
        text => time::integer(text, "Atoi").map_err(ApiError::bad_request)?,
    };
    let limit =
        usize::try_from(limit).map_err(|_| ApiError::bad_request("limit must be a positive value"))?;
    let labels = params.first("targetLabels").split(',').map(str::trim).filter(|l| !l.is_empty());
    let by_name = match params.first("aggregateBy") {
        "" | "series" => false,
        "labels" => true,
        _ => return Err(ApiError::bad_request("invalid aggregation option")),
    };
    Ok(VolumeQuery {
        tenant,
        query: params.first("query").to_owned(),
        start,
        end,
        step,
        limit,
        target_labels: labels.map(str::to_owned).collect(),
        by_name,
    })
}

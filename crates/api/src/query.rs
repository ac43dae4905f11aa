//! Queries: from a request to the query frontend and back.

pub(crate) mod answer;
pub(crate) mod detected;
pub(crate) mod json;
pub(crate) mod legacy;
mod limits;
pub mod params;
pub(crate) mod patterns;
pub mod request;
mod stats;
pub(crate) mod streams;
pub mod time;
pub(crate) mod volume;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use skald_model::TenantId;
use skald_rpc::QueryFrontend;
use skald_runtime::Clock;

use self::limits::RequestLimits;
use self::params::Params;
use self::streams::Flags;
use crate::config::Config;
use crate::error::ApiError;
use crate::tenant::query_tenant;

/// What the handlers of queries work with.
#[derive(Clone)]
pub(crate) struct QueryState {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) frontend: Arc<dyn QueryFrontend>,
}

type Answer = Result<Response, ApiError>;

impl QueryState {
    async fn open(&self, request: Request) -> Result<(TenantId, Parts, Params), ApiError> {
        let tenant = query_tenant(request.headers(), &self.config)?;
        let (parts, params) = Params::read(request).await?;
        Ok((tenant, parts, params))
    }
}

/// `/loki/api/v1/query_range`
pub(crate) async fn query_range(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, parts, params) = state.open(request).await?;
    let now = state.clock.now();
    let mut query = request::range_query(&params, tenant, now)?;
    query.tags = tags(&parts.headers);
    let limits = RequestLimits::of(&parts.headers, &state.config)?;
    limits.check_range(&mut query, now)?;
    let response = limits.timed(state.frontend.query_range(query)).await?;
    Ok(answer::respond(response, &Flags::of(&parts.headers)))
}

/// `/loki/api/v1/query`
pub(crate) async fn query(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, parts, params) = state.open(request).await?;
    let mut query = request::instant_query(&params, tenant, state.clock.now())?;
    query.tags = tags(&parts.headers);
    let limits = RequestLimits::of(&parts.headers, &state.config)?;
    limits.check(&query.query)?;
    let response = limits.timed(state.frontend.query(query)).await?;
    Ok(answer::respond(response, &Flags::of(&parts.headers)))
}

/// `/loki/api/v1/labels` and `/loki/api/v1/label`
pub(crate) async fn labels(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = request::labels(&params, tenant, state.clock.now())?;
    Ok(strings(&state.frontend.label_names(request).await?))
}

/// `/loki/api/v1/label/{name}/values`
pub(crate) async fn label_values(
    State(state): State<QueryState>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = request::labels(&params, tenant, state.clock.now())?;
    Ok(strings(&state.frontend.label_values(request, &name).await?))
}

/// `/loki/api/v1/series` and `/api/prom/series`
pub(crate) async fn series(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = request::series(&params, tenant, state.clock.now())?;
    let series = state.frontend.series(request).await?;
    let mut out = b"{\"status\":\"success\",\"data\":[".to_vec();
    for (i, stream) in series.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::labels(&mut out, stream.labels.as_ref());
    }
    out.extend_from_slice(b"]}\n");
    Ok(answer::json_response(out))
}

/// `/api/prom/query`: log queries only, with the line filter `regexp` beside the query.
pub(crate) async fn legacy_query(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let mut query = request::range_query(&params, tenant, state.clock.now())?;
    let regexp = params.first("regexp");
    if !regexp.is_empty() {
        query.query = format!("{} |~ {}", query.query, time::go_quoted(regexp));
    }
    legacy::respond(state.frontend.query_range(query).await?)
}

/// `/api/prom/label`
pub(crate) async fn legacy_labels(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = request::labels(&params, tenant, state.clock.now())?;
    Ok(legacy::values(&state.frontend.label_names(request).await?))
}

/// `/api/prom/label/{name}/values`
pub(crate) async fn legacy_label_values(
    State(state): State<QueryState>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let request = request::labels(&params, tenant, state.clock.now())?;
    Ok(legacy::values(&state.frontend.label_values(request, &name).await?))
}

/// What `X-Query-Tags` says: `name=value,…`, other characters than Loki keeps replaced.
fn tags(headers: &HeaderMap) -> String {
    const TAGS_BYTES_MAX: usize = 1024;
    let text = headers.get("x-query-tags").map_or("", |v| v.to_str().unwrap_or(""));
    let kept = |c: char| c.is_ascii_alphanumeric() || "-=.@, ".contains(c);
    text.chars().take(TAGS_BYTES_MAX).map(|c| if kept(c) { c } else { '_' }).collect()
}

/// Names or values; without any there is no `data`, as in Loki.
fn strings(items: &[String]) -> Response {
    let mut out = b"{\"status\":\"success\"".to_vec();
    if !items.is_empty() {
        out.extend_from_slice(b",\"data\":");
        json::strings(&mut out, items.iter().map(String::as_str));
    }
    out.extend_from_slice(b"}\n");
    answer::json_response(out)
}

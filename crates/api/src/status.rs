//! Status and administration: readiness, build, configuration, metrics, log level, flush.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, StatusCode, header};
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde_json::{Value, json};
use skald_logql::ParseOptions;
use skald_model::{TenantId, TenantLimits};
use skald_rpc::Ingester;
use skald_runtime::metrics::BuildInfo;

use crate::config::Config;
use crate::error::ApiError;
use crate::query::params::Params;
use crate::tenant::tenant;

/// The version of Loki whose API this is. Grafana turns features on by it.
pub const LOKI_VERSION: &str = "3.5.0";

/// What the process can tell about itself.
pub trait Node: Send + Sync + 'static {
    /// Why it is not ready to serve; `None` when it is.
    fn unready(&self) -> Option<String>;

    /// The parts that run in it, with their states, such as `("ingester", "Running")`.
    fn services(&self) -> Vec<(String, String)>;

    /// Its configuration as YAML.
    fn config(&self, view: ConfigView) -> String;

    /// The limits of a tenant as YAML.
    fn tenant_limits(&self, tenant: &TenantId) -> String;

    /// The limits of tenants that have some of their own as YAML: all of them, or with `own` what is their own.
    fn runtime_config(&self, own: bool) -> String;

    /// The level of its log: debug, info, warn or error.
    fn log_level(&self) -> String;

    /// Sets the level of its log.
    ///
    /// # Errors
    /// When there is no such level, in words for the caller.
    fn set_log_level(&self, level: &str) -> Result<(), String>;

    /// What it was built from.
    fn build(&self) -> BuildInfo;
}

/// Which configuration is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigView {
    /// The one in effect.
    Effective,
    /// The defaults.
    Defaults,
    /// What differs from the defaults.
    Diff,
}

/// What the handlers of this module work with.
#[derive(Clone)]
pub(crate) struct StatusState {
    pub(crate) config: Arc<Config>,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) limits: Arc<dyn TenantLimits>,
    pub(crate) registry: Registry,
}

/// `GET /ready`
pub(crate) async fn ready(State(state): State<StatusState>) -> Response {
    match state.node.unready() {
        None => text("ready\n".to_owned()),
        Some(reason) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

/// `GET /metrics`
pub(crate) async fn metrics(State(state): State<StatusState>) -> Result<Response, ApiError> {
    let encoder = TextEncoder::new();
    let mut out = Vec::new();
    encoder.encode(&state.registry.gather(), &mut out).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to write metrics: {e}"))
    })?;
    let mut response = Response::new(Body::from(out));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// `GET /services`
pub(crate) async fn services(State(state): State<StatusState>) -> Response {
    text(state.node.services().iter().map(|(name, now)| format!("{name} => {now}\n")).collect())
}

/// `GET /config`
pub(crate) async fn config(State(state): State<StatusState>, request: Request) -> Result<Response, ApiError> {
    let (_, params) = Params::read(request).await?;
    let view = match params.first("mode") {
        "diff" => ConfigView::Diff,
        "defaults" => ConfigView::Defaults,
        _ => ConfigView::Effective,
    };
    Ok(yaml(state.node.config(view)))
}

/// `GET /config/tenant/v1/limits`
pub(crate) async fn tenant_limits(
    State(state): State<StatusState>,
    request: Request,
) -> Result<Response, ApiError> {
    let tenant = tenant(request.headers(), &state.config)?;
    Ok(yaml(state.node.tenant_limits(&tenant)))
}

/// `GET /runtime_config`, with `mode=diff` only what tenants have of their own.
pub(crate) async fn runtime_config(
    State(state): State<StatusState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (_, params) = Params::read(request).await?;
    Ok(yaml(state.node.runtime_config(params.first("mode") == "diff")))
}

/// `GET /loki/api/v1/status/buildinfo`
pub(crate) async fn build_info(State(state): State<StatusState>) -> Response {
    let build = state.node.build();
    json_value(&json!({
        "version": LOKI_VERSION,
        "revision": build.revision,
        "branch": build.branch,
        "buildUser": "skald",
        "buildDate": build.date,
        "goVersion": "",
        "skaldVersion": build.version,
    }))
}

/// `GET` and `POST /loki/api/v1/format_query`: the query as Loki prints it.
pub(crate) async fn format_query(
    State(state): State<StatusState>,
    request: Request,
) -> Result<Response, ApiError> {
    let tenant = tenant(request.headers(), &state.config)?;
    let (_, params) = Params::read(request).await?;
    let options = ParseOptions { loki_strict: state.limits.of(&tenant).loki_strict };
    Ok(match skald_logql::parse_with(params.first("query"), options) {
        Ok(query) => json_value(&json!({ "status": "success", "data": skald_logql::format_query(&query) })),
        Err(e) => {
            let mut response = json_value(&json!({ "status": "invalid-query", "error": e.to_string() }));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    })
}

/// `GET` and `POST /log_level`
pub(crate) async fn log_level(
    State(state): State<StatusState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, params) = Params::read(request).await?;
    if parts.method != Method::POST {
        let message = format!("Current log level is {}", state.node.log_level());
        return Ok(json_value(&json!({ "message": message })));
    }
    let level = params.first("log_level");
    Ok(match state.node.set_log_level(level) {
        Ok(()) => json_value(&json!({ "message": format!("Log level set to {level}"), "status": "success" })),
        Err(reason) => {
            let mut response = json_value(&json!({ "message": reason, "status": "failed" }));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    })
}

/// Who writes what is in memory to the tables: an ingester, or all that there are.
#[async_trait]
pub trait Flush: Send + Sync + 'static {
    /// Writes what is in memory now, of one tenant or of all, and returns when it is committed.
    async fn flush(&self, tenant: Option<TenantId>) -> skald_model::Result<()>;
}

#[async_trait]
impl<T: Ingester> Flush for T {
    async fn flush(&self, tenant: Option<TenantId>) -> skald_model::Result<()> {
        Ingester::flush(self, tenant).await
    }
}

/// What the handlers of flushes work with.
#[derive(Clone)]
pub(crate) struct FlushState {
    pub(crate) config: Arc<Config>,
    pub(crate) flush: Arc<dyn Flush>,
}

/// `GET` and `POST /flush`: writes what is in memory to the table, 204 when it is there. With `wait=false` the answer
/// comes at once, as Loki's does.
pub(crate) async fn flush(state: State<FlushState>, request: Request) -> Result<Response, ApiError> {
    run_flush(state, None, request).await
}

/// `POST /flush/tenant`: the same for the tenant of the request.
pub(crate) async fn flush_tenant(state: State<FlushState>, request: Request) -> Result<Response, ApiError> {
    let tenant = tenant(request.headers(), &state.config)?;
    run_flush(state, Some(tenant), request).await
}

async fn run_flush(
    State(state): State<FlushState>,
    tenant: Option<TenantId>,
    request: Request,
) -> Result<Response, ApiError> {
    let (_, params) = Params::read(request).await?;
    let flush = state.flush;
    if matches!(params.first("wait"), "false" | "0") {
        // Nobody waits for it, so whoever reads the log hears of a failure. It may be dropped at shutdown: what it
        // did not write is on the write-ahead log.
        tokio::spawn(async move {
            if let Err(error) = flush.flush(tenant).await {
                tracing::warn!(%error, "flush by request failed");
            }
        });
    } else {
        flush.flush(tenant).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn text(body: String) -> Response {
    with_type(body, "text/plain; charset=utf-8")
}

fn yaml(body: String) -> Response {
    with_type(body, "text/yaml; charset=utf-8")
}

pub(crate) fn json_value(value: &Value) -> Response {
    with_type(value.to_string(), "application/json")
}

fn with_type(body: String, kind: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

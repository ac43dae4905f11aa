//! `GET /loki/api/v1/drilldown-limits`: what Grafana's Logs Drilldown asks before it shows anything.

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::status::{LOKI_VERSION, StatusState, json_value};
use crate::tenant::tenant;

/// The limits of the tenant that `tenant_limits_allow_publish` names, with durations as text, and what is on.
pub(crate) async fn limits(State(state): State<StatusState>, request: Request) -> Result<Response, ApiError> {
    let tenant = tenant(request.headers(), &state.config)?;
    let limits = state.limits.of(&tenant);
    let all = serde_json::to_value(&*limits).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to write limits: {e}"))
    })?;
    let published: Map<String, Value> = limits
        .tenant_limits_allow_publish
        .iter()
        .filter_map(|name| Some((name.clone(), shown(name, all.get(name)?))))
        .collect();
    Ok(json_value(&json!({
        "limits": published,
        "pattern_ingester_enabled": state.config.patterns_enabled,
        "version": LOKI_VERSION,
    })))
}

/// Durations are nanoseconds inside and text outside.
fn shown(name: &str, value: &Value) -> Value {
    match value.as_i64() {
        Some(nanos) if DURATIONS.contains(&name) => {
            Value::from(skald_logql::units::format_prometheus_duration(nanos))
        }
        _ => value.clone(),
    }
}

/// Limits that Grafana reads as durations.
const DURATIONS: [&str; 5] =
    ["max_query_length", "max_query_lookback", "max_query_range", "query_timeout", "retention_period"];

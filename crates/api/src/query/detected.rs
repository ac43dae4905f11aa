//! What there is to filter by: `detected_labels`, `detected_fields`, `detected_field/{name}/values`.

use axum::extract::{Path, Request, State};
use serde_json::{Map, Value, json};
use skald_model::{TenantId, Timestamp};
use skald_rpc::frontend::DetectedFieldsQuery;

use super::params::Params;
use super::{Answer, QueryState, answer, request};
use crate::error::ApiError;

const DEFAULT_LINE_LIMIT: usize = 100;
const DEFAULT_LIMIT: usize = 1000;

/// `/loki/api/v1/detected_labels`
pub(crate) async fn labels(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let labels = state.frontend.detected_labels(request::labels(&params, tenant, state.clock.now())?).await?;
    let labels: Vec<Value> =
        labels.iter().map(|l| json!({ "label": l.name, "cardinality": l.cardinality })).collect();
    Ok(respond("detectedLabels", labels, None))
}

/// `/loki/api/v1/detected_fields`
pub(crate) async fn fields(State(state): State<QueryState>, request: Request) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let query = query(&params, tenant, state.clock.now())?;
    let limit = query.limit;
    let fields = state.frontend.detected_fields(query).await?;
    let field = |f: &skald_rpc::frontend::DetectedField| {
        let parsers = if f.parsers.is_empty() { Value::Null } else { json!(f.parsers) };
        let mut field =
            json!({ "label": f.name, "type": f.kind, "cardinality": f.cardinality, "parsers": parsers });
        if !f.json_path.is_empty() {
            field["jsonPath"] = json!(f.json_path);
        }
        field
    };
    Ok(respond("fields", fields.iter().map(field).collect(), Some(limit)))
}

/// `/loki/api/v1/detected_field/{name}/values`
pub(crate) async fn field_values(
    State(state): State<QueryState>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let (tenant, _, params) = state.open(request).await?;
    let query = query(&params, tenant, state.clock.now())?;
    let limit = query.limit;
    let values = state.frontend.detected_field_values(query, &name).await?;
    Ok(respond("values", values.into_iter().map(Value::from).collect(), Some(limit)))
}

/// Nothing found is an empty object, as in Loki.
fn respond(name: &str, items: Vec<Value>, limit: Option<usize>) -> axum::response::Response {
    let mut body = Map::new();
    if !items.is_empty() {
        body.insert(name.to_owned(), items.into());
        body.extend(limit.map(|limit| ("limit".to_owned(), limit.into())));
    }
    answer::json_response(Value::Object(body).to_string().into_bytes())
}

fn query(params: &Params, tenant: TenantId, now: Timestamp) -> Result<DetectedFieldsQuery, ApiError> {
    let (start, end) = request::bounds(params, now)?;
    if end < start {
        return Err(ApiError::bad_request("end timestamp must not be before or equal to start time"));
    }
    let line_limit = request::positive(params.first("line_limit"), DEFAULT_LINE_LIMIT)?;
    let limit = match params.first("limit") {
        "" => params.first("field_limit"),
        text => text,
    };
    let limit = request::positive(limit, DEFAULT_LIMIT)?;
    Ok(DetectedFieldsQuery { tenant, query: params.first("query").to_owned(), start, end, line_limit, limit })
}

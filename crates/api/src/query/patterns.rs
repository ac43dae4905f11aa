//! `/loki/api/v1/patterns`

use axum::extract::{Request, State};
use axum::response::Response;
use skald_model::time::SECOND;
use skald_rpc::patterns::{PatternSeries, PatternsQuery};

use super::{QueryState, answer, json, request, time};
use crate::error::ApiError;

/// Answers with numbers, unlike everything else.
pub(crate) async fn patterns(
    State(state): State<QueryState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (tenant, _, params) = state.open(request).await?;
    let (start, end) = request::bounds(&params, state.clock.now())?;
    let step = match params.first("step") {
        "" => (end.saturating_sub(start) / (250 * SECOND)).max(1) * SECOND,
        text => time::seconds_or_duration(text).map_err(ApiError::bad_request)?,
    };
    if step <= 0 {
        return Err(ApiError::bad_request(
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    let query = PatternsQuery { tenant, query: params.first("query").to_owned(), start, end, step };
    Ok(write(&state.frontend.patterns(query).await?))
}

fn write(patterns: &[PatternSeries]) -> Response {
    let mut out = b"{\"status\":\"success\",\"data\":[".to_vec();
    for (i, series) in patterns.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",{\"pattern\":" } else { b"{\"pattern\":" });
        json::string(&mut out, &series.pattern);
        out.extend_from_slice(b",\"level\":");
        json::string(&mut out, &series.level);
        out.extend_from_slice(b",\"samples\":[");
        for (i, (second, count)) in series.samples.iter().enumerate() {
            out.extend_from_slice(if i > 0 { b",[" } else { b"[" });
            json::integer(&mut out, *second);
            out.push(b',');
            json::integer(&mut out, i64::try_from(*count).unwrap_or(i64::MAX));
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
    }
    out.extend_from_slice(b"]}\n");
    answer::json_response(out)
}

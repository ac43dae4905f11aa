//! `/loki/api/v1/delete` and `/loki/api/v1/cache/generation_numbers`: delete requests, in Loki's words.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use skald_logql::units::{format_go_duration, parse_go_duration};
use skald_logql::{Expr, ParseOptions, parse_with};
use skald_model::limits::DeletionMode;
use skald_model::time::SECOND;
use skald_model::{TenantId, TenantLimits, Timestamp};
use skald_rpc::DeleteRequests;
use skald_rpc::deletes::{DeleteProgress, DeleteStatus, NewDelete};
use skald_runtime::Clock;

use crate::config::Config;
use crate::error::ApiError;
use crate::query::params::Params;
use crate::query::{answer, json, time};
use crate::rfc3339;
use crate::tenant::tenant;

/// Delete requests as the HTTP surface offers them.
#[derive(Clone)]
pub struct Deletes {
    /// Who takes them.
    pub requests: Arc<dyn DeleteRequests>,
    /// The longest `max_interval` that a request may name; zero is no limit.
    pub max_interval: Duration,
}

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct DeleteState {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<dyn TenantLimits>,
    pub(crate) deletes: Deletes,
}

type Answer = Result<Response, ApiError>;

impl DeleteState {
    /// The tenant of a request, if it may use deletes.
    fn tenant(&self, headers: &HeaderMap) -> Result<TenantId, ApiError> {
        let tenant = tenant(headers, &self.config)?;
        match self.limits.of(&tenant).deletion_mode {
            DeletionMode::Disabled => {
                Err(ApiError::new(StatusCode::FORBIDDEN, "deletion is not available for this tenant"))
            }
            DeletionMode::FilterOnly | DeletionMode::FilterAndDelete => Ok(tenant),
        }
    }
}

/// `POST` and `PUT /loki/api/v1/delete`
pub(crate) async fn add(State(state): State<DeleteState>, request: Request) -> Answer {
    let tenant = state.tenant(request.headers())?;
    let (_, params) = Params::read(request).await?;
    let max_interval = i64::try_from(state.deletes.max_interval.as_nanos()).unwrap_or(i64::MAX);
    let request = read(&params, tenant, state.clock.now(), max_interval)?;
    let id = state.deletes.requests.add(request).await?;
    let mut response = no_content();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-delete-request-id", id);
    }
    Ok(response)
}

/// `GET /loki/api/v1/delete`
pub(crate) async fn list(State(state): State<DeleteState>, request: Request) -> Answer {
    let tenant = state.tenant(request.headers())?;
    Ok(write(&state.deletes.requests.list(&tenant).await?))
}

/// `DELETE /loki/api/v1/delete`
pub(crate) async fn cancel(State(state): State<DeleteState>, request: Request) -> Answer {
    let tenant = state.tenant(request.headers())?;
    let params = Params::of_url(request.uri())?;
    let force = params.first("force") == "true";
    state.deletes.requests.cancel(&tenant, params.first("request_id"), force).await?;
    Ok(no_content())
}

/// `GET /loki/api/v1/cache/generation_numbers`
pub(crate) async fn generation(State(state): State<DeleteState>, request: Request) -> Answer {
    let tenant = state.tenant(request.headers())?;
    let generation = state.deletes.requests.generation(&tenant).await?;
    Ok(answer::json_response(format!("\"{generation}\"\n").into_bytes()))
}

/// Reads a request. The order of the checks is Loki's: the first complaint is the one that clients see.
fn read(params: &Params, tenant: TenantId, now: Timestamp, max_interval: i64) -> Result<NewDelete, ApiError> {
    let bad = |text: &str| ApiError::bad_request(text);
    let query = params.first("query");
    if query.is_empty() {
        return Err(bad("query not set"));
    }
    let has_filter = has_filter(query)?;
    let start = match params.first("start") {
        "" => return Err(bad("start time not set")),
        text => {
            point(text).ok_or_else(|| bad("invalid start time: require unix seconds or RFC3339 format"))?
        }
    };
    let end = match params.first("end") {
        "" => now,
        text => point(text).ok_or_else(|| bad("invalid end time: require unix seconds or RFC3339 format"))?,
    };
    if end > now {
        return Err(bad("deletes in the future are not allowed"));
    }
    if start > end {
        return Err(bad("start time can't be greater than end time"));
    }
    // Without a filter nothing is cut into intervals.
    if has_filter {
        check_interval(params.first("max_interval"), end.saturating_sub(start), max_interval)?;
    }
    Ok(NewDelete { tenant, query: query.to_owned(), start, end })
}

/// Whether a query has more than a selector.
fn has_filter(query: &str) -> Result<bool, ApiError> {
    let invalid = |e: &str| ApiError::bad_request(format!("invalid query expression: {e}"));
    match parse_with(query, ParseOptions { loki_strict: false }) {
        Ok(Expr::Log(log)) => Ok(!log.stages.is_empty()),
        Ok(Expr::Metric(_)) => Err(invalid("only log selector is supported")),
        Err(e) => Err(invalid(&e.to_string())),
    }
}

/// RFC 3339, or ten digits of seconds.
fn point(text: &str) -> Option<Timestamp> {
    rfc3339::parse(text).or_else(|| match text.len() {
        10 => Some(time::integer(text, "ParseInt").ok()?.saturating_mul(SECOND)),
        _ => None,
    })
}

/// Loki cuts requests with filters into intervals. Here one request is one, but what Loki refuses is refused.
fn check_interval(text: &str, length: i64, max: i64) -> Result<(), ApiError> {
    let bad = |text: String| Err(ApiError::bad_request(text));
    if text.is_empty() {
        return match length < SECOND {
            true => bad("difference between start time and end time must be at least one second".to_owned()),
            false => Ok(()),
        };
    }
    match parse_go_duration(text) {
        Ok(interval) if interval >= SECOND => {
            if max > 0 && interval > max {
                return bad(format!("max_interval can't be greater than {}", format_go_duration(max)));
            }
            if interval > length {
                return bad(format!(
                    "max_interval can't be greater than the interval to be deleted ({})",
                    format_go_duration(length)
                ));
            }
            Ok(())
        }
        _ => bad("invalid max_interval: valid time units are 's', 'm', 'h'".to_owned()),
    }
}

fn write(requests: &[DeleteStatus]) -> Response {
    let mut out = b"[".to_vec();
    for (i, r) in requests.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",{\"request_id\":" } else { b"{\"request_id\":" });
        json::string(&mut out, &r.id);
        out.extend_from_slice(b",\"start_time\":");
        json::seconds(&mut out, r.start);
        out.extend_from_slice(b",\"end_time\":");
        json::seconds(&mut out, r.end);
        out.extend_from_slice(b",\"query\":");
        json::string(&mut out, &r.query);
        out.extend_from_slice(b",\"status\":");
        match r.progress {
            DeleteProgress::Received => json::string(&mut out, "received"),
            DeleteProgress::Percent(n) => json::string(&mut out, &format!("{n}% Complete")),
            DeleteProgress::Processed => json::string(&mut out, "processed"),
        }
        out.extend_from_slice(b",\"created_at\":");
        json::seconds(&mut out, r.created);
        out.push(b'}');
    }
    out.extend_from_slice(b"]\n");
    let mut response = answer::json_response(out);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day is a day of whoever asks: its ends come with their zone.
    #[test]
    fn points_are_seconds_or_times_of_any_zone() {
        let midnight = point("2026-03-01T00:00:00Z");
        assert_eq!(midnight, Some(1_772_323_200 * SECOND));
        assert_eq!(point("1772323200"), midnight);
        assert_eq!(point("2026-03-01T02:00:00+02:00"), midnight);
        assert_eq!(point("2026-02-28T18:30:00-05:30"), midnight);
        assert_eq!(point("2026-03-01T00:00:00.000000001+00:00"), midnight.map(|t| t + 1));
        for nonsense in
            ["", "177232320", "17723232000", "2026-03-01", "2026-03-01T00:00:00", "2026-02-30T00:00:00Z"]
        {
            assert_eq!(point(nonsense), None, "{nonsense}");
        }
    }
}

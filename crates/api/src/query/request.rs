//! From parameters to the messages of the query frontend. The order of the checks is Loki's: the first complaint is
//! the one that clients see.

use skald_model::time::SECOND;
use skald_model::{Direction, TenantId, TimeRange, Timestamp};
use skald_rpc::frontend::{InstantQuery, MetadataRequest, RangeQuery};

use super::params::Params;
use super::time;
use crate::error::ApiError;

type Result<T> = std::result::Result<T, ApiError>;

/// How far back a query looks that says nothing about it.
const DEFAULT_SINCE: i64 = 3600 * SECOND;
const DEFAULT_LIMIT: usize = 100;
/// Most evaluation times of a range query.
const POINTS_MAX: i64 = 11_000;

/// `query_range`
///
/// # Errors
/// 400 in Loki's words, also below.
pub fn range_query(params: &Params, tenant: TenantId, now: Timestamp) -> Result<RangeQuery> {
    let query = params.first("query").to_owned();
    let (start, end) = bounds(params, now)?;
    if end < start {
        return Err(ApiError::bad_request("end timestamp must not be before or equal to start time"));
    }
    let limit = limit(params)?;
    let direction = direction(params)?;
    let step = step(params, start, end)?;
    let interval = match params.first("interval") {
        "" => 0,
        text => time::seconds_or_duration(text).map_err(ApiError::bad_request)?,
    };
    if interval < 0 {
        return Err(ApiError::bad_request("interval must be >= 0"));
    }
    Ok(RangeQuery { tenant, query, start, end, step, interval, limit, direction, tags: String::new() })
}

/// `query`
pub fn instant_query(params: &Params, tenant: TenantId, now: Timestamp) -> Result<InstantQuery> {
    let query = params.first("query").to_owned();
    let limit = limit(params)?;
    let time = time::timestamp(params.first("time"), now).map_err(ApiError::bad_request)?;
    let direction = direction(params)?;
    Ok(InstantQuery { tenant, query, time, limit, direction, tags: String::new() })
}

/// `labels` and `label/{name}/values`
pub fn labels(params: &Params, tenant: TenantId, now: Timestamp) -> Result<MetadataRequest> {
    let (start, end) = bounds(params, now)?;
    let selectors = Some(params.first("query")).filter(|q| !q.is_empty()).map(str::to_owned);
    Ok(MetadataRequest {
        tenant,
        range: TimeRange::new(start, end),
        selectors: selectors.into_iter().collect(),
    })
}

/// `series`
pub fn series(params: &Params, tenant: TenantId, now: Timestamp) -> Result<MetadataRequest> {
    let (start, end) = bounds(params, now)?;
    let mut selectors: Vec<_> = params.all("match").chain(params.all("match[]")).map(str::to_owned).collect();
    selectors.sort();
    selectors.dedup();
    // A single selector without matchers means all streams, as no selector does.
    if let [one] = &selectors[..]
        && one.replace(' ', "") == "{}"
    {
        selectors.clear();
    }
    Ok(MetadataRequest { tenant, range: TimeRange::new(start, end), selectors })
}

/// Start and end.
pub(crate) fn bounds(params: &Params, now: Timestamp) -> Result<(Timestamp, Timestamp)> {
    let named =
        |name: &str, e: String| ApiError::bad_request(format!("could not parse '{name}' parameter: {e}"));
    let since = match params.first("since") {
        "" => DEFAULT_SINCE,
        text => time::prometheus_duration(text).map_err(|e| named("since", e))?,
    };
    let end = time::timestamp(params.first("end"), now).map_err(|e| named("end", e))?;
    let start = time::timestamp(params.first("start"), end.min(now).saturating_sub(since))
        .map_err(|e| named("start", e))?;
    Ok((start, end))
}

/// The distance of points, as given or so that there are about 250.
pub(super) fn step(params: &Params, start: Timestamp, end: Timestamp) -> Result<i64> {
    let length = end.saturating_sub(start);
    let step = match params.first("step") {
        "" => (length / (250 * SECOND)).max(1) * SECOND,
        text => time::seconds_or_duration(text).map_err(ApiError::bad_request)?,
    };
    if step <= 0 {
        return Err(ApiError::bad_request(
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    if length / step > POINTS_MAX {
        return Err(ApiError::bad_request(
            "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step \
             parameter",
        ));
    }
    Ok(step)
}

pub(crate) fn limit(params: &Params) -> Result<usize> {
    positive(params.first("limit"), DEFAULT_LIMIT)
}

/// A number over 0; an empty text is `default`.
pub(super) fn positive(text: &str, default: usize) -> Result<usize> {
    if text.is_empty() {
        return Ok(default);
    }
    let limit = time::integer(text, "Atoi").map_err(ApiError::bad_request)?;
    if limit <= 0 {
        return Err(ApiError::bad_request("limit must be a positive value"));
    }
    if limit > i64::from(u32::MAX) {
        let text = format!("limit value {limit} is out of range [0, {}]", u32::MAX);
        return Err(ApiError::bad_request(text));
    }
    Ok(limit as usize)
}

pub(super) fn direction(params: &Params) -> Result<Direction> {
    let text = params.first("direction");
    if text.is_empty() || text.eq_ignore_ascii_case("backward") {
        Ok(Direction::Backward)
    } else if text.eq_ignore_ascii_case("forward") {
        Ok(Direction::Forward)
    } else {
        Err(ApiError::bad_request(format!("invalid direction '{text}'")))
    }
}

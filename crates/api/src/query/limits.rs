//! Limits that a request sets for its own query, by the header `X-Loki-Query-Limits`. They only tighten: those of the
//! tenant hold besides.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use skald_logql::units::{format_go_duration, format_prometheus_duration, parse_prometheus_duration};
use skald_model::{Limits, Result as ServiceResult, Timestamp};
use skald_rpc::frontend::RangeQuery;

use crate::config::Config;
use crate::error::ApiError;

const HEADER: &str = "x-loki-query-limits";

/// What the header holds, with Loki's names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    max_query_length: String,
    max_query_interval: String,
    max_query_lookback: String,
    max_entries_limit_per_query: usize,
    max_query_time: String,
    required_labels: Vec<String>,
    minimum_labels_number: usize,
}

/// The limits of one request; without the header there are none.
#[derive(Debug, Default)]
pub(super) struct RequestLimits(Option<Box<Limits>>);

impl RequestLimits {
    /// Those of a request, where the configuration allows it.
    ///
    /// # Errors
    /// 400 when the header is malformed.
    pub(super) fn of(headers: &HeaderMap, config: &Config) -> Result<Self, ApiError> {
        let Some(value) = headers.get(HEADER).filter(|_| config.per_request_limits_enabled) else {
            return Ok(Self::default());
        };
        let fail = |e: String| ApiError::bad_request(format!("could not parse X-Loki-Query-Limits: {e}"));
        let header: Header = serde_json::from_slice(value.as_bytes()).map_err(|e| fail(e.to_string()))?;
        let nanos = |text: &str| match text {
            "" => Ok(0),
            text => parse_prometheus_duration(text).map_err(fail),
        };
        Ok(Self(Some(Box::new(Limits {
            max_query_length: nanos(&header.max_query_length)?,
            max_query_range: nanos(&header.max_query_interval)?,
            max_query_lookback: nanos(&header.max_query_lookback)?,
            query_timeout: nanos(&header.max_query_time)?,
            max_entries_limit_per_query: header.max_entries_limit_per_query,
            required_labels: header.required_labels,
            minimum_labels_number: header.minimum_labels_number,
            max_streams_matchers_per_query: 0,
            ..Limits::default()
        }))))
    }

    /// Holds a range query to them.
    ///
    /// # Errors
    /// 400 in Loki's words.
    pub(super) fn check_range(&self, query: &mut RangeQuery, now: Timestamp) -> Result<(), ApiError> {
        let Some(limits) = &self.0 else { return Ok(()) };
        self.check(&query.query)?;
        let entries_max = limits.max_entries_limit_per_query;
        if entries_max > 0 && query.limit > entries_max {
            return Err(ApiError::bad_request(format!(
                "max entries limit per query exceeded, limit > max_entries_limit_per_query ({} > {entries_max})",
                query.limit
            )));
        }
        if limits.max_query_lookback > 0 {
            let oldest = now.saturating_sub(limits.max_query_lookback);
            query.start = query.start.max(oldest).min(query.end);
        }
        let length = query.end.saturating_sub(query.start);
        if limits.max_query_length > 0 && length > limits.max_query_length {
            return Err(ApiError::bad_request(format!(
                "the query time range exceeds the limit (query length: {}, limit: {})",
                format_go_duration(length),
                format_prometheus_duration(limits.max_query_length)
            )));
        }
        Ok(())
    }

    /// Holds the text of a query to them. What does not parse is left to whoever answers the query.
    ///
    /// # Errors
    /// 400 in Loki's words.
    pub(super) fn check(&self, query: &str) -> Result<(), ApiError> {
        match (&self.0, skald_logql::parse(query)) {
            (Some(limits), Ok(expr)) => Ok(skald_logql::guard::check(&expr, limits)?),
            _ => Ok(()),
        }
    }

    /// Runs a query for as long as they allow.
    ///
    /// # Errors
    /// Those of the query, and 504 when the time is over.
    pub(super) async fn timed<T>(
        &self,
        query: impl Future<Output = ServiceResult<T>>,
    ) -> Result<T, ApiError> {
        match &self.0 {
            Some(limits) if limits.query_timeout > 0 => {
                let limit = Duration::from_nanos(limits.query_timeout.unsigned_abs());
                let text = format!("the query ran longer than {limit:?} (X-Loki-Query-Limits)");
                let late = |_| ApiError::new(StatusCode::GATEWAY_TIMEOUT, text);
                Ok(tokio::time::timeout(limit, query).await.map_err(late)??)
            }
            _ => Ok(query.await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::time::SECOND;
    use skald_model::{Direction, TenantId};

    fn check(header: &str, enabled: bool, hours: i64) -> Result<RangeQuery, String> {
        let config = Config { per_request_limits_enabled: enabled, ..Config::default() };
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, header.parse().unwrap());
        let end = 100 * 3600 * SECOND;
        let mut query = RangeQuery {
            tenant: TenantId::new("t").unwrap(),
            query: r#"{app="x"}"#.into(),
            start: end - hours * 3600 * SECOND,
            end,
            step: 1,
            interval: 0,
            limit: 100,
            direction: Direction::Backward,
            tags: String::new(),
        };
        let limits = RequestLimits::of(&headers, &config).map_err(|e| e.message)?;
        limits.check_range(&mut query, end).map_err(|e| e.message).map(|()| query)
    }

    #[test]
    fn the_header_tightens_limits_where_it_may() {
        let length = r#"{"maxQueryLength":"1h"}"#;
        assert!(check(length, true, 1).is_ok() && check(length, false, 2).is_ok());
        let text = "the query time range exceeds the limit (query length: 2h0m0s, limit: 1h)";
        assert_eq!(check(length, true, 2).unwrap_err(), text);
        let query = check(r#"{"maxQueryLookback":"1h","unknown":1}"#, true, 5).unwrap();
        assert_eq!(query.start, 99 * 3600 * SECOND);
        assert!(check(r#"{"requiredLabels":["env"]}"#, true, 1).unwrap_err().contains("[env]"));
        assert!(check(r#"{"maxEntriesLimitPerQuery":99}"#, true, 1).unwrap_err().contains("(100 > 99)"));
        assert!(check("{", true, 1).unwrap_err().starts_with("could not parse X-Loki-Query-Limits"));
        assert!(check(r#"{"maxQueryTime":"soon"}"#, true, 1).is_err());
    }
}

//! Which queries are refused before anything is read for them.

use skald_logql::ast::{Expr, Stage};
use skald_model::limits::BlockedQuery;
use skald_model::regex::{Mode, Regex};
use skald_model::{Error, Limits, Result, Selector, TenantId, TimeRange};
use skald_rpc::frontend::MetadataRequest;
use skald_rpc::ingester::StreamInfo;
use skald_storage::table::Snapshot;
use std::sync::Arc;

use crate::removals::Rules;
use crate::replicas::Replicas;
use crate::{Frontend, metadata};

impl Frontend {
    /// Checks what the text of a query shows: blocked queries, matchers, ranges.
    pub(crate) fn admit(&self, tenant: &TenantId, text: &str, expr: &Expr, limits: &Limits) -> Result<()> {
        skald_logql::guard::check(expr, limits)?;
        if is_blocked(text, expr, &limits.blocked_queries) {
            self.metrics.blocked_queries.with_label_values(&[tenant.as_str()]).inc();
            return Err(Error::invalid("query blocked by policy"));
        }
        Ok(())
    }

    /// Checks how much a log query would read at most. Where the blocks that may hold something have more than is
    /// allowed, their indexes tell how much is really asked for.
    pub(crate) async fn check_log_bytes(
        &self,
        tenant: &TenantId,
        selector: &Selector,
        range: TimeRange,
        replicas: &Arc<Replicas>,
        snapshot: &Arc<Snapshot>,
        rules: &Rules,
    ) -> Result<()> {
        let limits = self.limits.of(tenant);
        let bytes = snapshot
            .blocks
            .iter()
            .filter(|b| b.summary.may_hold(selector, range))
            .map(|b| b.summary.raw_bytes);
        if check_bytes(bytes.sum(), &limits).is_ok() {
            return Ok(());
        }
        let request =
            MetadataRequest { tenant: tenant.clone(), range, selectors: vec![selector.to_string()] };
        let found =
            metadata::find_at(self, &request, replicas.clone(), snapshot.clone(), rules.clone()).await?;
        check_bytes(bytes_of(&found.memory) + bytes_of(found.table_streams()), &limits)
    }
}

/// Bytes of lines in `streams`.
pub(crate) fn bytes_of(streams: &[StreamInfo]) -> u64 {
    streams.iter().map(|s| s.bytes).sum()
}

/// Holds the streams that a selector matches to `cardinality_limit`.
pub(crate) fn check_streams(selector: &Selector, streams: usize, limits: &Limits) -> Result<()> {
    if limits.cardinality_limit > 0 && streams > limits.cardinality_limit {
        return Err(Error::invalid(format!(
            "cardinality limit exceeded for {selector}; {streams} entries, more than limit of {} \
             (limits_config.cardinality_limit)",
            limits.cardinality_limit
        )));
    }
    Ok(())
}

/// Holds the bytes that a query would read to `max_query_bytes_read` and `max_querier_bytes_read`.
pub(crate) fn check_bytes(bytes: u64, limits: &Limits) -> Result<()> {
    let text = skald_logql::units::format_bytes;
    let (query_max, querier_max) = (limits.max_query_bytes_read, limits.max_querier_bytes_read);
    if query_max > 0 && bytes > query_max {
        return Err(Error::invalid(format!(
            "the query would read too many bytes (query: {}, limit: {}); consider adding more specific stream selectors or \
             reduce the time range of the query",
            text(bytes),
            text(query_max)
        )));
    }
    if querier_max > 0 && bytes > querier_max {
        return Err(Error::invalid(format!(
            "query too large to execute on a single querier: (query: {}, limit: {}); consider adding more specific stream \
             selectors, reduce the time range of the query, or adjust parallelization settings",
            text(bytes),
            text(querier_max)
        )));
    }
    Ok(())
}

/// Whether the first rule that is about this query, if any, is about its kind.
fn is_blocked(text: &str, expr: &Expr, rules: &[BlockedQuery]) -> bool {
    let text = text.trim();
    let about = |rule: &&BlockedQuery| {
        let pattern = rule.pattern.trim();
        (rule.hash != 0 && rule.hash == fnv1_32(text))
            || (!pattern.is_empty() && pattern == text)
            || (rule.regex && Regex::new(pattern, Mode::Search).is_ok_and(|r| r.is_match(text.as_bytes())))
    };
    let Some(rule) = rules.iter().find(about) else { return false };
    rule.types.is_empty() || rule.types.iter().any(|kind| kind == kind_of(expr))
}

/// Loki's name of a kind of query.
fn kind_of(expr: &Expr) -> &'static str {
    match expr {
        Expr::Metric(_) => "metric",
        Expr::Log(log) if log.stages.iter().any(|s| matches!(s, Stage::LineFilter(_))) => "filter",
        Expr::Log(_) => "limited",
    }
}

/// The hash that Loki logs queries with.
fn fnv1_32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, b| hash.wrapping_mul(0x0100_0193) ^ u32::from(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked(query: &str, rules: &[BlockedQuery]) -> bool {
        is_blocked(query, &skald_logql::parse(query).unwrap(), rules)
    }

    fn rule(pattern: &str, regex: bool, types: &[&str]) -> BlockedQuery {
        let types = types.iter().map(|t| (*t).to_owned()).collect();
        BlockedQuery { pattern: pattern.into(), regex, types, hash: 0 }
    }

    #[test]
    fn queries_are_blocked_by_text_expression_hash_and_kind() {
        let log = r#"{app="x"} |= "y""#;
        assert!(!blocked(log, &[]));
        assert!(blocked(log, &[rule(log, false, &[])]));
        assert!(blocked(log, &[rule("app=.x", true, &[])]));
        assert!(!blocked(log, &[rule("app=.x", false, &[])]));
        assert!(blocked(log, &[rule(log, false, &["filter"])]));
        assert!(!blocked(log, &[rule(log, false, &["metric", "limited"])]));
        assert!(blocked(r#"{app="x"}"#, &[rule(".*", true, &["limited"])]));
        // The first rule that is about the query decides.
        assert!(!blocked(log, &[rule(".*", true, &["metric"]), rule(".*", true, &["filter"])]));
        let hash = BlockedQuery { hash: fnv1_32(log), ..BlockedQuery::default() };
        assert!(blocked(log, std::slice::from_ref(&hash)) && !blocked(r#"{app="y"}"#, &[hash]));
        assert_eq!(fnv1_32("a"), 0x050c_5d7e);
    }

    #[test]
    fn bytes_are_held_to_both_limits() {
        let limits = Limits { max_query_bytes_read: 10, max_querier_bytes_read: 5, ..Limits::default() };
        assert!(check_bytes(5, &limits).is_ok());
        assert!(check_bytes(6, &limits).unwrap_err().message.starts_with("query too large to execute"));
        assert!(
            check_bytes(11, &limits).unwrap_err().message.starts_with("the query would read too many bytes")
        );
        assert!(check_streams(&Selector::default(), 100_001, &limits).is_err());
    }
}

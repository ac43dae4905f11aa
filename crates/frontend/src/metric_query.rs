//! Metric queries: partial aggregates from blocks and memory, merged and evaluated here.

use skald_logql::ast::MetricExpr;
use skald_model::{Error, Limits, Result};
use skald_rpc::frontend::{InstantQuery, QueryResponse, RangeQuery};

use crate::Frontend;

/// Runs a metric query over a range.
pub(crate) async fn range(_: &Frontend, _: &RangeQuery, _: &MetricExpr, _: &Limits) -> Result<QueryResponse> {
    Err(Error::invalid("metric queries are not supported yet"))
}

/// Runs a metric query at one point in time.
pub(crate) async fn instant(
    _: &Frontend,
    _: &InstantQuery,
    _: &MetricExpr,
    _: &Limits,
) -> Result<QueryResponse> {
    Err(Error::invalid("metric queries are not supported yet"))
}

//! Questions about what is in memory.
//!
//! A query works on a cut of the tenant's segments (see [`crate::tenant`]) that nothing changes any more, on a blocking
//! thread, a bounded number at a time. It stops when nobody waits for it.

mod identities;
mod logs;
mod merge;
mod metric;
mod pool;
mod removals;
mod sources;
mod streams;
mod volumes;

#[cfg(test)]
mod removal_tests;
#[cfg(test)]
mod tests;

pub(crate) use identities::identities;
pub(crate) use logs::{Stages, query_logs};
pub(crate) use metric::query_metric;
pub(crate) use pool::{Cancelled, Pool};
pub(crate) use removals::Removing;
pub(crate) use streams::streams;
pub(crate) use volumes::volumes;

use skald_logql::metric::MetricQuery;
use skald_logql::{Expr, LogQuery, ParseOptions};
use skald_model::{Error, LabelsRef, QueryStats, Result, Selector};

/// Rows between two looks at whether somebody still waits.
const CANCEL_ROWS: u64 = 4096;

/// What a scan may still cost.
struct Budget<'a> {
    bytes_max: u64,
    cancelled: &'a Cancelled,
}

impl Budget<'_> {
    /// Counts a line that is looked at; an error once there are too many or nobody waits any more.
    fn spend(&self, stats: &mut QueryStats, line: &[u8], metadata: LabelsRef<'_>) -> Result<()> {
        stats.head_lines += 1;
        stats.head_bytes += line.len() as u64;
        stats.structured_metadata_bytes += metadata.packed().len() as u64;
        if stats.head_bytes > self.bytes_max {
            return Err(Error::invalid(format!(
                "the query has read {} bytes of lines, more than it may (limits_config.max_query_bytes_read); narrow \
                 its time range or its selector",
                stats.head_bytes
            )));
        }
        match stats.head_lines % CANCEL_ROWS {
            0 => self.cancelled.check(),
            _ => Ok(()),
        }
    }
}

/// The parts of a log query.
pub(crate) fn parse_log(text: &str) -> Result<LogQuery> {
    match skald_logql::parse(text).map_err(Error::from)? {
        Expr::Log(log) => Ok(LogQuery::compile(&log)),
        Expr::Metric(_) => Err(Error::invalid(format!("expected a log query, got the metric query {text}"))),
    }
}

/// A metric query, compiled.
pub(crate) fn parse_metric(text: &str) -> Result<MetricQuery> {
    match skald_logql::parse(text).map_err(Error::from)? {
        Expr::Metric(metric) => MetricQuery::compile(&metric),
        Expr::Log(_) => Err(Error::invalid(format!("expected a metric query, got the log query {text}"))),
    }
}

/// Selectors of which one has to pass; none passes all.
pub(crate) fn parse_selectors(texts: &[String]) -> Result<Vec<Selector>> {
    texts.iter().map(|text| parse_selector(text)).collect()
}

/// A selector, also one that every stream passes.
pub(crate) fn parse_selector(text: &str) -> Result<Selector> {
    skald_logql::parse_selector(text, ParseOptions::default(), true).map_err(Error::from)
}

//! Patterns of lines and how often they were seen.

use std::collections::BTreeMap;

use skald_model::{StreamId, TenantId, TimeRange, Timestamp};

/// Asks an ingester for patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternsRequest {
    /// Whose lines.
    pub tenant: TenantId,
    /// Only lines of streams that pass, as LogQL text.
    pub selector: String,
    /// Only lines of these times.
    pub range: TimeRange,
    /// Distance of samples in nanoseconds.
    pub step: i64,
    /// Streams whose lines another replica has counted better.
    pub exclude: Vec<StreamId>,
}

/// Asks a query frontend for patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternsQuery {
    /// Whose lines.
    pub tenant: TenantId,
    /// LogQL; its selector counts. A metric query has no patterns.
    pub query: String,
    /// First nanosecond.
    pub start: Timestamp,
    /// First nanosecond after the range.
    pub end: Timestamp,
    /// Distance of samples in nanoseconds.
    pub step: i64,
}

/// A pattern over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternSeries {
    /// For LogQL's pattern filter.
    pub pattern: String,
    /// The level of its lines; `unknown` if there is none.
    pub level: String,
    /// `(time in seconds, lines)`, oldest first.
    pub samples: Vec<(i64, u64)>,
}

impl PatternSeries {
    /// Most patterns of an answer: the most frequent ones.
    pub const MAX: usize = 1000;

    /// Joins what several places have counted: each pattern once, the most frequent first, no more than
    /// [`PatternSeries::MAX`].
    pub fn join(all: impl IntoIterator<Item = PatternSeries>) -> Vec<PatternSeries> {
        let mut joined: BTreeMap<(String, String), BTreeMap<i64, u64>> = BTreeMap::new();
        for series in all {
            let samples = joined.entry((series.pattern, series.level)).or_default();
            for (second, count) in series.samples {
                *samples.entry(second).or_default() += count;
            }
        }
        let series = |((pattern, level), samples): ((String, String), BTreeMap<i64, u64>)| PatternSeries {
            pattern,
            level,
            samples: samples.into_iter().collect(),
        };
        let mut joined: Vec<_> = joined.into_iter().map(series).collect();
        joined.sort_by_cached_key(|s| std::cmp::Reverse(s.samples.iter().map(|s| s.1).sum::<u64>()));
        joined.truncate(Self::MAX);
        joined
    }
}

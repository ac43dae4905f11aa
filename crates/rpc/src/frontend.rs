//! The service that answers queries.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{Direction, Labels, LogEntry, QueryStats, Result, TenantId, TimeRange, Timestamp};

use crate::ingester::StreamInfo;
use crate::memory::QueryShare;
use crate::patterns::{PatternSeries, PatternsQuery};
use crate::tail::{TailQuery, TailStream};

/// A query over a range of time.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// Whose data.
    pub tenant: TenantId,
    /// LogQL.
    pub query: String,
    /// First nanosecond.
    pub start: Timestamp,
    /// For log queries the first nanosecond after the range; for metric queries the last evaluation time.
    pub end: Timestamp,
    /// Distance of evaluation times in nanoseconds, over 0.
    pub step: i64,
    /// Log queries: leave out entries nearer than this to the last one returned, in nanoseconds; 0 keeps all.
    pub interval: i64,
    /// Most entries of a log query.
    pub limit: usize,
    /// Order of a log query.
    pub direction: Direction,
    /// What the client says about itself, `name=value,…`; see [`wants_partial_results`].
    pub tags: String,
}

/// A query at one point in time.
#[derive(Clone, Debug)]
pub struct InstantQuery {
    /// Whose data.
    pub tenant: TenantId,
    /// LogQL; log queries are refused as Loki does.
    pub query: String,
    /// The evaluation time.
    pub time: Timestamp,
    /// Most entries.
    pub limit: usize,
    /// Order of a log query.
    pub direction: Direction,
    /// What the client says about itself, as in [`RangeQuery`].
    pub tags: String,
}

/// Whether a client with these tags would rather have some of the series, with a warning, than an error when there are
/// too many. Grafana's Logs Drilldown does.
pub fn wants_partial_results(tags: &str) -> bool {
    tags.split(',').any(|tag| {
        let (name, value) = tag.split_once('=').unwrap_or((tag, ""));
        name.trim().eq_ignore_ascii_case("source") && value.trim() == "grafana-lokiexplore-app"
    })
}

/// One series of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// `(time in nanoseconds, value)`, oldest first.
    pub samples: Vec<(Timestamp, f64)>,
}

/// The data of an answer.
#[derive(Clone, Debug)]
pub enum QueryData {
    /// Entries in the query's direction over all streams.
    Streams(Vec<LogEntry>),
    /// Series over time.
    Matrix(Vec<Series>),
    /// Series at one time, each with one sample, in the order that the query asks for.
    Vector(Vec<Series>),
    /// A number at a time in nanoseconds.
    Scalar(Timestamp, f64),
}

impl QueryData {
    /// Bytes of memory that it takes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let series =
            |s: &Series| size_of::<Series>() + s.labels.packed().len() + size_of_val(s.samples.as_slice());
        match self {
            Self::Streams(entries) => entries.iter().map(LogEntry::memory_bytes).sum(),
            Self::Matrix(all) | Self::Vector(all) => all.iter().map(series).sum(),
            Self::Scalar(..) => 0,
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct QueryResponse {
    /// The data.
    pub data: QueryData,
    /// What it cost.
    pub stats: QueryStats,
    /// Things the reader of the answer should know, such as partial results.
    pub warnings: Vec<String>,
    /// What the data holds of the memory for queries, until it is written; `None` from another process.
    pub memory: Option<Arc<QueryShare>>,
}

impl QueryResponse {
    /// An answer without warnings that holds no memory of queries.
    pub fn new(data: QueryData, stats: QueryStats) -> Self {
        Self { data, stats, warnings: Vec::new(), memory: None }
    }
}

/// Asks for streams, label names or values.
#[derive(Clone, Debug)]
pub struct MetadataRequest {
    /// Whose data.
    pub tenant: TenantId,
    /// Only streams with entries inside.
    pub range: TimeRange,
    /// Only streams that pass one of these selectors, as LogQL text; none passes all.
    pub selectors: Vec<String>,
}

/// How much some streams hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Streams.
    pub streams: u64,
    /// Chunks: what one block or one segment in memory holds of one stream.
    pub chunks: u64,
    /// Bytes of lines and structured metadata.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Asks for the volume of streams, over all of a range or step by step.
#[derive(Clone, Debug)]
pub struct VolumeQuery {
    /// Whose data.
    pub tenant: TenantId,
    /// A selector.
    pub query: String,
    /// First nanosecond.
    pub start: Timestamp,
    /// First nanosecond after the range.
    pub end: Timestamp,
    /// Distance of points in nanoseconds, which lie at its multiples; 0 asks for one number over the whole range.
    pub step: i64,
    /// Most series, the largest; 0 leaves it to the tenant's limit.
    pub limit: usize,
    /// Labels to count by; those that the selector names if there are none.
    pub target_labels: Vec<String>,
    /// Count the streams that have a label, for each label name, instead of those with the same values.
    pub by_name: bool,
}

/// A name of a label and how many values it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectedLabel {
    /// The name.
    pub name: String,
    /// Number of its values.
    pub cardinality: u64,
}

/// Asks for the fields of the entries that a log query gives.
#[derive(Clone, Debug)]
pub struct DetectedFieldsQuery {
    /// Whose data.
    pub tenant: TenantId,
    /// A log query.
    pub query: String,
    /// First nanosecond.
    pub start: Timestamp,
    /// First nanosecond after the range.
    pub end: Timestamp,
    /// Most entries that are looked at, the newest.
    pub line_limit: usize,
    /// Most fields of the answer, or values of a field.
    pub limit: usize,
}

/// A field of entries: structured metadata, a label that a stage of the query made, or what a parser finds in lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectedField {
    /// Its name, as a label.
    pub name: String,
    /// What its values look like: `string`, `int`, `float`, `boolean`, `duration` or `bytes`.
    pub kind: String,
    /// How many different values were met.
    pub cardinality: u64,
    /// The parsers that find it; none for structured metadata.
    pub parsers: Vec<String>,
    /// Where it lies in JSON lines; empty if it is not from one.
    pub json_path: Vec<String>,
}

/// Answers queries over everything acknowledged: in memory, in the table, each entry once.
#[async_trait]
pub trait QueryFrontend: Send + Sync + 'static {
    /// Answers a range query.
    async fn query_range(&self, query: RangeQuery) -> Result<QueryResponse>;

    /// Answers an instant query.
    async fn query(&self, query: InstantQuery) -> Result<QueryResponse>;

    /// Names of labels, sorted.
    async fn label_names(&self, request: MetadataRequest) -> Result<Vec<String>>;

    /// Values of one label, sorted.
    async fn label_values(&self, request: MetadataRequest, name: &str) -> Result<Vec<String>>;

    /// Streams with what is known of them, sorted by labels.
    async fn series(&self, request: MetadataRequest) -> Result<Vec<StreamInfo>>;

    /// Patterns of lines, the most frequent first.
    async fn patterns(&self, query: PatternsQuery) -> Result<Vec<PatternSeries>>;

    /// Follows a log query: first the newest entries there are, then every entry as it is acknowledged, each once.
    async fn tail(&self, query: TailQuery) -> Result<TailStream>;

    /// How much the streams of the request's one selector hold.
    async fn index_stats(&self, request: MetadataRequest) -> Result<IndexStats>;

    /// The volume of streams: a vector, or a matrix where there is more than one step; largest series first.
    async fn volume(&self, query: VolumeQuery) -> Result<QueryResponse>;

    /// Labels with their numbers of values, sorted by name.
    async fn detected_labels(&self, request: MetadataRequest) -> Result<Vec<DetectedLabel>>;

    /// The fields of entries, sorted by name.
    async fn detected_fields(&self, query: DetectedFieldsQuery) -> Result<Vec<DetectedField>>;

    /// Values of one field of entries, sorted.
    async fn detected_field_values(&self, query: DetectedFieldsQuery, name: &str) -> Result<Vec<String>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_drilldown_wants_partial_results() {
        for (tags, expected) in [
            ("Source=grafana-lokiexplore-app", true),
            ("a=b, source=grafana-lokiexplore-app", true),
            ("Source=logvolhist", false),
            ("grafana-lokiexplore-app", false),
            ("", false),
        ] {
            assert_eq!(wants_partial_results(tags), expected, "{tags}");
        }
    }
}

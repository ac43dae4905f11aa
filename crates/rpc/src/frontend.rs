//! The service that answers queries.

use async_trait::async_trait;
use skald_model::{Direction, Labels, LogEntry, QueryStats, Result, TenantId, TimeRange, Timestamp};

use crate::ingester::StreamInfo;
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

/// An answer.
#[derive(Clone, Debug)]
pub struct QueryResponse {
    /// The data.
    pub data: QueryData,
    /// What it cost.
    pub stats: QueryStats,
    /// Things the reader of the answer should know, such as partial results.
    pub warnings: Vec<String>,
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

    /// Follows a log query: first the newest entries there are, then every entry as it is acknowledged, each once.
    async fn tail(&self, query: TailQuery) -> Result<TailStream>;
}

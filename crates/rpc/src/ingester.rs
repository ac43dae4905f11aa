//! The service that keeps what the table does not hold yet.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{
    Batch, Digest, EntryHash, GroupVolume, Labels, PushStamp, RemovalSpec, Result, StreamId, TenantId,
    TimeRange, Timestamp, VolumeSpec,
};

use crate::patterns::{PatternSeries, PatternsRequest};
use crate::querier::{LogResult, LogTask, MetricResult, MetricTask};
use crate::tail::{TailStream, TailTask};

/// A batch of one tenant for one ingester.
#[derive(Clone, Debug)]
pub struct IngesterPush {
    /// Whose entries.
    pub tenant: TenantId,
    /// Which push it is a part of, and when that came.
    pub stamp: PushStamp,
    /// The entries.
    pub batch: Arc<Batch>,
}

/// Which streams an ingester holds that the table does not.
#[derive(Clone, Debug)]
pub struct StreamsRequest {
    /// Whose streams.
    pub tenant: TenantId,
    /// The table version that the caller reads beside this; −1 when there is no table.
    pub version: i64,
    /// Only streams with entries inside.
    pub range: TimeRange,
    /// Only streams that pass one of these selectors, as LogQL text; none passes all.
    pub selectors: Vec<String>,
    /// What must not be seen; `None` when that is nothing. Streams that are gone as a whole are not told.
    pub removals: Option<Arc<RemovalSpec>>,
}

/// How much an ingester holds that the table does not.
#[derive(Clone, Debug)]
pub struct VolumesRequest {
    /// Of which streams, and when.
    pub streams: StreamsRequest,
    /// What to count.
    pub spec: VolumeSpec,
    /// Streams that are counted elsewhere.
    pub skip: Arc<HashSet<StreamId>>,
}

/// Which entries to tell the identities of.
#[derive(Clone, Debug)]
pub struct IdentitiesRequest {
    /// Whose entries.
    pub tenant: TenantId,
    /// The table version that the caller reads beside this; −1 when there is no table.
    pub version: i64,
    /// Nothing that came after this place in the ingester's log; see [`HeldStreams::cut`].
    pub cut: u64,
    /// Only entries inside.
    pub range: TimeRange,
    /// Of these streams.
    pub streams: Vec<StreamId>,
    /// What must not be seen; `None` when that is nothing.
    pub removals: Option<Arc<RemovalSpec>>,
}

/// Most entries whose identities one request tells, or one task compares.
pub const IDENTITIES_MAX: usize = 2_000_000;

/// Checks that no more than `max` entries are compared by identity.
///
/// # Errors
/// `Kind::InvalidArgument`, in words for whoever asked the query.
pub fn check_identities(count: usize, max: usize) -> Result<()> {
    if count <= max {
        return Ok(());
    }
    Err(skald_model::Error::invalid(format!(
        "more than {max} entries of the same streams and times lie in several places and would have to be compared; narrow \
         the query's time range or its selector, or wait until they are flushed and compacted"
    )))
}

/// The streams that an ingester holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldStreams {
    /// The place in the ingester's log up to which they were counted. Later questions that name it see the same entries,
    /// whatever is pushed in between.
    pub cut: u64,
    /// The streams, sorted by labels.
    pub streams: Vec<StreamInfo>,
}

/// How far an ingester is with writing out what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The ingester's name.
    pub name: String,
    /// The stamp of the oldest push of which the table does not hold everything; `None` when it holds all.
    pub oldest_stamp: Option<i64>,
}

/// A stream that an ingester holds entries of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Identity.
    pub id: StreamId,
    /// Labels.
    pub labels: Labels,
    /// Oldest entry.
    pub min_ts: Timestamp,
    /// Newest entry.
    pub max_ts: Timestamp,
    /// Entries.
    pub entries: u64,
    /// Raw bytes of their lines.
    pub bytes: u64,
    /// Of all entries that the source holds of the stream, also of those outside of the range asked for; empty from a
    /// source that does not tell. Two sources with equal digests hold the same.
    pub digest: Digest,
}

impl StreamInfo {
    /// Takes in what another source holds of the same stream.
    pub fn merge(&mut self, other: &StreamInfo) {
        self.min_ts = self.min_ts.min(other.min_ts);
        self.max_ts = self.max_ts.max(other.max_ts);
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.digest.merge(&other.digest);
    }

    /// Joins streams of several sources: each once, sorted by labels.
    pub fn join(streams: impl IntoIterator<Item = StreamInfo>) -> Vec<StreamInfo> {
        let mut by_labels: BTreeMap<Labels, StreamInfo> = BTreeMap::new();
        for s in streams {
            match by_labels.get_mut(&s.labels) {
                Some(known) => known.merge(&s),
                None => {
                    by_labels.insert(s.labels.clone(), s);
                }
            }
        }
        by_labels.into_values().collect()
    }
}

/// Takes entries in durably and answers for them until the table does.
#[async_trait]
pub trait Ingester: Send + Sync + 'static {
    /// Appends a batch. `Ok` means: on the write-ahead log, synced, and visible to queries.
    ///
    /// Entries outside the out-of-order window are refused with `Kind::InvalidArgument` after the others were
    /// stored. Over its memory budget the ingester waits a moment and then says `Kind::LimitExceeded`.
    async fn push(&self, push: IngesterPush) -> Result<()>;

    /// Runs a log task over what the table does not hold at `task.version`.
    ///
    /// `Kind::SnapshotTooOld` when entries that a newer version covers are no longer in memory.
    async fn query_logs(&self, task: LogTask) -> Result<LogResult>;

    /// Runs a metric task over what the table does not hold at `task.version`; errors as for [`Ingester::query_logs`].
    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult>;

    /// The streams with entries that the table does not hold at the given version; errors as for [`Ingester::query_logs`].
    async fn streams(&self, request: StreamsRequest) -> Result<HeldStreams>;

    /// The identities of entries that the table does not hold at the given version; errors as for
    /// [`Ingester::query_logs`], and `Kind::InvalidArgument` when they are too many to be compared.
    async fn identities(&self, request: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>>;

    /// How far it is with writing out.
    async fn holding(&self) -> Result<Holding>;

    /// Follows what is appended: once this has returned, every entry that becomes visible to queries and was not yet
    /// is handed on, repeated pushes included. `Kind::InvalidArgument` when the tenant has as many tails as it may.
    async fn tail(&self, task: TailTask) -> Result<TailStream>;

    /// How much there is of streams that the table does not hold at the given version, counted entry by entry; errors as
    /// for [`Ingester::query_logs`], and `Kind::InvalidArgument` for an answer that is too large.
    async fn volumes(&self, request: VolumesRequest) -> Result<Vec<GroupVolume>>;

    /// How often the lines of each stream that passes were counted in patterns.
    async fn pattern_streams(&self, request: PatternsRequest) -> Result<Vec<(StreamId, u64)>>;

    /// The patterns of the streams that pass, the most frequent first.
    async fn patterns(&self, request: PatternsRequest) -> Result<Vec<PatternSeries>>;

    /// Writes what is in memory now (of one tenant or of all) to the table and returns when it is committed.
    async fn flush(&self, tenant: Option<TenantId>) -> Result<()>;
}

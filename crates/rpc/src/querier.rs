//! The service that runs query tasks over blocks.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{
    Direction, EntryHash, GroupVolume, LogEntry, QueryStats, RemovalSpec, Result, StreamId, TenantId,
    TimeRange, VolumeSpec,
};

use crate::ingester::StreamInfo;

/// A block as a task names it: all that is needed to open it without asking the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Path below the tenant's table.
    pub path: Arc<str>,
    /// Size of the file in bytes.
    pub size: u64,
    /// Where Skald's sections and the footer begin: one range read from here gets them all.
    pub tail_offset: u64,
    /// When the first of its entries was received, seconds since the Unix epoch; 0 when nobody knows.
    pub received_min: i64,
    /// Up to which generation of the tenant's delete requests all have been carried out on it.
    pub deletes: u64,
}

/// A log query over some sources.
#[derive(Clone, Debug)]
pub struct LogTask {
    /// Whose data.
    pub tenant: TenantId,
    /// The log query as LogQL text.
    pub query: Arc<str>,
    /// Entries inside this range.
    pub range: TimeRange,
    /// Which end of the range comes first.
    pub direction: Direction,
    /// At most this many entries: the first in `direction`.
    pub limit: usize,
    /// The table version that the query reads; −1 when there is no table. Ingesters answer for what it does not hold.
    pub version: i64,
    /// The blocks to read; empty when the task goes to an ingester.
    pub blocks: Vec<BlockRef>,
    /// Raw bytes of lines that the task may still read; over it the task fails naming `max_query_bytes_read`.
    pub max_bytes: u64,
    /// What the query must not see; `None` when that is nothing.
    pub removals: Option<Arc<RemovalSpec>>,
}

/// What a log task found.
#[derive(Clone, Debug, Default)]
pub struct LogResult {
    /// The first `limit` entries in the task's direction. Copies of one entry that lie in different sources of the
    /// task are joined.
    pub entries: Vec<LogEntry>,
    /// What it cost.
    pub stats: QueryStats,
}

/// A metric query's part over some sources.
#[derive(Clone, Debug)]
pub struct MetricTask {
    /// Whose data.
    pub tenant: TenantId,
    /// The metric query as LogQL text.
    pub query: Arc<str>,
    /// First evaluation time, nanoseconds.
    pub start: i64,
    /// Last evaluation time, nanoseconds, inclusive.
    pub end: i64,
    /// Distance of evaluation times in nanoseconds; 0 for an instant query (`start == end`).
    pub step: i64,
    /// The table version that the query reads; −1 when there is no table.
    pub version: i64,
    /// The blocks to read; empty when the task goes to an ingester.
    pub blocks: Vec<BlockRef>,
    /// Only streams whose id modulo `shards.1` is `shards.0`; `(0, 1)` is all.
    pub shard: (u32, u32),
    /// Raw bytes of lines that the task may still read.
    pub max_bytes: u64,
    /// Entries that an ingester leaves out, because another source has them, too. Rarely any.
    pub exclude: Arc<HashSet<(StreamId, EntryHash)>>,
    /// An ingester leaves out what came after this place in its log ([`HeldStreams::cut`](crate::ingester::HeldStreams));
    /// `None` leaves out nothing.
    pub cut: Option<u64>,
    /// Streams that an ingester leaves out, because another source answers for them.
    pub skip: Arc<HashSet<StreamId>>,
    /// What the query must not see; `None` when that is nothing.
    pub removals: Option<Arc<RemovalSpec>>,
}

/// Mergeable partial aggregates.
#[derive(Clone, Debug, Default)]
pub struct MetricResult {
    /// For each range aggregation, in the query's order, the length of its state (u32, little endian) and the state in
    /// the encoding of `skald-logql`; the length is 0 where no stream matched.
    pub partials: bytes::Bytes,
    /// What it cost.
    pub stats: QueryStats,
}

impl MetricResult {
    /// Puts the states of the range aggregations together; `None` or empty where no stream matched.
    pub fn pack(states: &[Vec<u8>]) -> bytes::Bytes {
        let mut out = Vec::with_capacity(states.iter().map(|s| s.len() + 4).sum());
        for s in states {
            out.extend_from_slice(&(s.len() as u32).to_le_bytes());
            out.extend_from_slice(s);
        }
        out.into()
    }

    /// The states that [`MetricResult::pack`] put together; `None` if the bytes are not well formed.
    pub fn unpack(partials: &[u8]) -> Option<Vec<&[u8]>> {
        let (mut rest, mut states) = (partials, Vec::new());
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk::<4>()?;
            let (state, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            states.push(state);
            rest = after;
        }
        Some(states)
    }
}

/// Which streams some blocks hold.
#[derive(Clone, Debug)]
pub struct BlockStreamsRequest {
    /// Whose blocks.
    pub tenant: TenantId,
    /// The blocks.
    pub blocks: Vec<BlockRef>,
    /// Only streams with entries inside.
    pub range: TimeRange,
    /// Only streams that pass one of these selectors, as LogQL text; none passes all.
    pub selectors: Vec<String>,
    /// What must not be seen; `None` when that is nothing. Streams that are gone as a whole are not told.
    pub removals: Option<Arc<RemovalSpec>>,
}

/// Which entries of some blocks to tell the identities of.
#[derive(Clone, Debug)]
pub struct BlockIdentitiesRequest {
    /// Whose blocks.
    pub tenant: TenantId,
    /// The blocks.
    pub blocks: Vec<BlockRef>,
    /// Only entries inside.
    pub range: TimeRange,
    /// Of these streams.
    pub streams: Vec<StreamId>,
    /// What must not be seen; `None` when that is nothing.
    pub removals: Option<Arc<RemovalSpec>>,
}

/// How much some blocks hold.
#[derive(Clone, Debug)]
pub struct BlockVolumesRequest {
    /// Of which streams of which blocks, and when.
    pub streams: BlockStreamsRequest,
    /// What to count.
    pub spec: VolumeSpec,
}

/// Runs tasks over blocks.
#[async_trait]
pub trait Querier: Send + Sync + 'static {
    /// Runs a log task over `task.blocks`.
    async fn query_logs(&self, task: LogTask) -> Result<LogResult>;

    /// Runs a metric task over `task.blocks`.
    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult>;

    /// The streams of some blocks, each once, with what the blocks hold of them taken together.
    async fn streams(&self, request: BlockStreamsRequest) -> Result<Vec<StreamInfo>>;

    /// The identities of entries of some blocks. `Kind::InvalidArgument` when they are too many to be compared.
    async fn identities(&self, request: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>>;

    /// How much some blocks hold, by their stream indexes alone. `Kind::InvalidArgument` for an answer that is too
    /// large.
    async fn volumes(&self, request: BlockVolumesRequest) -> Result<Vec<GroupVolume>>;
}

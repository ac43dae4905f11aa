//! Small messages and their counterparts.

use std::sync::Arc;

use skald_model::{
    Digest, Direction, EntryHash, Error, Labels, QueryStats, Result, StreamId, TenantId, TimeRange,
};

use super::proto;
use super::removals::{removals_from, removals_to};
use crate::frontend::{InstantQuery, MetadataRequest, RangeQuery, Series};
use crate::ingester::{IdentitiesRequest, StreamInfo, StreamsRequest};
use crate::querier::{BlockIdentitiesRequest, BlockRef, BlockStreamsRequest, LogTask, MetricTask};

/// The tenant of a query, or the tenants.
fn tenants(id: &str) -> Result<TenantId> {
    TenantId::of_query(id).map_err(|e| e.context("malformed request"))
}

pub(super) fn tenant(id: &str) -> Result<TenantId> {
    TenantId::new(id)
}

pub(super) fn range_to(range: TimeRange) -> Option<proto::TimeRange> {
    Some(proto::TimeRange { start: range.start, end: range.end })
}

pub(super) fn range_from(range: Option<proto::TimeRange>) -> Result<TimeRange> {
    let range = range.ok_or_else(|| Error::invalid("the request has no time range"))?;
    Ok(TimeRange::new(range.start, range.end))
}

fn direction_to(direction: Direction) -> i32 {
    match direction {
        Direction::Forward => proto::Direction::Forward.into(),
        Direction::Backward => proto::Direction::Backward.into(),
    }
}

fn direction_from(direction: proto::Direction) -> Direction {
    match direction {
        proto::Direction::Forward => Direction::Forward,
        proto::Direction::Backward => Direction::Backward,
    }
}

fn blocks_to(blocks: Vec<BlockRef>) -> Vec<proto::BlockRef> {
    let block = |BlockRef { path, size, tail_offset, received_min, deletes }| proto::BlockRef {
        path: path.to_string(),
        size,
        tail_offset,
        received_min,
        deletes,
    };
    blocks.into_iter().map(block).collect()
}

fn blocks_from(blocks: Vec<proto::BlockRef>) -> Vec<BlockRef> {
    let block = |proto::BlockRef { path, size, tail_offset, received_min, deletes }| BlockRef {
        path: path.into(),
        size,
        tail_offset,
        received_min,
        deletes,
    };
    blocks.into_iter().map(block).collect()
}

pub(super) fn log_task_to(task: LogTask) -> proto::LogTask {
    let LogTask { tenant, query, range, direction, limit, version, blocks, max_bytes, removals } = task;
    proto::LogTask {
        tenant: tenant.as_str().to_owned(),
        query: query.to_string(),
        range: range_to(range),
        direction: direction_to(direction),
        limit: limit as u64,
        version,
        blocks: blocks_to(blocks),
        max_bytes,
        removals: removals_to(removals),
    }
}

pub(super) fn log_task_from(task: proto::LogTask) -> Result<LogTask> {
    Ok(LogTask {
        tenant: tenant(&task.tenant)?,
        direction: direction_from(task.direction()),
        query: Arc::from(task.query),
        range: range_from(task.range)?,
        limit: task.limit as usize,
        version: task.version,
        blocks: blocks_from(task.blocks),
        max_bytes: task.max_bytes,
        removals: removals_from(task.removals)?,
    })
}

pub(super) fn metric_task_to(task: MetricTask) -> proto::MetricTask {
    let MetricTask {
        tenant,
        query,
        start,
        end,
        step,
        version,
        blocks,
        shard: (shard, shards),
        max_bytes,
        exclude,
        cut,
        skip,
        removals,
    } = task;
    proto::MetricTask {
        tenant: tenant.as_str().to_owned(),
        query: query.to_string(),
        start,
        end,
        step,
        version,
        blocks: blocks_to(blocks),
        shard,
        shards,
        max_bytes,
        exclude: identities_to(exclude.iter()),
        cut,
        skip: ids_to(skip.iter()),
        removals: removals_to(removals),
    }
}

/// Bytes of a stream's id with the identity of one of its entries.
pub(super) const IDENTITY_LEN: usize = 24;

pub(super) fn identities_to<'a>(
    identities: impl ExactSizeIterator<Item = &'a (StreamId, EntryHash)>,
) -> bytes::Bytes {
    let mut out = Vec::with_capacity(identities.len() * IDENTITY_LEN);
    for (stream, hash) in identities {
        out.extend_from_slice(&stream.0.to_le_bytes());
        out.extend_from_slice(&hash.0.to_le_bytes());
    }
    out.into()
}

pub(super) fn identities_from<C: FromIterator<(StreamId, EntryHash)>>(bytes: &[u8]) -> Result<C> {
    let (all, rest) = bytes.as_chunks::<IDENTITY_LEN>();
    if !rest.is_empty() {
        return Err(Error::invalid("the identities of entries are cut short"));
    }
    let entry = |e: &[u8; IDENTITY_LEN]| {
        let (stream, hash) = e.split_at(8);
        let stream = StreamId(u64::from_le_bytes(stream.try_into().unwrap_or_default()));
        (stream, EntryHash(u128::from_le_bytes(hash.try_into().unwrap_or_default())))
    };
    Ok(all.iter().map(entry).collect())
}

pub(super) fn ids_to<'a>(ids: impl Iterator<Item = &'a StreamId>) -> Vec<u64> {
    ids.map(|id| id.0).collect()
}

pub(super) fn ids_from<C: FromIterator<StreamId>>(ids: Vec<u64>) -> C {
    ids.into_iter().map(StreamId).collect()
}

pub(super) fn identities_request_to(request: IdentitiesRequest) -> proto::IngesterIdentitiesRequest {
    let IdentitiesRequest { tenant, version, cut, range, streams, removals } = request;
    proto::IngesterIdentitiesRequest {
        tenant: tenant.as_str().to_owned(),
        version,
        cut,
        range: range_to(range),
        streams: ids_to(streams.iter()),
        removals: removals_to(removals),
    }
}

pub(super) fn identities_request_from(
    request: proto::IngesterIdentitiesRequest,
) -> Result<IdentitiesRequest> {
    let proto::IngesterIdentitiesRequest { tenant: id, version, cut, range, streams, removals } = request;
    Ok(IdentitiesRequest {
        tenant: tenant(&id)?,
        version,
        cut,
        range: range_from(range)?,
        streams: ids_from(streams),
        removals: removals_from(removals)?,
    })
}

pub(super) fn block_identities_to(request: BlockIdentitiesRequest) -> proto::BlockIdentitiesRequest {
    let BlockIdentitiesRequest { tenant, blocks, range, streams, removals } = request;
    proto::BlockIdentitiesRequest {
        tenant: tenant.as_str().to_owned(),
        blocks: blocks_to(blocks),
        range: range_to(range),
        streams: ids_to(streams.iter()),
        removals: removals_to(removals),
    }
}

pub(super) fn block_identities_from(
    request: proto::BlockIdentitiesRequest,
) -> Result<BlockIdentitiesRequest> {
    let proto::BlockIdentitiesRequest { tenant: id, blocks, range, streams, removals } = request;
    Ok(BlockIdentitiesRequest {
        tenant: tenant(&id)?,
        blocks: blocks_from(blocks),
        range: range_from(range)?,
        streams: ids_from(streams),
        removals: removals_from(removals)?,
    })
}

fn digest_to(digest: &Digest) -> bytes::Bytes {
    match digest.count {
        0 => bytes::Bytes::new(),
        count => [&count.to_le_bytes()[..], &digest.sum.to_le_bytes()].concat().into(),
    }
}

fn digest_from(bytes: &[u8]) -> Result<Digest> {
    match bytes {
        [] => Ok(Digest::default()),
        _ => match bytes.split_first_chunk::<8>() {
            Some((count, sum)) if sum.len() == 16 => Ok(Digest {
                count: u64::from_le_bytes(*count),
                sum: u128::from_le_bytes(sum.try_into().unwrap_or_default()),
            }),
            _ => Err(Error::internal("a peer sent a digest of another length")),
        },
    }
}

pub(super) fn metric_task_from(task: proto::MetricTask) -> Result<MetricTask> {
    let proto::MetricTask {
        tenant: id,
        query,
        start,
        end,
        step,
        version,
        blocks,
        shard,
        shards,
        max_bytes,
        exclude,
        cut,
        skip,
        removals,
    } = task;
    if shard >= shards {
        return Err(Error::invalid(format!("there is no shard {shard} of {shards}")));
    }
    Ok(MetricTask {
        tenant: tenant(&id)?,
        query: Arc::from(query),
        start,
        end,
        step,
        version,
        blocks: blocks_from(blocks),
        shard: (shard, shards),
        max_bytes,
        exclude: Arc::new(identities_from(&exclude)?),
        cut,
        skip: Arc::new(ids_from(skip)),
        removals: removals_from(removals)?,
    })
}

pub(super) fn ingester_streams_to(request: StreamsRequest) -> proto::IngesterStreamsRequest {
    let StreamsRequest { tenant, version, range, selectors, removals } = request;
    proto::IngesterStreamsRequest {
        tenant: tenant.as_str().to_owned(),
        version,
        range: range_to(range),
        selectors,
        removals: removals_to(removals),
    }
}

pub(super) fn ingester_streams_from(request: proto::IngesterStreamsRequest) -> Result<StreamsRequest> {
    let proto::IngesterStreamsRequest { tenant: id, version, range, selectors, removals } = request;
    Ok(StreamsRequest {
        tenant: tenant(&id)?,
        version,
        range: range_from(range)?,
        selectors,
        removals: removals_from(removals)?,
    })
}

pub(super) fn block_streams_to(request: BlockStreamsRequest) -> proto::BlockStreamsRequest {
    let BlockStreamsRequest { tenant, blocks, range, selectors, removals } = request;
    proto::BlockStreamsRequest {
        tenant: tenant.as_str().to_owned(),
        blocks: blocks_to(blocks),
        range: range_to(range),
        selectors,
        removals: removals_to(removals),
    }
}

pub(super) fn block_streams_from(request: proto::BlockStreamsRequest) -> Result<BlockStreamsRequest> {
    let proto::BlockStreamsRequest { tenant: id, blocks, range, selectors, removals } = request;
    Ok(BlockStreamsRequest {
        tenant: tenant(&id)?,
        blocks: blocks_from(blocks),
        range: range_from(range)?,
        selectors,
        removals: removals_from(removals)?,
    })
}

pub(super) fn metadata_to(request: MetadataRequest) -> proto::MetadataRequest {
    let MetadataRequest { tenant, range, selectors } = request;
    proto::MetadataRequest { tenant: tenant.as_str().to_owned(), range: range_to(range), selectors }
}

pub(super) fn metadata_from(request: proto::MetadataRequest) -> Result<MetadataRequest> {
    let proto::MetadataRequest { tenant: id, range, selectors } = request;
    Ok(MetadataRequest { tenant: tenants(&id)?, range: range_from(range)?, selectors })
}

pub(super) fn range_query_to(query: RangeQuery) -> proto::RangeQueryRequest {
    let RangeQuery { tenant, query, start, end, step, interval, limit, direction, tags } = query;
    proto::RangeQueryRequest {
        tenant: tenant.as_str().to_owned(),
        query,
        start,
        end,
        step,
        interval,
        limit: limit as u64,
        direction: direction_to(direction),
        tags,
    }
}

pub(super) fn range_query_from(query: proto::RangeQueryRequest) -> Result<RangeQuery> {
    Ok(RangeQuery {
        tenant: tenants(&query.tenant)?,
        direction: direction_from(query.direction()),
        query: query.query,
        start: query.start,
        end: query.end,
        step: query.step,
        interval: query.interval,
        limit: query.limit as usize,
        tags: query.tags,
    })
}

pub(super) fn instant_query_to(query: InstantQuery) -> proto::InstantQueryRequest {
    let InstantQuery { tenant, query, time, limit, direction, tags } = query;
    proto::InstantQueryRequest {
        tenant: tenant.as_str().to_owned(),
        query,
        time,
        limit: limit as u64,
        direction: direction_to(direction),
        tags,
    }
}

pub(super) fn instant_query_from(query: proto::InstantQueryRequest) -> Result<InstantQuery> {
    Ok(InstantQuery {
        tenant: tenants(&query.tenant)?,
        direction: direction_from(query.direction()),
        query: query.query,
        time: query.time,
        limit: query.limit as usize,
        tags: query.tags,
    })
}

pub(super) fn stream_to(stream: &StreamInfo) -> proto::StreamInfo {
    let StreamInfo { id, labels, min_ts, max_ts, entries, bytes, digest } = stream;
    proto::StreamInfo {
        id: id.0,
        labels: bytes::Bytes::copy_from_slice(labels.packed()),
        min_ts: *min_ts,
        max_ts: *max_ts,
        entries: *entries,
        bytes: *bytes,
        digest: digest_to(digest),
    }
}

pub(super) fn stream_from(stream: &proto::StreamInfo) -> Result<StreamInfo> {
    let proto::StreamInfo { id, labels, min_ts, max_ts, entries, bytes, digest } = stream;
    Ok(StreamInfo {
        id: StreamId(*id),
        labels: labels_from(labels)?,
        min_ts: *min_ts,
        max_ts: *max_ts,
        entries: *entries,
        bytes: *bytes,
        digest: digest_from(digest)?,
    })
}

pub(super) fn series_to(series: &Series) -> proto::Series {
    let mut previous = 0;
    let delta = |(time, _): &(i64, f64)| {
        let delta = time.wrapping_sub(previous);
        previous = *time;
        delta
    };
    proto::Series {
        labels: bytes::Bytes::copy_from_slice(series.labels.packed()),
        timestamp_deltas: series.samples.iter().map(delta).collect(),
        values: series.samples.iter().map(|(_, value)| *value).collect(),
    }
}

pub(super) fn series_from(series: &proto::Series) -> Result<Series> {
    let proto::Series { labels, timestamp_deltas, values } = series;
    if timestamp_deltas.len() != values.len() {
        return Err(Error::internal("a peer sent a malformed series"));
    }
    let mut time = 0i64;
    let sample = |(delta, value): (&i64, &f64)| {
        time = time.wrapping_add(*delta);
        (time, *value)
    };
    Ok(Series {
        labels: labels_from(labels)?,
        samples: timestamp_deltas.iter().zip(values).map(sample).collect(),
    })
}

pub(super) fn labels_from(packed: &[u8]) -> Result<Labels> {
    Labels::from_packed(packed).ok_or_else(|| Error::internal("a peer sent malformed labels"))
}

pub(super) fn stats_to(stats: &QueryStats) -> proto::QueryStats {
    let s = stats.clone();
    proto::QueryStats {
        blocks: s.blocks,
        blocks_pruned: s.blocks_pruned,
        block_bytes: s.block_bytes,
        block_lines: s.block_lines,
        compressed_bytes: s.compressed_bytes,
        head_bytes: s.head_bytes,
        head_lines: s.head_lines,
        structured_metadata_bytes: s.structured_metadata_bytes,
        post_filter_lines: s.post_filter_lines,
        duplicates: s.duplicates,
        entries_returned: s.entries_returned,
        ingesters: s.ingesters,
        streams: s.streams,
        subqueries: s.subqueries,
        exec_seconds: s.exec_seconds,
        queue_seconds: s.queue_seconds,
    }
}

pub(super) fn stats_from(stats: &proto::QueryStats) -> QueryStats {
    let s = *stats;
    QueryStats {
        blocks: s.blocks,
        blocks_pruned: s.blocks_pruned,
        block_bytes: s.block_bytes,
        block_lines: s.block_lines,
        compressed_bytes: s.compressed_bytes,
        head_bytes: s.head_bytes,
        head_lines: s.head_lines,
        structured_metadata_bytes: s.structured_metadata_bytes,
        post_filter_lines: s.post_filter_lines,
        duplicates: s.duplicates,
        entries_returned: s.entries_returned,
        ingesters: s.ingesters,
        streams: s.streams,
        subqueries: s.subqueries,
        exec_seconds: s.exec_seconds,
        queue_seconds: s.queue_seconds,
    }
}

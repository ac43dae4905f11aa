//! Live tails across the wire. They have no deadline but one for their beginning: a tail lives as long as its reader.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use skald_model::{Error, Labels, Result};
use tonic::{Response, Status, Streaming};

use super::entries::{EntryReader, EntryWriter};
use super::error::{from_status, to_status};
use super::{Connection, convert, proto};
use crate::tail::{Dropped, DroppedEntry, TailBatch, TailQuery, TailStream, TailTask};

pub(super) use super::endless as request;

/// The answer to a tail: each batch a message.
pub(super) struct Chunks(TailStream);

impl Stream for Chunks {
    type Item = std::result::Result<proto::TailChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_next_unpin(cx);
        next.map(|item| item.map(|batch| batch.map(chunk_to).map_err(to_status)))
    }
}

pub(super) fn send(tail: Result<TailStream>) -> std::result::Result<Response<Chunks>, Status> {
    tail.map(|stream| Response::new(Chunks(stream))).map_err(to_status)
}

/// Waits until the peer follows, then hands on what it sends.
pub(super) async fn open(
    connection: &Connection,
    answer: impl Future<Output = std::result::Result<Response<Streaming<proto::TailChunk>>, Status>>,
) -> Result<TailStream> {
    let answer = connection.call("tail", connection.config.remote_timeout, answer).await?;
    let peer = connection.peer.clone();
    let batches = answer.into_inner().map(move |chunk| match chunk {
        Ok(chunk) => chunk_from(chunk),
        Err(status) => Err(from_status(&status, &peer)),
    });
    Ok(batches.boxed())
}

fn chunk_to(batch: TailBatch) -> proto::TailChunk {
    let TailBatch { entries, dropped: Dropped { entries: dropped_entries, listed } } = batch;
    let mut chunks = Vec::new();
    if !entries.is_empty() {
        let mut writer = EntryWriter::new(entries);
        loop {
            let (chunk, last) = writer.next_chunk();
            chunks.push(chunk);
            if last {
                break;
            }
        }
    }
    let dropped = |d: DroppedEntry| proto::DroppedEntry {
        timestamp: d.timestamp,
        labels: bytes::Bytes::copy_from_slice(d.labels.packed()),
    };
    proto::TailChunk { entries: chunks, dropped_entries, dropped: listed.into_iter().map(dropped).collect() }
}

fn chunk_from(chunk: proto::TailChunk) -> Result<TailBatch> {
    let proto::TailChunk { entries, dropped_entries, dropped } = chunk;
    let mut reader = EntryReader::default();
    entries.into_iter().try_for_each(|chunk| reader.add(chunk))?;
    let listed = |d: proto::DroppedEntry| {
        let labels = Labels::from_packed(&d.labels);
        let labels = labels.ok_or_else(|| Error::internal("a peer sent malformed labels"))?;
        Ok(DroppedEntry { timestamp: d.timestamp, labels })
    };
    let listed = dropped.into_iter().map(listed).collect::<Result<_>>()?;
    Ok(TailBatch { entries: reader.finish(), dropped: Dropped { entries: dropped_entries, listed } })
}

pub(super) fn task_to(task: TailTask) -> proto::TailTask {
    let TailTask { tenant, query } = task;
    proto::TailTask { tenant: tenant.as_str().to_owned(), query: query.to_string() }
}

pub(super) fn task_from(task: proto::TailTask) -> Result<TailTask> {
    let proto::TailTask { tenant, query } = task;
    Ok(TailTask { tenant: convert::tenant(&tenant)?, query: Arc::from(query) })
}

pub(super) fn query_to(query: TailQuery) -> proto::TailRequest {
    let TailQuery { tenant, query, start, limit, delay } = query;
    let delay_nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    proto::TailRequest { tenant: tenant.as_str().to_owned(), query, start, limit: limit as u64, delay_nanos }
}

pub(super) fn query_from(request: proto::TailRequest) -> Result<TailQuery> {
    let proto::TailRequest { tenant, query, start, limit, delay_nanos } = request;
    let (tenant, limit) = (convert::tenant(&tenant)?, limit as usize);
    Ok(TailQuery { tenant, query, start, limit, delay: Duration::from_nanos(delay_nanos) })
}

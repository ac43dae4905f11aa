//! Live tails: their messages, and the bounded buffer between what is appended and a reader that may be slow.
//!
//! A tail is a stream of batches that ends when its reader drops it. It never waits on the side that writes: what a slow
//! reader has no room for is lost, counted, and told to the reader with the next batch.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use skald_model::{Error, Labels, LogEntry, Result, TenantId, Timestamp};

/// Asks an ingester for what it appends from now on.
#[derive(Clone, Debug)]
pub struct TailTask {
    /// Whose data.
    pub tenant: TenantId,
    /// The log query as LogQL text.
    pub query: Arc<str>,
}

/// Asks a query frontend to follow a log query.
#[derive(Clone, Debug)]
pub struct TailQuery {
    /// Whose data.
    pub tenant: TenantId,
    /// LogQL.
    pub query: String,
    /// Oldest time of what is sent first, from before the tail began.
    pub start: Timestamp,
    /// Most entries that are sent first.
    pub limit: usize,
    /// How long entries are held back, so that those that arrive late come in order.
    pub delay: Duration,
}

/// An entry that a slow reader lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedEntry {
    /// Its time.
    pub timestamp: Timestamp,
    /// The labels of its stream.
    pub labels: Labels,
}

/// The entries that a slow reader lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub entries: u64,
    /// The first few of them.
    pub listed: Vec<DroppedEntry>,
}

impl Dropped {
    /// Most entries that are listed one by one, as in Loki.
    pub const LISTED_MAX: usize = 10;

    /// Counts an entry.
    pub fn add(&mut self, timestamp: Timestamp, labels: &Labels) {
        self.entries += 1;
        if self.listed.len() < Self::LISTED_MAX {
            self.listed.push(DroppedEntry { timestamp, labels: labels.clone() });
        }
    }

    /// Counts what another place has lost.
    pub fn merge(&mut self, other: Dropped) {
        self.entries += other.entries;
        self.listed.extend(other.listed);
        self.listed.truncate(Self::LISTED_MAX);
    }

    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

/// The next entries of a tail.
#[derive(Clone, Debug, Default)]
pub struct TailBatch {
    /// Entries, each once, in no particular order over batches.
    pub entries: Vec<LogEntry>,
    /// What was lost since the batch before.
    pub dropped: Dropped,
}

/// The batches of a tail. Dropping it ends the tail everywhere and frees what it held. An error is the last item.
pub type TailStream = BoxStream<'static, Result<TailBatch>>;

/// Most entries that a reader is handed at a time, and about the most bytes of them.
const BATCH_ENTRIES_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 512 << 10;

/// Bytes of an entry besides its line and labels, roughly.
const ENTRY_BYTES: usize = size_of::<LogEntry>() + 64;

/// A buffer for entries on their way to one reader, of at most `bytes_max` bytes or one entry.
pub fn buffer(bytes_max: usize) -> (TailWriter, TailReader) {
    let state =
        State { entries: VecDeque::new(), bytes: 0, dropped: Dropped::default(), end: None, waker: None };
    let shared = Arc::new(Shared { state: Mutex::new(state), bytes_max });
    (TailWriter(shared.clone()), TailReader(shared))
}

struct Shared {
    state: Mutex<State>,
    bytes_max: usize,
}

struct State {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    dropped: Dropped,
    /// The writer has gone, with or without an error.
    end: Option<Option<Error>>,
    waker: Option<Waker>,
}

/// The side that fills the buffer and never waits. Dropping it ends the stream once the reader has taken the rest.
pub struct TailWriter(Arc<Shared>);

/// The side that empties the buffer: a stream of what has come since the last poll.
pub struct TailReader(Arc<Shared>);

/// Bytes that an entry costs in a buffer.
pub fn weight(entry: &LogEntry) -> usize {
    let labels = &entry.labels;
    let labels = labels.stream.packed().len()
        + labels.structured_metadata.packed().len()
        + labels.parsed.packed().len();
    ENTRY_BYTES + entry.line.len() + labels
}

impl TailWriter {
    /// Adds entries as far as there is room; returns how many were lost.
    pub fn write(&self, entries: impl IntoIterator<Item = LogEntry>) -> u64 {
        let mut state = self.0.state.lock();
        let before = state.dropped.entries;
        for entry in entries {
            let bytes = weight(&entry);
            if state.bytes + bytes > self.0.bytes_max && !state.entries.is_empty() {
                state.dropped.add(entry.timestamp, &entry.labels.stream);
                continue;
            }
            state.bytes += bytes;
            state.entries.push_back(entry);
        }
        let dropped = state.dropped.entries - before;
        state.wake();
        dropped
    }

    /// Tells the reader of entries that were lost elsewhere.
    pub fn lost(&self, dropped: Dropped) {
        let mut state = self.0.state.lock();
        state.dropped.merge(dropped);
        state.wake();
    }

    /// Ends the stream with an error.
    pub fn fail(self, error: Error) {
        self.0.state.lock().end = Some(Some(error));
    }
}

impl Drop for TailWriter {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.end.get_or_insert(None);
        state.wake();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn take(&mut self) -> Option<TailBatch> {
        if self.entries.is_empty() && self.dropped.is_empty() {
            return None;
        }
        let mut batch = TailBatch { entries: Vec::new(), dropped: std::mem::take(&mut self.dropped) };
        let mut taken = 0;
        while taken < BATCH_BYTES_MAX && batch.entries.len() < BATCH_ENTRIES_MAX {
            let Some(entry) = self.entries.pop_front() else { break };
            taken += weight(&entry);
            batch.entries.push(entry);
        }
        self.bytes -= taken;
        Some(batch)
    }
}

impl Stream for TailReader {
    type Item = Result<TailBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        if let Some(batch) = state.take() {
            return Poll::Ready(Some(Ok(batch)));
        }
        match &mut state.end {
            Some(end) => Poll::Ready(end.take().map(Err)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _};
    use skald_model::{EntryHash, EntryLabels, LabelsRef, StreamId};

    fn entry(timestamp: i64, line: &'static str) -> LogEntry {
        let labels = EntryLabels {
            stream: Labels::from_pairs([("app", "a")]),
            structured_metadata: Labels::empty(),
            parsed: Labels::empty(),
        };
        LogEntry {
            timestamp,
            identity: EntryHash::of(timestamp, line.as_bytes(), LabelsRef::EMPTY),
            line: line.into(),
            labels: Arc::new(labels),
            stream: StreamId(1),
        }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_lost_and_the_buffer_stays_small() {
        let (writer, mut reader) = buffer(3 * weight(&entry(0, "x")));
        assert_eq!(writer.write((0..3).map(|t| entry(t, "x"))), 0);
        assert_eq!(writer.write((3..23).map(|t| entry(t, "x"))), 20);
        writer.lost(Dropped { entries: 5, listed: vec![] });
        let batch = reader.next().await.unwrap().unwrap();
        assert_eq!(batch.entries.iter().map(|e| e.timestamp).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((batch.dropped.entries, batch.dropped.listed.len()), (25, Dropped::LISTED_MAX));
        assert_eq!(batch.dropped.listed[0].timestamp, 3);
        assert!(reader.next().now_or_never().is_none(), "nothing more is there");
        assert_eq!(writer.write([entry(30, "x")]), 0, "there is room again");
        let batch = reader.next().await.unwrap().unwrap();
        assert!(batch.entries.len() == 1 && batch.dropped.is_empty());
    }

    #[tokio::test]
    async fn an_entry_larger_than_the_buffer_passes_alone() {
        let (writer, mut reader) = buffer(1);
        assert_eq!(writer.write([entry(0, "large"), entry(1, "lost")]), 1);
        assert_eq!(reader.next().await.unwrap().unwrap().entries.len(), 1);
    }

    #[tokio::test]
    async fn what_was_written_is_read_before_the_end() {
        let (writer, reader) = buffer(1000);
        writer.write([entry(0, "x")]);
        writer.fail(Error::unavailable("gone"));
        let all: Vec<_> = reader.collect().await;
        assert!(all.len() == 2 && all[0].is_ok() && all[1].is_err());
        let (writer, mut reader) = buffer(1000);
        let waiting = tokio::spawn(async move { reader.next().await.is_none() });
        tokio::task::yield_now().await;
        drop(writer);
        assert!(waiting.await.unwrap());
    }
}

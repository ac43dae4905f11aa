//! Entries of one tenant in memory: pushed batches by reference, and per stream the rows in order of time.
//!
//! A segment holds what a run of log records brought, from its first LSN to its last. Lines are never copied: a row
//! says which entry of which batch it is. Rows of a stream are sorted by time at insertion, entries of one time keep
//! the order in which they arrived, and an entry that is there already (same time, line and metadata) is left out.

mod rows;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use skald_model::time::{DAY, day_of};
use skald_model::volume::metadata_text_bytes;
use skald_model::{
    Batch, Digest, EntryHash, EntryRef, Labels, LabelsRef, PushId, PushStamp, StreamId, TimeRange, Timestamp,
};

use crate::wal::Lsn;
pub use rows::Row;
use skald_runtime::memory::Reservation;

/// A logged batch with its share of the memory budget, given back when the last holder lets go.
#[derive(Debug)]
pub struct HeldBatch {
    /// The entries.
    pub batch: Batch,
    /// Its place in the log.
    pub lsn: Lsn,
    /// The stamp of its push.
    pub stamp: PushStamp,
    reservation: Reservation,
}

/// The batches of a segment; rows point into them.
#[derive(Clone, Debug, Default)]
pub struct Batches(Vec<Arc<HeldBatch>>);

/// One stream's entries in a segment.
#[derive(Clone, Debug)]
pub struct StreamRows {
    /// Identity.
    pub id: StreamId,
    /// Labels.
    pub labels: Labels,
    /// The entries, oldest first. Shared with readers; appending copies it only while one reads.
    pub rows: Arc<Vec<Row>>,
    /// Raw bytes of the lines.
    pub bytes: u64,
    /// Bytes of names and values of structured metadata.
    pub metadata_bytes: u64,
    /// Of its entries; empty unless the segment keeps digests.
    pub digest: Digest,
    /// The next stream with the same id and other labels.
    collision: Option<u32>,
    ties: rows::Ties,
}

/// Entries of one tenant from one LSN to another.
#[derive(Debug, Default)]
pub struct Segment {
    batches: Arc<Batches>,
    streams: Vec<StreamRows>,
    by_id: FxHashMap<StreamId, u32>,
    lsns: Option<(Lsn, Lsn)>,
    seconds: Option<(i64, i64)>,
    memory_bytes: usize,
    entries: u64,
    /// Whether the streams' digests are kept, which costs a hash for each entry.
    digests: bool,
    /// Pushes that brought nothing new, with their streams; remembered only with digests.
    repeated: Vec<(PushId, Vec<StreamId>)>,
}

/// What an insertion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Entries that are new.
    pub entries: u64,
    /// Raw bytes of their lines.
    pub bytes: u64,
    /// Entries that were there already.
    pub duplicates: u64,
    /// Streams that the segment did not have before.
    pub new_streams: usize,
}

/// One day's rows of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRows {
    /// Index of the stream in [`Segment::streams`].
    pub stream: usize,
    /// Its rows of that day.
    pub rows: Range<usize>,
}

impl HeldBatch {
    /// Takes `batch` without its compressed form, which only the log needs.
    pub fn new(mut batch: Batch, lsn: Lsn, stamp: PushStamp, reservation: Reservation) -> Self {
        batch.entries.compressed = None;
        Self { batch, lsn, stamp, reservation }
    }

    /// Bytes that it holds of the memory budget.
    pub fn reserved_bytes(&self) -> usize {
        self.reservation.bytes()
    }
}

impl Batches {
    fn entry(&self, row: &Row) -> (&Batch, &EntryRef) {
        let batch = &self.0[row.batch as usize].batch;
        (batch, &batch.entries.refs[row.entry as usize])
    }

    /// The line of `row`.
    pub fn line(&self, row: &Row) -> &[u8] {
        let (batch, entry) = self.entry(row);
        batch.entries.line(entry)
    }

    /// The line of `row` as a part of the pushed body, without a copy.
    pub fn line_bytes(&self, row: &Row) -> bytes::Bytes {
        let (batch, entry) = self.entry(row);
        let start = entry.line_start as usize;
        batch.entries.body.slice(start..start + entry.line_len as usize)
    }

    /// The structured metadata of `row`.
    pub fn metadata(&self, row: &Row) -> LabelsRef<'_> {
        let (batch, entry) = self.entry(row);
        batch.entries.metadata(entry)
    }

    /// The identity of `row` inside its stream.
    pub fn identity(&self, row: &Row) -> EntryHash {
        EntryHash::of(row.timestamp, self.line(row), self.metadata(row))
    }

    /// Raw bytes of the line of `row`.
    pub fn line_len(&self, row: &Row) -> u64 {
        u64::from(self.entry(row).1.line_len)
    }

    /// Bytes of names and values of the structured metadata of `row`.
    pub fn metadata_text_len(&self, row: &Row) -> u64 {
        metadata_text_bytes(self.metadata(row))
    }

    /// The stamp that `row` came with.
    pub fn stamp(&self, row: &Row) -> PushStamp {
        self.0[row.batch as usize].stamp
    }

    /// The batch with the given number, as rows count them.
    pub fn get(&self, batch: u32) -> &HeldBatch {
        &self.0[batch as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether two rows of one time are one entry.
    fn same(&self, a: &Row, b: &Row) -> bool {
        let ((x, e), (y, f)) = (self.entry(a), self.entry(b));
        e.line_len == f.line_len
            && e.metadata_len == f.metadata_len
            && x.entries.line(e) == y.entries.line(f)
            && x.entries.metadata(e) == y.entries.metadata(f)
    }
}

impl StreamRows {
    fn frozen(&self) -> Self {
        Self {
            id: self.id,
            labels: self.labels.clone(),
            rows: self.rows.clone(),
            bytes: self.bytes,
            metadata_bytes: self.metadata_bytes,
            digest: self.digest,
            collision: self.collision,
            ties: rows::Ties::default(),
        }
    }

    /// The part of the rows that lies in `range`.
    pub fn range(&self, range: &TimeRange) -> Range<usize> {
        let start = self.rows.partition_point(|r| r.timestamp < range.start);
        let end = self.rows.partition_point(|r| r.timestamp < range.end);
        start..end.max(start)
    }

    /// Times of the oldest and the newest entry.
    pub fn bounds(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.rows.first()?.timestamp, self.rows.last()?.timestamp))
    }
}

impl Segment {
    /// An empty segment, whose streams have digests if wanted.
    pub fn new(digests: bool) -> Self {
        Self { digests, ..Self::default() }
    }

    /// Adds a batch. Its LSN is above all that came before.
    pub fn insert(&mut self, held: impl Into<Arc<HeldBatch>>) -> Inserted {
        let held = held.into();
        let (lsn, second) = (held.lsn, held.stamp.second);
        self.lsns = Some((self.lsns.map_or(lsn, |l| l.0), lsn));
        self.seconds = Some(self.seconds.map_or((second, second), |e| (e.0.min(second), e.1.max(second))));
        let number = self.batches.len() as u32;
        Arc::make_mut(&mut self.batches).0.push(held.clone());
        let mut inserted = Inserted::default();
        for pushed in held.batch.streams.iter().filter(|s| !s.entries.is_empty()) {
            let (at, new) = self.stream(pushed.id, &pushed.labels);
            let stream = &mut self.streams[at];
            let rows = pushed.entries.clone().map(|entry| Row {
                timestamp: held.batch.entries.refs[entry as usize].timestamp,
                batch: number,
                entry,
            });
            let added = rows::insert(
                Arc::make_mut(&mut stream.rows),
                &mut stream.ties,
                rows,
                &self.batches,
                self.digests,
            );
            stream.bytes += added.bytes;
            stream.metadata_bytes += added.metadata_bytes;
            stream.digest.merge(&added.digest.unwrap_or_default());
            inserted.entries += added.entries;
            inserted.bytes += added.bytes;
            inserted.duplicates += pushed.entries.len() as u64 - added.entries;
            inserted.new_streams += usize::from(new);
        }
        self.entries += inserted.entries;
        if inserted.entries == 0 {
            // Nothing points to it.
            Arc::make_mut(&mut self.batches).0.pop();
            if self.digests
                && let Some(push) = held.stamp.push().filter(|_| !held.stamp.partial)
            {
                self.repeated.push((push, held.batch.streams.iter().map(|s| s.id).collect()));
            }
        } else {
            self.memory_bytes += held.reservation.bytes();
        }
        inserted
    }

    /// The index of the stream, and whether it is new.
    fn stream(&mut self, id: StreamId, labels: &Labels) -> (usize, bool) {
        let next = self.streams.len() as u32;
        let mut at = *self.by_id.entry(id).or_insert(next);
        while at != next {
            let stream = &mut self.streams[at as usize];
            if stream.labels == *labels {
                return (at as usize, false);
            }
            at = *stream.collision.get_or_insert(next);
        }
        self.streams.push(StreamRows {
            id,
            labels: labels.clone(),
            rows: Arc::default(),
            bytes: 0,
            metadata_bytes: 0,
            digest: Digest::default(),
            collision: None,
            ties: rows::Ties::default(),
        });
        (next as usize, true)
    }

    /// The segment as it is now, for readers.
    pub fn frozen(&self) -> Segment {
        Segment {
            batches: self.batches.clone(),
            streams: self.streams.iter().map(StreamRows::frozen).collect(),
            by_id: FxHashMap::default(),
            lsns: self.lsns,
            seconds: self.seconds,
            memory_bytes: self.memory_bytes,
            entries: self.entries,
            digests: self.digests,
            repeated: Vec::new(),
        }
    }

    /// Some of the streams, each with the rows of some batches: numbers, sorted. Nothing of the lines is copied.
    pub fn only(&self, selection: &[(u32, Vec<u32>)]) -> Segment {
        let mut part = Segment::new(self.digests);
        part.batches = self.batches.clone();
        (part.lsns, part.seconds) = (self.lsns, self.seconds);
        for (number, batches) in selection {
            let stream = &self.streams[*number as usize];
            let kept = |row: &&Row| batches.binary_search(&row.batch).is_ok();
            let rows: Vec<Row> = stream.rows.iter().filter(kept).copied().collect();
            part.add_rows(stream, rows);
        }
        part
    }

    /// The streams with these numbers, whole.
    pub fn with_streams(&self, numbers: impl IntoIterator<Item = u32>) -> Segment {
        let mut part = Segment { memory_bytes: self.memory_bytes, ..Segment::new(self.digests) };
        part.batches = self.batches.clone();
        (part.lsns, part.seconds) = (self.lsns, self.seconds);
        for number in numbers {
            let stream = &self.streams[number as usize];
            part.entries += stream.rows.len() as u64;
            part.streams.push(stream.frozen());
        }
        part
    }

    /// Adds `rows` as those of a stream like `stream`. Nothing is added for no rows.
    fn add_rows(&mut self, stream: &StreamRows, rows: Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        let (at, _) = self.stream(stream.id, &stream.labels);
        let to = &mut self.streams[at];
        if rows.len() == stream.rows.len() {
            *to = StreamRows { collision: to.collision, ..stream.frozen() };
        } else {
            to.bytes = rows.iter().map(|r| self.batches.line_len(r)).sum();
            to.metadata_bytes = rows.iter().map(|r| self.batches.metadata_text_len(r)).sum();
            if self.digests {
                rows.iter().for_each(|r| to.digest.add(self.batches.identity(r)));
            }
            to.rows = Arc::new(rows);
        }
        self.entries += to.rows.len() as u64;
    }

    /// The same entries without those that `stays` does not keep; it gets the number of the stream and the row.
    pub(crate) fn retained(&self, mut stays: impl FnMut(usize, &Row) -> bool) -> Segment {
        let mut part = Segment::new(self.digests);
        part.batches = self.batches.clone();
        (part.lsns, part.memory_bytes) = (self.lsns, self.memory_bytes);
        for (number, stream) in self.streams.iter().enumerate() {
            let rows: Vec<Row> = stream.rows.iter().filter(|r| stays(number, r)).copied().collect();
            for second in rows.iter().map(|r| self.batches.stamp(r).second) {
                let known = part.seconds.unwrap_or((second, second));
                part.seconds = Some((known.0.min(second), known.1.max(second)));
            }
            part.add_rows(stream, rows);
        }
        part
    }

    /// Pushes that brought nothing new, with their streams.
    pub(crate) fn repeated(&self) -> &[(PushId, Vec<StreamId>)] {
        &self.repeated
    }

    /// The same entries without those of log records up to `lsn`, which the table turned out to have.
    pub fn without(&self, lsn: Lsn) -> Segment {
        let mut rest = Segment::new(self.digests);
        let kept = |row: &&Row| self.batches.get(row.batch).lsn > lsn;
        rest.batches = self.batches.clone();
        rest.memory_bytes = self.memory_bytes;
        rest.seconds = self.seconds;
        rest.lsns = self.lsns.filter(|l| l.1 > lsn).map(|l| (l.0.max(lsn + 1), l.1));
        for stream in &self.streams {
            let rows: Vec<Row> = stream.rows.iter().filter(kept).copied().collect();
            rest.add_rows(stream, rows);
        }
        rest
    }

    /// The streams in no order.
    pub fn streams(&self) -> &[StreamRows] {
        &self.streams
    }

    /// The batches that rows point into.
    pub fn batches(&self) -> &Arc<Batches> {
        &self.batches
    }

    /// The first and the last LSN that were inserted, also if all their entries were duplicates.
    pub fn lsns(&self) -> Option<(Lsn, Lsn)> {
        self.lsns
    }

    /// The lowest and the highest second of stamps.
    pub fn seconds(&self) -> Option<(i64, i64)> {
        self.seconds
    }

    /// Bytes it holds of the memory budget.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether nothing was ever inserted.
    pub fn is_empty(&self) -> bool {
        self.lsns.is_none()
    }

    /// The rows of each UTC day, streams in the order of blocks: by labels, then id.
    pub fn days(&self) -> BTreeMap<i32, Vec<DayRows>> {
        let mut order: Vec<usize> = (0..self.streams.len()).collect();
        order.sort_unstable_by(|a, b| {
            let (a, b) = (&self.streams[*a], &self.streams[*b]);
            a.labels.cmp(&b.labels).then(a.id.cmp(&b.id))
        });
        let mut days: BTreeMap<i32, Vec<DayRows>> = BTreeMap::new();
        for stream in order {
            let rows = &self.streams[stream].rows;
            let mut start = 0;
            while let Some(first) = rows.get(start) {
                let day = day_of(first.timestamp);
                let day_end = (i64::from(day) + 1).saturating_mul(DAY);
                let len = rows[start..].partition_point(|r| r.timestamp < day_end).max(1);
                days.entry(day).or_default().push(DayRows { stream, rows: start..start + len });
                start += len;
            }
        }
        days
    }
}

/// Bytes of memory that a batch will cost in a segment, roughly: its buffers, its rows with room to grow, what a
/// stream costs besides, and what the allocator rounds all that up by.
pub fn memory_cost(batch: &Batch) -> usize {
    const STREAM_BYTES: usize = 256;
    let compressed = batch.entries.compressed.as_ref().map_or(0, bytes::Bytes::len);
    let rows = batch.entries.refs.len() * size_of::<Row>() * 3 / 2;
    let streams: usize = batch.streams.iter().map(|s| STREAM_BYTES + s.labels.packed().len()).sum();
    let bytes = batch.entries.memory_bytes() - compressed + rows + streams + size_of::<HeldBatch>();
    bytes + bytes / 16
}

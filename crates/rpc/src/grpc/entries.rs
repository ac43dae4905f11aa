//! Entries of log results in chunks: columns, with each label set sent once per call.

use std::collections::HashMap;
use std::sync::Arc;

use skald_model::{EntryHash, EntryLabels, Error, Labels, LogEntry, Result, StreamId};

use super::proto;

/// About how large a chunk becomes, in bytes of its parts. Large enough that the call's overhead vanishes, small
/// enough that neither side holds much twice. A chunk may exceed it by one entry.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

const IDENTITY_BYTES: usize = 16;

/// Cuts entries into chunks.
pub(super) struct EntryWriter {
    entries: std::vec::IntoIter<LogEntry>,
    /// Rows of the label table by the address of the set and its stream. The set is kept, so that its address is not
    /// given to another one.
    rows: HashMap<(usize, StreamId), (u32, Arc<EntryLabels>)>,
}

impl EntryWriter {
    pub(super) fn new(entries: Vec<LogEntry>) -> Self {
        Self { entries: entries.into_iter(), rows: HashMap::new() }
    }

    /// The next chunk with whether it is the last; an empty one if there is nothing left.
    pub(super) fn next_chunk(&mut self) -> (proto::EntryChunk, bool) {
        let mut chunk = proto::EntryChunk::default();
        let (mut size, mut previous) = (0, 0i64);
        let mut identities = Vec::new();
        while size < CHUNK_BYTES {
            let Some(entry) = self.entries.next() else { break };
            size += entry.line.len() + IDENTITY_BYTES + 16;
            size += self.add_labels(&mut chunk, entry.labels, entry.stream);
            chunk.timestamp_deltas.push(entry.timestamp.wrapping_sub(previous));
            previous = entry.timestamp;
            identities.extend_from_slice(&entry.identity.0.to_le_bytes());
            chunk.lines.push(entry.line);
        }
        chunk.identities = identities.into();
        (chunk, self.entries.len() == 0)
    }

    /// Names the entry's row, adding it if it is new; returns the bytes that were added.
    fn add_labels(
        &mut self,
        chunk: &mut proto::EntryChunk,
        labels: Arc<EntryLabels>,
        stream: StreamId,
    ) -> usize {
        let next = self.rows.len() as u32;
        let key = (Arc::as_ptr(&labels) as usize, stream);
        let mut added = 0;
        let (row, _) = self.rows.entry(key).or_insert_with(|| {
            let packed = |labels: &Labels| bytes::Bytes::copy_from_slice(labels.packed());
            let row = proto::EntryLabels {
                stream: packed(&labels.stream),
                structured_metadata: packed(&labels.structured_metadata),
                parsed: packed(&labels.parsed),
                stream_id: stream.0,
            };
            added = row.stream.len() + row.structured_metadata.len() + row.parsed.len() + 16;
            chunk.labels.push(row);
            (next, labels)
        });
        chunk.label_rows.push(*row);
        added
    }
}

/// Puts entries together from chunks.
#[derive(Default)]
pub(super) struct EntryReader {
    rows: Vec<(Arc<EntryLabels>, StreamId)>,
    entries: Vec<LogEntry>,
}

impl EntryReader {
    /// Adds the entries of the next chunk. Lines share the chunk's memory.
    pub(super) fn add(&mut self, chunk: proto::EntryChunk) -> Result<()> {
        let malformed = || Error::internal("a peer sent malformed entries");
        let proto::EntryChunk { labels, label_rows, timestamp_deltas, lines, identities } = chunk;
        for row in labels {
            let unpack = |bytes: &[u8]| Labels::from_packed(bytes).ok_or_else(malformed);
            let labels = EntryLabels {
                stream: unpack(&row.stream)?,
                structured_metadata: unpack(&row.structured_metadata)?,
                parsed: unpack(&row.parsed)?,
            };
            self.rows.push((Arc::new(labels), StreamId(row.stream_id)));
        }
        let (identities, rest) = identities.as_chunks::<IDENTITY_BYTES>();
        let lengths = [label_rows.len(), timestamp_deltas.len(), identities.len()];
        if lengths != [lines.len(); 3] || !rest.is_empty() {
            return Err(malformed());
        }
        self.entries.reserve(lines.len());
        let mut timestamp = 0i64;
        for (((row, delta), line), identity) in
            label_rows.into_iter().zip(timestamp_deltas).zip(lines).zip(identities)
        {
            let (labels, stream) = self.rows.get(row as usize).ok_or_else(malformed)?;
            timestamp = timestamp.wrapping_add(delta);
            self.entries.push(LogEntry {
                timestamp,
                line,
                labels: labels.clone(),
                stream: *stream,
                identity: EntryHash(u128::from_le_bytes(*identity)),
            });
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<LogEntry> {
        self.entries
    }
}

//! What queries give back.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::EntryHash;
use crate::labels::Labels;
use crate::time::Timestamp;

/// The labels of a returned entry, kept apart by where they come from (Grafana's `categorize-labels`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryLabels {
    /// Labels of the stream as they were pushed, after `label_format`, `drop` and the like.
    pub stream: Labels,
    /// Structured metadata of the entry.
    pub structured_metadata: Labels,
    /// Labels that the query's own stages made.
    pub parsed: Labels,
}

/// One entry of a log query's answer.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Nanoseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// The line after the query's stages.
    pub line: Bytes,
    /// Its labels. Entries of one label set share the allocation.
    pub labels: Arc<EntryLabels>,
    /// The stored stream it comes from (before the query's stages), part of its identity.
    pub stream: crate::StreamId,
    /// The stored entry's identity inside its stream: joins copies of one entry that several sources hold.
    pub identity: EntryHash,
}

impl LogEntry {
    /// Bytes of memory that it takes, roughly; the labels of the stream, which it shares with others, left out.
    pub fn memory_bytes(&self) -> usize {
        let EntryLabels { stream: _, structured_metadata, parsed } = &*self.labels;
        let labels = match structured_metadata.is_empty() && parsed.is_empty() {
            true => 0,
            false => {
                size_of::<EntryLabels>() + structured_metadata.packed().len() + parsed.packed().len() + 64
            }
        };
        size_of::<Self>() + self.line.len() + labels
    }
}

/// What a query cost. Counters of tasks are added up; the shape Loki's clients see is made from it by `api`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryStats {
    /// Blocks whose data was read.
    pub blocks: u64,
    /// Blocks that the index or a filter excluded.
    pub blocks_pruned: u64,
    /// Raw bytes of lines that were looked at in blocks.
    pub block_bytes: u64,
    /// Lines that were looked at in blocks.
    pub block_lines: u64,
    /// Compressed bytes fetched from the object store.
    pub compressed_bytes: u64,
    /// Raw bytes of lines that were looked at in ingesters' memory.
    pub head_bytes: u64,
    /// Lines that were looked at in ingesters' memory.
    pub head_lines: u64,
    /// Bytes of structured metadata that were looked at.
    pub structured_metadata_bytes: u64,
    /// Lines that passed all filters.
    pub post_filter_lines: u64,
    /// Copies of entries that were joined.
    pub duplicates: u64,
    /// Entries in the answer.
    pub entries_returned: u64,
    /// Ingesters asked.
    pub ingesters: u64,
    /// Streams that matched.
    pub streams: u64,
    /// Tasks run.
    pub subqueries: u64,
    /// Seconds of execution, wall clock.
    pub exec_seconds: f64,
    /// Seconds spent waiting in queues.
    pub queue_seconds: f64,
}

impl QueryStats {
    /// Adds a task's counters. `exec_seconds` is left to whoever measures the whole.
    pub fn merge(&mut self, o: &QueryStats) {
        self.blocks += o.blocks;
        self.blocks_pruned += o.blocks_pruned;
        self.block_bytes += o.block_bytes;
        self.block_lines += o.block_lines;
        self.compressed_bytes += o.compressed_bytes;
        self.head_bytes += o.head_bytes;
        self.head_lines += o.head_lines;
        self.structured_metadata_bytes += o.structured_metadata_bytes;
        self.post_filter_lines += o.post_filter_lines;
        self.duplicates += o.duplicates;
        self.entries_returned += o.entries_returned;
        self.ingesters += o.ingesters;
        self.streams += o.streams;
        self.subqueries += o.subqueries;
        self.queue_seconds += o.queue_seconds;
    }
}

//! What is known of rows of one stream.

use skald_model::volume::metadata_text_bytes;
use skald_model::{Digest, EntryHash, LabelsRef, Timestamp};

use crate::block::stream_index::StreamInfo;

/// Rows of one stream: how many, and what the stream index tells of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamPart {
    pub(crate) rows: u32,
    pub(crate) min_ts: Timestamp,
    pub(crate) max_ts: Timestamp,
    /// Of the lines.
    pub(crate) bytes: u64,
    /// Of the names and values of the structured metadata.
    pub(crate) metadata_bytes: u64,
    pub(crate) digest: Digest,
}

impl Default for StreamPart {
    /// No rows.
    fn default() -> Self {
        Self {
            rows: 0,
            min_ts: Timestamp::MAX,
            max_ts: Timestamp::MIN,
            bytes: 0,
            metadata_bytes: 0,
            digest: Digest::default(),
        }
    }
}

impl StreamPart {
    /// All rows of a stream.
    pub(crate) fn of(info: &StreamInfo) -> Self {
        Self {
            rows: info.rows.len() as u32,
            min_ts: info.min_ts,
            max_ts: info.max_ts,
            bytes: info.bytes,
            metadata_bytes: info.metadata_bytes,
            digest: info.digest,
        }
    }

    /// So many rows of which nothing else is told.
    pub(crate) fn of_rows(rows: u32) -> Self {
        Self { rows, ..Self::default() }
    }

    /// Adds a row.
    #[inline]
    pub(crate) fn row(
        &mut self,
        timestamp: Timestamp,
        line: &[u8],
        metadata: LabelsRef<'_>,
        hash: EntryHash,
    ) {
        self.rows += 1;
        self.time(timestamp);
        self.bytes += line.len() as u64;
        self.metadata_bytes += metadata_text_bytes(metadata);
        self.digest.add(hash);
    }

    /// Takes note of the time of a row that is counted elsewhere.
    #[inline]
    pub(crate) fn time(&mut self, timestamp: Timestamp) {
        self.min_ts = self.min_ts.min(timestamp);
        self.max_ts = self.max_ts.max(timestamp);
    }

    /// What is left without some of the rows, but for the times, which are to be those of `left`.
    pub(crate) fn without(mut self, gone: &Self, left: &Self) -> Self {
        self.rows = self.rows.saturating_sub(gone.rows);
        self.bytes = self.bytes.saturating_sub(gone.bytes);
        self.metadata_bytes = self.metadata_bytes.saturating_sub(gone.metadata_bytes);
        self.digest.take_away(&gone.digest);
        Self { min_ts: left.min_ts, max_ts: left.max_ts, ..self }
    }

    /// Adds other rows.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.min_ts = self.min_ts.min(other.min_ts);
        self.max_ts = self.max_ts.max(other.max_ts);
        self.bytes += other.bytes;
        self.metadata_bytes += other.metadata_bytes;
        self.digest.merge(&other.digest);
    }
}

//! Writes the stream index.

use std::collections::BTreeMap;

use skald_model::labels::put_varint;
use skald_model::{Digest, Labels, StreamId, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

use crate::block::error::Result;
use crate::block::page::Compressor;
use crate::block::thrift::zigzag;

use super::{PAGE_STREAMS, Totals, filter_bits};

/// Labels compress to a tenth; a higher level than that of lines costs nothing that could be measured.
const LEVEL: i32 = 3;

/// A stream as the writer hands it over.
pub(crate) struct BuiltStream {
    pub(crate) labels: Labels,
    pub(crate) id: StreamId,
    pub(crate) rows: u32,
    pub(crate) min_ts: Timestamp,
    pub(crate) max_ts: Timestamp,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

/// Collects the streams of a block.
#[derive(Default)]
pub(crate) struct StreamIndexBuilder {
    pub(crate) totals: Totals,
    pending: Vec<BuiltStream>,
    pending_row: u32,
    directory: Vec<u8>,
    filters: Vec<u8>,
    pages: Vec<u8>,
    page_count: u32,
}

impl StreamIndexBuilder {
    /// Adds the next stream in order.
    pub(crate) fn add(&mut self, stream: BuiltStream) -> Result<()> {
        let t = &mut self.totals;
        if t.streams == 0 {
            (t.min_ts, t.max_ts) = (stream.min_ts, stream.max_ts);
        }
        t.streams += 1;
        t.rows += u64::from(stream.rows);
        t.raw_bytes += stream.bytes;
        t.min_ts = t.min_ts.min(stream.min_ts);
        t.max_ts = t.max_ts.max(stream.max_ts);
        t.digest.merge(&stream.digest);
        self.pending.push(stream);
        if self.pending.len() == PAGE_STREAMS { self.flush() } else { Ok(()) }
    }

    /// Bytes of memory, about, of what was gathered.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.directory.capacity() + self.filters.capacity() + self.pages.capacity()
    }

    /// The section.
    pub(crate) fn finish(mut self, metadata_bytes: u64) -> Result<(Vec<u8>, Totals)> {
        self.flush()?;
        self.totals.metadata_bytes = metadata_bytes;
        let t = &self.totals;
        let mut out = Vec::with_capacity(96 + self.directory.len() + self.filters.len() + self.pages.len());
        out.extend_from_slice(&t.streams.to_le_bytes());
        out.extend_from_slice(&self.page_count.to_le_bytes());
        for v in [t.rows, t.raw_bytes, t.metadata_bytes, t.min_ts as u64, t.max_ts as u64, t.digest.count] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&t.digest.sum.to_le_bytes());
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.filters);
        out.extend_from_slice(&self.pages);
        Ok((out, self.totals))
    }

    fn flush(&mut self) -> Result<()> {
        let streams = std::mem::take(&mut self.pending);
        let Some(min_ts) = streams.iter().map(|s| s.min_ts).min() else { return Ok(()) };
        let max_ts = streams.iter().map(|s| s.max_ts).max().unwrap_or(min_ts);
        let mut pairs: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        streams.iter().flat_map(|s| s.labels.iter()).for_each(|p| {
            pairs.insert(p, 0);
        });
        let (filters_at, pages_at) = (self.filters.len(), self.pages.len());
        self.filters.resize(filters_at + (pairs.len() * 10).div_ceil(8), 0);
        let filter = &mut self.filters[filters_at..];
        let mut text = Vec::new();
        for (number, (pair, slot)) in pairs.iter_mut().enumerate() {
            *slot = number as u32;
            let start = text.len();
            skald_model::labels::pack_pair(&mut text, pair.0, pair.1);
            for (byte, bit) in filter_bits(xxh3_64(&text[start..]), filter.len()) {
                filter[byte] |= bit;
            }
        }
        for s in &streams {
            let numbers: Vec<u32> = s.labels.iter().map(|p| pairs[&p]).collect();
            put_varint(&mut text, numbers.len() as u64);
            numbers.iter().for_each(|n| put_varint(&mut text, u64::from(*n)));
        }
        let mut compressor = Compressor::new(LEVEL)?;
        let stored = compressor.compress(&text)?;
        for v in [pairs.len(), text.len(), stored.len()] {
            self.pages.extend_from_slice(&(v as u32).to_le_bytes());
        }
        self.pages.extend_from_slice(stored);
        for s in &streams {
            put_varint(&mut self.pages, u64::from(s.rows));
            put_varint(&mut self.pages, s.min_ts.wrapping_sub(min_ts) as u64);
            put_varint(&mut self.pages, s.max_ts.wrapping_sub(s.min_ts) as u64);
            put_varint(&mut self.pages, s.bytes);
            put_varint(&mut self.pages, zigzag(s.digest.count as i64 - i64::from(s.rows)));
        }
        streams.iter().for_each(|s| self.pages.extend_from_slice(&s.id.0.to_le_bytes()));
        streams.iter().for_each(|s| self.pages.extend_from_slice(&s.digest.sum.to_le_bytes()));

        self.directory.extend_from_slice(&self.pending_row.to_le_bytes());
        for v in [self.pages.len() - pages_at, self.filters.len() - filters_at] {
            self.directory.extend_from_slice(&(v as u32).to_le_bytes());
        }
        self.directory.extend_from_slice(&min_ts.to_le_bytes());
        self.directory.extend_from_slice(&max_ts.to_le_bytes());
        self.pending_row += streams.iter().map(|s| s.rows).sum::<u32>();
        self.page_count += 1;
        Ok(())
    }
}

/// Collects how much metadata each stream has.
#[derive(Default)]
pub(crate) struct MetadataSizes {
    sizes: Vec<u8>,
    any: bool,
}

impl MetadataSizes {
    /// Adds the next stream in order.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.any |= bytes > 0;
        self.sizes.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// The section; `None` when there is no metadata.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        self.any.then_some(self.sizes)
    }
}

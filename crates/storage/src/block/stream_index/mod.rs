//! The stream index: which streams a block holds, where their rows lie, and how to find them by label.
//!
//! Streams are numbered in the order of the block. The index is cut into pages of [`PAGE_STREAMS`] streams, each
//! decoded when it is first needed, so that a block of a million streams does not have to be loaded to use ten: the
//! directory tells the time range of each page and, by a small Bloom filter, which label pairs are *not* in it.
//!
//! ```text
//! header     u32 streams · u32 pages · u64 rows, line bytes, metadata bytes · i64 first, last time · digest
//! directory  per page: u32 first row · u32 length · u32 filter length · i64 first, last time
//! filters    per page: Bloom filter of its label pairs
//! pages      u32 pairs · u32 raw length · u32 stored length · zstd(pairs, sorted; per stream the numbers of its pairs)
//!            · per stream: varints rows, time − page's first, last − first, bytes, digest count − rows
//!            · u64 ids · u128 digest sums
//! ```
//!
//! A part of its own, left out when no row has metadata, tells for each stream the bytes of its metadata: u32, the
//! largest number for that much or more.

mod build;
mod decode;
mod page;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use skald_model::{Digest, Labels, MatchOp, Selector, StreamId, TimeRange, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use build::{BuiltStream, MetadataSizes, StreamIndexBuilder};
use decode::Directory;
use page::StreamPage;

use super::error::{Result, corrupt};

/// Streams of one page of the index.
pub(crate) const PAGE_STREAMS: usize = 1024;

/// What the index knows about the whole block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Streams in the block.
    pub streams: u32,
    /// Rows in the block.
    pub rows: u64,
    /// Bytes of all lines.
    pub raw_bytes: u64,
    /// Bytes of all structured metadata, packed.
    pub metadata_bytes: u64,
    /// Earliest time.
    pub min_ts: Timestamp,
    /// Latest time.
    pub max_ts: Timestamp,
    /// Digest of all rows.
    pub digest: Digest,
}

/// One stream of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its number in the block.
    pub ordinal: u32,
    /// Identity.
    pub id: StreamId,
    /// Labels.
    pub labels: Labels,
    /// Its rows in the block.
    pub rows: Range<u32>,
    /// Earliest time.
    pub min_ts: Timestamp,
    /// Latest time.
    pub max_ts: Timestamp,
    /// Bytes of its lines.
    pub bytes: u64,
    /// Bytes of its structured metadata, names and values. An estimate for blocks that do not tell it: the stream's
    /// share of the rows in what the block has.
    pub metadata_bytes: u64,
    /// Digest of its rows.
    pub digest: Digest,
}

/// Where a stream's rows lie, and when: what planning needs of a [`StreamInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamExtent {
    pub(crate) rows: Range<u32>,
    pub(crate) min_ts: Timestamp,
    pub(crate) max_ts: Timestamp,
}

/// The stream index of one block.
#[derive(Debug)]
pub struct StreamIndex {
    section: Bytes,
    totals: Totals,
    directory: Vec<Directory>,
    pages: Vec<OnceLock<Arc<StreamPage>>>,
    /// Four bytes for each stream, if there is metadata and the block tells.
    metadata_sizes: Option<Bytes>,
}

impl StreamIndex {
    /// What the index knows about the whole block.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Number of streams.
    pub fn len(&self) -> usize {
        self.totals.streams as usize
    }

    /// Whether there are no streams.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The streams that `selector` passes and that have rows in `range`, as far as their first and last time tell;
    /// in order.
    pub fn select(&self, selector: &Selector, range: TimeRange) -> Result<Vec<u32>> {
        let required: Vec<u64> = selector
            .matchers
            .iter()
            .filter(|m| m.op == MatchOp::Equal && !m.value.is_empty())
            .map(|m| pair_hash(&m.name, &m.value))
            .collect();
        let mut out = Vec::new();
        for (i, d) in self.directory.iter().enumerate() {
            let possible = range.overlaps(d.min_ts, d.max_ts)
                && required.iter().all(|h| filter_has(&self.section[d.filter.clone()], *h));
            if possible {
                self.page(i)?.select(selector, range, (i * PAGE_STREAMS) as u32, &mut out);
            }
        }
        Ok(out)
    }

    /// The stream with number `ordinal`.
    pub fn get(&self, ordinal: u32) -> Result<StreamInfo> {
        let (page, i) = self.locate(ordinal)?;
        let mut info = page.info(i, ordinal);
        info.metadata_bytes = self.metadata_bytes(ordinal, info.rows.len() as u64);
        Ok(info)
    }

    /// Takes in the part that tells how much metadata each stream has.
    pub(crate) fn set_metadata_sizes(&mut self, section: Bytes) -> Result<()> {
        if section.len() != self.len() * 4 {
            let told = section.len();
            return Err(corrupt("metadata sizes", format!("{told} bytes for {} streams", self.len())));
        }
        self.metadata_sizes = Some(section);
        Ok(())
    }

    fn metadata_bytes(&self, ordinal: u32, rows: u64) -> u64 {
        let t = &self.totals;
        let told = self.metadata_sizes.as_ref().and_then(|sizes| {
            let at = ordinal as usize * 4;
            sizes.get(at..at + 4)?.first_chunk().map(|b| u64::from(u32::from_le_bytes(*b)))
        });
        told.unwrap_or_else(|| {
            (u128::from(t.metadata_bytes) * u128::from(rows) / u128::from(t.rows.max(1))) as u64
        })
    }

    /// Calls `each` with the label pairs of the block's streams; a pair may come more than once.
    pub fn for_each_pair(&self, mut each: impl FnMut(&str, &str)) -> Result<()> {
        for i in 0..self.directory.len() {
            self.page(i)?.for_each_pair(&mut each);
        }
        Ok(())
    }

    /// Bytes of memory that the index takes when all its pages have been used.
    pub fn memory_bytes(&self) -> usize {
        // Measured: a decoded stream with six labels takes 110 to 130 bytes, its part of the section included.
        self.section.len()
            + self.metadata_sizes.as_ref().map_or(0, Bytes::len)
            + self.len() * 96
            + self.directory.len() * size_of::<Directory>()
    }

    pub(crate) fn section_len(&self) -> usize {
        self.section.len() + self.metadata_sizes.as_ref().map_or(0, Bytes::len)
    }

    /// Earliest and latest time of the stream with number `ordinal`, nanoseconds.
    pub fn times(&self, ordinal: u32) -> Result<(Timestamp, Timestamp)> {
        self.extent(ordinal).map(|e| (e.min_ts, e.max_ts))
    }

    pub(crate) fn extent(&self, ordinal: u32) -> Result<StreamExtent> {
        let (page, i) = self.locate(ordinal)?;
        Ok(page.extent(i))
    }

    /// The id of the stream with number `ordinal`.
    pub fn id(&self, ordinal: u32) -> Result<StreamId> {
        let (page, i) = self.locate(ordinal)?;
        Ok(page.id(i))
    }

    fn locate(&self, ordinal: u32) -> Result<(&StreamPage, usize)> {
        if ordinal >= self.totals.streams {
            return Err(corrupt("stream index", format!("no stream has number {ordinal}")));
        }
        let page = self.page(ordinal as usize / PAGE_STREAMS)?;
        Ok((page, ordinal as usize % PAGE_STREAMS))
    }

    fn page(&self, i: usize) -> Result<&StreamPage> {
        if let Some(page) = self.pages[i].get() {
            return Ok(page);
        }
        let page = self.decode_page(i)?;
        Ok(self.pages[i].get_or_init(|| Arc::new(page)))
    }

    fn decode_page(&self, i: usize) -> Result<StreamPage> {
        let d = &self.directory[i];
        let streams = (self.len() - i * PAGE_STREAMS).min(PAGE_STREAMS);
        StreamPage::decode(&self.section[d.page.clone()], streams, d.first_row, d.min_ts)
    }
}

/// Goes through the streams of an index in order and keeps one page of it, where the index itself would keep all.
#[derive(Default)]
pub(crate) struct StreamReader {
    page: Option<(usize, StreamPage)>,
}

impl StreamReader {
    /// Where the rows of the stream with number `ordinal` lie.
    pub(crate) fn extent(&mut self, index: &StreamIndex, ordinal: u32) -> Result<StreamExtent> {
        Ok(self.page(index, ordinal)?.extent(ordinal as usize % PAGE_STREAMS))
    }

    /// The stream with number `ordinal`.
    pub(crate) fn info(&mut self, index: &StreamIndex, ordinal: u32) -> Result<StreamInfo> {
        let mut info = self.page(index, ordinal)?.info(ordinal as usize % PAGE_STREAMS, ordinal);
        info.metadata_bytes = index.metadata_bytes(ordinal, info.rows.len() as u64);
        Ok(info)
    }

    fn page(&mut self, index: &StreamIndex, ordinal: u32) -> Result<&StreamPage> {
        if ordinal >= index.totals.streams {
            return Err(corrupt("stream index", format!("no stream has number {ordinal}")));
        }
        let number = ordinal as usize / PAGE_STREAMS;
        let page = match self.page.take() {
            Some((at, page)) if at == number => page,
            _ => index.decode_page(number)?,
        };
        Ok(&self.page.insert((number, page)).1)
    }
}

/// The hash under which a label pair is found in the directory.
fn pair_hash(name: &str, value: &str) -> u64 {
    let mut packed = Vec::with_capacity(name.len() + value.len() + 4);
    skald_model::labels::pack_pair(&mut packed, name, value);
    xxh3_64(&packed)
}

/// Probes per pair; with ten bits per pair one of a hundred absent pairs is taken for present.
const FILTER_PROBES: u64 = 4;

fn filter_bits(hash: u64, len: usize) -> impl Iterator<Item = (usize, u8)> {
    let step = (hash >> 32) | 1;
    (0..FILTER_PROBES).map(move |i| {
        let bit = hash.wrapping_add(step.wrapping_mul(i)) as u32 as usize % (len * 8);
        (bit / 8, 1 << (bit % 8))
    })
}

fn filter_has(filter: &[u8], hash: u64) -> bool {
    !filter.is_empty() && filter_bits(hash, filter.len()).all(|(byte, bit)| filter[byte] & bit != 0)
}

//! Writes a block.

mod columns;
mod copy;
mod line;
mod part;

use std::io::Write;

use skald_model::{EntryHash, Labels, LabelsRef, StreamId, Timestamp};

use columns::FixedColumns;
use line::LineColumn;
pub(crate) use part::StreamPart;

use super::error::{Error, Result};
use super::footer::{self, WrittenRowGroup};
use super::format::{
    BLOCK_ROWS, KEY_FILTER, KEY_METADATA, KEY_PUSHES, KEY_STREAMS, KEY_WORDS, MAGIC, ROW_BYTES, Section,
};
use super::line_filter::{IdFilterBuilder, Masks, WordIndexBuilder};
use super::page::Compressor;
use super::pushes::{PushList, PushesPlace};
use super::stream_index::{BuiltStream, MetadataSizes, StreamIndexBuilder};
use super::summary::{BlockSummary, LabelValues};

/// What the place of a page takes in memory, with its bounds.
const PAGE_BYTES: usize = 96;

/// How a block is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockOptions {
    /// zstd level. 1 is a knee: lower ones save no time, 2 to 4 no space; 6 saves 7 % at five times the time.
    pub zstd_level: i32,
    /// Raw bytes of a page of lines. Larger pages compress better, smaller ones make single rows cheaper to read.
    pub line_page_bytes: usize,
    /// Size of the id filter; 0 leaves it out. With fewer bits more pages are read in vain.
    pub filter_bits_per_key: f64,
    /// Whether the block gets a word index: some hundredths of a percent of the lines.
    pub word_index: bool,
    /// Most rows of a row group. Has no influence on the size; a row group is a unit of work for other engines.
    pub row_group_rows: usize,
    /// Rows of a page of every column but `line`. More rows make single rows dearer, fewer rows the page index larger.
    pub page_rows: usize,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            zstd_level: 1,
            line_page_bytes: 256 << 10,
            filter_bits_per_key: 6.0,
            word_index: true,
            row_group_rows: 65_536,
            page_rows: 4096,
        }
    }
}

/// A block that is complete.
#[derive(Debug)]
pub struct FinishedBlock<W> {
    /// Where it was written to.
    pub output: W,
    /// What is in it.
    pub summary: BlockSummary,
    /// Where the list of pushes lies, if it has one.
    pub pushes: Option<PushesPlace>,
}

/// Writes one block: streams in order of labels, then stream id, the rows of each in order of time.
///
/// Memory is a page of lines, the other columns of a row group (6 bytes per row and the metadata), the filter and
/// what is known of each stream. Lines are copied once.
pub struct BlockWriter<W: Write> {
    output: W,
    position: u64,
    compressor: Compressor,
    lines: LineColumn,
    fixed: FixedColumns,
    masks: Masks,
    filter: Option<IdFilterBuilder>,
    words: Option<WordIndexBuilder>,
    groups: Vec<WrittenRowGroup>,
    index: StreamIndexBuilder,
    label_values: LabelValues,
    stream: Option<OpenStream>,
    metadata_bytes: u64,
    metadata_sizes: MetadataSizes,
    rows: u64,
    rows_in_group: usize,
    row_group_rows: usize,
    pushes: PushList,
}

/// The stream that rows are being added to.
struct OpenStream {
    labels: Labels,
    id: StreamId,
    /// What was added.
    part: StreamPart,
    /// What there will be at its end, if that is known and not to be counted.
    whole: Option<StreamPart>,
}

impl BlockWriter<Vec<u8>> {
    /// A block in memory.
    pub fn new(options: &BlockOptions) -> Result<Self> {
        Self::to(Vec::new(), options)
    }

    /// What was written and not taken away.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Takes away what was written, for example to send it off: so a block may be larger than memory.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }
}

impl<W: Write> BlockWriter<W> {
    /// A block that is written to `output` as it grows.
    pub fn to(mut output: W, options: &BlockOptions) -> Result<Self> {
        output.write_all(MAGIC)?;
        let filtered = options.filter_bits_per_key > 0.0;
        Ok(Self {
            output,
            position: MAGIC.len() as u64,
            compressor: Compressor::new(options.zstd_level)?,
            lines: LineColumn::new(options.line_page_bytes),
            fixed: FixedColumns::new(options.page_rows.max(1)),
            masks: Masks::default(),
            filter: filtered.then(|| IdFilterBuilder::new(options.filter_bits_per_key)),
            words: options.word_index.then(WordIndexBuilder::default),
            groups: vec![],
            index: StreamIndexBuilder::default(),
            label_values: LabelValues::default(),
            stream: None,
            metadata_bytes: 0,
            metadata_sizes: MetadataSizes::default(),
            rows: 0,
            rows_in_group: 0,
            row_group_rows: options.row_group_rows.max(1),
            pushes: PushList::default(),
        })
    }

    /// Gives the block a list of pushes.
    pub fn set_pushes(&mut self, pushes: PushList) {
        self.pushes = pushes;
    }

    /// Begins the next stream. It must come after the one before in the order of labels, then id.
    pub fn begin_stream(&mut self, labels: &Labels, id: StreamId) -> Result<()> {
        if let Some(open) = &self.stream
            && (&open.labels, open.id) >= (labels, id)
        {
            return Err(Error::Order(format!("stream {labels} after {}", open.labels)));
        }
        self.end_stream()?;
        self.fixed.begin_stream();
        self.stream =
            Some(OpenStream { labels: labels.clone(), id, part: StreamPart::default(), whole: None });
        Ok(())
    }

    /// Adds a row to the stream begun last. `line` must be UTF-8; times must not go back.
    pub fn row(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>) -> Result<()> {
        self.row_hashed(timestamp, line, metadata, EntryHash::of(timestamp, line, metadata))
    }

    /// Adds a row whose hash is known.
    pub(crate) fn row_hashed(
        &mut self,
        timestamp: Timestamp,
        line: &[u8],
        metadata: LabelsRef<'_>,
        hash: EntryHash,
    ) -> Result<()> {
        let Some(stream) = &mut self.stream else {
            return Err(Error::Order("a row before the first stream".into()));
        };
        if timestamp < stream.part.max_ts {
            let (labels, last) = (&stream.labels, stream.part.max_ts);
            return Err(Error::Order(format!("time {timestamp} after {last} in {labels}")));
        }
        let bytes = line.len() + metadata.packed().len();
        if bytes > ROW_BYTES || self.rows >= BLOCK_ROWS {
            let (what, value, limit) = match bytes > ROW_BYTES {
                true => ("a row's length", bytes as u64, ROW_BYTES as u64),
                false => ("the number of rows", self.rows + 1, BLOCK_ROWS),
            };
            return Err(Error::TooLarge { what, value, limit });
        }
        stream.part.row(timestamp, line, metadata, hash);
        self.fixed.row(timestamp, &stream.labels, stream.id, metadata, &mut self.compressor)?;
        self.metadata_bytes += metadata.packed().len() as u64;
        self.rows += 1;
        self.rows_in_group += 1;
        if !self.lines.has_room(line.len()) {
            self.flush_lines()?;
        }
        self.lines.push(line);
        if self.rows_in_group == self.row_group_rows { self.flush_group() } else { Ok(()) }
    }

    /// Bytes written to the output so far.
    pub fn bytes_written(&self) -> u64 {
        self.position
    }

    /// Bytes of memory, about, of what is kept until the end of the block: filters, indexes, the places of pages, and the
    /// columns of the row group in the making. The filters count twice, because they are put together at the end.
    pub fn memory_bytes(&self) -> usize {
        let filter = self.filter.as_ref().map_or(0, IdFilterBuilder::memory_bytes);
        let words = self.words.as_ref().map_or(0, WordIndexBuilder::memory_bytes);
        let pages = |g: &WrittenRowGroup| g.chunks.iter().map(|c| c.pages.len() * PAGE_BYTES).sum::<usize>();
        (filter + words + self.index.memory_bytes()) * 2
            + self.groups.iter().map(pages).sum::<usize>()
            + self.fixed.memory_bytes()
    }

    /// Writes what is left, the sections and the footer.
    pub fn finish(mut self) -> Result<FinishedBlock<W>> {
        self.end_stream()?;
        self.flush_group()?;
        let pushes = match self.pushes.is_empty() {
            true => None,
            false => {
                let list = self.pushes.encode()?;
                self.output.write_all(&list)?;
                let section = Section::of(&list, self.position);
                self.position += section.length;
                Some(section)
            }
        };
        let tail_offset = self.position;
        let (streams, totals) = self.index.finish(self.metadata_bytes)?;
        let mut places = Vec::new();
        let (output, position) = (&mut self.output, &mut self.position);
        // One after the other, because those of a large block are large.
        let mut add = |key: &'static str, section: Vec<u8>| {
            places.push((key, Section::of(&section, *position)));
            *position += section.len() as u64;
            output.write_all(&section)
        };
        add(KEY_STREAMS, streams)?;
        if let Some(filter) = self.filter {
            add(KEY_FILTER, filter.finish())?;
        }
        if let Some(words) = self.words {
            add(KEY_WORDS, words.finish())?;
        }
        if let Some(sizes) = self.metadata_sizes.finish() {
            add(KEY_METADATA, sizes)?;
        }
        places.extend(pushes.map(|section| (KEY_PUSHES, section)));
        let mut footer = Vec::new();
        footer::write(&mut footer, self.position, &self.groups, &places);
        self.output.write_all(&footer)?;
        let summary = BlockSummary {
            rows: totals.rows,
            raw_bytes: totals.raw_bytes,
            metadata_bytes: totals.metadata_bytes,
            streams: totals.streams,
            min_ts: totals.min_ts,
            max_ts: totals.max_ts,
            file_size: self.position + footer.len() as u64,
            tail_offset,
            label_values: self.label_values.finish(),
            digest: totals.digest,
        };
        let place = |Section { offset, length, crc }| PushesPlace { offset, length, crc };
        Ok(FinishedBlock { output: self.output, summary, pushes: pushes.map(place) })
    }

    /// Streams without rows leave no trace.
    fn end_stream(&mut self) -> Result<()> {
        let Some(s) = self.stream.take().filter(|s| s.part.rows > 0) else { return Ok(()) };
        let part = s.whole.unwrap_or(s.part);
        if part.rows != s.part.rows {
            let (added, told, labels) = (s.part.rows, part.rows, s.labels);
            return Err(Error::Order(format!("{added} rows where {told} were told of {labels}")));
        }
        self.label_values.add(s.labels.as_ref());
        self.metadata_sizes.add(part.metadata_bytes);
        self.index.add(BuiltStream {
            labels: s.labels,
            id: s.id,
            rows: part.rows,
            min_ts: part.min_ts,
            max_ts: part.max_ts,
            bytes: part.bytes,
            digest: part.digest,
        })
    }

    fn flush_lines(&mut self) -> Result<()> {
        if !self.lines.is_empty() && (self.filter.is_some() || self.words.is_some()) {
            let data = self.lines.data();
            self.masks.fill(data, self.lines.lengths());
            if let Some(filter) = &mut self.filter {
                filter.add_page(data, &self.masks);
            }
            if let Some(words) = &mut self.words {
                words.add_page(data, &self.masks);
            }
        }
        let page = self.lines.finish_page(&mut self.compressor, self.position)?;
        self.position += page.len() as u64;
        Ok(self.output.write_all(page)?)
    }

    fn flush_group(&mut self) -> Result<()> {
        if self.rows_in_group == 0 {
            return Ok(());
        }
        self.flush_lines()?;
        let mut chunks = self.fixed.finish_group(self.position, &mut self.compressor)?;
        self.output.write_all(&chunks.bytes)?;
        self.position += chunks.bytes.len() as u64;
        // In the order of the schema: `line` comes before the metadata.
        chunks.written.insert(super::format::Column::Line as usize, self.lines.finish_group());
        self.groups.push(WrittenRowGroup { rows: self.rows_in_group as u64, chunks: chunks.written });
        self.rows_in_group = 0;
        Ok(())
    }
}

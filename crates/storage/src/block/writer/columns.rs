//! The columns beside `line`, kept in memory until their row group is complete.

use skald_model::{Labels, LabelsRef, StreamId, Timestamp};

use crate::block::delta;
use crate::block::error::Result;
use crate::block::footer::{Bounds, WrittenChunk, WrittenPage};
use crate::block::format::{Column, Encoding};
use crate::block::hybrid;
use crate::block::page::{self, Compressor};

/// Most bytes of metadata in one page.
const METADATA_PAGE_BYTES: usize = 1 << 20;
/// Longest bound of labels that is kept in full.
const BOUND_BYTES: usize = 48;
const UNSEEN: u16 = u16::MAX;

/// A column chunk in the making.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    pages: Vec<WrittenPage>,
    bounds: Vec<Bounds>,
    values: u64,
    raw_bytes: u64,
}

impl Chunk {
    /// Adds a page of `values` values from `first_row` on.
    fn page(&mut self, encoding: Encoding, values: usize, first_row: u64, raw_len: usize, body: &[u8]) {
        let offset = self.bytes.len() as u64;
        let size = page::write(&mut self.bytes, false, encoding, values, raw_len, body);
        self.pages.push(WrittenPage { offset, size: size as u32, first_row });
        self.values += values as u64;
        self.raw_bytes += (size - body.len() + raw_len) as u64;
    }
}

/// The chunks of a complete row group.
pub(super) struct FinishedGroup {
    /// All of them, one after the other.
    pub(super) bytes: Vec<u8>,
    /// What the footer tells of them, in the order of the schema.
    pub(super) written: Vec<WrittenChunk>,
}

/// The streams of the current row group: the dictionaries of `stream_id` and `labels`.
#[derive(Default)]
struct Streams {
    ids: Vec<i64>,
    /// JSON texts, each with its length before it.
    labels: Vec<u8>,
    label_ends: Vec<usize>,
    /// Whether the stream that rows are being added to has its place in the dictionaries.
    known: bool,
    /// Number of the stream and of its rows, for the current page.
    runs: Vec<(u32, u32)>,
}

impl Streams {
    fn json(&self, i: u32) -> &[u8] {
        let i = i as usize;
        let start = if i == 0 { 0 } else { self.label_ends[i - 1] };
        &self.labels[start + 4..self.label_ends[i]]
    }
}

/// The columns beside `line` of the current row group.
pub(super) struct FixedColumns {
    page_rows: usize,
    timestamps: Vec<i64>,
    nanos: Vec<u32>,
    nanos_numbers: [u16; 1000],
    nanos_values: Vec<i32>,
    streams: Streams,
    metadata: Metadata,
    rows: u64,
    chunks: [Chunk; 7],
    scratch: Vec<u8>,
}

impl FixedColumns {
    pub(super) fn new(page_rows: usize) -> Self {
        Self {
            page_rows,
            timestamps: Vec::with_capacity(page_rows),
            nanos: Vec::with_capacity(page_rows),
            nanos_numbers: [UNSEEN; 1000],
            nanos_values: vec![],
            streams: Streams::default(),
            metadata: Metadata::default(),
            rows: 0,
            chunks: Default::default(),
            scratch: vec![],
        }
    }

    /// Bytes of memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(|c| c.bytes.capacity()).sum::<usize>()
            + self.streams.labels.capacity()
            + self.streams.ids.capacity() * 16
            + self.metadata.bytes()
    }

    /// The next row belongs to another stream.
    pub(super) fn begin_stream(&mut self) {
        self.streams.known = false;
    }

    #[inline]
    pub(super) fn row(
        &mut self,
        timestamp: Timestamp,
        labels: &Labels,
        id: StreamId,
        metadata: LabelsRef<'_>,
        compressor: &mut Compressor,
    ) -> Result<()> {
        self.timestamps.push(timestamp.div_euclid(1000));
        let nanos = timestamp.rem_euclid(1000);
        let number = &mut self.nanos_numbers[nanos as usize];
        if *number == UNSEEN {
            *number = self.nanos_values.len() as u16;
            self.nanos_values.push(nanos as i32);
        }
        self.nanos.push(u32::from(*number));
        if !self.streams.known {
            self.add_stream(labels, id);
        }
        match self.streams.runs.last_mut() {
            Some((number, n)) if *number as usize + 1 == self.streams.ids.len() => *n += 1,
            _ => self.streams.runs.push((self.streams.ids.len() as u32 - 1, 1)),
        }
        self.metadata.row(metadata);
        self.rows += 1;
        if self.timestamps.len() == self.page_rows {
            self.flush_page(compressor)?;
        } else if self.metadata.bytes() > METADATA_PAGE_BYTES {
            self.flush_metadata(compressor)?;
        }
        Ok(())
    }

    fn add_stream(&mut self, labels: &Labels, id: StreamId) {
        let s = &mut self.streams;
        s.known = true;
        s.ids.push(id.0 as i64);
        let at = s.labels.len();
        s.labels.extend_from_slice(&[0; 4]);
        write_json(labels, &mut s.labels);
        let len = (s.labels.len() - at - 4) as u32;
        s.labels[at..at + 4].copy_from_slice(&len.to_le_bytes());
        s.label_ends.push(s.labels.len());
    }

    fn flush_page(&mut self, compressor: &mut Compressor) -> Result<()> {
        let n = self.timestamps.len();
        if n == 0 {
            return Ok(());
        }
        let first_row = self.rows - n as u64;

        self.scratch.clear();
        delta::encode(self.timestamps.iter().copied(), &mut self.scratch);
        let chunk = &mut self.chunks[Column::Timestamp as usize];
        chunk.page(Encoding::DeltaBinaryPacked, n, first_row, self.scratch.len(), &self.scratch);
        chunk.bounds.push(int_bounds(self.timestamps.iter().copied()));

        let width = hybrid::width_for(self.nanos_values.len() as u32 - 1);
        self.scratch.clear();
        self.scratch.push(width as u8);
        hybrid::encode(&self.nanos, width, &mut self.scratch);
        let chunk = &mut self.chunks[Column::Nanos as usize];
        chunk.page(Encoding::RleDictionary, n, first_row, self.scratch.len(), &self.scratch);

        let s = &self.streams;
        let width = hybrid::width_for(s.ids.len() as u32 - 1);
        self.scratch.clear();
        self.scratch.push(width as u8);
        for (number, rows) in &s.runs {
            hybrid::encode_run(*number, *rows as usize, width, &mut self.scratch);
        }
        let chunk = &mut self.chunks[Column::StreamId as usize];
        chunk.page(Encoding::RleDictionary, n, first_row, self.scratch.len(), &self.scratch);
        chunk.bounds.push(int_bounds(s.runs.iter().map(|(i, _)| s.ids[*i as usize])));
        let chunk = &mut self.chunks[Column::Labels as usize];
        let stored = compressor.compress(&self.scratch)?;
        chunk.page(Encoding::RleDictionary, n, first_row, self.scratch.len(), stored);
        chunk.bounds.push(text_bounds(s.runs.iter().map(|(i, _)| s.json(*i))));

        self.timestamps.clear();
        self.nanos.clear();
        self.streams.runs.clear();
        self.flush_metadata(compressor)
    }

    fn flush_metadata(&mut self, compressor: &mut Compressor) -> Result<()> {
        let rows = self.metadata.rows;
        if rows == 0 {
            return Ok(());
        }
        let first_row = self.rows - rows as u64;
        for (column, is_key) in [(Column::MetadataKey, true), (Column::MetadataValue, false)] {
            self.scratch.clear();
            let (values, texts) = self.metadata.encode(is_key, &mut self.scratch);
            let stored = compressor.compress_parts(&self.scratch, texts)?;
            let raw_len = self.scratch.len() + texts.len();
            let chunk = &mut self.chunks[column as usize];
            chunk.page(Encoding::DeltaLengthByteArray, values, first_row, raw_len, stored);
        }
        self.metadata.clear();
        Ok(())
    }

    /// The chunks of the row group, to be written at `position`.
    pub(super) fn finish_group(
        &mut self,
        position: u64,
        compressor: &mut Compressor,
    ) -> Result<FinishedGroup> {
        self.flush_page(compressor)?;
        let mut group = FinishedGroup { bytes: vec![], written: vec![] };
        let chunks = std::mem::take(&mut self.chunks);
        for (column, chunk) in Column::ALL.into_iter().zip(chunks).filter(|(c, _)| *c != Column::Line) {
            let start = group.bytes.len();
            let dictionary_raw = self.write_dictionary(column, &mut group.bytes, compressor)?;
            let base = position + group.bytes.len() as u64;
            group.bytes.extend_from_slice(&chunk.bytes);
            let pages = chunk.pages.iter().map(|p| WrittenPage { offset: base + p.offset, ..*p }).collect();
            group.written.push(WrittenChunk {
                column,
                values: chunk.values,
                raw_bytes: chunk.raw_bytes + dictionary_raw,
                stored_bytes: (group.bytes.len() - start) as u64,
                dictionary_offset: column.has_dictionary().then_some(position + start as u64),
                pages,
                bounds: whole(&chunk.bounds, column).map(|all| (all, chunk.bounds)),
            });
        }
        self.nanos_numbers = [UNSEEN; 1000];
        self.nanos_values.clear();
        self.streams = Streams::default();
        self.rows = 0;
        Ok(group)
    }

    /// Appends the dictionary page of `column`, if it has one; returns its raw size.
    fn write_dictionary(
        &self,
        column: Column,
        out: &mut Vec<u8>,
        compressor: &mut Compressor,
    ) -> Result<u64> {
        let plain: Vec<u8>;
        let (raw, values): (&[u8], usize) = match column {
            Column::Nanos => {
                plain = self.nanos_values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (&plain, self.nanos_values.len())
            }
            Column::StreamId => {
                plain = self.streams.ids.iter().flat_map(|v| v.to_le_bytes()).collect();
                (&plain, self.streams.ids.len())
            }
            Column::Labels => (&self.streams.labels, self.streams.ids.len()),
            _ => return Ok(0),
        };
        let body = if column.is_compressed() { compressor.compress(raw)? } else { raw };
        let size = page::write(out, true, Encoding::Plain, values, raw.len(), body);
        Ok((size - body.len() + raw.len()) as u64)
    }
}

fn int_bounds(values: impl Iterator<Item = i64> + Clone) -> Bounds {
    let (min, max) = (values.clone().min().unwrap_or(0), values.max().unwrap_or(0));
    Bounds { min: min.to_le_bytes().into(), max: max.to_le_bytes().into(), exact: true }
}

/// Bounds of texts, cut short: a bound only has to be outside. Texts here begin with ASCII, mostly.
fn text_bounds<'a>(values: impl Iterator<Item = &'a [u8]> + Clone) -> Bounds {
    let (min, max) = (values.clone().min().unwrap_or_default(), values.max().unwrap_or_default());
    let mut bounds = Bounds { min: min.into(), max: max.into(), exact: true };
    if min.len() > BOUND_BYTES && min[..BOUND_BYTES].is_ascii() {
        bounds.min.truncate(BOUND_BYTES);
        bounds.exact = false;
    }
    if max.len() > BOUND_BYTES && max[..BOUND_BYTES].is_ascii() && max[BOUND_BYTES - 1] < 0x7e {
        bounds.max.truncate(BOUND_BYTES);
        bounds.max[BOUND_BYTES - 1] += 1;
        bounds.exact = false;
    }
    bounds
}

/// The bounds of a chunk from those of its pages.
fn whole(pages: &[Bounds], column: Column) -> Option<Bounds> {
    let number = |b: &[u8]| i64::from_le_bytes(b.try_into().unwrap_or_default());
    if column == Column::Labels {
        let min = pages.iter().map(|b| &b.min).min()?.clone();
        let max = pages.iter().map(|b| &b.max).max()?.clone();
        return Some(Bounds { min, max, exact: pages.iter().all(|b| b.exact) });
    }
    let min = pages.iter().map(|b| number(&b.min)).min()?;
    let max = pages.iter().map(|b| number(&b.max)).max()?;
    Some(Bounds { min: min.to_le_bytes().into(), max: max.to_le_bytes().into(), exact: true })
}

/// Appends the labels as a JSON object.
fn write_json(labels: &Labels, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_json_text(name, out);
        out.push(b':');
        write_json_text(value, out);
    }
    out.push(b'}');
}

fn write_json_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing text to memory does not fail");
}

/// The structured metadata of the current page.
#[derive(Default)]
struct Metadata {
    rows: usize,
    /// Empty as long as no row has any: then all levels are zero.
    levels: Vec<(u32, u32)>,
    keys: Texts,
    values: Texts,
}

#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    lengths: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.lengths.push(text.len() as u32);
    }
}

impl Metadata {
    #[inline]
    fn row(&mut self, metadata: LabelsRef<'_>) {
        if metadata.is_empty() {
            if !self.levels.is_empty() {
                self.levels.push((0, 0));
            }
        } else {
            self.pairs(metadata);
        }
        self.rows += 1;
    }

    fn pairs(&mut self, metadata: LabelsRef<'_>) {
        if self.levels.is_empty() {
            self.levels.resize(self.rows, (0, 0));
        }
        let before = self.levels.len();
        for (i, (key, value)) in metadata.iter().enumerate() {
            self.levels.push((u32::from(i > 0), 1));
            self.keys.push(key);
            self.values.push(value);
        }
        if self.levels.len() == before {
            self.levels.push((0, 0));
        }
    }

    fn bytes(&self) -> usize {
        self.keys.bytes.len() + self.values.bytes.len()
    }

    /// Appends repetition levels, definition levels and lengths of one column; returns the number of values, places
    /// without one included, and the texts that follow.
    fn encode(&self, keys: bool, out: &mut Vec<u8>) -> (usize, &[u8]) {
        let levels = |out: &mut Vec<u8>, values: &mut dyn FnMut(&mut Vec<u8>)| {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            values(out);
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        };
        if self.levels.is_empty() {
            for _ in 0..2 {
                levels(out, &mut |out| hybrid::encode_run(0, self.rows, 1, out));
            }
        } else {
            let repetition: Vec<u32> = self.levels.iter().map(|l| l.0).collect();
            let definition: Vec<u32> = self.levels.iter().map(|l| l.1).collect();
            levels(out, &mut |out| hybrid::encode(&repetition, 1, out));
            levels(out, &mut |out| hybrid::encode(&definition, 1, out));
        }
        let texts = if keys { &self.keys } else { &self.values };
        delta::encode(texts.lengths.iter().map(|l| i64::from(*l)), out);
        let values = if self.levels.is_empty() { self.rows } else { self.levels.len() };
        (values, &texts.bytes)
    }

    fn clear(&mut self) {
        self.rows = 0;
        self.levels.clear();
        for texts in [&mut self.keys, &mut self.values] {
            texts.bytes.clear();
            texts.lengths.clear();
        }
    }
}

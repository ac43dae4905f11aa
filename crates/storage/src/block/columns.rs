//! Reads the columns of a block page by page, each page decoded once as long as rows are asked for in order.

use std::ops::Range;

use skald_model::{LabelsRef, Timestamp};

use super::delta;
use super::error::{Result, corrupt};
use super::fetched::Fetched;
use super::format::Encoding;
use super::hybrid;
use super::meta::BlockMeta;
use super::page::{self, Decompressor, PageHead};

const NONE: usize = usize::MAX;
/// There are at most 1000 values of `nanos`.
const NANOS_BITS: usize = 10;

/// Buffers of a scan, to be used again for the next one.
#[derive(Default)]
pub struct ScanBuffers {
    pub(crate) decompressor: Decompressor,
    pub(crate) lines: LinePage,
    pub(crate) times: Times,
    pub(crate) metadata: Metadata,
}

impl ScanBuffers {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets decoded pages: they may be another block's.
    pub(crate) fn reset(&mut self) {
        self.times.page = NONE;
        self.times.dictionary_at = 0..0;
        self.metadata.page = NONE;
    }
}

/// One decompressed page of lines.
#[derive(Default)]
pub(crate) struct LinePage {
    buffer: Vec<u8>,
    lengths: Vec<i64>,
    data_start: usize,
    first_row: u32,
    /// Where the lines end, counted from the first line's start; with a zero before.
    ends: Vec<u32>,
}

impl LinePage {
    pub(crate) fn load(
        &mut self,
        meta: &BlockMeta,
        fetched: &Fetched,
        page: usize,
        decompressor: &mut Decompressor,
    ) -> Result<()> {
        let rows = meta.pages.line.rows(page);
        let (head, body) = page::read(fetched.get(meta.pages.line.bytes(page))?)?;
        let n = (rows.end - rows.start) as usize;
        expect(&head, Encoding::DeltaLengthByteArray, Some(n))?;
        decompressor.decompress(body, head.raw_len, &mut self.buffer)?;
        self.lengths.clear();
        self.data_start = delta::decode(&self.buffer, n, &mut self.lengths)?;
        self.first_row = rows.start;
        prefix_sums(&self.lengths, &mut self.ends);
        let sum = self.ends.last().map_or(0, |e| *e as usize);
        if self.lengths.len() != n
            || self.lengths.iter().any(|l| *l < 0 || *l > 1 << 30)
            || self.data_start + sum != self.buffer.len()
        {
            return Err(corrupt("line page", "lengths of lines do not add up"));
        }
        Ok(())
    }

    /// All lines of the page, one after the other.
    pub(crate) fn data(&self) -> &[u8] {
        &self.buffer[self.data_start..]
    }

    /// Where the lines of `rows` lie in [`LinePage::data`].
    pub(crate) fn span(&self, rows: &Range<u32>) -> Range<usize> {
        let end = |row: u32| self.ends[(row - self.first_row) as usize] as usize;
        end(rows.start)..end(rows.end)
    }

    pub(crate) fn line(&self, row: u32) -> &[u8] {
        &self.data()[self.span(&(row..row + 1))]
    }

    /// The row whose line holds byte `at` of the data, not before `from`.
    #[inline]
    pub(crate) fn row_at(&self, at: usize, from: u32) -> u32 {
        let first = (from - self.first_row) as usize;
        let ends = &self.ends[first + 1..];
        // The next hit is often near.
        let near = ends.iter().take(8).take_while(|e| **e as usize <= at).count();
        let i = if near < 8 { near } else { 8 + ends[8..].partition_point(|e| *e as usize <= at) };
        from + i as u32
    }
}

fn prefix_sums(lengths: &[i64], ends: &mut Vec<u32>) {
    ends.clear();
    ends.reserve(lengths.len() + 1);
    let mut sum = 0u32;
    ends.push(0);
    for l in lengths {
        sum = sum.wrapping_add(*l as u32);
        ends.push(sum);
    }
}

/// The decoded times of one page.
pub(crate) struct Times {
    page: usize,
    rows: Range<u32>,
    values: Vec<i64>,
    numbers: Vec<u32>,
    dictionary: [i64; 1 << NANOS_BITS],
    dictionary_at: Range<u64>,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            page: NONE,
            rows: 0..0,
            values: vec![],
            numbers: vec![],
            dictionary: [0; 1 << NANOS_BITS],
            dictionary_at: 0..0,
        }
    }
}

impl Times {
    /// Whether the time of `row` is decoded.
    pub(crate) fn holds(&self, row: u32) -> bool {
        self.page != NONE && self.rows.contains(&row)
    }

    /// The time of `row`.
    #[inline]
    pub(crate) fn get(&mut self, meta: &BlockMeta, fetched: &Fetched, row: u32) -> Result<Timestamp> {
        if self.page == NONE || !self.rows.contains(&row) {
            self.load(meta, fetched, row)?;
        }
        Ok(self.values[(row - self.rows.start) as usize])
    }

    /// The times of the rows from `rows.start` on that lie in one page, at most those of `rows`.
    pub(crate) fn slice(&mut self, meta: &BlockMeta, fetched: &Fetched, rows: &Range<u32>) -> Result<&[i64]> {
        self.get(meta, fetched, rows.start)?;
        let (start, end) = (rows.start - self.rows.start, rows.end.min(self.rows.end) - self.rows.start);
        Ok(&self.values[start as usize..end as usize])
    }

    fn load(&mut self, meta: &BlockMeta, fetched: &Fetched, row: u32) -> Result<()> {
        let page = meta.pages.timestamp.of_row(row);
        self.page = NONE;
        self.rows = meta.pages.timestamp.rows(page);
        let n = self.rows.len();
        let (head, body) = page::read(fetched.get(meta.pages.timestamp.bytes(page))?)?;
        expect(&head, Encoding::DeltaBinaryPacked, Some(n))?;
        self.values.clear();
        delta::decode(body, n, &mut self.values)?;

        let dictionary = &meta.group_of_row(row).nanos_dictionary;
        if self.dictionary_at != *dictionary {
            self.load_dictionary(fetched, dictionary)?;
        }
        let (head, body) = page::read(fetched.get(meta.pages.nanos.bytes(page))?)?;
        expect(&head, Encoding::RleDictionary, Some(n))?;
        let (width, body) = body.split_first().ok_or_else(|| corrupt("page of nanos", "it is empty"))?;
        self.numbers.clear();
        if usize::from(*width) > NANOS_BITS {
            return Err(corrupt("page of nanos", format!("a width of {width} bits")));
        }
        hybrid::decode(body, u32::from(*width), n, &mut self.numbers)?;
        if self.values.len() != n || self.numbers.len() != n {
            return Err(corrupt("timestamp page", "too few values"));
        }
        for (value, number) in self.values.iter_mut().zip(&self.numbers) {
            *value =
                value.wrapping_mul(1000).wrapping_add(self.dictionary[*number as usize % (1 << NANOS_BITS)]);
        }
        self.page = page;
        Ok(())
    }

    fn load_dictionary(&mut self, fetched: &Fetched, at: &Range<u64>) -> Result<()> {
        self.dictionary_at = 0..0;
        let (head, body) = page::read(fetched.get(at.clone())?)?;
        if !head.dictionary || head.values > 1 << NANOS_BITS || body.len() != head.values * 4 {
            return Err(corrupt("dictionary of nanos", "it has another size than its values"));
        }
        self.dictionary = [0; 1 << NANOS_BITS];
        for (slot, v) in self.dictionary.iter_mut().zip(body.as_chunks::<4>().0) {
            *slot = i64::from(i32::from_le_bytes(*v));
        }
        self.dictionary_at = at.clone();
        Ok(())
    }
}

/// The decoded structured metadata of one page.
pub(crate) struct Metadata {
    page: usize,
    rows: Range<u32>,
    /// Packed label sets; the i-th row's ends at `ends[i]`.
    packed: Vec<u8>,
    ends: Vec<u32>,
    buffers: [Vec<u8>; 2],
    levels: [Vec<u32>; 2],
    lengths: [Vec<i64>; 2],
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            page: NONE,
            rows: 0..0,
            packed: vec![],
            ends: vec![],
            buffers: Default::default(),
            levels: Default::default(),
            lengths: Default::default(),
        }
    }
}

impl Metadata {
    /// Whether the metadata of `row` are decoded.
    pub(crate) fn holds(&self, row: u32) -> bool {
        self.page != NONE && self.rows.contains(&row)
    }

    pub(crate) fn get(
        &mut self,
        meta: &BlockMeta,
        fetched: &Fetched,
        row: u32,
        decompressor: &mut Decompressor,
    ) -> Result<LabelsRef<'_>> {
        if self.page == NONE || !self.rows.contains(&row) {
            self.load(meta, fetched, row, decompressor)?;
        }
        let i = (row - self.rows.start) as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Ok(LabelsRef::from_trusted(&self.packed[start as usize..self.ends[i] as usize]))
    }

    fn load(&mut self, meta: &BlockMeta, fetched: &Fetched, row: u32, d: &mut Decompressor) -> Result<()> {
        let page = meta.pages.metadata_key.of_row(row);
        self.page = NONE;
        self.rows = meta.pages.metadata_key.rows(page);
        let mut texts = [0; 2];
        for (i, pages) in [&meta.pages.metadata_key, &meta.pages.metadata_value].into_iter().enumerate() {
            texts[i] = self.read_texts(i, fetched.get(pages.bytes(page))?, d)?;
        }
        self.assemble(texts)?;
        self.page = page;
        Ok(())
    }

    /// Reads levels and lengths of a page of names (0) or values (1); returns where in its buffer the texts begin.
    fn read_texts(&mut self, i: usize, page: &[u8], d: &mut Decompressor) -> Result<usize> {
        let (head, body) = page::read(page)?;
        expect(&head, Encoding::DeltaLengthByteArray, None)?;
        d.decompress(body, head.raw_len, &mut self.buffers[i])?;
        let buffer = &self.buffers[i];
        let (mut at, mut entries) = (0, 0);
        for level in &mut self.levels {
            let len = buffer.get(at..at + 4).ok_or_else(|| corrupt("metadata page", "cut short"))?;
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            let runs = buffer.get(at + 4..(at + 4).saturating_add(len));
            let runs = runs.ok_or_else(|| corrupt("metadata page", "cut short"))?;
            level.clear();
            hybrid::decode(runs, 1, head.values, level)?;
            entries = level.iter().filter(|l| **l == 1).count();
            at += 4 + len;
        }
        self.lengths[i].clear();
        let used = delta::decode(&buffer[at..], entries, &mut self.lengths[i])?;
        let total: i64 = self.lengths[i].iter().fold(0, |sum, l| sum.saturating_add(*l));
        let texts = at + used;
        let negative = self.lengths[i].iter().any(|l| *l < 0);
        if self.lengths[i].len() != entries || negative || texts as i64 + total != buffer.len() as i64 {
            return Err(corrupt("metadata page", "lengths of texts do not add up"));
        }
        Ok(texts)
    }

    /// The bytes that the names or the values of a page take when they are packed.
    pub(crate) fn packed_bytes(&mut self, page: &[u8], d: &mut Decompressor) -> Result<u64> {
        self.read_texts(0, page, d)?;
        let varint = |v: u64| u64::from((64 - v.leading_zeros()).div_ceil(7).max(1));
        Ok(self.lengths[0].iter().map(|l| *l as u64 + varint(*l as u64)).sum())
    }

    /// Puts names and values together, row by row.
    fn assemble(&mut self, texts: [usize; 2]) -> Result<()> {
        self.packed.clear();
        self.ends.clear();
        let [mut key_at, mut value_at] = texts;
        let mut lengths = self.lengths[0].iter().zip(&self.lengths[1]);
        for (i, (repetition, definition)) in self.levels[0].iter().zip(&self.levels[1]).enumerate() {
            if *repetition == 0 && i > 0 {
                self.ends.push(self.packed.len() as u32);
            }
            if *definition == 0 {
                continue;
            }
            let (key, value) = lengths.next().ok_or_else(|| corrupt("metadata page", "too few texts"))?;
            for (at, len, buffer) in
                [(&mut key_at, *key, &self.buffers[0]), (&mut value_at, *value, &self.buffers[1])]
            {
                let text = &buffer[*at..*at + len as usize];
                skald_model::labels::put_varint(&mut self.packed, text.len() as u64);
                self.packed.extend_from_slice(text);
                *at += len as usize;
            }
        }
        self.ends.push(self.packed.len() as u32);
        if self.ends.len() != self.rows.len() {
            return Err(corrupt("metadata page", "another number of rows than the page index tells"));
        }
        Ok(())
    }
}

fn expect(head: &PageHead, encoding: Encoding, values: Option<usize>) -> Result<()> {
    if head.dictionary || head.encoding != encoding as i32 || values.is_some_and(|n| n != head.values) {
        let detail = format!(
            "{} values in encoding {}, {values:?} in {encoding:?} expected",
            head.values, head.encoding
        );
        return Err(corrupt("page header", detail));
    }
    Ok(())
}

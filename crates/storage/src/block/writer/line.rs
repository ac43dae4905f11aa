//! The column of lines: pages of a fixed number of raw bytes.

use crate::block::delta;
use crate::block::error::Result;
use crate::block::footer::{WrittenChunk, WrittenPage};
use crate::block::format::{Column, Encoding};
use crate::block::page::{self, Compressor};

/// Most rows of a page, for pages of empty lines.
const ROWS: usize = 12 << 10;

/// Collects lines of the current page and the pages of the current row group.
pub(super) struct LineColumn {
    page_bytes: usize,
    /// The lines of the current page, one after the other.
    data: Vec<u8>,
    lengths: Vec<u32>,
    packed_lengths: Vec<u8>,
    page: Vec<u8>,
    pages: Vec<WrittenPage>,
    rows: u64,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl LineColumn {
    pub(super) fn new(page_bytes: usize) -> Self {
        Self {
            page_bytes,
            data: Vec::with_capacity(page_bytes),
            lengths: vec![],
            packed_lengths: vec![],
            page: vec![],
            pages: vec![],
            rows: 0,
            raw_bytes: 0,
            stored_bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The lines of the current page, one after the other.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Their lengths.
    pub(super) fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Whether a line of `len` bytes fits into the current page. A longer one than a page fits into an empty page.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.is_empty() || (self.data.len() + len <= self.page_bytes && self.lengths.len() < ROWS)
    }

    pub(super) fn push(&mut self, line: &[u8]) {
        self.data.extend_from_slice(line);
        self.lengths.push(line.len() as u32);
    }

    /// The current page as it is to be written at `position`; no bytes if it is empty.
    pub(super) fn finish_page(&mut self, compressor: &mut Compressor, position: u64) -> Result<&[u8]> {
        self.page.clear();
        if self.is_empty() {
            return Ok(&self.page);
        }
        self.packed_lengths.clear();
        delta::encode(self.lengths.iter().map(|l| i64::from(*l)), &mut self.packed_lengths);
        let raw_len = self.packed_lengths.len() + self.data.len();
        let stored = compressor.compress_parts(&self.packed_lengths, &self.data)?;
        let n = self.lengths.len();
        let size = page::write(&mut self.page, false, Encoding::DeltaLengthByteArray, n, raw_len, stored);
        self.pages.push(WrittenPage { offset: position, size: size as u32, first_row: self.rows });
        self.rows += n as u64;
        self.raw_bytes += (size - stored.len() + raw_len) as u64;
        self.stored_bytes += size as u64;
        self.data.clear();
        self.lengths.clear();
        // One very long line must not hold its memory until the end of the block.
        self.data.shrink_to(self.page_bytes);
        Ok(&self.page)
    }

    /// The chunk of the row group whose last page has been finished.
    pub(super) fn finish_group(&mut self) -> WrittenChunk {
        WrittenChunk {
            column: Column::Line,
            values: std::mem::take(&mut self.rows),
            raw_bytes: std::mem::take(&mut self.raw_bytes),
            stored_bytes: std::mem::take(&mut self.stored_bytes),
            dictionary_offset: None,
            pages: std::mem::take(&mut self.pages),
            bounds: None,
        }
    }
}

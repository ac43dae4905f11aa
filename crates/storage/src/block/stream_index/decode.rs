//! Reads the head of the stream index.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use skald_model::{Digest, Timestamp};

use crate::block::error::{Result, corrupt};

use super::{PAGE_STREAMS, StreamIndex, Totals};

/// Where a page of the index lies in the section, and what is known without decoding it.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) page: Range<usize>,
    pub(super) filter: Range<usize>,
    pub(super) first_row: u32,
    pub(super) min_ts: Timestamp,
    pub(super) max_ts: Timestamp,
}

const ENTRY: usize = 28;

impl StreamIndex {
    /// Reads a section whose checksum has been verified.
    pub(crate) fn open(section: Bytes) -> Result<Self> {
        let mut f = Fields { bytes: &section, at: 0 };
        let (streams, pages) = (f.u32()?, f.u32()? as usize);
        let totals = Totals {
            streams,
            rows: f.u64()?,
            raw_bytes: f.u64()?,
            metadata_bytes: f.u64()?,
            min_ts: f.u64()? as i64,
            max_ts: f.u64()? as i64,
            digest: Digest { count: f.u64()?, sum: u128::from_le_bytes(f.array()?) },
        };
        if pages != (streams as usize).div_ceil(PAGE_STREAMS) || pages * ENTRY > section.len() - f.at {
            return Err(corrupt("stream index", format!("{pages} pages for {streams} streams")));
        }
        let mut directory = Vec::with_capacity(pages);
        let mut lengths = Vec::with_capacity(pages);
        for _ in 0..pages {
            let first_row = f.u32()?;
            lengths.push((f.u32()? as usize, f.u32()? as usize));
            let (min_ts, max_ts) = (f.u64()? as i64, f.u64()? as i64);
            directory.push(Directory { page: 0..0, filter: 0..0, first_row, min_ts, max_ts });
        }
        let mut at = f.at;
        for (d, (_, filter)) in directory.iter_mut().zip(&lengths) {
            d.filter = at..at + filter;
            at += filter;
        }
        for (d, (page, _)) in directory.iter_mut().zip(&lengths) {
            d.page = at..at + page;
            at += page;
        }
        if at != section.len() {
            return Err(corrupt("stream index", format!("{} bytes where {at} are told", section.len())));
        }
        let pages = std::iter::repeat_with(OnceLock::new).take(pages).collect();
        Ok(Self { section, totals, directory, pages, metadata_sizes: None })
    }
}

/// Reads fixed numbers one after the other.
pub(super) struct Fields<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let s = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        let s = s.ok_or_else(|| corrupt("stream index", "cut short"))?;
        self.at += n;
        Ok(s)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        let rest = &self.bytes[self.at..];
        let (v, after) = skald_model::labels::get_varint(rest)
            .ok_or_else(|| corrupt("stream index", "a number is cut short"))?;
        self.at += rest.len() - after.len();
        Ok(v)
    }
}

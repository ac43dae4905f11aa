//! Builds the line filter, page by page.

use std::ops::Range;

use crate::block::delta::load;

use super::scan::Masks;
use super::{BLOCK, ID_LEN, IdFilter, anchor_hash, bits_of, block_of};

/// Builds the filter section of a block.
pub struct IdFilterBuilder {
    bits_per_key: f64,
    hashes: Vec<u64>,
    seen: Vec<u64>,
    words: Vec<u64>,
    directory: Vec<u8>,
    blocks: Vec<u8>,
    pages: u32,
}

impl IdFilterBuilder {
    /// A builder of filters with so many bits for each distinct anchor; 6 let one of 16 absent anchors pass.
    pub fn new(bits_per_key: f64) -> Self {
        Self {
            bits_per_key,
            hashes: vec![],
            seen: vec![],
            words: vec![],
            directory: vec![],
            blocks: vec![],
            pages: 0,
        }
    }

    /// Adds the next line page; `masks` are those of its bytes.
    pub fn add_page(&mut self, data: &[u8], masks: &Masks) {
        let (hashes, mut lens) = (&mut self.hashes, 0u64);
        hashes.clear();
        masks.for_each_id(|start, end| {
            hashes.push(anchor_hash(load(data, start)));
            if end - start > ID_LEN {
                hashes.push(anchor_hash(load(data, end - ID_LEN)));
            }
            lens |= 1 << (end - start).min(63);
        });
        self.add_keys();
        self.directory.extend_from_slice(&((self.blocks.len() / BLOCK) as u32).to_le_bytes());
        self.directory.extend_from_slice(&lens.to_le_bytes());
        self.pages += 1;
    }

    /// Adds line pages of another block, which are copied from there.
    pub(crate) fn add_pages(&mut self, filter: &IdFilter, pages: Range<usize>) {
        let first = if pages.start == 0 { 0 } else { filter.entry(pages.start - 1).0 };
        let before = (self.blocks.len() / BLOCK) as u32;
        let mut last = first;
        for page in pages {
            let (end, lengths) = filter.entry(page);
            self.directory.extend_from_slice(&(end - first + before).to_le_bytes());
            self.directory.extend_from_slice(&lengths.to_le_bytes());
            self.pages += 1;
            last = end;
        }
        self.blocks.extend_from_slice(filter.blocks(first as usize, last as usize));
    }

    fn add_keys(&mut self) {
        if self.hashes.is_empty() {
            return;
        }
        let bits = self.distinct() * self.bits_per_key;
        let n = (bits / (BLOCK * 8) as f64).ceil().max(1.0) as usize;
        self.words.clear();
        self.words.resize(n * BLOCK / 8, 0);
        for h in &self.hashes {
            let block = &mut self.words[block_of(*h, n) * (BLOCK / 8)..][..BLOCK / 8];
            for bit in bits_of(*h) {
                block[bit / 64] |= 1 << (bit % 64);
            }
        }
        self.blocks.reserve(n * BLOCK);
        self.words.iter().for_each(|w| self.blocks.extend_from_slice(&w.to_le_bytes()));
    }

    /// About how many of the hashes are distinct, by linear counting: setting bits twice does no harm in the filter
    /// itself, so only its size depends on this, and no set of keys is needed.
    fn distinct(&mut self) -> f64 {
        let bits = (self.hashes.len() * 8).next_power_of_two().max(64);
        self.seen.clear();
        self.seen.resize(bits / 64, 0);
        for h in &self.hashes {
            let bit = (h >> 16) as usize & (bits - 1);
            self.seen[bit / 64] |= 1 << (bit % 64);
        }
        let set: u32 = self.seen.iter().map(|w| w.count_ones()).sum();
        let share = f64::from(set) / bits as f64;
        -(1.0 - share).ln() * bits as f64
    }

    /// Bytes of memory, about, of what was gathered.
    pub fn memory_bytes(&self) -> usize {
        self.directory.capacity() + self.blocks.capacity()
    }

    /// The section.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(super::HEAD + self.directory.len() + self.blocks.len());
        out.extend_from_slice(&self.pages.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.blocks);
        out
    }
}

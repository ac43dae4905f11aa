//! What tells, without reading them, which line pages can't hold a text: the id filter for ids, the [word
//! index](words) for words. Both together are asked by [`PageProbe`].
//!
//! The id filter tells for each line page which ids are *not* in it.
//!
//! A token is a longest run of ASCII letters and digits inside one line, compared in lower case. It is id-like if it
//! has at least eight characters and a digit. Of every id-like token the filter keeps its *anchors*, the first and
//! the last eight bytes, in one Bloom filter per page, and the set of lengths of the page's id-like tokens.
//!
//! A line that contains a needle contains each of the needle's id-like runs inside some token, which is then id-like
//! too. So for a run `t` of the needle, and a page that holds such a line:
//!
//! * `t` follows another character of the needle: a token begins exactly where `t` does, its first anchor is in;
//! * `t` is followed by another character of the needle: a token ends where `t` does, its last anchor is in;
//! * otherwise the token may reach beyond `t`: a token at least as long is in the page, and if none is longer, it is
//!   `t` itself, and both anchors are in.
//!
//! So there are no false negatives, wherever in a line the needle lies and wherever a user cuts an id.
//!
//! ```text
//! u32 pages · u32 0 · per page: u32 number of the block after its last · u64 lengths (bit 63: 63 or more) · blocks
//! ```
//!
//! A block is 512 bits; a key sets three of them, so that a probe costs one cache line.

mod build;
mod keys;
mod scan;
#[cfg(test)]
mod tests;
mod words;

use bytes::Bytes;

pub use build::IdFilterBuilder;
use keys::Run;
pub use keys::{FilterKeys, PageProbe};
pub use scan::Masks;
pub(crate) use words::PageSet;
use words::WORD_LEN;
pub use words::{WordIndex, WordIndexBuilder};

use super::error::{Result, corrupt};

const HEAD: usize = 8;
const ENTRY: usize = 12;
const BLOCK: usize = 64;
/// Shortest token that counts as an id.
const ID_LEN: usize = 8;

/// The id filter of one block, probed where it lies.
#[derive(Clone, Debug)]
pub struct IdFilter {
    section: Bytes,
    pages: usize,
}

/// What a filter holds, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FilterStats {
    /// Line pages covered.
    pub pages: usize,
    /// Bytes of the section.
    pub bytes: usize,
    /// Share of the bits that are set.
    pub fill: f64,
    /// Pages without any id.
    pub empty_pages: usize,
}

impl IdFilter {
    /// Reads a section whose checksum has been verified.
    pub fn open(section: Bytes) -> Result<Self> {
        let head = section.get(..4).ok_or_else(|| corrupt("line filter", "cut short"))?;
        let pages = u32::from_le_bytes(head.try_into().expect("four bytes")) as usize;
        let filter = Self { section, pages };
        let directory = pages.checked_mul(ENTRY).and_then(|n| n.checked_add(HEAD));
        let blocks = match directory {
            Some(n) if n <= filter.section.len() => {
                let mut previous = 0;
                for i in 0..pages {
                    let (end, _) = filter.entry(i);
                    if end < previous {
                        return Err(corrupt("line filter", "blocks are out of order"));
                    }
                    previous = end;
                }
                previous as usize
            }
            _ => return Err(corrupt("line filter", format!("no room for {pages} pages"))),
        };
        let length = HEAD + pages * ENTRY + blocks * BLOCK;
        if length != filter.section.len() {
            let found = filter.section.len();
            return Err(corrupt("line filter", format!("{found} bytes where {length} are told")));
        }
        Ok(filter)
    }

    /// Number of line pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of memory that the filter takes.
    pub fn memory_bytes(&self) -> usize {
        self.section.len()
    }

    /// The filter of one line page; none for a page that is not covered.
    fn page(&self, page: usize) -> Option<PageFilter<'_>> {
        if page >= self.pages {
            return None;
        }
        let start = if page == 0 { 0 } else { self.entry(page - 1).0 };
        let (end, lengths) = self.entry(page);
        Some(PageFilter { blocks: self.blocks(start as usize, end as usize), lengths })
    }

    /// What the filter holds.
    pub fn stats(&self) -> FilterStats {
        let mut stats = FilterStats { pages: self.pages, bytes: self.section.len(), ..Default::default() };
        let mut previous = 0;
        for i in 0..self.pages {
            let (end, _) = self.entry(i);
            stats.empty_pages += usize::from(end == previous);
            previous = end;
        }
        let blocks = self.blocks(0, previous as usize);
        let set: u64 = blocks.iter().map(|b| u64::from(b.count_ones())).sum();
        stats.fill = set as f64 / (blocks.len() as f64 * 8.0).max(1.0);
        stats
    }

    fn entry(&self, page: usize) -> (u32, u64) {
        let at = HEAD + page * ENTRY;
        let e = &self.section[at..at + ENTRY];
        let end = u32::from_le_bytes(e[..4].try_into().expect("four bytes"));
        (end, u64::from_le_bytes(e[4..].try_into().expect("eight bytes")))
    }

    fn blocks(&self, start: usize, end: usize) -> &[u8] {
        let base = HEAD + self.pages * ENTRY;
        &self.section[base + start * BLOCK..base + end * BLOCK]
    }
}

struct PageFilter<'a> {
    blocks: &'a [u8],
    lengths: u64,
}

impl PageFilter<'_> {
    fn may_hold(&self, run: &Run) -> bool {
        // Lengths at least the run's, and lengths above it. From 63 on they are not told apart.
        let at_least = self.lengths >> run.len_bit;
        if at_least == 0 {
            return false;
        }
        let longer = if run.len_bit == 63 { at_least } else { at_least >> 1 };
        let equal = longer == 0;
        (!(run.begins || equal) || self.has(run.first)) && (!(run.ends || equal) || self.has(run.last))
    }

    fn has(&self, hash: u64) -> bool {
        let n = self.blocks.len() / BLOCK;
        if n == 0 {
            return false;
        }
        let block = &self.blocks[block_of(hash, n) * BLOCK..][..BLOCK];
        bits_of(hash).into_iter().all(|bit| block[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

/// The block of a key among `n`.
#[inline]
fn block_of(hash: u64, n: usize) -> usize {
    (((hash >> 32) * n as u64) >> 32) as usize
}

/// The bits of a key in its block.
#[inline]
fn bits_of(hash: u64) -> [usize; 3] {
    [hash as usize & 511, (hash >> 9) as usize & 511, (hash >> 18) as usize & 511]
}

/// The hash of an anchor: eight letters or digits as a little-endian number. Setting bit 5 makes letters small and
/// leaves digits as they are.
#[inline]
fn anchor_hash(eight: u64) -> u64 {
    let mut x = (eight | 0x2020_2020_2020_2020).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

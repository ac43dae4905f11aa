//! Builds the word index, page by page.

use std::ops::Range;

use skald_model::labels::put_varint;

use super::{HEAD, LONG, PageSet, WORD_LEN, WordIndex, is_hex};

use crate::block::line_filter::scan::Masks;

/// Entries of the table of words seen last, a power of two. Pages are written in few words again and again, and this
/// many lie close to the processor.
const RECENT: usize = 2048;
/// Bytes of words that a block may always have.
const ALLOWANCE: usize = 32 << 10;
/// Bytes of words that each page adds to it: 0.4 % of a page.
const ALLOWANCE_PER_PAGE: usize = 1 << 10;
/// What a word costs beside its letters, about.
const WORD_COST: usize = 8;
/// The list of words that are not listed: their letters could all be hexadecimal digits.
const UNLISTED: u32 = u32::MAX;
/// Most of those that are kept in the table.
const UNLISTED_MAX: usize = 1 << 14;

/// Builds the word index of a block.
pub struct WordIndexBuilder {
    recent: Box<[Recent]>,
    /// Numbers of entries plus one, by hash; the length is a power of two, at most half of it in use.
    table: Vec<u32>,
    entries: Vec<Entry>,
    /// The letters of all entries.
    text: Vec<u8>,
    lists: Vec<List>,
    open: PageSet,
    long: PageSet,
    pages: u32,
    allowance: usize,
    /// Places in all lists.
    places: usize,
}

/// The first sixteen letters of a word and the page, counted from one, in which it was seen last.
#[derive(Clone, Copy, Default)]
struct Recent {
    head: (u64, u64),
    page: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    head: (u64, u64),
    offset: u32,
    len: u32,
    page: u32,
    /// The number of its list.
    list: u32,
}

/// A word that is listed.
struct List {
    entry: u32,
    pages: Vec<u32>,
}

impl Default for WordIndexBuilder {
    fn default() -> Self {
        Self {
            recent: vec![Recent::default(); RECENT].into(),
            table: vec![0; 1 << 12],
            entries: vec![],
            text: vec![],
            lists: vec![],
            open: PageSet::default(),
            long: PageSet::default(),
            pages: 0,
            allowance: ALLOWANCE,
            places: 0,
        }
    }
}

impl WordIndexBuilder {
    /// Adds the next line page; `masks` are those of its bytes.
    pub fn add_page(&mut self, data: &[u8], masks: &Masks) {
        self.pages += 1;
        self.allowance += ALLOWANCE_PER_PAGE;
        let page = self.pages;
        masks.for_each_word(|start, len| {
            let head = head(data, start, len);
            let hash = hash(head);
            let recent = &mut self.recent[hash as usize % RECENT];
            if recent.page == page && recent.head == head && len <= 16 {
                return;
            }
            *recent = Recent { head, page: if len <= 16 { page } else { 0 } };
            self.add(data, start, len, head, hash);
        });
    }

    /// Adds line pages of another block, which are copied from there.
    pub(crate) fn add_pages(&mut self, index: &WordIndex, pages: Range<usize>) {
        let before = self.pages;
        let here = |page: usize| before + (page - pages.start) as u32;
        self.pages += pages.len() as u32;
        self.allowance += ALLOWANCE_PER_PAGE * pages.len();
        for page in pages.clone() {
            if index.open.contains(page) {
                self.open.insert(here(page));
            }
            if index.long.contains(page) {
                self.long.insert(here(page));
            }
        }
        let mut with_it = Vec::new();
        for number in 0..index.words() {
            with_it.clear();
            index.for_pages(number, &pages, |page| with_it.push(here(page)));
            if !with_it.is_empty() {
                let word = index.word(number);
                let head = head(word, 0, word.len());
                self.put(word, head, hash(head), &with_it);
            }
        }
    }

    #[inline(never)]
    fn add(&mut self, data: &[u8], start: usize, len: usize, head: (u64, u64), hash: u64) {
        if len > LONG {
            self.long.insert(self.pages - 1);
            return;
        }
        self.put(&data[start..start + len], head, hash, &[self.pages - 1]);
    }

    /// Takes note of a word in `pages`, ascending, none of them before one that the word is known to be in.
    fn put(&mut self, word: &[u8], head: (u64, u64), hash: u64, pages: &[u32]) {
        let (len, last) = (word.len(), pages.last().map_or(0, |p| p + 1));
        let mask = self.table.len() - 1;
        let mut slot = (hash >> 16) as usize & mask;
        while let Some(number) = self.table[slot].checked_sub(1) {
            let e = &mut self.entries[number as usize];
            if e.head == head
                && e.len as usize == len
                && (len <= 16 || self.text[e.offset as usize..][..len] == *word)
            {
                if e.page != last {
                    e.page = last;
                    if e.list != UNLISTED {
                        self.lists[e.list as usize].pages.extend_from_slice(pages);
                        self.places += pages.len();
                    }
                }
                return;
            }
            slot = (slot + 1) & mask;
        }
        let list = if is_hex(word) {
            // Known only so that it is passed over quickly.
            if self.entries.len() - self.lists.len() == UNLISTED_MAX {
                return;
            }
            UNLISTED
        } else {
            let Some(left) = self.allowance.checked_sub(len + WORD_COST) else {
                pages.iter().for_each(|page| self.open.insert(*page));
                return;
            };
            self.allowance = left;
            self.lists.push(List { entry: self.entries.len() as u32, pages: pages.to_vec() });
            self.places += pages.len() - 1;
            self.lists.len() as u32 - 1
        };
        let offset = self.text.len() as u32;
        self.text.extend_from_slice(word);
        self.entries.push(Entry { head, offset, len: len as u32, page: last, list });
        self.table[slot] = self.entries.len() as u32;
        if self.entries.len() * 2 > self.table.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let mask = self.table.len() * 2 - 1;
        self.table.clear();
        self.table.resize(mask + 1, 0);
        for (number, e) in self.entries.iter().enumerate() {
            let mut slot = (hash(e.head) >> 16) as usize & mask;
            while self.table[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.table[slot] = number as u32 + 1;
        }
    }

    /// Bytes of memory, about, of what was gathered.
    pub fn memory_bytes(&self) -> usize {
        // A list that grows has up to twice the room that it needs.
        self.places * 6
            + self.lists.len() * (size_of::<List>() + 16)
            + self.entries.capacity() * size_of::<Entry>()
            + self.text.capacity()
            + self.table.len() * 4
    }

    /// The section.
    pub fn finish(self) -> Vec<u8> {
        let (mut words, mut sets) = (Vec::new(), Vec::new());
        for list in &self.lists {
            let e = &self.entries[list.entry as usize];
            words.extend_from_slice(&self.text[e.offset as usize..][..e.len as usize]);
            words.push(super::SEPARATOR);
            write_pages(&list.pages, self.pages, &mut sets);
        }
        let bitmap = self.pages.div_ceil(8) as usize;
        let mut out = Vec::with_capacity(HEAD + 2 * bitmap + words.len() + sets.len());
        for n in [self.pages, self.lists.len() as u32, words.len() as u32, sets.len() as u32] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        self.open.write(bitmap, &mut out);
        self.long.write(bitmap, &mut out);
        out.extend_from_slice(&words);
        out.extend_from_slice(&sets);
        out
    }
}

/// Appends a set of pages, ascending, in the shortest of its three forms.
fn write_pages(pages: &[u32], all: u32, out: &mut Vec<u8>) {
    if pages.len() == all as usize {
        out.push(super::ALL);
        return;
    }
    let at = out.len();
    out.push(super::LIST);
    put_varint(out, pages.len() as u64);
    let mut next = 0;
    for page in pages {
        put_varint(out, u64::from(page - next));
        next = page + 1;
    }
    let bitmap = all.div_ceil(8) as usize;
    if out.len() - at > 1 + bitmap {
        out.truncate(at);
        out.push(super::BITMAP);
        let mut set = PageSet::default();
        pages.iter().for_each(|p| set.insert(*p));
        set.write(bitmap, out);
    }
}

/// The first eight and the next eight letters of a word. No letter is zero, so for words of up to sixteen letters
/// this is the word.
#[inline]
fn head(data: &[u8], start: usize, len: usize) -> (u64, u64) {
    let (first, second) = HEAD_MASKS[len.min(16)];
    if let Some(sixteen) = data.get(start..start + 16) {
        let (a, b) = sixteen.split_at(8);
        let number = |eight: &[u8]| u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        return (number(a) & first, number(b) & second);
    }
    let mut padded = [0; 16];
    let rest = &data[start..];
    padded[..rest.len()].copy_from_slice(rest);
    self::head(&padded, 0, len)
}

const HEAD_MASKS: [(u64, u64); 17] = {
    let mut masks = [(0, 0); 17];
    let mut len = WORD_LEN;
    while len <= 16 {
        masks[len] = match len <= 8 {
            true => (u64::MAX >> (64 - 8 * len), 0),
            false => (u64::MAX, u64::MAX >> (64 - 8 * (len - 8))),
        };
        len += 1;
    }
    masks
};

#[inline]
fn hash((a, b): (u64, u64)) -> u64 {
    let x = (a ^ b.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 32)
}

//! The word index: for each word of a block, which line pages it is in.
//!
//! A word is a longest run of at least three ASCII letters inside one line, letter case kept (a search may ignore it). Log lines are written in
//! few words, so a block has some hundred to some thousand of them, and a list of them all with their pages takes
//! some hundredths of a percent of the lines. It is searched as text: a line that contains a needle contains each of
//! the needle's runs of letters inside some word.
//!
//! * a run between two other characters of the needle *is* a word;
//! * after another character of the needle, a word begins with it; before another one, a word ends with it;
//! * otherwise the run may lie anywhere in a word.
//!
//! So the pages of all words that fit are the only ones that may hold the needle. Words that consist of hexadecimal
//! digits alone (pieces of ids, mostly) are not listed, and runs of such letters tell nothing. Two sets of pages keep
//! this exact: those with words over 32 letters, which are not listed, so that any run may lie inside; and those whose
//! words were more than the block has room for, about which nothing is known (random text, mostly).
//!
//! ```text
//! u32 pages · u32 words · u32 bytes of words · u32 bytes of sets
//! · bitmap of pages with unknown words · bitmap of pages with long words
//! · words, each with a line feed after it, in order of appearance · per word its set of pages
//! set: 0 all · 1 list: varint count, varint distances · 2 bitmap
//! ```

mod build;

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;
use skald_model::labels::get_varint;
use skald_model::line_filter::Clue;

pub use build::WordIndexBuilder;

use crate::block::error::{Result, corrupt};

/// Shortest word.
pub(super) const WORD_LEN: usize = 3;
/// Longest word that is listed.
const LONG: usize = 32;
const HEAD: usize = 16;
const SEPARATOR: u8 = b'\n';
const ALL: u8 = 0;
const LIST: u8 = 1;
const BITMAP: u8 = 2;

/// The word index of one block.
#[derive(Clone, Debug)]
pub struct WordIndex {
    words: Bytes,
    /// Where each word begins.
    starts: Box<[u32]>,
    sets: Bytes,
    /// Where the set of each word begins.
    set_starts: Box<[u32]>,
    open: PageSet,
    long: PageSet,
    pages: u32,
    section_len: usize,
}

/// Numbers of line pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageSet(Vec<u64>);

impl PageSet {
    fn all(pages: u32) -> Self {
        let mut set = Self(vec![u64::MAX; pages.div_ceil(64) as usize]);
        if let Some(last) = set.0.last_mut()
            && !pages.is_multiple_of(64)
        {
            *last = (1 << (pages % 64)) - 1;
        }
        set
    }

    /// Whether a page is in the set.
    pub(crate) fn contains(&self, page: usize) -> bool {
        self.0.get(page / 64).is_some_and(|w| w >> (page % 64) & 1 == 1)
    }

    fn insert(&mut self, page: u32) {
        let word = page as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (page % 64);
    }

    fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn keep(&mut self, other: &Self) {
        self.0.truncate(other.0.len());
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }

    fn write(&self, bytes: usize, out: &mut Vec<u8>) {
        let all = self.0.iter().flat_map(|w| w.to_le_bytes()).chain(std::iter::repeat(0));
        out.extend(all.take(bytes));
    }

    fn read(bitmap: &[u8]) -> Self {
        let word = |eight: &[u8]| {
            let mut padded = [0; 8];
            padded[..eight.len()].copy_from_slice(eight);
            u64::from_le_bytes(padded)
        };
        Self(bitmap.chunks(8).map(word).collect())
    }
}

impl FromIterator<usize> for PageSet {
    fn from_iter<T: IntoIterator<Item = usize>>(pages: T) -> Self {
        let mut set = Self::default();
        pages.into_iter().for_each(|page| set.insert(page as u32));
        set
    }
}

/// A run of letters in a needle, long enough for the index and not of hexadecimal digits alone.
#[derive(Clone, Debug)]
pub(super) struct WordRun {
    /// The letters, with a separator before and after them where a word must begin or end with them.
    pattern: Box<[u8]>,
    begins: bool,
    ends: bool,
    /// Whether it is in small letters and words are compared as such.
    folded: bool,
}

impl WordRun {
    /// Number of letters.
    fn len(&self) -> usize {
        self.pattern.len() - usize::from(self.begins) - usize::from(self.ends)
    }
}

/// The runs of a text that the index can tell anything about.
pub(super) fn runs(clue: Clue<'_>) -> Vec<WordRun> {
    let mut out = Vec::new();
    let mut at = 0;
    for text in clue.text.split(|b| !b.is_ascii_alphabetic()) {
        let (begins, ends) = (at > 0, at + text.len() < clue.text.len());
        at += text.len() + 1;
        if text.len() < WORD_LEN || is_hex(text) {
            continue;
        }
        let mut pattern = Vec::with_capacity(text.len() + 2);
        pattern.extend(begins.then_some(SEPARATOR));
        pattern.extend_from_slice(text);
        pattern.extend(ends.then_some(SEPARATOR));
        out.push(WordRun { pattern: pattern.into(), begins, ends, folded: clue.folded });
    }
    out
}

/// Whether all letters could be hexadecimal digits.
fn is_hex(letters: &[u8]) -> bool {
    letters.iter().all(u8::is_ascii_hexdigit)
}

impl WordIndex {
    /// Reads a section whose checksum has been verified.
    pub fn open(section: &Bytes) -> Result<Self> {
        let damaged = |what: &str| corrupt("word index", what);
        let number = |i: usize| -> Result<u32> {
            let four = section.get(i * 4..i * 4 + 4).ok_or_else(|| damaged("cut short"))?;
            Ok(u32::from_le_bytes(four.try_into().expect("four bytes")))
        };
        let (pages, count, words_len, sets_len) = (number(0)?, number(1)?, number(2)?, number(3)?);
        let bitmap = pages.div_ceil(8) as usize;
        let words_at = HEAD + 2 * bitmap;
        let sets_at = words_at + words_len as usize;
        if sets_at + sets_len as usize != section.len() {
            return Err(damaged("its length is not what it tells"));
        }
        let words = section.slice(words_at..sets_at);
        let sets = section.slice(sets_at..);
        let ends = memchr::memchr_iter(SEPARATOR, &words).map(|end| end as u32 + 1);
        let mut starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
        if starts.pop() != Some(words_len) || starts.len() != count as usize {
            return Err(damaged("it has other words than it tells"));
        }
        let index = Self {
            set_starts: set_starts(&sets, count as usize, bitmap)
                .ok_or_else(|| damaged("broken sets of pages"))?,
            starts: starts.into(),
            open: PageSet::read(&section[HEAD..HEAD + bitmap]),
            long: PageSet::read(&section[HEAD + bitmap..words_at]),
            words,
            sets,
            pages,
            section_len: section.len(),
        };
        Ok(index)
    }

    /// Number of line pages.
    pub fn pages(&self) -> usize {
        self.pages as usize
    }

    /// Number of words.
    pub fn words(&self) -> usize {
        self.starts.len()
    }

    /// Number of pages about whose words nothing is known.
    pub fn unknown_pages(&self) -> usize {
        self.open.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Bytes of the section.
    pub fn section_len(&self) -> usize {
        self.section_len
    }

    /// Bytes of memory that the index takes.
    pub fn memory_bytes(&self) -> usize {
        self.section_len
            + (self.starts.len() + self.set_starts.len()) * 4
            + (self.open.0.len() + self.long.0.len()) * 8
    }

    /// The pages that may hold all of `runs`.
    pub(super) fn pages_of(&self, runs: &[WordRun]) -> PageSet {
        let mut found = PageSet::all(self.pages);
        for run in runs {
            let mut pages = self.open.clone();
            // Inside a long word, or one itself.
            if !(run.begins && run.ends) || run.len() > LONG {
                pages.add(&self.long);
            }
            self.add_pages_of(run, &mut pages);
            found.keep(&pages);
        }
        found
    }

    fn add_pages_of(&self, run: &WordRun, pages: &mut PageSet) {
        let small = run.folded.then(|| self.words.to_ascii_lowercase());
        let words = small.as_deref().unwrap_or(&self.words);
        let mut last = None;
        let mut add = |at: usize| {
            let word = self.starts.partition_point(|s| *s as usize <= at) - 1;
            if last.replace(word) != Some(word) {
                self.add_set(word, pages);
            }
        };
        // The first word has no separator before it.
        if run.begins && words.starts_with(&run.pattern[1..]) {
            add(0);
        }
        // A separator before the run belongs to the word before.
        memmem::find_iter(words, &run.pattern).for_each(|at| add(at + usize::from(run.begins)));
    }

    /// The word with this number.
    fn word(&self, number: usize) -> &[u8] {
        let start = self.starts[number] as usize;
        let end = self.starts.get(number + 1).map_or(self.words.len(), |next| *next as usize);
        // A separator follows it.
        &self.words[start..end - 1]
    }

    /// Calls `each` with those of `pages` that the word with this number is in, ascending.
    fn for_pages(&self, number: usize, pages: &Range<usize>, mut each: impl FnMut(usize)) {
        let set = &self.sets[self.set_starts[number] as usize..];
        match set[0] {
            ALL => pages.clone().for_each(each),
            LIST => {
                for_list(&set[1..], |page| {
                    if pages.contains(&(page as usize)) {
                        each(page as usize);
                    }
                });
            }
            _ => {
                let has = |page: &usize| set[1 + page / 8] >> (page % 8) & 1 == 1;
                pages.clone().filter(has).for_each(each);
            }
        }
    }

    fn add_set(&self, word: usize, pages: &mut PageSet) {
        let set = &self.sets[self.set_starts[word] as usize..];
        match set[0] {
            ALL => pages.add(&PageSet::all(self.pages)),
            LIST => {
                for_list(&set[1..], |page| {
                    if page < u64::from(self.pages) {
                        pages.insert(page as u32);
                    }
                });
            }
            _ => pages.add(&PageSet::read(&set[1..1 + self.pages.div_ceil(8) as usize])),
        }
    }
}

/// Where each of `count` sets begins; `None` if they are not well formed.
fn set_starts(sets: &[u8], count: usize, bitmap: usize) -> Option<Box<[u32]>> {
    let mut starts = Vec::with_capacity(count.min(sets.len()));
    let mut rest = sets;
    while let Some((form, after)) = rest.split_first() {
        starts.push((sets.len() - rest.len()) as u32);
        rest = match *form {
            ALL => after,
            LIST => for_list(after, |_| ())?,
            BITMAP => after.get(bitmap..)?,
            _ => return None,
        };
    }
    (starts.len() == count).then(|| starts.into())
}

/// Calls `each` with the pages of a list; returns what follows it.
fn for_list(list: &[u8], mut each: impl FnMut(u64)) -> Option<&[u8]> {
    let (count, mut rest) = get_varint(list)?;
    let mut next = 0u64;
    for _ in 0..count {
        let (distance, after) = get_varint(rest)?;
        next = next.checked_add(distance)?;
        each(next);
        next = next.checked_add(1)?;
        rest = after;
    }
    Some(rest)
}

//! One decoded page of the stream index.

use std::ops::Range;

use skald_model::{Digest, Labels, Matcher, Selector, StreamId, TimeRange, Timestamp};

use crate::block::error::{Result, corrupt};
use crate::block::page::Decompressor;
use crate::block::thrift::unzigzag;

use super::decode::Fields;
use super::{PAGE_STREAMS, StreamExtent, StreamInfo};

/// A set of streams of one page, by their place in it.
type Set = [u64; PAGE_STREAMS / 64];

/// Up to [`PAGE_STREAMS`] streams, their labels as numbers of pairs, and for each pair its streams.
#[derive(Debug)]
pub(super) struct StreamPage {
    /// Packed pairs, sorted by name and value; the i-th ends at `pair_ends[i]`.
    pairs: Vec<u8>,
    pair_ends: Vec<u32>,
    /// The pairs of all streams; those of the i-th end at `stream_ends[i]`.
    numbers: Vec<u32>,
    stream_ends: Vec<u32>,
    /// The streams of all pairs; those of the i-th end at `posting_ends[i]`.
    postings: Vec<u16>,
    posting_ends: Vec<u32>,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    first_row: u32,
    rows: u32,
    min_ts: Timestamp,
    max_ts: Timestamp,
    bytes: u64,
    digest: Digest,
}

impl StreamPage {
    pub(super) fn decode(bytes: &[u8], n: usize, first_row: u32, min_ts: Timestamp) -> Result<Self> {
        let mut f = Fields { bytes, at: 0 };
        let (pair_count, raw_len, stored_len) = (f.u32()? as usize, f.u32()? as usize, f.u32()? as usize);
        let mut text = Vec::new();
        Decompressor::default().decompress(f.take(stored_len)?, raw_len, &mut text)?;
        let mut page = Self::decode_labels(text, pair_count, n)?;
        page.streams = decode_streams(&mut f, n, first_row, min_ts)?;
        Ok(page)
    }

    fn decode_labels(mut text: Vec<u8>, pair_count: usize, n: usize) -> Result<Self> {
        let bad = || corrupt("stream index", "malformed labels");
        let mut f = Fields { bytes: &text, at: 0 };
        if pair_count > text.len() {
            return Err(bad());
        }
        let mut pair_ends = Vec::with_capacity(pair_count);
        for _ in 0..pair_count {
            for _ in 0..2 {
                let len = usize::try_from(f.varint()?).map_err(|_| bad())?;
                std::str::from_utf8(f.take(len)?).map_err(|_| bad())?;
            }
            pair_ends.push(f.at as u32);
        }
        let pairs_len = f.at;
        let (mut numbers, mut stream_ends) = (Vec::with_capacity(n * 8), Vec::with_capacity(n));
        let mut counts = vec![0u32; pair_count];
        for _ in 0..n {
            for _ in 0..f.varint()? {
                let number = f.varint()?;
                *counts.get_mut(number as usize).ok_or_else(bad)? += 1;
                numbers.push(number as u32);
            }
            stream_ends.push(numbers.len() as u32);
        }
        text.truncate(pairs_len);
        text.shrink_to_fit();
        let mut page = Self {
            pairs: text,
            pair_ends,
            numbers,
            stream_ends,
            postings: vec![],
            posting_ends: counts,
            streams: vec![],
        };
        page.post();
        Ok(page)
    }

    /// Turns the pairs of streams, counted in `posting_ends`, into the streams of pairs.
    fn post(&mut self) {
        let mut sum = 0;
        for end in &mut self.posting_ends {
            // The start for now; each posting moves it on, until it is the end.
            let count = *end;
            *end = sum;
            sum += count;
        }
        self.postings = vec![0; self.numbers.len()];
        for i in 0..self.stream_ends.len() {
            for number in &self.numbers[span(&self.stream_ends, i)] {
                let at = &mut self.posting_ends[*number as usize];
                self.postings[*at as usize] = i as u16;
                *at += 1;
            }
        }
    }

    /// Appends the streams that pass; `base` is the number of the page's first.
    pub(super) fn select(&self, selector: &Selector, range: TimeRange, base: u32, out: &mut Vec<u32>) {
        let mut set: Set = [u64::MAX; PAGE_STREAMS / 64];
        for m in &selector.matchers {
            let passing = self.matching(m);
            set.iter_mut().zip(passing).for_each(|(s, p)| *s &= p);
        }
        for (word, bits) in set.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let i = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(s) = self.streams.get(i) else { return };
                if range.overlaps(s.min_ts, s.max_ts) {
                    out.push(base + i as u32);
                }
            }
        }
    }

    /// The streams that one matcher passes. Each value is looked at once, not once per stream.
    fn matching(&self, m: &Matcher) -> Set {
        let of_name = self.pairs_named(&m.name);
        let (mut passing, mut labelled): (Set, Set) = ([0; PAGE_STREAMS / 64], [0; PAGE_STREAMS / 64]);
        let empty_passes = m.matches_empty();
        for number in of_name {
            let passes = self.pair(number).is_some_and(|(_, value)| m.matches(value));
            if !passes && !empty_passes {
                continue;
            }
            for i in &self.postings[span(&self.posting_ends, number)] {
                let bit = 1 << (i % 64);
                let word = usize::from(i / 64);
                labelled[word] |= bit;
                if passes {
                    passing[word] |= bit;
                }
            }
        }
        if empty_passes {
            passing.iter_mut().zip(labelled).for_each(|(p, l)| *p |= !l);
        }
        passing
    }

    /// The numbers of the pairs with this name.
    fn pairs_named(&self, name: &str) -> Range<usize> {
        let before = |strict: bool| {
            let (mut low, mut high) = (0, self.pair_ends.len());
            while low < high {
                let middle = (low + high) / 2;
                let other = self.pair(middle).map_or("", |(n, _)| n);
                if other < name || (!strict && other == name) { low = middle + 1 } else { high = middle }
            }
            low
        };
        before(true)..before(false)
    }

    fn pair(&self, number: usize) -> Option<(&str, &str)> {
        let packed = &self.pairs[span(&self.pair_ends, number)];
        skald_model::LabelsRef::from_trusted(packed).iter().next()
    }

    pub(super) fn for_each_pair(&self, each: &mut impl FnMut(&str, &str)) {
        (0..self.pair_ends.len()).filter_map(|i| self.pair(i)).for_each(|(n, v)| each(n, v));
    }

    pub(super) fn info(&self, i: usize, ordinal: u32) -> StreamInfo {
        let s = &self.streams[i];
        let mut packed = Vec::with_capacity(256);
        for number in &self.numbers[span(&self.stream_ends, i)] {
            packed.extend_from_slice(&self.pairs[span(&self.pair_ends, *number as usize)]);
        }
        StreamInfo {
            ordinal,
            id: s.id,
            labels: Labels::from_packed(&packed).unwrap_or_else(Labels::empty),
            rows: s.first_row..s.first_row + s.rows,
            min_ts: s.min_ts,
            max_ts: s.max_ts,
            bytes: s.bytes,
            metadata_bytes: 0,
            digest: s.digest,
        }
    }

    pub(super) fn extent(&self, i: usize) -> StreamExtent {
        let s = &self.streams[i];
        StreamExtent { rows: s.first_row..s.first_row + s.rows, min_ts: s.min_ts, max_ts: s.max_ts }
    }

    pub(super) fn id(&self, i: usize) -> StreamId {
        self.streams[i].id
    }
}

fn span(ends: &[u32], i: usize) -> Range<usize> {
    let start = if i == 0 { 0 } else { ends[i - 1] };
    start as usize..ends[i] as usize
}

fn decode_streams(f: &mut Fields<'_>, n: usize, first_row: u32, min_ts: Timestamp) -> Result<Vec<Stream>> {
    let mut streams = Vec::with_capacity(n);
    let mut row = first_row;
    for _ in 0..n {
        let rows = u32::try_from(f.varint()?).ok();
        let rows = rows.filter(|r| row.checked_add(*r).is_some());
        let rows = rows.ok_or_else(|| corrupt("stream index", "more rows than a block can hold"))?;
        let first = min_ts.wrapping_add(f.varint()? as i64);
        let last = first.wrapping_add(f.varint()? as i64);
        let bytes = f.varint()?;
        let count = i64::from(rows).wrapping_add(unzigzag(f.varint()?)) as u64;
        streams.push(Stream {
            id: StreamId(0),
            first_row: row,
            rows,
            min_ts: first,
            max_ts: last,
            bytes,
            digest: Digest { count, sum: 0 },
        });
        row += rows;
    }
    for s in &mut streams {
        s.id = StreamId(f.u64()?);
    }
    for s in &mut streams {
        s.digest.sum = u128::from_le_bytes(f.array()?);
    }
    if f.at != f.bytes.len() {
        return Err(corrupt("stream index", "a page is longer than its streams"));
    }
    Ok(streams)
}

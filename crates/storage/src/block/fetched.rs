//! Bytes of a block that the caller has fetched.

use std::ops::Range;

use bytes::Bytes;

use super::error::{Error, Result};

/// Pieces of one block. Pages never reach across the border of a piece that was fetched for them.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Sorted by offset.
    pieces: Vec<(u64, Bytes)>,
}

impl Fetched {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The whole file.
    pub fn whole(file: Bytes) -> Self {
        Self { pieces: vec![(0, file)] }
    }

    /// Adds the bytes from `offset` on.
    pub fn insert(&mut self, offset: u64, bytes: Bytes) {
        let at = self.pieces.partition_point(|(o, _)| *o < offset);
        self.pieces.insert(at, (offset, bytes));
    }

    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|(_, b)| b.len()).sum()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        self.find(range).is_some()
    }

    pub(crate) fn get(&self, range: Range<u64>) -> Result<&[u8]> {
        let (start, end) = (range.start, range.end);
        self.find(&range).ok_or(Error::NotFetched { start, end })
    }

    /// The bytes of `range`, which live on when this is dropped.
    pub(crate) fn bytes(&self, range: &Range<u64>) -> Option<Bytes> {
        let piece =
            self.pieces.iter().find(|(at, b)| *at <= range.start && range.end <= at + b.len() as u64)?;
        Some(piece.1.slice((range.start - piece.0) as usize..(range.end - piece.0) as usize))
    }

    fn find(&self, range: &Range<u64>) -> Option<&[u8]> {
        let at = self.pieces.partition_point(|(o, _)| *o <= range.start);
        // Pieces may overlap, so the nearest is not always the one that reaches far enough.
        self.pieces[..at].iter().rev().find_map(|(offset, bytes)| {
            let end = range.end.checked_sub(*offset)?;
            bytes.get((range.start - offset) as usize..end as usize)
        })
    }
}

/// Sorts `ranges`, drops repetitions, and joins those that are at most `gap` bytes apart: fewer and larger requests.
pub fn coalesce(mut ranges: Vec<Range<u64>>, gap: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|r| (r.start, r.end));
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for r in ranges {
        match out.last_mut() {
            Some(last) if r.start <= last.end.saturating_add(gap) => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_and_holes_are_told() {
        let mut f = Fetched::new();
        f.insert(100, Bytes::from_static(b"0123456789"));
        f.insert(10, Bytes::from_static(b"abc"));
        assert_eq!(f.get(102..105).unwrap(), b"234");
        assert_eq!(f.get(10..13).unwrap(), b"abc");
        assert!(matches!(f.get(12..14), Err(Error::NotFetched { start: 12, end: 14 })));
        assert!(!f.has(&(0..1)) && f.has(&(100..110)));
        f.insert(103, Bytes::from_static(b"34"));
        assert_eq!(f.get(104..107).unwrap(), b"456", "the longer of two that overlap");
    }

    #[test]
    fn near_ranges_are_joined() {
        assert_eq!(coalesce(vec![20..30, 0..5, 8..10, 25..28], 3), [0..10, 20..30]);
        assert_eq!(coalesce(vec![], 3), []);
    }
}

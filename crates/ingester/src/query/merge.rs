//! Rows of several streams and segments in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use skald_model::Direction;

use crate::segment::Row;

/// The rows of one stream in one segment that are still to come.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    rows: &'a [Row],
    left: Range<usize>,
}

impl<'a> Cursor<'a> {
    /// The part `range` of `rows`.
    pub(crate) fn new(rows: &'a [Row], range: Range<usize>) -> Self {
        Self { rows, left: range }
    }

    fn peek(&self, direction: Direction) -> Option<&'a Row> {
        let at = match direction {
            _ if self.left.is_empty() => return None,
            Direction::Forward => self.left.start,
            Direction::Backward => self.left.end - 1,
        };
        Some(&self.rows[at])
    }

    fn skip(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.left.start += 1,
            Direction::Backward => self.left.end -= 1,
        }
    }
}

/// Gives the rows of all cursors, the first in the direction first. At equal times the cursors' order counts, or its
/// reverse when going backward, so that one direction gives the reverse of the other.
pub(crate) struct Merge<'a> {
    cursors: Vec<Cursor<'a>>,
    direction: Direction,
    heap: BinaryHeap<Reverse<Rank>>,
    /// The cursor that gave the last row and has not been put back.
    current: Option<usize>,
}

/// The place of a cursor: lesser comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(i64, usize);

impl Rank {
    fn of(direction: Direction, row: &Row, cursor: usize) -> Self {
        match direction {
            Direction::Forward => Rank(row.timestamp, cursor),
            // Flipping all bits turns an order around.
            Direction::Backward => Rank(!row.timestamp, !cursor),
        }
    }

    fn cursor(self, direction: Direction) -> usize {
        if direction == Direction::Backward { !self.1 } else { self.1 }
    }
}

impl<'a> Merge<'a> {
    pub(crate) fn new(cursors: Vec<Cursor<'a>>, direction: Direction) -> Self {
        let first = |(i, c): (usize, &Cursor<'a>)| Some(Reverse(Rank::of(direction, c.peek(direction)?, i)));
        let heap = cursors.iter().enumerate().filter_map(first).collect();
        Self { cursors, direction, heap, current: None }
    }

    /// The next row that is `wanted`, with the number of its cursor. May ask about a row more than once.
    pub(crate) fn next(&mut self, mut wanted: impl FnMut(usize, &Row) -> bool) -> Option<(usize, &'a Row)> {
        loop {
            let (cursor, row) = match self.current.take() {
                Some(cursor) => {
                    let Some(row) = self.seek(cursor, &mut wanted) else { continue };
                    let rank = Rank::of(self.direction, row, cursor);
                    if self.heap.peek().is_some_and(|Reverse(first)| *first < rank) {
                        self.heap.push(Reverse(rank));
                        continue;
                    }
                    (cursor, row)
                }
                None => {
                    let Reverse(rank) = self.heap.pop()?;
                    let cursor = rank.cursor(self.direction);
                    (cursor, self.cursors[cursor].peek(self.direction)?)
                }
            };
            self.cursors[cursor].skip(self.direction);
            self.current = Some(cursor);
            if wanted(cursor, row) {
                return Some((cursor, row));
            }
        }
    }

    /// Moves the cursor to its next wanted row.
    fn seek(&mut self, cursor: usize, wanted: &mut impl FnMut(usize, &Row) -> bool) -> Option<&'a Row> {
        let rows = &mut self.cursors[cursor];
        loop {
            let row = rows.peek(self.direction)?;
            if wanted(cursor, row) {
                return Some(row);
            }
            rows.skip(self.direction);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(times: &[i64], batch: u32) -> Vec<Row> {
        let mut times = times.to_vec();
        times.sort_unstable();
        times.iter().enumerate().map(|(i, t)| Row { timestamp: *t, batch, entry: i as u32 }).collect()
    }

    fn merged(sources: &[Vec<Row>], direction: Direction) -> Vec<(usize, Row)> {
        let cursors = sources.iter().map(|r| Cursor::new(r, 0..r.len())).collect();
        let mut merge = Merge::new(cursors, direction);
        std::iter::from_fn(|| merge.next(|_, r| r.entry % 3 != 1)).map(|(c, r)| (c, *r)).collect()
    }

    proptest! {
        #[test]
        fn is_like_sorting_and_backward_is_the_reverse(
            times in proptest::collection::vec(proptest::collection::vec(0i64..9, 0..12), 0..6)
        ) {
            let sources: Vec<_> = times.iter().enumerate().map(|(i, t)| rows(t, i as u32)).collect();
            let mut expected: Vec<_> = sources
                .iter()
                .enumerate()
                .flat_map(|(c, rows)| rows.iter().filter(|r| r.entry % 3 != 1).map(move |r| (c, *r)))
                .collect();
            expected.sort_by_key(|(c, r)| (r.timestamp, *c, r.entry));
            prop_assert_eq!(&merged(&sources, Direction::Forward), &expected);
            expected.reverse();
            prop_assert_eq!(&merged(&sources, Direction::Backward), &expected);
        }
    }
}

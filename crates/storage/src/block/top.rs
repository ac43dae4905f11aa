//! The newest or oldest rows of a block.
//!
//! Rows are stored by stream, so the newest of all are spread over the pages. Times are read first: they tell for
//! each line page its newest candidate. Pages are then visited in that order, the best rows so far are kept, and the
//! search ends at the first page whose newest candidate is older than the worst row kept. So exactly the pages that
//! could hold a row of the answer are decompressed, each once, whatever share of the rows matches.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{ControlFlow, Range};

use skald_model::{Direction, Labels, Timestamp};

use super::columns::ScanBuffers;
use super::error::Result;
use super::fetched::Fetched;
use super::meta::BlockMeta;
use super::plan::{ScanPlan, joined};
use super::scan::{PageScan, Row, ScanStats};

/// Line pages that are asked for at once, at first and at most.
const FETCH_PAGES: Range<usize> = 16..128;

/// Places that are collected beyond twice the limit before the worse ones are dropped.
const RANKS_SPARE: usize = if cfg!(test) { 4 } else { 1 << 14 };

/// A row of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRow {
    /// Number of its stream in the block.
    pub stream: u32,
    /// Its number in the block.
    pub row: u32,
    /// Nanoseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// The line.
    pub line: Vec<u8>,
    /// Structured metadata, if the plan asked for it.
    pub metadata: Labels,
}

/// What the search needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopStep {
    /// These bytes, then another step. What was fetched for steps before may be dropped.
    Fetch(Vec<Range<u64>>),
    /// Nothing: the answer is complete.
    Done,
}

/// The place of a row in the answer: greater is better. Equal times keep the stored order, or its reverse when the
/// newest come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(i64, u32);

impl Rank {
    #[inline]
    fn of(direction: Direction, timestamp: Timestamp, row: u32) -> Self {
        match direction {
            Direction::Backward => Rank(timestamp, row),
            // Flipping all bits turns an order around.
            Direction::Forward => Rank(!timestamp, !row),
        }
    }

    const WORST: Rank = Rank(i64::MIN, 0);
}

#[derive(PartialEq, Eq)]
struct Kept {
    rank: Rank,
    row: TopRow,
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}
impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A search for the first rows of a plan in order of time. Does no I/O: see [`TopRows::step`].
pub struct TopRows {
    plan: ScanPlan,
    direction: Direction,
    limit: usize,
    accepts_all: bool,
    /// Planned pages with the rank of their best candidate, the best page last; none before times were read.
    queue: Option<Vec<(Rank, usize)>>,
    /// The bytes that times were read from.
    times: Fetched,
    /// Rows of lower rank can't be in the answer.
    floor: Rank,
    kept: BinaryHeap<Reverse<Kept>>,
    fetch_pages: usize,
    stats: ScanStats,
}

impl TopRows {
    /// A search for the `limit` first rows of `plan` in `direction`. `accepts_all` promises that every row that
    /// matches the plan will be accepted: with a predicate that all lines pass, the cut-off is then known from the
    /// times alone.
    pub fn new(plan: ScanPlan, direction: Direction, limit: usize, accepts_all: bool) -> Self {
        Self {
            plan,
            direction,
            limit,
            accepts_all,
            queue: None,
            times: Fetched::new(),
            floor: Rank::WORST,
            kept: BinaryHeap::new(),
            fetch_pages: FETCH_PAGES.start,
            stats: ScanStats::default(),
        }
    }

    /// Goes on as far as the bytes in `fetched` allow. `accept` decides whether a matching row counts; it may be asked
    /// in any order of rows and about more rows than the answer has, so it must not depend on what it saw before.
    pub fn step(
        &mut self,
        meta: &BlockMeta,
        fetched: &Fetched,
        buffers: &mut ScanBuffers,
        mut accept: impl FnMut(&Row<'_>) -> bool,
    ) -> Result<TopStep> {
        if self.limit == 0 || self.plan.is_empty() {
            return Ok(TopStep::Done);
        }
        if self.queue.is_none() {
            let ranges = self.plan.time_ranges(meta);
            if !ranges.iter().all(|r| fetched.has(r)) {
                return Ok(TopStep::Fetch(ranges));
            }
            self.times = fetched.clone();
            self.read_times(meta, fetched, buffers)?;
        }
        loop {
            let Some((rank, next)) = self.queue.as_ref().and_then(|q| q.last()).copied() else {
                return Ok(TopStep::Done);
            };
            if rank < self.floor {
                return Ok(TopStep::Done);
            }
            if !self.is_fetched(meta, fetched, next) {
                return Ok(TopStep::Fetch(self.next_ranges(meta)));
            }
            self.visit(meta, fetched, buffers, next, &mut accept)?;
            self.queue.as_mut().map(Vec::pop);
        }
    }

    /// What has been looked at so far.
    pub fn stats(&self) -> &ScanStats {
        &self.stats
    }

    /// Bytes that the search holds between steps: the rows so far, and the times.
    pub fn memory_bytes(&self) -> usize {
        let row =
            |k: &Reverse<Kept>| size_of::<Kept>() + k.0.row.line.capacity() + k.0.row.metadata.packed().len();
        self.times.len() + self.kept.iter().map(row).sum::<usize>()
    }

    /// The answer, first row first.
    pub fn into_rows(self) -> Vec<TopRow> {
        // Reversed ranks ascend, so the best come first.
        self.kept.into_sorted_vec().into_iter().map(|Reverse(k)| k.row).collect()
    }

    /// Ranks the pages, and sets the floor if times alone decide.
    fn read_times(&mut self, meta: &BlockMeta, fetched: &Fetched, buffers: &mut ScanBuffers) -> Result<()> {
        buffers.reset();
        let decided = self.accepts_all && self.plan.predicate.is_trivial();
        let mut queue = Vec::with_capacity(self.plan.pages.len());
        let mut ranks = Vec::new();
        for (i, planned) in self.plan.pages.iter().enumerate() {
            let mut best = None;
            for s in &self.plan.segments[planned.segments.clone()] {
                let mut rows = s.rows.clone();
                while !rows.is_empty() {
                    let times = buffers.times.slice(meta, fetched, &rows)?;
                    let inside = match s.timed {
                        true => {
                            let start = times.partition_point(|t| *t < self.plan.range.start);
                            start..times.partition_point(|t| *t < self.plan.range.end).max(start)
                        }
                        false => 0..times.len(),
                    };
                    let rank = |i: usize| Rank::of(self.direction, times[i], rows.start + i as u32);
                    if !inside.is_empty() {
                        // Times ascend, so the best is at one of the ends.
                        best = best.max(Some(rank(inside.start).max(rank(inside.end - 1))));
                        if decided {
                            ranks.extend(inside.map(rank));
                            if ranks.len() >= 2 * self.limit + RANKS_SPARE {
                                let worse = ranks.len() - self.limit;
                                ranks.select_nth_unstable(worse);
                                ranks.drain(..worse);
                            }
                        }
                    }
                    rows.start += times.len() as u32;
                }
            }
            queue.extend(best.map(|rank| (rank, i)));
        }
        if ranks.len() > self.limit {
            let at = ranks.len() - self.limit;
            self.floor = *ranks.select_nth_unstable(at).1;
        }
        queue.sort_unstable();
        self.queue = Some(queue);
        Ok(())
    }

    fn is_fetched(&self, meta: &BlockMeta, fetched: &Fetched, page: usize) -> bool {
        let mut ranges = vec![];
        let planned = &self.plan.pages[page];
        self.plan.push_lines(meta, planned, &mut ranges);
        ranges.iter().all(|r| fetched.has(r))
    }

    /// The bytes of the next pages that may be needed.
    fn next_ranges(&mut self, meta: &BlockMeta) -> Vec<Range<u64>> {
        let mut ranges = vec![];
        let queue = self.queue.iter().flatten().rev();
        for (_, page) in queue.take(self.fetch_pages).take_while(|(rank, _)| *rank >= self.floor) {
            let planned = &self.plan.pages[*page];
            self.plan.push_lines(meta, planned, &mut ranges);
        }
        self.fetch_pages = (self.fetch_pages * 2).min(FETCH_PAGES.end);
        joined(ranges)
    }

    fn visit(
        &mut self,
        meta: &BlockMeta,
        fetched: &Fetched,
        buffers: &mut ScanBuffers,
        page: usize,
        accept: &mut impl FnMut(&Row<'_>) -> bool,
    ) -> Result<()> {
        let Self { plan, direction, limit, times, floor, kept, stats, .. } = self;
        let floor = std::cell::Cell::from_mut(floor);
        let mut scan = PageScan::new(meta, plan, times, fetched, buffers);
        let mut wanted = |row: u32, timestamp| Rank::of(*direction, timestamp, row) >= floor.get();
        let mut keep = |row: Row<'_>| {
            if accept(&row) {
                let rank = Rank::of(*direction, row.timestamp, row.row);
                let spare = if kept.len() == *limit { kept.pop() } else { None };
                kept.push(Reverse(Kept { rank, row: owned(&row, spare) }));
                if kept.len() == *limit
                    && let Some(Reverse(worst)) = kept.peek()
                {
                    floor.set(worst.rank);
                }
            }
            ControlFlow::Continue(())
        };
        let _ = scan.page(&plan.pages[page], &mut wanted, &mut keep)?;
        stats.merge(&scan.stats);
        Ok(())
    }
}

/// A copy of `row`, in the memory of a row that has fallen out of the answer.
fn owned(row: &Row<'_>, spare: Option<Reverse<Kept>>) -> TopRow {
    let mut line = spare.map_or_else(Vec::new, |Reverse(k)| k.row.line);
    line.clear();
    line.extend_from_slice(row.line);
    TopRow {
        stream: row.stream,
        row: row.row,
        timestamp: row.timestamp,
        line,
        metadata: row.metadata.to_owned(),
    }
}

//! Visits the matching rows of a plan in stored order.
//!
//! A page is decompressed once and searched as a whole; which line a hit lies in is worked out only at the hit.

use std::ops::{ControlFlow, Range};

use memchr::memmem::Finder;
use skald_model::{LabelsRef, Timestamp};

use super::columns::{LinePage, ScanBuffers};
use super::error::Result;
use super::fetched::Fetched;
use super::meta::BlockMeta;
use super::plan::{PlannedPage, ScanPlan, Segment, joined};
use super::predicate::PreparedPredicate;

/// A row as visitors see it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Number of its stream in the block.
    pub stream: u32,
    /// Its number in the block.
    pub row: u32,
    /// Nanoseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// The line.
    pub line: &'a [u8],
    /// Structured metadata, if it was asked for.
    pub metadata: LabelsRef<'a>,
}

/// What a scan has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Line pages decompressed.
    pub pages: u64,
    /// Rows that were candidates in them.
    pub lines: u64,
    /// Bytes of their lines.
    pub bytes: u64,
    /// Compressed bytes of the line pages.
    pub compressed_bytes: u64,
    /// Rows that passed.
    pub matched: u64,
}

impl ScanStats {
    /// Adds another scan's counters.
    pub fn merge(&mut self, o: &ScanStats) {
        self.pages += o.pages;
        self.lines += o.lines;
        self.bytes += o.bytes;
        self.compressed_bytes += o.compressed_bytes;
        self.matched += o.matched;
    }
}

/// Some line pages of a plan: what is fetched and scanned in one go.
#[derive(Clone, Debug)]
pub struct ScanPart {
    pages: Range<usize>,
}

impl ScanPlan {
    /// Cuts the plan into parts of about `bytes` compressed bytes of lines each, in stored order.
    pub fn parts(&self, meta: &BlockMeta, bytes: u64) -> Vec<ScanPart> {
        let (mut parts, mut start, mut sum) = (vec![], 0, 0);
        for (i, p) in self.pages.iter().enumerate() {
            let r = meta.pages.line.bytes(p.page);
            sum += r.end - r.start;
            if sum >= bytes || i + 1 == self.pages.len() {
                parts.push(ScanPart { pages: start..i + 1 });
                (start, sum) = (i + 1, 0);
            }
        }
        parts
    }

    /// Bytes to fetch for `part`.
    pub fn part_ranges(&self, meta: &BlockMeta, part: &ScanPart) -> Vec<Range<u64>> {
        let mut out = vec![];
        let pages = &self.pages[part.pages.clone()];
        if let (Some(first), Some(last)) = (pages.first(), pages.last()) {
            self.push_times(meta, first.segments.start..last.segments.end, &mut out);
        }
        pages.iter().for_each(|p| self.push_lines(meta, p, &mut out));
        joined(out)
    }
}

/// Visits the rows of `part` that match, in stored order, until `visit` breaks.
pub fn scan_pages(
    meta: &BlockMeta,
    plan: &ScanPlan,
    part: &ScanPart,
    fetched: &Fetched,
    buffers: &mut ScanBuffers,
    mut visit: impl FnMut(Row<'_>) -> ControlFlow<()>,
) -> Result<(ScanStats, ControlFlow<()>)> {
    let mut scan = PageScan::new(meta, plan, fetched, fetched, buffers);
    for planned in &plan.pages[part.pages.clone()] {
        if scan.page(planned, &mut |_, _| true, &mut visit)?.is_break() {
            return Ok((scan.stats, ControlFlow::Break(())));
        }
    }
    Ok((scan.stats, ControlFlow::Continue(())))
}

/// Visits the times of the plan's rows, stream by stream in stored order, without reading lines; so the plan's
/// predicate has no say beyond the pages that it excludes. Each slice is in order of time.
pub fn scan_times(
    meta: &BlockMeta,
    plan: &ScanPlan,
    fetched: &Fetched,
    buffers: &mut ScanBuffers,
    mut visit: impl FnMut(u32, &[Timestamp]),
) -> Result<()> {
    buffers.reset();
    for s in &plan.segments {
        let mut rows = s.rows.clone();
        while !rows.is_empty() {
            let times = buffers.times.slice(meta, fetched, &rows)?;
            rows.start += times.len() as u32;
            let times = if s.timed { clip(times, plan) } else { times };
            if !times.is_empty() {
                visit(s.stream, times);
            }
        }
    }
    Ok(())
}

fn clip<'a>(times: &'a [Timestamp], plan: &ScanPlan) -> &'a [Timestamp] {
    let start = times.partition_point(|t| *t < plan.range.start);
    let end = times.partition_point(|t| *t < plan.range.end);
    &times[start..end.max(start)]
}

/// Scans line pages one by one, in any order.
pub(crate) struct PageScan<'a> {
    meta: &'a BlockMeta,
    plan: &'a ScanPlan,
    /// Bytes of timestamps, and of lines and metadata.
    times: &'a Fetched,
    lines: &'a Fetched,
    buffers: &'a mut ScanBuffers,
    pub(crate) stats: ScanStats,
}

impl<'a> PageScan<'a> {
    pub(crate) fn new(
        meta: &'a BlockMeta,
        plan: &'a ScanPlan,
        times: &'a Fetched,
        lines: &'a Fetched,
        buffers: &'a mut ScanBuffers,
    ) -> Self {
        buffers.reset();
        Self { meta, plan, times, lines, buffers, stats: ScanStats::default() }
    }

    /// Visits the rows of `planned` that match and that `wanted` wants (by row and time).
    pub(crate) fn page(
        &mut self,
        planned: &PlannedPage,
        wanted: &mut impl FnMut(u32, Timestamp) -> bool,
        visit: &mut impl FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let ScanBuffers { decompressor, lines, times, metadata } = &mut *self.buffers;
        lines.load(self.meta, self.lines, planned.page, decompressor)?;
        let bytes = self.meta.pages.line.bytes(planned.page);
        self.stats.pages += 1;
        self.stats.compressed_bytes += bytes.end - bytes.start;
        for segment in &self.plan.segments[planned.segments.clone()] {
            let rows = match segment.timed {
                true => timely(segment, self.plan, |row| times.get(self.meta, self.times, row))?,
                false => segment.rows.clone(),
            };
            if rows.is_empty() {
                continue;
            }
            self.stats.lines += rows.len() as u64;
            self.stats.bytes += lines.span(&rows).len() as u64;
            let mut candidates = Candidates::new(lines, &self.plan.predicate, rows);
            while let Some(row) = candidates.next() {
                let timestamp = times.get(self.meta, self.times, row)?;
                if !wanted(row, timestamp) {
                    continue;
                }
                let line = lines.line(row);
                if !candidates.passes(line) {
                    continue;
                }
                self.stats.matched += 1;
                let metadata = match self.plan.metadata {
                    true => metadata.get(self.meta, self.lines, row, decompressor)?,
                    false => LabelsRef::EMPTY,
                };
                if visit(Row { stream: segment.stream, row, timestamp, line, metadata }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The rows of a segment whose times are inside the plan's range; a segment's times ascend.
fn timely(
    segment: &Segment,
    plan: &ScanPlan,
    mut time: impl FnMut(u32) -> Result<Timestamp>,
) -> Result<Range<u32>> {
    let mut first_at_least = |t: Timestamp, from: u32| {
        let (mut low, mut high) = (from, segment.rows.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if time(middle)? < t { low = middle + 1 } else { high = middle }
        }
        Ok::<_, super::Error>(low)
    };
    let start = first_at_least(plan.range.start, segment.rows.start)?;
    Ok(start..first_at_least(plan.range.end, start)?)
}

/// The rows of one segment that may pass: those in which a literal occurs, or all.
struct Candidates<'a> {
    page: &'a LinePage,
    predicate: &'a PreparedPredicate,
    rows: Range<u32>,
    search: Option<Search<'a>>,
}

impl<'a> Candidates<'a> {
    fn new(page: &'a LinePage, predicate: &'a PreparedPredicate, rows: Range<u32>) -> Self {
        let search = match predicate.literals() {
            [] => None,
            literals => {
                let span = page.span(&rows);
                Some(Search::new(literals, &page.data()[..span.end], span.start))
            }
        };
        Self { page, predicate, rows, search }
    }

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let Some(search) = &mut self.search else {
            return self.rows.next();
        };
        loop {
            let hit = search.next()?;
            let row = self.page.row_at(hit.start, self.rows.start);
            let end = self.page.span(&(row..row + 1)).end;
            if hit.end > end {
                // The hit reaches from one line into the next.
                search.move_to(hit.start + 1);
                continue;
            }
            search.move_to(end);
            self.rows.start = row + 1;
            return Some(row);
        }
    }

    #[inline]
    fn passes(&self, line: &[u8]) -> bool {
        if self.search.is_some() { self.predicate.matches_hit(line) } else { self.predicate.matches(line) }
    }
}

/// Finds the next of several literals.
struct Search<'a> {
    finders: &'a [Finder<'static>],
    data: &'a [u8],
    at: usize,
    /// The next place of each literal, if there are several; the data's end if there is none.
    next: [usize; 8],
}

impl<'a> Search<'a> {
    fn new(finders: &'a [Finder<'static>], data: &'a [u8], at: usize) -> Self {
        let mut search = Self { finders, data, at, next: [0; 8] };
        if finders.len() > 1 {
            (0..finders.len()).for_each(|i| search.find(i));
        }
        search
    }

    fn find(&mut self, i: usize) {
        let found = self.finders[i].find(&self.data[self.at..]);
        self.next[i] = found.map_or(self.data.len(), |n| self.at + n);
    }

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        if let [finder] = self.finders {
            let start = self.at + finder.find(&self.data[self.at..])?;
            return Some(start..start + finder.needle().len());
        }
        let n = self.finders.len();
        let (start, i) = self.next[..n].iter().copied().zip(0..).min()?;
        (start < self.data.len()).then(|| start..start + self.finders[i].needle().len())
    }

    fn move_to(&mut self, at: usize) {
        self.at = at;
        if self.finders.len() > 1 {
            for i in 0..self.finders.len() {
                if self.next[i] < at {
                    self.find(i);
                }
            }
        }
    }
}

//! Which rows and pages a query needs of a block, before any of them is read.

use std::ops::Range;

use skald_model::TimeRange;

use super::error::Result;
use super::fetched::coalesce;
use super::line_filter::PageProbe;
use super::meta::{BlockMeta, Pages};
use super::predicate::PreparedPredicate;

/// Ranges closer than this are read as one.
const GAP: u64 = 64 << 10;

/// What is wanted of a block.
#[derive(Clone, Copy, Debug)]
pub struct ScanRequest<'a> {
    /// Numbers of the streams, ascending, as [`super::StreamIndex::select`] gives them.
    pub streams: &'a [u32],
    /// Times wanted.
    pub range: TimeRange,
    /// Lines wanted.
    pub predicate: &'a PreparedPredicate,
    /// Whether structured metadata is wanted; rows come without if not.
    pub metadata: bool,
}

/// The rows of one stream inside one line page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) stream: u32,
    pub(crate) rows: Range<u32>,
    /// Whether some of the rows may lie outside of the time range.
    pub(crate) timed: bool,
}

/// A line page with rows that may match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedPage {
    pub(crate) page: usize,
    /// Its part of the plan's segments.
    pub(crate) segments: Range<usize>,
}

/// The candidate rows of a block in stored order.
#[derive(Clone, Debug)]
pub struct ScanPlan {
    pub(crate) segments: Vec<Segment>,
    pub(crate) pages: Vec<PlannedPage>,
    pub(crate) range: TimeRange,
    pub(crate) predicate: PreparedPredicate,
    pub(crate) metadata: bool,
    pages_excluded: usize,
}

/// Plans the reading of a block: streams and times by the stream index, times inside long streams by the bounds of
/// timestamp pages, line pages by the line filter.
pub fn plan_scan(meta: &BlockMeta, request: &ScanRequest<'_>) -> Result<ScanPlan> {
    let mut plan = ScanPlan {
        segments: vec![],
        pages: vec![],
        range: request.range,
        predicate: request.predicate.clone(),
        metadata: request.metadata && meta.has_metadata(),
        pages_excluded: 0,
    };
    let probe = meta.probe(request.predicate.keys());
    let mut excluded = None;
    for stream in request.streams {
        let extent = meta.streams().extent(*stream)?;
        if !request.range.overlaps(extent.min_ts, extent.max_ts) {
            continue;
        }
        let timed = !request.range.covers(extent.min_ts, extent.max_ts);
        if timed {
            for rows in timely_rows(meta, extent.rows, request.range) {
                plan.add(meta, *stream, rows, timed, &probe, &mut excluded);
            }
        } else {
            plan.add(meta, *stream, extent.rows, timed, &probe, &mut excluded);
        }
    }
    Ok(plan)
}

/// The parts of `rows` in timestamp pages that hold times in `range`.
pub(crate) fn timely_rows(meta: &BlockMeta, rows: Range<u32>, range: TimeRange) -> Vec<Range<u32>> {
    meta.pages.timestamp.parts(&rows, |page| {
        let (min, max) = meta.pages.times(page);
        range.overlaps(min, max)
    })
}

impl ScanPlan {
    /// Adds the rows, cut at the borders of line pages, without the pages that can't hold what is wanted.
    fn add(
        &mut self,
        meta: &BlockMeta,
        stream: u32,
        rows: Range<u32>,
        timed: bool,
        probe: &PageProbe<'_>,
        excluded: &mut Option<usize>,
    ) {
        let lines = &meta.pages.line;
        let mut row = rows.start;
        if rows.is_empty() {
            return;
        }
        // Streams follow each other, so the next one mostly begins where the last one ended.
        let last = self.pages.last().map(|p| p.page).filter(|p| lines.rows(*p).contains(&row));
        let mut page = last.unwrap_or_else(|| lines.of_row(row));
        while row < rows.end {
            let end = lines.rows(page).end.min(rows.end);
            let known = self.pages.last().is_some_and(|p| p.page == page);
            let wanted = known || (*excluded != Some(page) && probe.may_hold(page));
            if wanted {
                let at = self.segments.len();
                self.segments.push(Segment { stream, rows: row..end, timed });
                match self.pages.last_mut() {
                    Some(p) if known => p.segments.end = at + 1,
                    _ => self.pages.push(PlannedPage { page, segments: at..at + 1 }),
                }
            } else if *excluded != Some(page) {
                *excluded = Some(page);
                self.pages_excluded += 1;
            }
            row = end;
            page += 1;
        }
    }

    /// Whether no row can match.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Number of line pages to read.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Number of line pages with wanted streams that the line filter has excluded.
    pub fn pages_excluded(&self) -> usize {
        self.pages_excluded
    }

    /// Number of candidate rows.
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|s| u64::from(s.rows.end - s.rows.start)).sum()
    }

    /// The numbers of the streams that have candidate rows, ascending; a stream may come more than once.
    pub fn streams(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments.iter().map(|s| s.stream)
    }

    /// Bytes to fetch for [`super::scan_times`].
    pub fn time_ranges(&self, meta: &BlockMeta) -> Vec<Range<u64>> {
        let mut out = vec![];
        self.push_times(meta, 0..self.segments.len(), &mut out);
        coalesce(out, GAP)
    }

    /// Bytes of the timestamps of some segments.
    pub(crate) fn push_times(&self, meta: &BlockMeta, segments: Range<usize>, out: &mut Vec<Range<u64>>) {
        let mut last = None;
        for s in &self.segments[segments] {
            for_pages(&meta.pages.timestamp, &s.rows, |page| {
                if last.replace(page) == Some(page) {
                    return;
                }
                out.push(meta.pages.timestamp.bytes(page));
                out.push(meta.pages.nanos.bytes(page));
                let dictionary = &meta.group_of_row(s.rows.start).nanos_dictionary;
                out.push(dictionary.clone());
                out.push(meta.group_of_row(s.rows.end - 1).nanos_dictionary.clone());
            });
        }
    }

    /// Bytes of the lines, and of the metadata if it is wanted, of one planned page.
    pub(crate) fn push_lines(&self, meta: &BlockMeta, page: &PlannedPage, out: &mut Vec<Range<u64>>) {
        out.push(meta.pages.line.bytes(page.page));
        if self.metadata {
            for s in &self.segments[page.segments.clone()] {
                for_pages(&meta.pages.metadata_key, &s.rows, |p| {
                    out.push(meta.pages.metadata_key.bytes(p));
                    out.push(meta.pages.metadata_value.bytes(p));
                });
            }
        }
    }
}

/// Calls `each` with the pages that hold `rows`.
fn for_pages(pages: &Pages, rows: &Range<u32>, mut each: impl FnMut(usize)) {
    if !rows.is_empty() {
        (pages.of_row(rows.start)..=pages.of_row(rows.end - 1)).for_each(&mut each);
    }
}

/// Joins ranges that are near each other.
pub(crate) fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    coalesce(ranges, GAP)
}

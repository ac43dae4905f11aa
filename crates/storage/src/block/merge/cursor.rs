//! One input: its streams one after the other, its rows from bytes that are handed in piece by piece.

use std::collections::VecDeque;
use std::ops::Range;

use skald_model::{EntryHash, Labels, LabelsRef, StreamId, TimeRange, Timestamp};

use super::output::Output;
use super::{KeepStream, Kept, MergeOptions, MergeStats};
use crate::block::columns::ScanBuffers;
use crate::block::error::Result;
use crate::block::fetched::Fetched;
use crate::block::meta::{BlockMeta, Pages};
use crate::block::plan::{joined, timely_rows};
use crate::block::stream_index::StreamReader;

/// Most streams that are looked ahead at, to know what to fetch.
const AHEAD: usize = 1024;

/// Rows of one stream.
pub(super) struct Segment {
    pub(super) labels: Labels,
    pub(super) id: StreamId,
    rows: Range<u32>,
    /// Whether some of the rows may lie outside of the times wanted.
    timed: bool,
    kept: Kept,
}

/// Where a cursor stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// At a row of this time.
    At(Timestamp),
    /// Behind its last row.
    End,
    /// At a row whose bytes are not at hand.
    Fetch,
}

/// See the module's page.
pub(super) struct Cursor {
    input: usize,
    meta: BlockMeta,
    keep: KeepStream,
    range: TimeRange,
    fetch_bytes: u64,
    reader: StreamReader,
    /// The next stream that was not looked at.
    next: u32,
    /// The streams from the current one on that were.
    ahead: VecDeque<Segment>,
    row: u32,
    fetched: Fetched,
    buffers: ScanBuffers,
    /// The rows of the line page in the buffers.
    line_rows: Range<u32>,
}

impl Cursor {
    pub(super) fn new(input: usize, meta: BlockMeta, keep: KeepStream, options: &MergeOptions) -> Self {
        Self {
            input,
            meta,
            keep,
            range: options.range,
            fetch_bytes: options.fetch_bytes,
            reader: StreamReader::default(),
            next: 0,
            ahead: VecDeque::new(),
            row: 0,
            fetched: Fetched::new(),
            buffers: ScanBuffers::new(),
            line_rows: 0..0,
        }
    }

    pub(super) fn input(&self) -> usize {
        self.input
    }

    pub(super) fn set_fetched(&mut self, bytes: Fetched) {
        self.fetched = bytes;
    }

    /// The current stream; `None` behind the last one.
    pub(super) fn segment(&mut self) -> Result<Option<&Segment>> {
        if self.ahead.is_empty() && self.look_ahead()? {
            self.row = self.ahead[0].rows.start;
        }
        Ok(self.ahead.front())
    }

    /// Turns to the next stream.
    pub(super) fn end_stream(&mut self) {
        self.ahead.pop_front();
        if let Some(next) = self.ahead.front() {
            self.row = next.rows.start;
        }
    }

    /// Looks at one more stream of which something may stay; `false` if there is none.
    fn look_ahead(&mut self) -> Result<bool> {
        let streams = self.meta.streams();
        while (self.next as usize) < streams.len() {
            let ordinal = self.next;
            self.next += 1;
            let (min_ts, max_ts) = self.reader.times(streams, ordinal)?;
            if !self.range.overlaps(min_ts, max_ts) {
                continue;
            }
            let info = self.reader.info(streams, ordinal)?;
            let (first, last) = (min_ts.max(self.range.start), max_ts.min(self.range.end.saturating_sub(1)));
            let kept = (self.keep)(info.labels.as_ref(), first, last);
            if matches!(kept, Kept::Nothing) || info.rows.is_empty() {
                continue;
            }
            let timed = !self.range.covers(min_ts, max_ts) && self.range != TimeRange::ALL;
            self.ahead.push_back(Segment { labels: info.labels, id: info.id, rows: info.rows, timed, kept });
            return Ok(true);
        }
        Ok(false)
    }

    /// Where the cursor stands, rows before the times wanted passed over.
    pub(super) fn head(&mut self) -> Result<Head> {
        let Some(segment) = self.ahead.front() else { return Ok(Head::End) };
        while self.row < segment.rows.end {
            if segment.timed {
                let pages = &self.meta.pages.timestamp;
                let page = pages.of_row(self.row);
                let (min, max) = self.meta.pages.micros[page];
                if max.saturating_mul(1000).saturating_add(999) < self.range.start {
                    self.row = pages.rows(page).end;
                    continue;
                }
                if min.saturating_mul(1000) >= self.range.end {
                    return Ok(Head::End);
                }
            }
            if !self.is_at_hand() {
                return Ok(Head::Fetch);
            }
            let ts = self.buffers.times.get(&self.meta, &self.fetched, self.row)?;
            if !segment.timed {
                return Ok(Head::At(ts));
            }
            if ts >= self.range.end {
                return Ok(Head::End);
            }
            if ts >= self.range.start {
                return Ok(Head::At(ts));
            }
            let rows = self.row..segment.rows.end;
            let times = self.buffers.times.slice(&self.meta, &self.fetched, &rows)?;
            self.row += times.partition_point(|t| *t < self.range.start) as u32;
        }
        Ok(Head::End)
    }

    /// Whether everything about the current row has been fetched.
    fn is_at_hand(&self) -> bool {
        let (row, pages) = (self.row, &self.meta.pages);
        let has = |column: &Pages| self.fetched.has(&column.bytes(column.of_row(row)));
        let lines = self.line_rows.contains(&row) || has(&pages.line);
        let times = self.buffers.times.holds(row)
            || (has(&pages.timestamp)
                && has(&pages.nanos)
                && self.fetched.has(&self.meta.group_of_row(row).nanos_dictionary));
        let metadata = !self.meta.has_metadata()
            || self.buffers.metadata.holds(row)
            || (has(&pages.metadata_key) && has(&pages.metadata_value));
        lines && times && metadata
    }

    /// The bytes to go on with from the current row: those of the next line pages, and of the other columns of their rows.
    pub(super) fn plan_fetch(&mut self) -> Result<Vec<Range<u64>>> {
        let mut plan = FetchPlan { limit: self.fetch_bytes, ..FetchPlan::default() };
        let mut number = 0;
        loop {
            if number == self.ahead.len() && (number >= AHEAD || !self.look_ahead()?) {
                break;
            }
            let segment = &self.ahead[number];
            let start = if number == 0 { self.row } else { segment.rows.start };
            let rows = start..segment.rows.end;
            let parts = if segment.timed { timely_rows(&self.meta, rows, self.range) } else { vec![rows] };
            if !parts.into_iter().all(|rows| plan.add(&self.meta, rows)) {
                break;
            }
            number += 1;
        }
        Ok(joined(plan.ranges))
    }

    /// Copies rows of the current stream up to time `last`, as far as their bytes are at hand.
    pub(super) fn copy(
        &mut self,
        last: Timestamp,
        output: &mut Output,
        stats: &mut MergeStats,
    ) -> Result<()> {
        let Some(segment) = self.ahead.front() else { return Ok(()) };
        let last = if segment.timed { last.min(self.range.end - 1) } else { last };
        let end = segment.rows.end;
        while self.row < end && !output.is_full() && self.is_at_hand() {
            let rows = self.row..self.end_of_pages(end);
            if !self.copy_rows(&rows, last, output, stats)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The first row, up to `end`, that lies in other pages than the current one.
    fn end_of_pages(&self, end: u32) -> u32 {
        let (row, pages) = (self.row, &self.meta.pages);
        let mut columns = vec![&pages.line, &pages.timestamp];
        if self.meta.has_metadata() {
            columns.push(&pages.metadata_key);
        }
        columns.into_iter().map(|c| c.rows(c.of_row(row)).end).fold(end, u32::min)
    }

    /// Copies rows that lie in one page of each column, up to time `last`; whether there may be more of them after it.
    fn copy_rows(
        &mut self,
        rows: &Range<u32>,
        last: Timestamp,
        output: &mut Output,
        stats: &mut MergeStats,
    ) -> Result<bool> {
        let Self { meta, fetched, ahead, row, line_rows, buffers, .. } = self;
        let ScanBuffers { decompressor, lines, times, metadata } = buffers;
        let Some(segment) = ahead.front_mut() else { return Ok(false) };
        if !line_rows.contains(&rows.start) {
            let page = meta.pages.line.of_row(rows.start);
            *line_rows = 0..0;
            lines.load(meta, fetched, page, decompressor)?;
            *line_rows = meta.pages.line.rows(page);
        }
        let times = times.slice(meta, fetched, rows)?;
        let count = times.partition_point(|t| *t <= last);
        let has_metadata = meta.has_metadata();
        for ts in &times[..count] {
            let line = lines.line(*row);
            let metadata = match has_metadata {
                true => metadata.get(meta, fetched, *row, decompressor)?,
                false => LabelsRef::EMPTY,
            };
            *row += 1;
            stats.rows_read += 1;
            if let Kept::Rows(keep) = &mut segment.kept
                && !keep(*ts, line, metadata)
            {
                stats.removed += 1;
                continue;
            }
            match output.row(*ts, line, metadata, EntryHash::of(*ts, line, metadata))? {
                true => stats.rows_written += 1,
                false => stats.duplicates += 1,
            }
        }
        Ok(count == times.len())
    }
}

/// Collects what to fetch, in stored order.
#[derive(Default)]
struct FetchPlan {
    ranges: Vec<Range<u64>>,
    bytes: u64,
    limit: u64,
    line_page: Option<usize>,
    time_page: Option<usize>,
    metadata_page: Option<usize>,
}

impl FetchPlan {
    /// Adds what `rows` need; `false` when the plan is full.
    fn add(&mut self, meta: &BlockMeta, rows: Range<u32>) -> bool {
        let lines = &meta.pages.line;
        let mut row = rows.start;
        while row < rows.end {
            let page = lines.of_row(row);
            if self.line_page != Some(page) {
                if self.bytes >= self.limit && !self.ranges.is_empty() {
                    return false;
                }
                let bytes = lines.bytes(page);
                self.bytes += bytes.end - bytes.start;
                self.ranges.push(bytes);
                self.line_page = Some(page);
            }
            let end = lines.rows(page).end.min(rows.end);
            self.add_columns(meta, row..end);
            row = end;
        }
        true
    }

    fn add_columns(&mut self, meta: &BlockMeta, rows: Range<u32>) {
        let pages = &meta.pages;
        let of = |column: &Pages| column.of_row(rows.start)..=column.of_row(rows.end - 1);
        for page in of(&pages.timestamp) {
            if self.time_page.replace(page) != Some(page) {
                self.ranges.push(pages.timestamp.bytes(page));
                self.ranges.push(pages.nanos.bytes(page));
                let first = pages.timestamp.rows(page).start;
                self.ranges.push(meta.group_of_row(first).nanos_dictionary.clone());
            }
        }
        if meta.has_metadata() {
            for page in of(&pages.metadata_key) {
                if self.metadata_page.replace(page) != Some(page) {
                    self.ranges.push(pages.metadata_key.bytes(page));
                    self.ranges.push(pages.metadata_value.bytes(page));
                }
            }
        }
    }
}

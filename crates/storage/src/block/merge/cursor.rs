//! One input: its streams one after the other, its rows from bytes that are handed in piece by piece.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use skald_model::{Labels, LabelsRef, StreamId, TimeRange, Timestamp};

use super::fetch::FetchPlan;
use super::window::{Part, Standing, Wanted, Window};
use super::{KeepStream, Kept, KeptRows, MergeOptions, MergeStats};
use crate::block::columns::ScanBuffers;
use crate::block::error::Result;
use crate::block::fetched::Fetched;
use crate::block::line_filter::{FilterKeys, PageSet};
use crate::block::meta::{BlockMeta, Pages};
use crate::block::plan::timely_rows;
use crate::block::stream_index::{StreamInfo, StreamReader};
use crate::block::writer::StreamPart;

/// Most streams that are looked ahead at, to know what to fetch.
const AHEAD: usize = 1024;

/// Where rows go.
pub(super) trait Sink {
    /// Takes a row; `false` if it has the same already.
    fn row(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>) -> Result<bool>;

    /// A row did not stay.
    fn gone(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>);

    /// Whether no more rows should come for now.
    fn is_full(&self) -> bool;
}

/// Rows of one stream.
pub(super) struct Segment {
    pub(super) labels: Labels,
    pub(super) id: StreamId,
    /// The stream's number in the block.
    pub(super) ordinal: u32,
    /// What there was of the stream, if it has rows outside of the window, and that tells what is left.
    pub(super) whole: Option<StreamPart>,
    /// Whether it has rows there, and how it stands then.
    pub(super) crossing: Option<Standing>,
    /// How many rows the window has of it.
    pub(super) in_window: u32,
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
    window: Window,
    reader: StreamReader,
    /// For keys that were asked about, the line pages that may hold what passes.
    probed: Vec<(Arc<FilterKeys>, PageSet)>,
    /// How the stream stands that was asked about last, of those that do not lie in one window.
    standing: Option<(u32, Standing)>,
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
        let window = Window { rows: 0..meta.rows(), first: 0, wanted: Wanted::Staying };
        Self {
            window,
            input,
            meta,
            keep,
            range: options.range,
            fetch_bytes: options.fetch_bytes,
            reader: StreamReader::default(),
            probed: Vec::new(),
            standing: None,
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

    pub(super) fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Goes through these rows from now on. What was fetched stays at hand.
    pub(super) fn turn_to(&mut self, window: Window) {
        self.ahead.clear();
        self.next = window.first;
        self.window = window;
    }

    /// The rows that it goes through.
    pub(super) fn window(&self) -> Window {
        self.window.clone()
    }

    /// The bytes that the names or the values of a page of structured metadata take when they are packed.
    pub(super) fn packed_bytes(&mut self, page: &[u8]) -> Result<u64> {
        let ScanBuffers { metadata, decompressor, .. } = &mut self.buffers;
        metadata.packed_bytes(page, decompressor)
    }

    /// What was fetched last.
    pub(super) fn fetched(&self) -> &Fetched {
        &self.fetched
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

    /// Looks at one more stream of which something is wanted; `false` if there is none.
    fn look_ahead(&mut self) -> Result<bool> {
        while (self.next as usize) < self.meta.streams().len() {
            let ordinal = self.next;
            let extent = self.reader.extent(self.meta.streams(), ordinal)?;
            if extent.rows.start >= self.window.rows.end {
                break;
            }
            self.next += 1;
            if !self.range.overlaps(extent.min_ts, extent.max_ts) {
                continue;
            }
            let part = self.part(ordinal)?;
            let wanted = match self.window.wanted {
                Wanted::Staying => !matches!(part.kept, Kept::Nothing),
                Wanted::Unknown => part.is_unknown(),
            };
            if !wanted || part.rows.is_empty() {
                continue;
            }
            let timed = !self.range.covers(extent.min_ts, extent.max_ts) && self.range != TimeRange::ALL;
            let (whole, crossing, in_window) = (part.crossing_whole(), part.crossing, part.rows.len() as u32);
            let segment = |info: &StreamInfo, rows, kept| {
                let (labels, id) = (info.labels.clone(), info.id);
                Segment { labels, id, ordinal, whole, crossing, in_window, rows, timed, kept }
            };
            if self.window.wanted == Wanted::Unknown
                && let Some(pieces) = self.pieces(&part)
            {
                for rows in pieces {
                    let kept = self.keep(&part.info, part.info.min_ts, part.info.max_ts);
                    self.ahead.push_back(segment(&part.info, rows, kept));
                }
                return Ok(true);
            }
            let Part { info, rows, kept, .. } = part;
            self.ahead.push_back(segment(&info, rows, kept));
            return Ok(true);
        }
        Ok(false)
    }

    /// What the window has of a stream, and what of it stays.
    pub(super) fn part(&mut self, ordinal: u32) -> Result<Part> {
        let info = self.reader.info(self.meta.streams(), ordinal)?;
        let rows = info.rows.start.max(self.window.rows.start)..info.rows.end.min(self.window.rows.end);
        let crosses = rows != info.rows;
        let (min_ts, max_ts) = if crosses { self.times(&info, &rows) } else { (info.min_ts, info.max_ts) };
        let kept = self.keep_rows(&info, &rows, min_ts, max_ts);
        let crossing = crosses.then(|| self.standing(ordinal, &info));
        Ok(Part { info, rows, kept, crossing })
    }

    /// How a stream stands that has rows in several row groups.
    fn standing(&mut self, ordinal: u32, info: &StreamInfo) -> Standing {
        if let Some((known, standing)) = self.standing
            && known == ordinal
        {
            return standing;
        }
        let standing = match self.keep_rows(info, &info.rows, info.min_ts, info.max_ts) {
            Kept::All => Standing::Whole,
            Kept::Nothing => Standing::Counted,
            Kept::Rows(_) if self.any_group_goes(info) => Standing::Counted,
            Kept::Rows(_) => Standing::Less,
        };
        self.standing = Some((ordinal, standing));
        standing
    }

    /// Whether nothing stays of what some row group has of a stream.
    fn any_group_goes(&mut self, info: &StreamInfo) -> bool {
        let mut row = info.rows.start;
        while row < info.rows.end {
            let end = self.meta.rows_of_group(self.meta.number_of_group(row)).end.min(info.rows.end);
            let (min_ts, max_ts) = self.times(info, &(row..end));
            if matches!(self.keep(info, min_ts, max_ts), Kept::Nothing) {
                return true;
            }
            row = end;
        }
        false
    }

    /// Which rows of a part are to be read to know whether all of them stay, if that need not be all: those that may go, and
    /// for what is left of a stream with rows elsewhere the first and the last one, for their times.
    fn pieces(&mut self, part: &Part) -> Option<Vec<Range<u32>>> {
        let mut pieces = match &part.kept {
            _ if part.crossing == Some(Standing::Counted) => return None,
            Kept::Rows(KeptRows { gone: Some(keys), .. }) => self.pages_with(&part.rows, keys),
            Kept::Rows(_) | Kept::Nothing => return None,
            Kept::All => Vec::new(),
        };
        if part.crossing.is_some() {
            let Range { start, end } = part.rows;
            if pieces.first().is_none_or(|first| first.start > start) {
                pieces.insert(0, start..start + 1);
            }
            if pieces.last().is_none_or(|last| last.end < end) {
                pieces.push(end - 1..end);
            }
        }
        Some(pieces)
    }

    /// What stays of some rows of a stream, as far as the block's filters tell.
    fn keep_rows(&mut self, info: &StreamInfo, rows: &Range<u32>, min: Timestamp, max: Timestamp) -> Kept {
        match self.keep(info, min, max) {
            Kept::Rows(KeptRows { gone: Some(keys), .. }) if self.pages_with(rows, &keys).is_empty() => {
                Kept::All
            }
            kept => kept,
        }
    }

    fn keep(&mut self, info: &StreamInfo, min_ts: Timestamp, max_ts: Timestamp) -> Kept {
        let (first, last) = (min_ts.max(self.range.start), max_ts.min(self.range.end.saturating_sub(1)));
        (self.keep)(info.labels.as_ref(), first, last)
    }

    /// Those of `rows` that lie in line pages which may hold what one of `keys` passes.
    fn pages_with(&mut self, rows: &Range<u32>, keys: &[Arc<FilterKeys>]) -> Vec<Range<u32>> {
        for keys in keys {
            if !self.probed.iter().any(|(known, _)| Arc::ptr_eq(known, keys)) {
                let probe = self.meta.probe(keys);
                let pages = (0..self.meta.pages.line.len()).filter(|page| probe.may_hold(*page)).collect();
                self.probed.push((keys.clone(), pages));
            }
        }
        let sets = self.probed.iter().filter(|(known, _)| keys.iter().any(|k| Arc::ptr_eq(known, k)));
        let sets: Vec<&PageSet> = sets.map(|(_, pages)| pages).collect();
        self.meta.pages.line.parts(rows, |page| sets.iter().any(|set| set.contains(page)))
    }

    /// Times between which some of the rows of a stream lie, as far as the page index tells.
    fn times(&self, info: &StreamInfo, rows: &Range<u32>) -> (Timestamp, Timestamp) {
        let pages = &self.meta.pages;
        let of_row = |row| pages.times(pages.timestamp.of_row(row));
        let (first, last) = (of_row(rows.start).0, of_row(rows.end - 1).1);
        (info.min_ts.max(first), info.max_ts.min(last))
    }

    /// Where the cursor stands, rows before the times wanted passed over.
    pub(super) fn head(&mut self) -> Result<Head> {
        let Some(segment) = self.ahead.front() else { return Ok(Head::End) };
        while self.row < segment.rows.end {
            if segment.timed {
                let pages = &self.meta.pages.timestamp;
                let page = pages.of_row(self.row);
                let (min, max) = self.meta.pages.times(page);
                if max < self.range.start {
                    self.row = pages.rows(page).end;
                    continue;
                }
                if min >= self.range.end {
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
        let mut plan = FetchPlan::new(self.fetch_bytes);
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
        Ok(plan.into_ranges())
    }

    /// Copies rows of the current stream up to time `last`, as far as their bytes are at hand.
    pub(super) fn copy(
        &mut self,
        last: Timestamp,
        sink: &mut impl Sink,
        stats: &mut MergeStats,
    ) -> Result<()> {
        let Some(segment) = self.ahead.front() else { return Ok(()) };
        let last = if segment.timed { last.min(self.range.end - 1) } else { last };
        let end = segment.rows.end;
        while self.row < end && !sink.is_full() && self.is_at_hand() {
            let rows = self.row..self.end_of_pages(end);
            if !self.copy_rows(&rows, last, sink, stats)? {
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
        sink: &mut impl Sink,
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
                && !keep.keep(*ts, line, metadata)
            {
                stats.removed += 1;
                sink.gone(*ts, line, metadata);
                continue;
            }
            match sink.row(*ts, line, metadata)? {
                true => stats.rows_written += 1,
                false => {
                    stats.duplicates += 1;
                    stats.duplicate_bytes += line.len() as u64;
                }
            }
        }
        Ok(count == times.len())
    }
}

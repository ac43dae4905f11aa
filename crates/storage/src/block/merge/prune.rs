//! Writes one block anew without what does not stay, and copies the row groups of which everything does.
//!
//! A row group whose streams all stay is copied as bytes, with its part of the filters; nothing of it is decoded. If only its
//! rows can tell, they are looked at, up to the first one that goes: if none does, the row group is copied, too. So a rewrite
//! costs what reading and writing the file does, and for the row groups concerned what it takes to encode them.

use std::ops::Range;

use skald_model::{EntryHash, LabelsRef, Timestamp};

use super::cursor::{Cursor, Head, Sink, Wanted, Window};
use super::output::Output;
use super::{KeepStream, Kept, MergeOptions, MergeStats, MergeStep, Rewriting};
use crate::block::error::{Result, corrupt};
use crate::block::fetched::Fetched;
use crate::block::format::Column;
use crate::block::groups::{StoredGroup, StoredPage};
use crate::block::meta::BlockMeta;
use crate::block::page;
use crate::block::writer::StreamPart;

/// The only input's number.
const INPUT: usize = 0;
/// A row group with fewer rows than one of so many parts of a full one is not copied: else those of which rows have gone again
/// and again would never become whole ones.
const SMALL: usize = 8;

/// One block that is written anew. It becomes one block, or none if nothing stays.
pub struct Prune {
    options: MergeOptions,
    keep: Option<KeepStream>,
    cursor: Option<Cursor>,
    /// The row groups of the block, taken as they are copied.
    groups: Vec<Option<StoredGroup>>,
    /// The next row group.
    next: usize,
    /// The first stream of the next row group.
    first: u32,
    doing: Doing,
    /// The stream that the output was told of last.
    stream: Option<u32>,
    output: Output,
    stats: MergeStats,
}

/// What is done about the row group before the next one.
enum Doing {
    /// Nothing is left to do.
    Choose,
    /// Its rows are looked at.
    Look(Look),
    /// Its rows are written.
    Write,
    /// Its pages are copied.
    Copy(Copying),
}

/// What its streams tell about a row group.
#[derive(Default)]
struct Survey {
    /// The number of the stream after the last that is in it.
    end: u32,
    /// Whether the last of its streams goes on after it.
    goes_on: bool,
    any_stays: bool,
    any_goes: bool,
    any_unknown: bool,
}

/// Rows that are looked at.
#[derive(Default)]
struct Look {
    /// The number of the stream that is.
    stream: Option<u32>,
    /// Whether its rows are counted.
    counts: bool,
    /// Of each stream looked at that has rows in other row groups: its number and what is here.
    parts: Vec<(u32, StreamPart)>,
    any_gone: bool,
}

/// A row group that is copied.
struct Copying {
    pages: Vec<StoredPage>,
    /// The next page.
    next: usize,
}

impl Sink for Look {
    fn row(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>) -> Result<bool> {
        if self.counts
            && let Some((_, part)) = self.parts.last_mut()
        {
            part.row(timestamp, line, metadata, EntryHash::of(timestamp, line, metadata));
        }
        Ok(true)
    }

    fn gone(&mut self) {
        self.any_gone = true;
    }

    fn is_full(&self) -> bool {
        self.any_gone
    }
}

impl Prune {
    /// Of the input with number 0.
    pub fn new(keep: KeepStream, options: MergeOptions) -> Self {
        // One block stays one block: what it took to write it, it takes again.
        let options = MergeOptions { target_bytes: u64::MAX / 2, writer_bytes: usize::MAX, ..options };
        Self {
            keep: Some(keep),
            cursor: None,
            groups: Vec::new(),
            next: 0,
            first: 0,
            doing: Doing::Choose,
            stream: None,
            output: Output::new(&options),
            stats: MergeStats::default(),
            options,
        }
    }
}

impl Rewriting for Prune {
    fn set_pushes(&mut self, pushes: crate::block::PushList) {
        self.output.set_pushes(pushes);
    }

    fn opened(&mut self, _: usize, mut meta: BlockMeta) {
        if let Some(keep) = self.keep.take() {
            self.groups = std::mem::take(&mut meta.stored_groups);
            if !self.output.can_copy(&meta) {
                self.groups.clear();
            }
            self.cursor = Some(Cursor::new(INPUT, meta, keep, &self.options));
        }
    }

    fn fetched(&mut self, _: usize, bytes: Fetched) {
        if let Some(cursor) = &mut self.cursor {
            cursor.set_fetched(bytes);
        }
    }

    fn stats(&self) -> MergeStats {
        self.stats
    }

    fn step(&mut self) -> Result<MergeStep> {
        loop {
            if let Some(step) = self.output.take_step() {
                return Ok(step);
            }
            let Some(cursor) = &mut self.cursor else { return Ok(MergeStep::Open { input: INPUT }) };
            let fetch = match &mut self.doing {
                Doing::Choose if self.next == cursor.meta().groups.len() => {
                    self.output.finish()?;
                    return Ok(self.output.take_step().unwrap_or(MergeStep::Done));
                }
                Doing::Choose => self.choose()?,
                Doing::Look(_) => self.look()?,
                Doing::Write => self.write()?,
                Doing::Copy(_) => self.copy()?,
            };
            if let Some(ranges) = fetch {
                return Ok(MergeStep::Fetch { input: INPUT, ranges });
            }
        }
    }
}

/// Byte ranges without which it does not go on.
type Needed = Option<Vec<Range<u64>>>;

impl Prune {
    /// Turns to the next row group.
    fn choose(&mut self) -> Result<Needed> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        let rows = cursor.meta().rows_of_group(self.next);
        let is_small = rows.len() < self.options.block.row_group_rows / SMALL;
        let window = Window { rows, first: self.first, wanted: Wanted::Staying };
        cursor.turn_to(window.clone());
        let survey = survey(cursor, &window)?;
        let group = self.groups.get(self.next).is_some_and(Option::is_some);
        self.next += 1;
        self.first = survey.end - u32::from(survey.goes_on);
        if !survey.any_stays {
            return Ok(None);
        }
        if survey.any_goes || is_small || !group {
            self.doing = Doing::Write;
        } else {
            cursor.turn_to(Window { wanted: Wanted::Unknown, ..window });
            self.doing = Doing::Look(Look::default());
            if !survey.any_unknown {
                self.begin_copy(Look::default())?;
            }
        }
        Ok(None)
    }

    /// Looks at the rows of which only they can tell whether they stay.
    fn look(&mut self) -> Result<Needed> {
        let (Some(cursor), Doing::Look(look)) = (&mut self.cursor, &mut self.doing) else { return Ok(None) };
        let Some(segment) = cursor.segment()? else {
            let look = std::mem::take(look);
            return self.begin_copy(look).map(|()| None);
        };
        if look.stream.replace(segment.ordinal) != Some(segment.ordinal) {
            look.counts = segment.crosses;
            if segment.crosses {
                look.parts.push((segment.ordinal, StreamPart::default()));
            }
        }
        match cursor.head()? {
            Head::Fetch => return cursor.plan_fetch().map(Some),
            Head::End => cursor.end_stream(),
            Head::At(_) => {
                let mut stats = MergeStats::default();
                cursor.copy(Timestamp::MAX, look, &mut stats)?;
                self.stats.rows_read += stats.rows_read;
            }
        }
        if look.any_gone {
            let window = cursor.window();
            cursor.turn_to(Window { wanted: Wanted::Staying, ..window });
            self.doing = Doing::Write;
        }
        Ok(None)
    }

    /// Writes rows that stay.
    fn write(&mut self) -> Result<Needed> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        let Some(segment) = cursor.segment()? else {
            self.doing = Doing::Choose;
            return Ok(None);
        };
        if self.stream.replace(segment.ordinal) != Some(segment.ordinal) {
            self.output.turn_to(segment.labels.clone(), segment.id, segment.whole);
        }
        match cursor.head()? {
            Head::Fetch => return cursor.plan_fetch().map(Some),
            Head::End => cursor.end_stream(),
            Head::At(_) => cursor.copy(Timestamp::MAX, &mut self.output, &mut self.stats)?,
        }
        Ok(None)
    }

    /// Begins to copy the row group before the next one, whose rows all stay. `looked` has the parts of streams that it
    /// shares with others and that do not stay whole.
    fn begin_copy(&mut self, looked: Look) -> Result<()> {
        let group = self.groups.get_mut(self.next - 1).and_then(Option::take);
        let (Some(cursor), Some(group)) = (&mut self.cursor, group) else {
            return Err(corrupt("footer", "a row group is not where it was"));
        };
        self.output.copy_group(&group, cursor.meta())?;
        let Window { rows, first, .. } = cursor.window();
        let (mut ordinal, mut row) = (first, rows.start);
        while row < rows.end {
            let part = cursor.part(ordinal)?;
            row = part.rows.end;
            let looked = looked.parts.iter().find(|(number, _)| *number == ordinal);
            let here = match looked {
                Some((_, part)) => *part,
                None if part.crosses() => StreamPart::of_rows(part.rows.len() as u32),
                None => StreamPart::of(&part.info),
            };
            if self.stream.replace(ordinal) != Some(ordinal) {
                let whole = part.crossing_whole();
                self.output.turn_to(part.info.labels, part.info.id, whole);
            }
            self.output.copied_rows(&here)?;
            ordinal += 1;
        }
        self.stats.rows_written += group.written.rows;
        self.stats.rows_copied += group.written.rows;
        self.doing = Doing::Copy(Copying { pages: group.pages(), next: 0 });
        Ok(())
    }

    /// Copies pages.
    fn copy(&mut self) -> Result<Needed> {
        let (Some(cursor), Doing::Copy(copying)) = (&mut self.cursor, &mut self.doing) else {
            return Ok(None);
        };
        while let Some(StoredPage { column, bytes }) = copying.pages.get(copying.next) {
            if self.output.is_full() {
                return Ok(None);
            }
            let Some(page) = cursor.fetched().bytes(bytes) else {
                return Ok(Some(vec![copying.next_bytes(self.options.fetch_bytes)]));
            };
            let packed = match column {
                Column::MetadataKey | Column::MetadataValue if cursor.meta().has_metadata() => {
                    cursor.packed_bytes(&page)?
                }
                _ => page::read(&page).map(|_| 0)?,
            };
            self.output.copy_bytes(&page, packed)?;
            copying.next += 1;
        }
        self.doing = Doing::Choose;
        Ok(None)
    }
}

impl Copying {
    /// Where the next pages lie, up to `limit` bytes and one page.
    fn next_bytes(&self, limit: u64) -> Range<u64> {
        let mut pages = self.pages[self.next..].iter().map(|p| &p.bytes);
        let mut range = pages.next().cloned().unwrap_or_default();
        for page in pages {
            if page.end - range.start > limit {
                break;
            }
            range.end = page.end;
        }
        range
    }
}

/// Asks about all streams of a window.
fn survey(cursor: &mut Cursor, window: &Window) -> Result<Survey> {
    let mut survey = Survey { end: window.first, ..Survey::default() };
    let mut row = window.rows.start;
    while row < window.rows.end {
        let part = cursor.part(survey.end)?;
        survey.end += 1;
        row = part.rows.end;
        survey.goes_on = part.info.rows.end > row;
        survey.any_stays |= !matches!(part.kept, Kept::Nothing);
        survey.any_goes |= matches!(part.kept, Kept::Nothing);
        survey.any_unknown |= part.is_unknown();
    }
    Ok(survey)
}

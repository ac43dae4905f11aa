//! Writes one block anew without what does not stay, and copies the row groups of which everything does.
//!
//! A row group whose streams all stay is copied as bytes, with its part of the filters; nothing of it is decoded. If only its
//! rows can tell, they are looked at, up to the first one that goes: if none does, the row group is copied, too. The block's own
//! filters tell which pages need no look. So a rewrite costs what reading and writing the file does, and for the row groups
//! concerned what it takes to encode them; and if nothing goes after all, nothing is written.

use std::collections::VecDeque;
use std::ops::Range;

use skald_model::{EntryHash, LabelsRef, Timestamp};

use super::cursor::{Cursor, Head, Sink};
use super::output::Output;
use super::window::{Standing, Wanted, Window};
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
    cursor: Cursor,
    /// The row groups of the block, taken as they are copied.
    groups: Vec<Option<StoredGroup>>,
    /// The next row group that no plan was made for.
    next: usize,
    /// Its first stream.
    first: u32,
    /// The least and the greatest stream id before it, as the signed column has them.
    stream_ids: Option<(i64, i64)>,
    /// Whether nothing was found so far that goes, and nothing is written before something is.
    checks: bool,
    /// Plans that have not been carried out.
    plans: VecDeque<Plan>,
    doing: Doing,
    /// The stream that the output was told of last.
    stream: Option<u32>,
    output: Output,
    stats: MergeStats,
}

/// What is to be done about a row group.
struct Plan {
    number: usize,
    window: Window,
    how: How,
}

enum How {
    /// Nothing of it stays.
    Skip,
    /// The rows that stay are written.
    Write,
    /// It is copied. Of each stream that it shares with other row groups and that does not stay whole: its number and what
    /// is here.
    Copy(Vec<(u32, StreamPart)>),
}

/// What goes on.
enum Doing {
    /// Nothing: the next plan is to be made or to be carried out.
    Choose,
    /// Rows are looked at, to make a plan.
    Look(Look),
    /// Rows are written.
    Write,
    /// Pages are copied.
    Copy(Copying),
    /// Nothing, and nothing is to come.
    End,
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
    /// The least and the greatest stream id.
    stream_ids: Option<(i64, i64)>,
}

/// Rows that are looked at.
struct Look {
    /// What is to be done if all of them stay.
    plan: Plan,
    /// The number of the stream that is.
    stream: Option<u32>,
    /// What is to be known of it, if it has rows in other row groups.
    crossing: Option<Standing>,
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
        if let Some(standing) = self.crossing
            && let Some((_, part)) = self.parts.last_mut()
        {
            match standing {
                Standing::Counted => {
                    part.row(timestamp, line, metadata, EntryHash::of(timestamp, line, metadata));
                }
                Standing::Less | Standing::Whole => part.time(timestamp),
            }
        }
        Ok(true)
    }

    fn gone(&mut self, _: Timestamp, _: &[u8], _: LabelsRef<'_>) {
        self.any_gone = true;
    }

    fn is_full(&self) -> bool {
        self.any_gone
    }
}

impl Prune {
    /// Of the one input, which was opened by [`BlockMeta::parse_for_copies`]. If nothing goes and it `may_stay`, it is left as
    /// it is, and nothing is written. `None` if its row groups can't be copied: it has other filters than are to be written,
    /// or they are too large to be read.
    pub fn new(
        mut meta: BlockMeta,
        keep: KeepStream,
        may_stay: bool,
        options: &MergeOptions,
    ) -> Option<Box<Self>> {
        // One block stays one block: what it took to write it, it takes again.
        let options =
            MergeOptions { target_bytes: u64::MAX / 2, writer_bytes: usize::MAX, ..options.clone() };
        let output = Output::new(&options);
        if !output.can_copy(&meta) {
            return None;
        }
        let groups = std::mem::take(&mut meta.stored_groups);
        Some(Box::new(Self {
            cursor: Cursor::new(INPUT, meta, keep, &options),
            options,
            groups,
            next: 0,
            first: 0,
            stream_ids: None,
            checks: may_stay,
            plans: VecDeque::new(),
            doing: Doing::Choose,
            stream: None,
            output,
            stats: MergeStats::default(),
        }))
    }
}

impl Rewriting for Prune {
    fn set_pushes(&mut self, pushes: crate::block::PushList) {
        self.output.set_pushes(pushes);
    }

    /// It is open from the start.
    fn opened(&mut self, _: usize, _: BlockMeta) {}

    fn fetched(&mut self, _: usize, bytes: Fetched) {
        self.cursor.set_fetched(bytes);
    }

    fn stats(&self) -> MergeStats {
        self.stats
    }

    fn step(&mut self) -> Result<MergeStep> {
        loop {
            if let Some(step) = self.output.take_step() {
                return Ok(step);
            }
            let any_plan = !self.checks && !self.plans.is_empty();
            let fetch = match &mut self.doing {
                Doing::Choose if any_plan => self.carry_out()?,
                Doing::Choose if self.next == self.cursor.meta().groups.len() => {
                    self.doing = Doing::End;
                    if self.checks {
                        let stream_ids = self.stream_ids.unwrap_or_default();
                        return Ok(MergeStep::Unchanged { stream_ids });
                    }
                    self.output.finish()?;
                    continue;
                }
                Doing::Choose => self.plan()?,
                Doing::Look(_) => self.look()?,
                Doing::Write => self.write()?,
                Doing::Copy(_) => self.copy()?,
                Doing::End => return Ok(MergeStep::Done),
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
    /// Makes a plan for the next row group, or begins to look at its rows.
    fn plan(&mut self) -> Result<Needed> {
        let cursor = &mut self.cursor;
        let (number, rows) = (self.next, cursor.meta().rows_of_group(self.next));
        let is_small = rows.len() < self.options.block.row_group_rows / SMALL;
        let copies = !is_small && self.groups.get(number).is_some_and(Option::is_some);
        let window = Window { rows, first: self.first, wanted: Wanted::Staying };
        cursor.turn_to(window.clone());
        let survey = survey(cursor, &window)?;
        self.next += 1;
        self.first = survey.end - u32::from(survey.goes_on);
        self.stream_ids = joined_ids(self.stream_ids, survey.stream_ids);
        let stays = || if copies { How::Copy(Vec::new()) } else { How::Write };
        let (how, any_goes) = match survey {
            Survey { any_stays: false, .. } => (How::Skip, true),
            Survey { any_goes: true, .. } => (How::Write, true),
            Survey { any_unknown: false, .. } => (stays(), false),
            _ if copies || self.checks => {
                cursor.turn_to(Window { wanted: Wanted::Unknown, ..window.clone() });
                let (plan, parts) = (Plan { number, window, how: stays() }, Vec::new());
                self.doing = Doing::Look(Look { plan, stream: None, crossing: None, parts, any_gone: false });
                return Ok(None);
            }
            _ => (How::Write, true),
        };
        self.planned(Plan { number, window, how }, any_goes);
        Ok(None)
    }

    fn planned(&mut self, plan: Plan, any_goes: bool) {
        self.plans.push_back(plan);
        self.checks &= !any_goes;
        self.doing = Doing::Choose;
    }

    /// Begins to carry out the next plan.
    fn carry_out(&mut self) -> Result<Needed> {
        let Some(plan) = self.plans.pop_front() else { return Ok(None) };
        self.cursor.turn_to(plan.window);
        match plan.how {
            How::Skip => {}
            How::Write => self.doing = Doing::Write,
            How::Copy(parts) => self.begin_copy(plan.number, &parts)?,
        }
        Ok(None)
    }

    /// Looks at the rows of which only they can tell whether they stay.
    fn look(&mut self) -> Result<Needed> {
        let (cursor, Doing::Look(look)) = (&mut self.cursor, &mut self.doing) else { return Ok(None) };
        let Some(segment) = cursor.segment()? else {
            self.looked();
            return Ok(None);
        };
        if look.stream.replace(segment.ordinal) != Some(segment.ordinal) {
            look.crossing = segment.crossing;
            match segment.crossing {
                None => {}
                Some(Standing::Counted) => look.parts.push((segment.ordinal, StreamPart::default())),
                Some(_) => look.parts.push((segment.ordinal, StreamPart::of_rows(segment.in_window))),
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
            self.looked();
        }
        Ok(None)
    }

    /// Ends a look: its plan holds, or something goes.
    fn looked(&mut self) {
        let Doing::Look(look) = std::mem::replace(&mut self.doing, Doing::Choose) else { return };
        let Look { mut plan, parts, any_gone, .. } = look;
        match &mut plan.how {
            how if any_gone => *how = How::Write,
            How::Copy(of_streams) => *of_streams = parts,
            _ => {}
        }
        self.planned(plan, any_gone);
    }

    /// Writes rows that stay.
    fn write(&mut self) -> Result<Needed> {
        let cursor = &mut self.cursor;
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

    /// Begins to copy a row group, at which the cursor stands.
    fn begin_copy(&mut self, number: usize, parts: &[(u32, StreamPart)]) -> Result<()> {
        let group = self.groups.get_mut(number).and_then(Option::take);
        let group = group.ok_or_else(|| corrupt("footer", "a row group is not where it was"))?;
        let cursor = &mut self.cursor;
        self.output.copy_group(&group, cursor.meta())?;
        let Window { rows, first, .. } = cursor.window();
        let (mut ordinal, mut row) = (first, rows.start);
        while row < rows.end {
            let part = cursor.part(ordinal)?;
            row = part.rows.end;
            let here = match parts.iter().find(|(number, _)| *number == ordinal) {
                Some((_, part)) => *part,
                None if part.crossing.is_some() => StreamPart::of_rows(part.rows.len() as u32),
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
        let (cursor, Doing::Copy(copying)) = (&mut self.cursor, &mut self.doing) else { return Ok(None) };
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
        let id = part.info.id.0 as i64;
        survey.stream_ids = joined_ids(survey.stream_ids, Some((id, id)));
    }
    Ok(survey)
}

fn joined_ids(one: Option<(i64, i64)>, other: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        _ => one.or(other),
    }
}

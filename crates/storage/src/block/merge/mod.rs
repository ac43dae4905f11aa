//! Merges blocks of one day: rows in order, exact duplicates once, with a say on which rows stay.
//!
//! [`Merge`] does no I/O. [`Rewriting::step`] goes on as far as the bytes at hand allow and says what it needs next: an input
//! opened, some of its bytes, or bytes of the output taken away. So memory is what the inputs were given at once, a page
//! of each decoded, and what the writer keeps until the end of a block, whatever the size of the blocks.
//!
//! Inputs come as *runs*: blocks whose streams follow each other, so that only one of a run is open at a time. Runs come
//! in the order of their age, which decides between rows of one stream and time.
//!
//! [`Prune`] is for one block that only loses rows.

mod cursor;
mod fetch;
mod output;
mod prune;
#[cfg(test)]
mod tests;
mod window;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use skald_model::{Labels, LabelsRef, StreamId, TimeRange, Timestamp};

use super::error::{Error, Result};
use super::fetched::Fetched;
use super::line_filter::FilterKeys;
use super::meta::BlockMeta;
use super::writer::BlockOptions;
use cursor::{Cursor, Head};
use output::Output;
pub use prune::Prune;

/// Decides about one row, by its time, line and structured metadata: whether it stays.
pub type KeepRow = Box<dyn FnMut(Timestamp, &[u8], LabelsRef<'_>) -> bool + Send>;

/// Decides about one stream of an input, by its labels and by the times of its first and last row.
pub type KeepStream = Box<dyn FnMut(LabelsRef<'_>, Timestamp, Timestamp) -> Kept + Send>;

/// What stays of the rows of a stream.
pub enum Kept {
    /// Every row.
    All,
    /// No row; none is read.
    Nothing,
    /// The rows that these rules keep.
    Rows(KeptRows),
}

/// Rules that are tried on each row.
pub struct KeptRows {
    keep: KeepRow,
    /// Of these at least one passes every line that goes; `None` if nothing is known of them.
    gone: Option<Vec<Arc<FilterKeys>>>,
}

impl KeptRows {
    /// The rows for which `keep` says so. If `gone` is known, the line of every row that goes passes at least one of it, so
    /// that line filters can tell which pages have none. Equal keys should be the same ones.
    pub fn new(keep: KeepRow, gone: Option<Vec<Arc<FilterKeys>>>) -> Self {
        Self { keep, gone }
    }

    /// Whether a row stays.
    pub fn keep(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>) -> bool {
        (self.keep)(timestamp, line, metadata)
    }
}

impl Kept {
    /// The rows for which `keep` says so.
    pub fn rows(keep: impl FnMut(Timestamp, &[u8], LabelsRef<'_>) -> bool + Send + 'static) -> Self {
        Self::Rows(KeptRows::new(Box::new(keep), None))
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::All => "All",
            Self::Nothing => "Nothing",
            Self::Rows(_) => "Rows",
        })
    }
}

/// How to merge.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// How blocks are written.
    pub block: BlockOptions,
    /// The times wanted; rows outside are passed over.
    pub range: TimeRange,
    /// Bytes of a file at which the next block begins with the next stream; at half as much again, within a stream.
    pub target_bytes: u64,
    /// Compressed bytes of lines that an input asks for at a time.
    pub fetch_bytes: u64,
    /// Bytes of output that are gathered before they have to be taken away.
    pub output_bytes: usize,
    /// Bytes that the writer may keep for the end of a block (filters, indexes) before the next block begins.
    pub writer_bytes: usize,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            block: BlockOptions::default(),
            range: TimeRange::ALL,
            target_bytes: 128 << 20,
            fetch_bytes: 1 << 20,
            output_bytes: 8 << 20,
            writer_bytes: 96 << 20,
        }
    }
}

/// What a merge needs next.
#[derive(Debug)]
pub enum MergeStep {
    /// The end of this input, by [`Rewriting::opened`].
    Open {
        /// Number of the input.
        input: usize,
    },
    /// These bytes of this input, by [`Rewriting::fetched`].
    Fetch {
        /// Number of the input.
        input: usize,
        /// Where they lie in its file.
        ranges: Vec<Range<u64>>,
    },
    /// That these next bytes of the block in the making are taken away.
    Output(Vec<u8>),
    /// Nothing: this block is complete, all of its bytes were given out.
    Block(Box<MergedBlock>),
    /// Nothing: the one input is as it should be, and nothing was written.
    Unchanged {
        /// Its least and greatest stream id as the signed column has them.
        stream_ids: (i64, i64),
    },
    /// Nothing: everything is merged.
    Done,
}

/// A block that a merge has written.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedBlock {
    /// What is in it.
    pub summary: super::BlockSummary,
    /// Its least and greatest stream id as the signed column has them.
    pub stream_ids: (i64, i64),
    /// Where its list of pushes lies, if it has one.
    pub pushes: Option<super::PushesPlace>,
}

/// What a merge has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeStats {
    /// Rows looked at.
    pub rows_read: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Rows left out because another one is the same.
    pub duplicates: u64,
    /// Bytes of their lines.
    pub duplicate_bytes: u64,
    /// Rows that were read and did not stay.
    pub removed: u64,
    /// Those of the rows written whose row groups were copied as they are.
    pub rows_copied: u64,
}

impl MergeStats {
    /// Adds what another merge has done.
    pub fn add(&mut self, other: &Self) {
        self.rows_read += other.rows_read;
        self.rows_written += other.rows_written;
        self.duplicates += other.duplicates;
        self.duplicate_bytes += other.duplicate_bytes;
        self.removed += other.removed;
        self.rows_copied += other.rows_copied;
    }
}

/// A stream in the order of blocks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    labels: Labels,
    id: StreamId,
}

/// Blocks that follow each other.
struct Source {
    blocks: VecDeque<usize>,
    cursor: Option<Cursor>,
}

/// Work on blocks that goes on as far as the bytes at hand allow.
pub trait Rewriting: Send {
    /// Gives the first block that is written a list of pushes.
    fn set_pushes(&mut self, pushes: super::PushList);

    /// Hands in the end of an input that a step asked for.
    fn opened(&mut self, input: usize, meta: BlockMeta);

    /// Hands in bytes of an input that a step asked for.
    fn fetched(&mut self, input: usize, bytes: Fetched);

    /// Goes on as far as possible.
    fn step(&mut self) -> Result<MergeStep>;

    /// What was done so far.
    fn stats(&self) -> MergeStats;
}

/// A merge under way.
pub struct Merge {
    options: MergeOptions,
    /// By age.
    sources: Vec<Source>,
    /// Of each input, what stays of its streams.
    keeps: Vec<Option<KeepStream>>,
    /// Sources whose next stream is not known yet.
    unsettled: Vec<usize>,
    /// The next streams of the others.
    waiting: BinaryHeap<Reverse<(Key, usize)>>,
    /// The stream that is being written, and the sources that have rows of it.
    current: Option<(Key, Vec<usize>)>,
    output: Output,
    stats: MergeStats,
}

impl Merge {
    /// A merge of inputs that have numbers: runs of them, the oldest run first, and for each input what stays of it.
    pub fn new(runs: Vec<Vec<usize>>, keeps: Vec<KeepStream>, options: MergeOptions) -> Self {
        let sources: Vec<_> =
            runs.into_iter().map(|blocks| Source { blocks: blocks.into(), cursor: None }).collect();
        Self {
            unsettled: (0..sources.len()).collect(),
            sources,
            keeps: keeps.into_iter().map(Some).collect(),
            waiting: BinaryHeap::new(),
            current: None,
            output: Output::new(&options),
            options,
            stats: MergeStats::default(),
        }
    }
}

impl Rewriting for Merge {
    fn set_pushes(&mut self, pushes: super::PushList) {
        self.output.set_pushes(pushes);
    }

    fn opened(&mut self, input: usize, meta: BlockMeta) {
        let source = self.sources.iter_mut().find(|s| s.blocks.front() == Some(&input));
        if let (Some(source), Some(keep)) = (source, self.keeps.get_mut(input).and_then(Option::take)) {
            source.cursor = Some(Cursor::new(input, meta, keep, &self.options));
        }
    }

    fn fetched(&mut self, input: usize, bytes: Fetched) {
        let mut cursors = self.sources.iter_mut().filter_map(|s| s.cursor.as_mut());
        if let Some(cursor) = cursors.find(|c| c.input() == input) {
            cursor.set_fetched(bytes);
        }
    }

    fn step(&mut self) -> Result<MergeStep> {
        loop {
            if let Some(step) = self.output.take_step() {
                return Ok(step);
            }
            if let Some(step) = self.settle()? {
                return Ok(step);
            }
            if self.current.is_some() {
                if let Some(step) = self.advance()? {
                    return Ok(step);
                }
            } else if !self.begin_stream() {
                self.output.finish()?;
                return Ok(self.output.take_step().unwrap_or(MergeStep::Done));
            }
        }
    }

    fn stats(&self) -> MergeStats {
        self.stats
    }
}

impl Merge {
    /// Finds out the next stream of each source that does not know it.
    fn settle(&mut self) -> Result<Option<MergeStep>> {
        while let Some(&number) = self.unsettled.last() {
            let source = &mut self.sources[number];
            let Some(cursor) = &mut source.cursor else {
                match source.blocks.front() {
                    Some(&input) if self.keeps[input].is_some() => {
                        return Ok(Some(MergeStep::Open { input }));
                    }
                    Some(&input) => return Err(Error::Order(format!("input {input} comes twice"))),
                    None => drop(self.unsettled.pop()),
                }
                continue;
            };
            let Some(segment) = cursor.segment()? else {
                source.cursor = None;
                source.blocks.pop_front();
                continue;
            };
            let key = Key { labels: segment.labels.clone(), id: segment.id };
            self.unsettled.pop();
            match &mut self.current {
                // The next block of its run goes on with the stream that the last one ended with.
                Some((current, members)) if *current == key => members.push(number),
                _ => self.waiting.push(Reverse((key, number))),
            }
        }
        Ok(None)
    }

    /// Turns to the next stream; `false` if there is none.
    fn begin_stream(&mut self) -> bool {
        let Some(Reverse((key, number))) = self.waiting.pop() else { return false };
        let mut members = vec![number];
        while let Some(Reverse((next, _))) = self.waiting.peek()
            && *next == key
        {
            members.extend(self.waiting.pop().map(|Reverse((_, number))| number));
        }
        self.output.turn_to(key.labels.clone(), key.id, None);
        self.current = Some((key, members));
        true
    }

    /// Copies rows of the current stream from the source with the earliest, up to where another one has earlier ones.
    fn advance(&mut self) -> Result<Option<MergeStep>> {
        let Some((_, members)) = &mut self.current else { return Ok(None) };
        let mut first: Option<(Timestamp, usize)> = None;
        let mut second: Option<(Timestamp, usize)> = None;
        for at in 0..members.len() {
            let number = members[at];
            let Some(cursor) = &mut self.sources[number].cursor else { continue };
            match cursor.head()? {
                Head::Fetch => {
                    let ranges = cursor.plan_fetch()?;
                    return Ok(Some(MergeStep::Fetch { input: cursor.input(), ranges }));
                }
                Head::End => {
                    cursor.end_stream();
                    members.swap_remove(at);
                    self.unsettled.push(number);
                    return Ok(None);
                }
                Head::At(ts) => {
                    let head = Some((ts, number));
                    if first.is_none_or(|f| head < Some(f)) {
                        second = first;
                        first = head;
                    } else if second.is_none_or(|s| head < Some(s)) {
                        second = head;
                    }
                }
            }
        }
        let Some((_, number)) = first else {
            self.current = None;
            return Ok(None);
        };
        // Of rows at one time those of the older source come first.
        let last = match second {
            None => Timestamp::MAX,
            Some((ts, other)) if number < other => ts,
            Some((ts, _)) => ts - 1,
        };
        let Some(cursor) = &mut self.sources[number].cursor else { return Ok(None) };
        cursor.copy(last, &mut self.output, &mut self.stats)?;
        Ok(None)
    }
}

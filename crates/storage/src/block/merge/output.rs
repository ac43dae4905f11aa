//! Where merged rows go: one block after the other, each row once.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;
use skald_model::{EntryHash, Labels, LabelsRef, StreamId, Timestamp};

use super::cursor::Sink;
use super::{MergeOptions, MergeStep, MergedBlock};
use crate::block::error::Result;
use crate::block::groups::StoredGroup;
use crate::block::meta::BlockMeta;
use crate::block::pushes::PushList;
use crate::block::writer::{BlockOptions, BlockWriter, StreamPart};

/// Rows of one time that are compared one by one; of more a set is kept.
const FEW: usize = 16;
/// Rows of a block at which the next one begins, far from what the format can hold.
const ROWS_MAX: u64 = 1 << 31;
/// Rows from one look at the writer's memory to the next.
const ROWS_PER_LOOK: u64 = 4096;

/// See the module's page.
pub(super) struct Output {
    block: BlockOptions,
    target_bytes: u64,
    output_bytes: usize,
    writer_bytes: usize,
    writer: Option<Writing>,
    stream: Option<Stream>,
    seen: Seen,
    steps: VecDeque<MergeStep>,
    /// For the first block.
    pushes: PushList,
}

/// The stream that rows are of.
struct Stream {
    labels: Labels,
    id: StreamId,
    /// What there was of it in all, if that tells what there will be.
    whole: Option<StreamPart>,
    /// What does not come of that.
    gone: StreamPart,
}

/// A block in the making.
struct Writing {
    writer: BlockWriter<Vec<u8>>,
    stream_ids: Option<(i64, i64)>,
    rows: u64,
    /// Whether the writer keeps more for the end of the block than it may.
    is_heavy: bool,
    /// Whether the writer has been told of the current stream.
    in_stream: bool,
}

impl Writing {
    /// The block in the making, which is begun if there is none.
    fn of<'a>(current: &'a mut Option<Self>, options: &BlockOptions) -> Result<&'a mut Self> {
        match current {
            Some(writing) => Ok(writing),
            none => {
                let writer = BlockWriter::new(options)?;
                Ok(none.insert(Self { writer, stream_ids: None, rows: 0, is_heavy: false, in_stream: false }))
            }
        }
    }
}

/// The rows of the current stream at one time.
#[derive(Default)]
struct Seen {
    at: Timestamp,
    few: Vec<u128>,
    many: FxHashSet<u128>,
}

impl Seen {
    /// Takes note of a row; `false` if it was there already.
    #[inline]
    fn insert(&mut self, at: Timestamp, hash: EntryHash) -> bool {
        if at != self.at || self.few.is_empty() {
            self.at = at;
            self.few.clear();
            if !self.many.is_empty() {
                self.many.clear();
            }
            self.few.push(hash.0);
            return true;
        }
        if self.few.len() < FEW {
            let is_new = !self.few.contains(&hash.0);
            if is_new {
                self.few.push(hash.0);
            }
            return is_new;
        }
        if self.many.is_empty() {
            self.many.extend(&self.few);
        }
        self.many.insert(hash.0)
    }

    fn clear(&mut self) {
        self.few.clear();
        self.many = FxHashSet::default();
    }
}

impl Output {
    pub(super) fn new(options: &MergeOptions) -> Self {
        Self {
            block: options.block,
            target_bytes: options.target_bytes,
            output_bytes: options.output_bytes,
            writer_bytes: options.writer_bytes,
            writer: None,
            stream: None,
            seen: Seen::default(),
            steps: VecDeque::new(),
            pushes: PushList::default(),
        }
    }

    /// Gives the first block a list of pushes.
    pub(super) fn set_pushes(&mut self, pushes: PushList) {
        self.pushes = pushes;
    }

    /// What has to be done with the output next, if anything.
    pub(super) fn take_step(&mut self) -> Option<MergeStep> {
        if self.steps.is_empty()
            && let Some(writing) = &mut self.writer
            && writing.writer.output().len() >= self.output_bytes
        {
            return Some(MergeStep::Output(writing.writer.take_output()));
        }
        self.steps.pop_front()
    }

    /// The rows to come are of another stream. If `whole` tells what there was of it in all, its rows go into one block as
    /// they come, and those that do not stay are told.
    pub(super) fn turn_to(&mut self, labels: Labels, id: StreamId, whole: Option<StreamPart>) {
        self.leave_stream();
        self.stream = Some(Stream { labels, id, whole, gone: StreamPart::default() });
        self.seen.clear();
    }

    /// No more rows of the current stream come into the block in the making.
    fn leave_stream(&mut self) {
        let Some(writing) = self.writer.as_mut().filter(|w| w.in_stream) else { return };
        writing.in_stream = false;
        if let Some(stream) = self.stream.as_ref().filter(|s| s.gone.rows > 0) {
            writing.writer.tell_gone(&stream.gone);
        }
    }

    /// The block in the making.
    fn writing(&mut self) -> Result<&mut Writing> {
        Writing::of(&mut self.writer, &self.block)
    }

    /// The block in the making, which has been told of the current stream.
    fn writing_in_stream(&mut self) -> Result<&mut Writing> {
        let writing = Writing::of(&mut self.writer, &self.block)?;
        if !writing.in_stream
            && let Some(Stream { labels, id, whole, .. }) = &self.stream
        {
            writing.writer.begin_stream(labels, *id)?;
            if let Some(whole) = whole {
                writing.writer.tell_whole(*whole);
            }
            writing.in_stream = true;
            let signed = id.0 as i64;
            let (min, max) = writing.stream_ids.unwrap_or((signed, signed));
            writing.stream_ids = Some((min.min(signed), max.max(signed)));
        }
        Ok(writing)
    }

    /// Whether row groups of a block can be taken over as they are.
    pub(super) fn can_copy(&self, from: &BlockMeta) -> bool {
        self.block.word_index == from.words().is_some()
            && (self.block.filter_bits_per_key > 0.0) == from.filter().is_some()
    }

    /// Begins a row group that is copied: [`Output::copied_rows`] tells of its rows, [`Output::copy_bytes`] brings its
    /// bytes, whole. No block ends within it or because of it.
    pub(super) fn copy_group(&mut self, group: &StoredGroup, from: &BlockMeta) -> Result<()> {
        let writing = self.writing()?;
        writing.rows += group.written.rows;
        writing.writer.copy_group(group, from)
    }

    /// The current stream has these rows in the row group that is being copied.
    pub(super) fn copied_rows(&mut self, part: &StreamPart) -> Result<()> {
        self.writing_in_stream()?.writer.copied_rows(part)
    }

    /// See [`BlockWriter::copy_bytes`].
    pub(super) fn copy_bytes(&mut self, bytes: &[u8], metadata_bytes: u64) -> Result<()> {
        self.writing()?.writer.copy_bytes(bytes, metadata_bytes)
    }

    /// Whether the next row belongs to the next block. Streams are kept whole up to half as much again as the target; rows
    /// of one time stay together, because they have an order.
    fn is_over(&self, writing: &Writing, later: bool) -> bool {
        let bytes = writing.writer.bytes_written();
        let must = writing.is_heavy || writing.rows >= ROWS_MAX;
        match writing.in_stream {
            false => must || bytes >= self.target_bytes,
            true => later && (must || bytes >= self.target_bytes.saturating_add(self.target_bytes / 2)),
        }
    }

    /// Completes the block in the making, if there is one.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.leave_stream();
        let Some(Writing { mut writer, stream_ids, rows, .. }) = self.writer.take() else { return Ok(()) };
        if rows > 0 {
            writer.set_pushes(std::mem::take(&mut self.pushes));
        }
        let finished = writer.finish()?;
        if rows == 0 {
            return Ok(());
        }
        if !finished.output.is_empty() {
            self.steps.push_back(MergeStep::Output(finished.output));
        }
        let stream_ids = stream_ids.unwrap_or_default();
        let block = MergedBlock { summary: finished.summary, stream_ids, pushes: finished.pushes };
        self.steps.push_back(MergeStep::Block(Box::new(block)));
        Ok(())
    }
}

impl Sink for Output {
    /// Writes a row of the current stream. Times do not go back.
    #[inline]
    fn row(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>) -> Result<bool> {
        let mut hash = EntryHash(0);
        let later = timestamp != self.seen.at;
        // What was told of the whole counts equal rows, and needs no hash.
        if self.stream.as_ref().is_none_or(|s| s.whole.is_none()) {
            hash = EntryHash::of(timestamp, line, metadata);
            if !self.seen.insert(timestamp, hash) {
                return Ok(false);
            }
        }
        if self.writer.as_ref().is_some_and(|w| self.is_over(w, later)) {
            self.finish()?;
        }
        let writer_bytes = self.writer_bytes;
        let writing = match &mut self.writer {
            Some(writing) if writing.in_stream => writing,
            _ => self.writing_in_stream()?,
        };
        writing.rows += 1;
        writing.writer.row_hashed(timestamp, line, metadata, hash)?;
        if writing.rows.is_multiple_of(ROWS_PER_LOOK) {
            writing.is_heavy = writing.writer.memory_bytes() >= writer_bytes;
        }
        Ok(true)
    }

    fn gone(&mut self, timestamp: Timestamp, line: &[u8], metadata: LabelsRef<'_>) {
        if let Some(stream) = self.stream.as_mut().filter(|s| s.whole.is_some()) {
            stream.gone.row(timestamp, line, metadata, EntryHash::of(timestamp, line, metadata));
        }
    }

    /// Whether bytes have to be taken away before more rows come.
    fn is_full(&self) -> bool {
        !self.steps.is_empty()
            || self.writer.as_ref().is_some_and(|w| w.writer.output().len() >= self.output_bytes)
    }
}

//! Where merged rows go: one block after the other, each row once.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;
use skald_model::{EntryHash, Labels, LabelsRef, StreamId, Timestamp};

use super::{MergeOptions, MergeStep, MergedBlock};
use crate::block::error::Result;
use crate::block::pushes::PushList;
use crate::block::writer::{BlockOptions, BlockWriter};

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
    stream: Option<(Labels, StreamId)>,
    seen: Seen,
    steps: VecDeque<MergeStep>,
    /// For the first block.
    pushes: PushList,
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

    /// Whether bytes have to be taken away before more rows come.
    pub(super) fn is_full(&self) -> bool {
        !self.steps.is_empty()
            || self.writer.as_ref().is_some_and(|w| w.writer.output().len() >= self.output_bytes)
    }

    /// The rows to come are of another stream.
    pub(super) fn turn_to(&mut self, labels: Labels, id: StreamId) {
        self.stream = Some((labels, id));
        self.seen.clear();
        if let Some(writing) = &mut self.writer {
            writing.in_stream = false;
        }
    }

    /// Writes a row of the current stream; `false` if the same was written already. Times do not go back.
    #[inline]
    pub(super) fn row(
        &mut self,
        timestamp: Timestamp,
        line: &[u8],
        metadata: LabelsRef<'_>,
        hash: EntryHash,
    ) -> Result<bool> {
        let later = timestamp != self.seen.at;
        if !self.seen.insert(timestamp, hash) {
            return Ok(false);
        }
        if self.writer.as_ref().is_some_and(|w| self.is_over(w, later)) {
            self.finish()?;
        }
        if self.writer.is_none() {
            let writer = BlockWriter::new(&self.block)?;
            self.writer =
                Some(Writing { writer, stream_ids: None, rows: 0, is_heavy: false, in_stream: false });
        }
        let Some(writing) = &mut self.writer else { return Ok(false) };
        if !writing.in_stream
            && let Some((labels, id)) = &self.stream
        {
            writing.writer.begin_stream(labels, *id)?;
            writing.in_stream = true;
            let signed = id.0 as i64;
            let (min, max) = writing.stream_ids.unwrap_or((signed, signed));
            writing.stream_ids = Some((min.min(signed), max.max(signed)));
        }
        writing.rows += 1;
        writing.writer.row_hashed(timestamp, line, metadata, hash)?;
        if writing.rows.is_multiple_of(ROWS_PER_LOOK) {
            writing.is_heavy = writing.writer.memory_bytes() >= self.writer_bytes;
        }
        Ok(true)
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

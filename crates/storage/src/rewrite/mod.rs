//! Rewrites blocks of one day: merged, sorted anew, without what does not stay.
//!
//! The engine is [`block::merge`](crate::block::merge); this module reads its inputs from the store by ranges and sends its
//! output there in parts, so that memory does not grow with the size of blocks ([`RewriteOptions::memory_bytes`]). Parts go
//! off as they are written: no disk is needed, and a part that fails after the client's own retries fails the rewrite,
//! which is then done again from the start. Nothing is committed here.

mod keep;
mod slices;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore as _;
use skald_model::{TenantId, TimeRange};

pub use crate::block::merge::MergeStats;
use crate::block::merge::{KeepStream, Merge, MergeOptions, MergeStep, MergedBlock, Prune, Rewriting};
use crate::block::{self, BlockMeta, BlockOptions, Fetched};
use crate::table::{BlockEntry, BlockOrigin, Catalog, Error, NewBlock, Result, block_path};
pub use keep::{Keep, KeepAll, KeepRow, Kept, KeptRows};
pub use slices::{slice_of, slices};

/// Bytes of the end of a file that are read first.
const TAIL_FIRST: u64 = 64 << 10;
/// Rounds of reading the end of a file.
const TAIL_ROUNDS: usize = 12;
/// What an input holds beside what it has fetched: a decoded page of each column, the streams ahead, its page table.
const INPUT_BYTES: u64 = 2 << 20;

/// How to rewrite.
#[derive(Clone, Debug)]
pub struct RewriteOptions {
    /// How blocks are written.
    pub block: BlockOptions,
    /// Bytes of a file at which the next block begins.
    pub target_bytes: u64,
    /// Memory that the rewrite may take, about: half for the inputs, half for what is written.
    pub memory_bytes: u64,
    /// The times that stay; what lies outside is left out.
    pub range: TimeRange,
    /// Length of the slices of a day that no block reaches over, in nanoseconds; 0 for none.
    pub slice: i64,
    /// Level of what is written.
    pub level: u8,
    /// The run and the part of a block that takes the place of another one in its table, and keeps its list of pushes; else
    /// the rewrite is a run of its own.
    pub place: Option<(u64, u32)>,
    /// Who writes.
    pub writer: String,
}

/// The name of a block that is written from others: the `number`th of a call, of which `call` is chosen at random.
pub fn block_name(origin: &BlockOrigin, call: u64, number: usize) -> String {
    let BlockOrigin { received_min, level, writer, .. } = origin;
    format!("{received_min}-{writer}-c{level}-{call:016x}-{number:04}")
}

/// What a rewrite has written. No commit names it yet.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// The blocks; none if nothing stayed.
    pub blocks: Vec<NewBlock>,
    /// An input of which everything stays, as the table should know it from now on
    /// ([`Catalog::commit_applied`](crate::table::Catalog::commit_applied)). Its file is the one that the table has.
    pub unchanged: Option<NewBlock>,
    /// What was done.
    pub stats: MergeStats,
    /// Bytes that were read from the store.
    pub bytes_read: u64,
}

impl RewriteOptions {
    /// For one block that becomes one block, in the same place among those of its run.
    pub fn alone(block: &BlockEntry, memory_bytes: u64, writer: String) -> Self {
        Self {
            block: BlockOptions::default(),
            target_bytes: u64::MAX / 2,
            memory_bytes,
            range: TimeRange::ALL,
            slice: 0,
            level: block.origin.level,
            place: Some((block.origin.run, block.origin.part)),
            writer,
        }
    }

    /// Most runs that can be merged at a time within `memory_bytes`.
    pub fn runs_max(memory_bytes: u64) -> usize {
        (memory_bytes / 2 / (2 * INPUT_BYTES)).clamp(2, 64) as usize
    }

    fn merge(&self, runs: usize) -> MergeOptions {
        let half = self.memory_bytes / 2;
        let share = half / (runs.max(1) as u64);
        MergeOptions {
            block: self.block,
            range: TimeRange::ALL,
            target_bytes: self.target_bytes,
            // What is fetched is there twice while it arrives.
            fetch_bytes: (share.saturating_sub(INPUT_BYTES) / 2).clamp(256 << 10, 8 << 20),
            output_bytes: self.part_bytes(),
            writer_bytes: (half.saturating_sub(4 * self.part_bytes() as u64)).max(half / 4) as usize,
        }
    }

    fn part_bytes(&self) -> usize {
        // Object stores want parts of at least 5 MiB.
        (self.memory_bytes / 32).clamp(5 << 20, 8 << 20) as usize
    }
}

/// Merges `runs` of blocks of one day, the oldest run first, into blocks that are uploaded under names of their own. The
/// blocks of a run follow each other in the order of streams.
///
/// May be dropped at any point: what was uploaded then is garbage, which vacuum finds. After an error it has been removed.
pub async fn rewrite(
    catalog: &Catalog,
    tenant: &TenantId,
    runs: &[Vec<Arc<BlockEntry>>],
    keep: &Arc<dyn Keep>,
    options: &RewriteOptions,
) -> Result<Rewritten> {
    rewrite_into(catalog, catalog, tenant, runs, keep, options).await
}

/// The same, into a table of another catalog.
pub async fn rewrite_into(
    catalog: &Catalog,
    target: &Catalog,
    tenant: &TenantId,
    runs: &[Vec<Arc<BlockEntry>>],
    keep: &Arc<dyn Keep>,
    options: &RewriteOptions,
) -> Result<Rewritten> {
    let all = || runs.iter().flatten();
    let Some(date) = all().next().map(|b| b.date) else { return Ok(Rewritten::default()) };
    let id = skald_runtime::random().max(1);
    let inherited = all().map(|b| b.origin.deletes).min().unwrap_or_default();
    let origin = BlockOrigin {
        level: options.level,
        received_min: all().map(|b| b.origin.received_min).min().unwrap_or_default(),
        received_max: all().map(|b| b.origin.received_max).max().unwrap_or_default(),
        part: 0,
        writer: options.writer.clone(),
        pushes: None,
        deletes: keep.generation().max(inherited),
        run: options.place.map_or(id, |(run, _)| run),
    };
    let is_elsewhere = !std::ptr::eq(catalog, target);
    let origin = if is_elsewhere { origin.in_another_table() } else { origin };
    let mut rewrite =
        Rewrite { catalog, target, tenant, keep, options, date, id, origin, done: Rewritten::default() };
    let outcome = rewrite.all_slices(runs).await;
    let done = rewrite.done;
    match outcome {
        Ok(()) => Ok(done),
        Err(error) => {
            // Their names are of this call alone, and no commit was tried.
            target.discard(tenant, &done.blocks).await;
            Err(error)
        }
    }
}

struct Rewrite<'a> {
    catalog: &'a Catalog,
    target: &'a Catalog,
    tenant: &'a TenantId,
    keep: &'a Arc<dyn Keep>,
    options: &'a RewriteOptions,
    date: i32,
    /// Makes the names of what is written those of this call alone.
    id: u64,
    /// Of what is written.
    origin: BlockOrigin,
    done: Rewritten,
}

impl Rewrite<'_> {
    async fn all_slices(&mut self, runs: &[Vec<Arc<BlockEntry>>]) -> Result<()> {
        for slice in slices(self.date, self.options.slice) {
            let range = slice.intersect(&self.options.range);
            if range.is_empty() {
                continue;
            }
            let in_range = |b: &&Arc<BlockEntry>| range.overlaps(b.summary.min_ts, b.summary.max_ts);
            let of_slice: Vec<Vec<Arc<BlockEntry>>> =
                runs.iter().map(|run| run.iter().filter(in_range).cloned().collect()).collect();
            let of_slice: Vec<_> = of_slice.into_iter().filter(|run| !run.is_empty()).collect();
            if !of_slice.is_empty() {
                self.slice(&of_slice, range).await?;
            }
        }
        Ok(())
    }

    /// Merges what the runs have in `range`.
    async fn slice(&mut self, runs: &[Vec<Arc<BlockEntry>>], range: TimeRange) -> Result<()> {
        let inputs: Vec<Arc<BlockEntry>> = runs.iter().flatten().cloned().collect();
        let mut merge = self.begin(runs, &inputs, range).await?;
        if let [block] = &inputs[..]
            && self.is_in_place()
        {
            merge.set_pushes(self.catalog.pushes(self.tenant, block).await?);
        }
        let mut upload = None;
        loop {
            let went_on = step(merge).await.map_err(|e| self.unreadable(&inputs, &e))?;
            merge = went_on.0;
            match went_on.1 {
                MergeStep::Open { input } => {
                    let meta = self.open(&inputs[input], false).await?;
                    merge.opened(input, meta);
                }
                MergeStep::Fetch { input, ranges } => {
                    let fetched = self.fetch(&inputs[input], &ranges).await?;
                    merge.fetched(input, fetched);
                }
                MergeStep::Output(bytes) => {
                    if upload.is_none() {
                        let name = self.next_name();
                        let path = block_path(self.date, &name);
                        upload = Some(self.target.begin_block(self.tenant, &path, self.options.part_bytes()));
                    }
                    if let Some(upload) = &mut upload {
                        upload.write(bytes).await?;
                    }
                }
                MergeStep::Block(block) => {
                    let Some(upload) = upload.take() else { continue };
                    let path = upload.finish().await?;
                    self.add(path, *block);
                }
                MergeStep::Unchanged { stream_ids } => {
                    let block = NewBlock::from(&*inputs[0]);
                    let origin = BlockOrigin { deletes: self.origin.deletes, ..block.origin };
                    self.done.unchanged = Some(NewBlock { origin, stream_ids: Some(stream_ids), ..block });
                }
                MergeStep::Done => break,
            }
        }
        self.done.stats.add(&merge.stats());
        Ok(())
    }

    /// How the rows that the runs have in `range` are to be rewritten.
    async fn begin(
        &mut self,
        runs: &[Vec<Arc<BlockEntry>>],
        inputs: &[Arc<BlockEntry>],
        range: TimeRange,
    ) -> Result<Box<dyn Rewriting>> {
        let whole = inputs.iter().all(|b| range.covers(b.summary.min_ts, b.summary.max_ts));
        let options = self.options.merge(runs.len());
        let options = MergeOptions { range: if whole { TimeRange::ALL } else { range }, ..options };
        if let [block] = inputs
            && whole
            && self.options.place.is_some()
        {
            let meta = self.open(block, true).await?;
            if let Some(prune) = Prune::new(meta, self.keep_of(block), self.is_in_place(), &options) {
                return Ok(prune);
            }
        }
        let mut numbers = 0..inputs.len();
        let numbered = runs.iter().map(|run| numbers.by_ref().take(run.len()).collect()).collect();
        let keeps = inputs.iter().map(|b| self.keep_of(b)).collect();
        Ok(Box::new(Merge::new(numbered, keeps, options)))
    }

    /// Whether what is written takes the place of the input in its table. Then it keeps its list of pushes: who needs that
    /// looks for it there. And an input of which everything stays can be left as it is.
    fn is_in_place(&self) -> bool {
        self.options.place.is_some() && std::ptr::eq(self.catalog, self.target)
    }

    fn keep_of(&self, block: &Arc<BlockEntry>) -> KeepStream {
        let (keep, block) = (self.keep.clone(), block.clone());
        Box::new(move |labels, min_ts, max_ts| keep.stream(&block.origin, labels, min_ts, max_ts))
    }

    fn next_name(&self) -> String {
        block_name(&self.origin, self.id, self.done.blocks.len())
    }

    fn add(&mut self, path: String, block: MergedBlock) {
        let part = self.options.place.map_or(self.done.blocks.len() as u32, |(_, part)| part);
        self.done.blocks.push(NewBlock {
            path,
            date: self.date,
            summary: block.summary,
            origin: BlockOrigin { part, pushes: block.pushes, ..self.origin.clone() },
            stream_ids: Some(block.stream_ids),
        });
    }

    /// Reads the end of a block: without its filters, or what it takes to copy row groups.
    async fn open(&mut self, block: &BlockEntry, copies: bool) -> Result<BlockMeta> {
        let parse = |pieces: &Fetched, size| match copies {
            false => BlockMeta::parse_without_filters(pieces, size),
            // They are there once more in what is written, and up to twice again when they grow and when they are put together.
            true => BlockMeta::parse_for_copies(pieces, size, self.options.memory_bytes / 5),
        };
        let size = block.size();
        let mut pieces = Fetched::new();
        let mut wanted = size.saturating_sub(TAIL_FIRST)..size;
        for _ in 0..TAIL_ROUNDS {
            for (range, bytes) in self.read(block, &[wanted]).await? {
                pieces.insert(range.start, bytes);
            }
            match parse(&pieces, size) {
                Ok(meta) => return Ok(meta),
                Err(block::Error::NotFetched { start, end }) => wanted = start..end,
                Err(e) => return Err(unreadable(self.tenant, &block.path, &e)),
            }
        }
        let reason = "its end is not where it says";
        Err(Error::Unreadable {
            tenant: self.tenant.clone(),
            path: block.path.clone(),
            reason: reason.into(),
        })
    }

    async fn fetch(&mut self, block: &BlockEntry, ranges: &[Range<u64>]) -> Result<Fetched> {
        let mut fetched = Fetched::new();
        for (range, bytes) in self.read(block, ranges).await? {
            fetched.insert(range.start, bytes);
        }
        Ok(fetched)
    }

    async fn read(&mut self, block: &BlockEntry, ranges: &[Range<u64>]) -> Result<Vec<(Range<u64>, Bytes)>> {
        let location = self.catalog.location(self.tenant, &block.path);
        let pieces = self.catalog.store().get_ranges(&location, ranges).await;
        let pieces = pieces.map_err(|e| Error::Store {
            what: "read a block",
            tenant: self.tenant.clone(),
            source: Arc::new(e),
        })?;
        self.done.bytes_read += pieces.iter().map(|b| b.len() as u64).sum::<u64>();
        Ok(ranges.iter().cloned().zip(pieces).collect())
    }

    fn unreadable(&self, inputs: &[Arc<BlockEntry>], e: &block::Error) -> Error {
        let paths: Vec<_> = inputs.iter().map(|b| b.path.as_str()).collect();
        unreadable(self.tenant, &paths.join(", "), e)
    }
}

fn unreadable(tenant: &TenantId, path: &str, e: &block::Error) -> Error {
    Error::Unreadable { tenant: tenant.clone(), path: path.to_owned(), reason: e.to_string() }
}

/// Goes on with a merge on a thread for heavy work.
async fn step(mut merge: Box<dyn Rewriting>) -> block::Result<(Box<dyn Rewriting>, MergeStep)> {
    match skald_runtime::blocking(move || merge.step().map(|step| (merge, step))).await {
        Ok(done) => done,
        Err(e) => Err(block::Error::Corrupt { what: "input", detail: format!("the merge panicked: {e}") }),
    }
}

//! Log tasks: the first entries of some blocks in order of time.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use skald_logql::{LogQuery, PipelineTask, PlainLabels, Processed};
use skald_model::{EntryHash, Labels, LogEntry, LogMerger, QueryStats, Result, StreamId};
use skald_removal::{Removals, Source};
use skald_rpc::memory::{QueryShare, STEP_BYTES};
use skald_rpc::querier::{BlockRef, LogResult, LogTask};
use skald_storage::block::{
    Fetched, PreparedPredicate, Row, ScanBuffers, ScanRequest, TopRow, TopRows, TopStep, plan_scan,
};

use crate::Querier;
use crate::blocks::{Block, Pages};
use crate::pool::Cancelled;
use crate::removals::{self, Sift};

/// A query as the blocks of a task share it.
struct Compiled {
    query: LogQuery,
    predicate: PreparedPredicate,
    removals: Option<Arc<Removals>>,
}

/// The stages of a query at work on entries that have passed its predicate.
enum Stages {
    Plain(Box<PlainLabels>),
    Pipeline(Box<PipelineTask>),
}

/// Runs a log task.
pub(crate) async fn run(querier: &Querier, task: LogTask) -> Result<LogResult> {
    let query = LogQuery::compile(&crate::parse_log(&task.query)?);
    let predicate = PreparedPredicate::new(&query.predicate);
    let removals = querier.removals.compile(task.removals.as_ref())?;
    let compiled = Arc::new(Compiled { query, predicate, removals });
    let mut merger = LogMerger::new(task.direction, task.limit);
    let mut stats = QueryStats::default();
    let mut share = querier.memory.share();
    for block in &task.blocks {
        let range = merger.open_range(task.range);
        let part = LogTask { range, blocks: Vec::new(), ..task.clone() };
        let (entries, block_stats, own) =
            run_block(querier, &compiled, part, block, stats.block_bytes).await?;
        stats.merge(&block_stats);
        merger.add(entries);
        drop(own);
        share.resize(merger.memory_bytes()).await?;
    }
    let (entries, duplicates) = merger.finish();
    stats.duplicates += duplicates;
    Ok(LogResult { entries, stats })
}

async fn run_block(
    querier: &Querier,
    compiled: &Arc<Compiled>,
    task: LogTask,
    block: &BlockRef,
    spent: u64,
) -> Result<(Vec<LogEntry>, QueryStats, QueryShare)> {
    let (_open, queued) = querier.pool.open().await?;
    let source = removals::source(block);
    let block = querier.blocks.open(&task.tenant, block).await?;
    let budget = task.max_bytes.saturating_sub(spent);
    let mut stats = QueryStats { queue_seconds: queued, ..QueryStats::default() };
    let mut share = querier.memory.share();
    share.resize(STEP_BYTES).await?;
    let (compiled, opened) = (compiled.clone(), block.clone());
    // The first step begins where the search is made: most blocks of a rare needle end there.
    let begin = move |_: &Cancelled| Search::new(&compiled, opened, &source, &task)?.step(None);
    let (mut progress, mut waited) = querier.pool.run(begin).await?;
    loop {
        stats.queue_seconds += waited;
        let (search, ranges) = match progress {
            Progress::Done(entries, found) => {
                if found.block_bytes > budget {
                    return Err(crate::over_budget(found.block_bytes + spent));
                }
                stats.merge(&found);
                share.resize(entries.iter().map(LogEntry::memory_bytes).sum()).await?;
                return Ok((entries, stats, share));
            }
            Progress::Fetch(search, ranges) => (search, ranges),
        };
        if search.bytes() > budget {
            return Err(crate::over_budget(search.bytes() + spent));
        }
        share.resize(search.top.memory_bytes() + STEP_BYTES).await?;
        let pages = querier.blocks.fetch(&block, &ranges).await?;
        stats.compressed_bytes += pages.read;
        (progress, waited) = querier.pool.run(move |_| search.step(Some(&pages))).await?;
    }
}

/// How far a search has come.
enum Progress {
    /// It needs these bytes.
    Fetch(Box<Search>, Vec<Range<u64>>),
    /// The entries, after the query's stages, and what the block cost.
    Done(Vec<LogEntry>, QueryStats),
}

/// The search of one block, between its steps.
struct Search {
    block: Arc<Block>,
    top: TopRows,
    buffers: ScanBuffers,
    stages: Stages,
    labels: FxHashMap<u32, (StreamId, Labels)>,
    /// Tries rows of streams of which not everything stays.
    sift: Option<Sift>,
    /// Streams of the block that the selector passes.
    matched: u64,
}

impl Search {
    fn new(compiled: &Compiled, block: Arc<Block>, source: &Source, task: &LogTask) -> Result<Box<Self>> {
        let damaged = |e| block.damaged(&e);
        let streams = block.meta.streams().select(&compiled.query.selector, task.range).map_err(damaged)?;
        let removals = compiled.removals.as_ref();
        let kept = removals::keep(removals, &block, source, streams, task.range)?;
        let sift = Sift::new(removals, kept.rows);
        let request = ScanRequest {
            streams: &kept.streams,
            range: kept.range,
            predicate: &compiled.predicate,
            // Metadata belongs to an entry's identity and to its labels, so it is always wanted.
            metadata: true,
        };
        let scan = plan_scan(&block.meta, &request).map_err(damaged)?;
        if !scan.is_empty() {
            compiled.query.invalid.clone().map_or(Ok(()), Err)?;
        }
        let accepts_all = compiled.query.pipeline.is_none() && sift.is_none();
        let top = TopRows::new(scan, task.direction, task.limit, accepts_all);
        let stages = match &compiled.query.pipeline {
            Some(pipeline) => Stages::Pipeline(Box::new(pipeline.task())),
            None => Stages::Plain(Box::default()),
        };
        Ok(Box::new(Self {
            top,
            stages,
            buffers: ScanBuffers::new(),
            labels: FxHashMap::default(),
            matched: kept.streams.len() as u64,
            sift,
            block,
        }))
    }

    /// Goes on with the pages at hand.
    fn step(mut self: Box<Self>, pages: Option<&Pages>) -> Result<Progress> {
        let Self { block, top, buffers, stages, labels, sift, .. } = &mut *self;
        let nothing = Fetched::new();
        let fetched = pages.map_or(&nothing, |p| &p.fetched);
        let mut failed = None;
        let accept = |row: &Row<'_>| {
            let sift = sift.as_mut().filter(|s| s.has(row.stream));
            if sift.is_none() && matches!(stages, Stages::Plain(_)) {
                return true;
            }
            if failed.is_some() {
                return false;
            }
            match stream(labels, block, row.stream) {
                Ok((_, labels)) => {
                    let stays = sift
                        .is_none_or(|s| s.keeps(row.stream, labels, row.timestamp, row.line, row.metadata));
                    stays
                        && match &mut *stages {
                            Stages::Plain(_) => true,
                            Stages::Pipeline(task) => {
                                task.accepts(row.timestamp, row.line, labels, row.metadata)
                            }
                        }
                }
                Err(e) => {
                    failed = Some(e);
                    false
                }
            }
        };
        let step = top.step(&block.meta, fetched, buffers, accept).map_err(|e| block.damaged(&e))?;
        if let Some(e) = failed {
            return Err(e);
        }
        match step {
            TopStep::Fetch(ranges) => Ok(Progress::Fetch(self, ranges)),
            TopStep::Done => self.finish(),
        }
    }

    /// Bytes of lines looked at so far.
    fn bytes(&self) -> u64 {
        self.top.stats().bytes
    }

    /// The entries, after the query's stages, and what the block cost.
    fn finish(self: Box<Self>) -> Result<Progress> {
        let Self { block, top, mut stages, mut labels, matched, .. } = *self;
        let scanned = *top.stats();
        let stats = QueryStats {
            blocks: u64::from(scanned.pages > 0),
            blocks_pruned: u64::from(scanned.pages == 0),
            block_bytes: scanned.bytes,
            block_lines: scanned.lines,
            post_filter_lines: scanned.matched,
            streams: matched,
            ..QueryStats::default()
        };
        let rows = top.into_rows();
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, stream_labels) = stream(&mut labels, &block, row.stream)?;
            let TopRow { timestamp, line, metadata, .. } = row;
            let identity = EntryHash::of(timestamp, &line, metadata.as_ref());
            let line = Bytes::from(line);
            let done = match &mut stages {
                Stages::Plain(plain) => {
                    Some(Processed { line, labels: plain.labels(stream_labels, metadata.as_ref()) })
                }
                Stages::Pipeline(task) => task.process(timestamp, &line, stream_labels, metadata.as_ref()),
            };
            if let Some(Processed { line, labels }) = done {
                entries.push(LogEntry { timestamp, line, labels, stream: *id, identity });
            }
        }
        Ok(Progress::Done(entries, stats))
    }
}

/// Identity and labels of a stream of the block, decoded once per search.
fn stream<'a>(
    known: &'a mut FxHashMap<u32, (StreamId, Labels)>,
    block: &Block,
    ordinal: u32,
) -> Result<&'a (StreamId, Labels)> {
    match known.entry(ordinal) {
        Entry::Occupied(e) => Ok(e.into_mut()),
        Entry::Vacant(e) => {
            let s = block.meta.streams().get(ordinal).map_err(|e| block.damaged(&e))?;
            Ok(e.insert((s.id, s.labels)))
        }
    }
}

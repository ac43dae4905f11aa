//! Metric tasks: partial states of a query's range aggregations over blocks.
//!
//! Blocks are scanned apart, many at a time, but for streams that several of them hold over overlapping times: those are
//! brought together, and each entry counts once ([`crate::overlap`]).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::stream::{FuturesOrdered, StreamExt};
use rustc_hash::FxHashMap;
use skald_logql::Expr;
use skald_logql::metric::{MetricQuery, Partial, RangeLeaf, RangeObserver, Steps};
use skald_model::{EntryHash, Error, Labels, QueryStats, Result, TenantId, TimeRange};
use skald_removal::{Removals, RowRules};
use skald_rpc::ingester::{IDENTITIES_MAX, check_identities};
use skald_rpc::memory::{QueryShare, STEP_BYTES};
use skald_rpc::querier::{BlockRef, MetricResult, MetricTask};
use skald_storage::block::{
    PreparedPredicate, Row, ScanBuffers, ScanPlan, ScanRequest, plan_scan, scan_pages, scan_times,
};

use crate::blocks::{Block, Pages};
use crate::overlap::{Seen, Span, Zones, ZonesOf};
use crate::pool::Cancelled;
use crate::removals::{self, Sift};
use crate::{ACCEPTED, Querier};

/// Compressed bytes of lines that are fetched and scanned in one go.
pub(crate) const PART_BYTES: u64 = 4 << 20;
/// Entries between two looks at what the state takes.
const MEASURED_ROWS: u64 = 1024;

/// Runs a metric task.
pub(crate) async fn run(querier: &Querier, task: MetricTask) -> Result<MetricResult> {
    let query = match skald_logql::parse_with(&task.query, ACCEPTED)? {
        Expr::Metric(metric) => MetricQuery::compile(&metric)?,
        Expr::Log(_) => return Err(Error::invalid("a log query came as a metric task")),
    };
    let steps = Steps::range(task.start, task.end, task.step);
    let removals = querier.removals.compile(task.removals.as_ref())?;
    let mut stats = QueryStats::default();
    let mut states = Vec::new();
    // The merged state, and those that are finished.
    let (mut share, mut finished) = (querier.memory.share(), 0);
    for leaf in query.leaves() {
        let predicate = Arc::new(PreparedPredicate::new(&leaf.predicate));
        let job = Job { leaf: leaf.clone(), steps, predicate, removals: removals.clone() };
        let Some(partial) = Box::pin(job.run(querier, &task, &mut stats, (&mut share, finished))).await?
        else {
            states.push(Vec::new());
            continue;
        };
        share.resize(finished + 2 * partial.memory_bytes()).await?;
        states.push(partial.encode());
        finished = states.iter().map(Vec::len).sum();
        drop(partial);
        share.resize(finished).await?;
    }
    share.resize(2 * finished).await?;
    Ok(MetricResult { partials: MetricResult::pack(&states), stats })
}

/// One range aggregation of a task.
#[derive(Clone)]
struct Job {
    leaf: Arc<RangeLeaf>,
    steps: Steps,
    predicate: Arc<PreparedPredicate>,
    removals: Option<Arc<Removals>>,
}

/// The wanted streams of one block.
struct Wanted {
    /// Streams that no other block of the task holds over the same times.
    own: Vec<u32>,
    /// The others, and the times to compare them at.
    shared: ZonesOf,
    /// The times to look at.
    range: TimeRange,
    /// Streams of which not everything stays.
    rows: FxHashMap<u32, RowRules>,
}

/// Streams of one block to be scanned together.
struct Streams {
    numbers: Vec<u32>,
    range: TimeRange,
    /// Tries their rows.
    sift: Option<Sift>,
    /// Where other blocks have entries of them, too.
    zones: ZonesOf,
}

impl Job {
    /// The merged state over all blocks; `None` if no stream matches. `share` holds it beside `held` bytes of others.
    async fn run(
        &self,
        querier: &Querier,
        task: &MetricTask,
        stats: &mut QueryStats,
        (share, held): (&mut QueryShare, usize),
    ) -> Result<Option<Partial>> {
        let wanted = self.select(querier, task).await?;
        let mut merged: Option<Partial> = None;
        let mut scans = FuturesOrdered::new();
        let mut shared = Vec::new();
        for (block, wanted) in task.blocks.iter().zip(wanted) {
            stats.streams += (wanted.own.len() + wanted.shared.len()) as u64;
            if wanted.own.is_empty() && wanted.shared.is_empty() {
                stats.blocks_pruned += 1;
            }
            let Wanted { own, shared: zones, range, mut rows } = wanted;
            let mut rows_of = |numbers: &[u32]| numbers.iter().filter_map(|n| rows.remove_entry(n)).collect();
            let mut numbers: Vec<u32> = zones.keys().copied().collect();
            numbers.sort_unstable();
            let others = Streams { sift: self.sift(rows_of(&numbers)), numbers, range, zones };
            // Apart, so that the others can be counted without their lines.
            let sift = self.sift(rows_of(&own));
            let (sifted, own): (Vec<u32>, Vec<u32>) =
                own.into_iter().partition(|n| sift.as_ref().is_some_and(|s| s.has(*n)));
            for (numbers, sift) in [(own, None), (sifted, sift)] {
                if !numbers.is_empty() {
                    let streams = Streams { numbers, range, sift, zones: ZonesOf::default() };
                    scans.push_back(self.scan(querier, (&task.tenant, block), streams));
                }
            }
            if !others.numbers.is_empty() {
                shared.push((block, others));
            }
        }
        while let Some(scanned) = scans.next().await {
            let (partial, found, own) = scanned?;
            stats.merge(&found);
            if stats.block_bytes > task.max_bytes {
                return Err(crate::over_budget(stats.block_bytes));
            }
            merge(&mut merged, partial, (share, held), own).await?;
        }
        if !shared.is_empty() {
            let (partial, found, own) = Box::pin(self.join(querier, task, shared)).await?;
            stats.merge(&found);
            merge(&mut merged, partial, (share, held), own).await?;
        }
        Ok(merged)
    }

    /// The wanted streams of each block, those apart that blocks share over overlapping times. Blocks are opened one
    /// by one, and again when they are scanned: they are cached, and must not all be in memory at once.
    async fn select(&self, querier: &Querier, task: &MetricTask) -> Result<Vec<Wanted>> {
        let range = self.leaf.times(self.steps);
        let (own, shards) = (u64::from(task.shard.0), u64::from(task.shard.1.max(1)));
        let mut wanted = Vec::with_capacity(task.blocks.len());
        // By stream: where it lies and between which times.
        let mut places: FxHashMap<u64, Vec<(Span, usize, u32)>> = FxHashMap::default();
        for (at, block) in task.blocks.iter().enumerate() {
            let source = removals::source(block);
            let block = querier.blocks.open(&task.tenant, block).await?;
            let index = block.meta.streams();
            let damaged = |e| block.damaged(&e);
            let mut ordinals = Vec::new();
            for ordinal in index.select(&self.leaf.selector, range).map_err(damaged)? {
                if index.id(ordinal).map_err(damaged)?.0 % shards == own {
                    ordinals.push(ordinal);
                }
            }
            let kept = removals::keep(self.removals.as_ref(), &block, &source, ordinals, range)?;
            for ordinal in kept.streams.iter().copied().filter(|_| task.blocks.len() > 1) {
                let id = index.id(ordinal).map_err(damaged)?.0;
                let span = index.times(ordinal).map_err(damaged)?;
                places.entry(id).or_default().push((span, at, ordinal));
            }
            let (own, shared) = (kept.streams, ZonesOf::default());
            wanted.push(Wanted { own, shared, range: kept.range, rows: kept.rows });
        }
        for list in places.into_values().filter(|l| l.len() > 1) {
            let zones = Zones::of(list.iter().map(|(span, ..)| *span).collect());
            for (span, at, ordinal) in list {
                if zones.touch(span) {
                    wanted[at].shared.insert(ordinal, zones.clone());
                }
            }
        }
        for Wanted { own, shared, .. } in &mut wanted {
            own.retain(|ordinal| !shared.contains_key(ordinal));
        }
        Ok(wanted)
    }

    fn sift(&self, rows: FxHashMap<u32, RowRules>) -> Option<Sift> {
        Sift::new(self.removals.as_ref(), rows)
    }

    /// Scans streams of one block that no other block shares.
    async fn scan(
        &self,
        querier: &Querier,
        (tenant, block): (&TenantId, &BlockRef),
        streams: Streams,
    ) -> Result<(Partial, QueryStats, QueryShare)> {
        let (_open, queued) = querier.pool.open().await?;
        let block = querier.blocks.open(tenant, block).await?;
        // Where only the number of entries counts, lines are not read.
        let times_only = streams.sift.is_none()
            && self.predicate.is_trivial()
            && self.leaf.counts_only()
            && (!self.leaf.needs_metadata() || !block.meta.has_metadata());
        let metadata = self.leaf.needs_metadata() || streams.sift.is_some();
        let Streams { numbers, range, sift, .. } = streams;
        let (plan, observer, mut stats) = self.begin(querier, &block, numbers, range, metadata).await?;
        stats.queue_seconds += queued;
        let mut work = Work::new(block.clone(), plan, observer, sift, querier.memory.share());
        if times_only {
            work.make_room(0).await?;
            let pages = querier.blocks.fetch(&block, &work.plan.time_ranges(&block.meta)).await?;
            stats.compressed_bytes += pages.read;
            stats.blocks = 1;
            (work, _) =
                querier.pool.run(move |cancelled| work.times(&pages, cancelled).map(|()| work)).await?;
            stats.merge(&work.stats);
            return Ok((work.observer.finish(), stats, work.share));
        }
        let parts = work.plan.parts(&block.meta, PART_BYTES);
        stats.blocks = u64::from(!parts.is_empty());
        for part in parts {
            work.make_room(0).await?;
            let pages = querier.blocks.fetch(&block, &work.plan.part_ranges(&block.meta, &part)).await?;
            stats.compressed_bytes += pages.read;
            let scan = move |cancelled: &Cancelled| {
                cancelled.check()?;
                work.pages(&part, &pages, &mut |_, _| true).map(|()| work)
            };
            (work, _) = querier.pool.run(scan).await?;
        }
        stats.merge(&work.stats);
        Ok((work.observer.finish(), stats, work.share))
    }

    /// Scans streams that blocks share, one block after the other; an entry that an earlier block had is passed over.
    async fn join(
        &self,
        querier: &Querier,
        task: &MetricTask,
        blocks: Vec<(&BlockRef, Streams)>,
    ) -> Result<(Partial, QueryStats, QueryShare)> {
        let (_open, queued) = querier.pool.open().await?;
        let mut seen = Seen::default();
        let mut observer = self.leaf.observer(self.steps)?;
        let mut share = querier.memory.share();
        let mut stats = QueryStats { queue_seconds: queued, ..QueryStats::default() };
        for (block, Streams { numbers, range, sift, mut zones }) in blocks {
            let block = querier.blocks.open(&task.tenant, block).await?;
            let (plan, _, _) = self.begin(querier, &block, numbers, range, true).await?;
            let mut work = Work::new(block.clone(), plan, observer, sift, share);
            for part in work.plan.parts(&block.meta, PART_BYTES) {
                work.make_room(seen.memory_bytes()).await?;
                let pages = querier.blocks.fetch(&block, &work.plan.part_ranges(&block.meta, &part)).await?;
                stats.compressed_bytes += pages.read;
                let scan = move |cancelled: &Cancelled| {
                    cancelled.check()?;
                    let mut duplicates = 0;
                    let mut is_new = |labels: &Labels, row: &Row<'_>| {
                        let identity = || EntryHash::of(row.timestamp, row.line, row.metadata);
                        let new = seen.is_new(zones.get(&row.stream), labels, row.timestamp, identity);
                        duplicates += u64::from(!new);
                        new
                    };
                    work.pages(&part, &pages, &mut is_new)?;
                    work.stats.duplicates += duplicates;
                    Ok((work, seen, zones))
                };
                ((work, seen, zones), _) = querier.pool.run(scan).await?;
                check_identities(seen.len(), IDENTITIES_MAX)?;
                if stats.block_bytes + work.stats.block_bytes > task.max_bytes {
                    return Err(crate::over_budget(stats.block_bytes + work.stats.block_bytes));
                }
            }
            stats.merge(&work.stats);
            (observer, share) = (work.observer, work.share);
        }
        Ok((observer.finish(), stats, share))
    }

    async fn begin(
        &self,
        querier: &Querier,
        block: &Arc<Block>,
        streams: Vec<u32>,
        range: TimeRange,
        metadata: bool,
    ) -> Result<(ScanPlan, RangeObserver, QueryStats)> {
        let (job, block) = (self.clone(), block.clone());
        let plan = move |_: &Cancelled| {
            let request = ScanRequest { streams: &streams, range, predicate: &job.predicate, metadata };
            let plan = plan_scan(&block.meta, &request).map_err(|e| block.damaged(&e))?;
            Ok((plan, job.leaf.observer(job.steps)?))
        };
        let ((plan, observer), waited) = querier.pool.run(plan).await?;
        Ok((plan, observer, QueryStats { queue_seconds: waited, ..QueryStats::default() }))
    }
}

/// Merges the state of a scan, which `own` holds, into that of the task, which `share` holds beside `held` bytes.
async fn merge(
    merged: &mut Option<Partial>,
    partial: Partial,
    (share, held): (&mut QueryShare, usize),
    own: QueryShare,
) -> Result<()> {
    match merged {
        Some(m) => m.merge(partial),
        None => *merged = Some(partial),
    }
    drop(own);
    share.resize(held + merged.as_ref().map_or(0, Partial::memory_bytes)).await
}

/// Decides whether an entry of a stream counts.
type Counts<'a> = dyn FnMut(&Labels, &Row<'_>) -> bool + 'a;

/// The scan of one block, between its steps.
struct Work {
    block: Arc<Block>,
    plan: ScanPlan,
    observer: RangeObserver,
    buffers: ScanBuffers,
    labels: BTreeMap<u32, Labels>,
    sift: Option<Sift>,
    stats: QueryStats,
    share: QueryShare,
    /// What `share` holds besides the observer's state.
    other_bytes: usize,
}

impl Work {
    /// Boxed, because it moves from thread to thread with its buffers.
    fn new(
        block: Arc<Block>,
        plan: ScanPlan,
        observer: RangeObserver,
        sift: Option<Sift>,
        share: QueryShare,
    ) -> Box<Self> {
        let (buffers, labels) = (ScanBuffers::new(), BTreeMap::new());
        let stats = QueryStats::default();
        Box::new(Self { block, plan, observer, buffers, labels, sift, stats, share, other_bytes: 0 })
    }

    /// Waits for the memory of the next step, and gives back what the last one did not need. `other_bytes` are held
    /// besides.
    async fn make_room(&mut self, other_bytes: usize) -> Result<()> {
        self.other_bytes = other_bytes;
        self.share.resize(other_bytes + self.observer.memory_bytes() + STEP_BYTES).await
    }

    /// Observes every time of the plan.
    fn times(&mut self, pages: &Pages, cancelled: &Cancelled) -> Result<()> {
        let Self { block, plan, observer, buffers, labels, stats, share, .. } = self;
        let mut outcome = Ok(());
        let scanned = scan_times(&block.meta, plan, &pages.fetched, buffers, |stream, times| {
            if outcome.is_err() {
                return;
            }
            outcome = labels_of(labels, block, stream).and_then(|labels| {
                cancelled.check()?;
                stats.block_lines += times.len() as u64;
                stats.post_filter_lines += times.len() as u64;
                observer.observe_times(times, labels)?;
                share.grow_to(observer.memory_bytes())
            });
        });
        scanned.map_err(|e| block.damaged(&e))?;
        outcome
    }

    /// Observes the rows of a part that match and that `counts` counts.
    fn pages(
        &mut self,
        part: &skald_storage::block::ScanPart,
        pages: &Pages,
        counts: &mut Counts<'_>,
    ) -> Result<()> {
        let Self { block, plan, observer, buffers, labels, sift, stats, share, other_bytes } = self;
        let (mut outcome, mut rows) = (Ok(()), 0);
        let scanned = scan_pages(&block.meta, plan, part, &pages.fetched, buffers, |row| {
            outcome = labels_of(labels, block, row.stream).and_then(|labels| {
                let stays = sift
                    .as_mut()
                    .is_none_or(|s| s.keeps(row.stream, labels, row.timestamp, row.line, row.metadata));
                if !stays || !counts(labels, &row) {
                    return Ok(());
                }
                observer.observe(row.timestamp, row.line, labels, row.metadata)?;
                rows += 1;
                match rows % MEASURED_ROWS {
                    0 => share.grow_to(*other_bytes + observer.memory_bytes()),
                    _ => Ok(()),
                }
            });
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let (found, _) = scanned.map_err(|e| block.damaged(&e))?;
        stats.block_bytes += found.bytes;
        stats.block_lines += found.lines;
        stats.post_filter_lines += found.matched;
        outcome
    }
}

/// Labels of a stream of the block, decoded once per scan.
fn labels_of<'a>(known: &'a mut BTreeMap<u32, Labels>, block: &Block, ordinal: u32) -> Result<&'a Labels> {
    match known.entry(ordinal) {
        std::collections::btree_map::Entry::Occupied(e) => Ok(e.into_mut()),
        std::collections::btree_map::Entry::Vacant(e) => {
            let info = block.meta.streams().get(ordinal).map_err(|e| block.damaged(&e))?;
            Ok(e.insert(info.labels))
        }
    }
}

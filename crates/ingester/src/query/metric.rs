//! Metric queries over memory: the partial states of a query's range aggregations.

use std::sync::Arc;

use skald_logql::metric::{MetricQuery, RangeLeaf, Steps};
use skald_model::{Direction, EntryHash, QueryStats, Result};
use skald_rpc::memory::QueryShare;
use skald_rpc::querier::{MetricResult, MetricTask};

use super::merge::Merge;
use super::removals::Removing;
use super::sources::{BodySearch, Copies, Source, Sources};
use super::{Budget, Cancelled};
use crate::segment::{Row, Segment};

/// Entries between two looks at what the state takes.
const MEASURED_ROWS: u64 = 1024;

/// Runs a metric task over segments, older ones first. `share` holds its states.
pub(crate) fn query_metric(
    segments: &[Arc<Segment>],
    query: &MetricQuery,
    task: &MetricTask,
    share: &mut QueryShare,
    cancelled: &Cancelled,
) -> Result<MetricResult> {
    let steps = Steps::range(task.start, task.end, task.step);
    let budget = Budget { bytes_max: task.max_bytes, cancelled };
    let mut stats = QueryStats { ingesters: 1, ..QueryStats::default() };
    let mut partials: Vec<u8> = Vec::new();
    for leaf in query.leaves() {
        let state = aggregate(segments, leaf, steps, task, &budget, &mut stats, &mut |bytes| {
            share.grow_to(partials.len() + bytes)
        })?;
        partials.extend_from_slice(&(state.len() as u32).to_le_bytes());
        partials.extend_from_slice(&state);
    }
    Ok(MetricResult { partials: partials.into(), stats })
}

/// The encoded state of one range aggregation; empty if no stream matches. `hold` is told how many bytes it takes.
fn aggregate(
    segments: &[Arc<Segment>],
    leaf: &Arc<RangeLeaf>,
    steps: Steps,
    task: &MetricTask,
    budget: &Budget<'_>,
    stats: &mut QueryStats,
    hold: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<u8>> {
    let (own, shards) = (u64::from(task.shard.0), u64::from(task.shard.1.max(1)));
    let mut removing = Removing::of(task.removals.as_ref())?;
    let sources = Sources::select(segments, &leaf.selector, leaf.times(steps), removing.as_ref(), |id| {
        id.0 % shards == own && !task.skip.contains(&id)
    });
    let cut = task.cut.unwrap_or(u64::MAX);
    if sources.list.is_empty() {
        return Ok(Vec::new());
    }
    stats.streams += sources.streams;
    let mut observer = leaf.observer(steps)?;
    let mut bodies = BodySearch::new(segments, &leaf.predicate, &sources);
    // Stream by stream: only copies of one stream have to be brought into one order.
    for same in sources.list.chunk_by(|a, b| a.ordinal == b.ordinal) {
        let mut copies = Copies::default();
        let cursors = same.iter().map(Source::cursor).collect();
        let mut merge = Merge::new(cursors, Direction::Forward);
        let mut wanted = |i: usize, row: &Row| {
            let segment = same[i].segment;
            segments[segment].batches().get(row.batch).lsn <= cut && bodies.may_match(segment, row)
        };
        while let Some((i, row)) = merge.next(&mut wanted) {
            let source = &same[i];
            let batches = segments[source.segment].batches();
            let (line, metadata) = (batches.line(row), batches.metadata(row));
            budget.spend(stats, line, metadata)?;
            if !leaf.predicate.matches(line) {
                continue;
            }
            if let (Some(rules), Some(removing)) = (&source.rules, &mut removing)
                && !removing.keeps(rules, &segments[source.segment], source.stream, row)
            {
                continue;
            }
            if source.shared || !task.exclude.is_empty() {
                let identity = EntryHash::of(row.timestamp, line, metadata);
                let is_new = !source.shared || copies.is_new(row.timestamp, source.ordinal, identity);
                if !is_new || task.exclude.contains(&(source.stream.id, identity)) {
                    stats.duplicates += 1;
                    continue;
                }
            }
            stats.post_filter_lines += 1;
            observer.observe(row.timestamp, line, &source.stream.labels, metadata)?;
            if stats.post_filter_lines.is_multiple_of(MEASURED_ROWS) {
                hold(observer.memory_bytes())?;
            }
        }
    }
    // Beside the state its encoded form.
    hold(2 * observer.memory_bytes())?;
    Ok(observer.finish().encode())
}

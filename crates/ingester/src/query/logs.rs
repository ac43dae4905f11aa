//! Log queries over memory: the first entries in one direction.

use std::sync::Arc;

use bytes::Bytes;
use skald_logql::{LogQuery, PipelineTask, PlainLabels, Processed};
use skald_model::{EntryHash, Labels, LabelsRef, LogEntry, QueryStats, Result, Timestamp};
use skald_rpc::memory::QueryShare;
use skald_rpc::querier::{LogResult, LogTask};

use super::merge::Merge;
use super::removals::Removing;
use super::sources::{BodySearch, Copies, Source, Sources};
use super::{Budget, Cancelled};
use crate::segment::Segment;

/// Bytes of entries between two looks at whether there is memory for more.
const MEASURED_BYTES: usize = 256 << 10;

/// Runs a log task over segments, older ones first. `share` holds its answer.
pub(crate) fn query_logs(
    segments: &[Arc<Segment>],
    query: &LogQuery,
    task: &LogTask,
    share: &mut QueryShare,
    cancelled: &Cancelled,
) -> Result<LogResult> {
    let mut removing = Removing::of(task.removals.as_ref())?;
    let sources = Sources::select(segments, &query.selector, task.range, removing.as_ref(), |_| true);
    if let (Some(invalid), true) = (&query.invalid, sources.streams > 0) {
        return Err(invalid.clone().into());
    }
    let mut stats = QueryStats { ingesters: 1, streams: sources.streams, ..QueryStats::default() };
    let mut bodies = BodySearch::new(segments, &query.predicate, &sources);
    let mut copies = Copies::default();
    let mut stages = Stages::new(query);
    let budget = Budget { bytes_max: task.max_bytes, cancelled };
    let mut entries = Vec::new();
    let (mut bytes, mut measured) = (0, 0);
    let cursors = sources.list.iter().map(Source::cursor).collect();
    let mut merge = Merge::new(cursors, task.direction);
    while entries.len() < task.limit {
        let next = merge.next(|i, row| bodies.may_match(sources.list[i].segment, row));
        let Some((i, row)) = next else { break };
        let source = &sources.list[i];
        let batches = segments[source.segment].batches();
        let (line, metadata) = (batches.line(row), batches.metadata(row));
        budget.spend(&mut stats, line, metadata)?;
        if !query.predicate.matches(line) {
            continue;
        }
        let stream = source.stream;
        if let (Some(rules), Some(removing)) = (&source.rules, &mut removing)
            && !removing.keeps(rules, &segments[source.segment], stream, row)
        {
            continue;
        }
        let Some(done) = stages.process(row.timestamp, &batches.line_bytes(row), &stream.labels, metadata)
        else {
            continue;
        };
        let identity = EntryHash::of(row.timestamp, line, metadata);
        if source.shared && !copies.is_new(row.timestamp, source.ordinal, identity) {
            stats.duplicates += 1;
            continue;
        }
        stats.post_filter_lines += 1;
        let entry = LogEntry {
            timestamp: row.timestamp,
            // A copy, so that a short line does not keep the body of a whole push in memory.
            line: Bytes::copy_from_slice(&done.line),
            labels: done.labels,
            stream: stream.id,
            identity,
        };
        bytes += entry.memory_bytes();
        entries.push(entry);
        if bytes - measured >= MEASURED_BYTES {
            measured = bytes;
            share.grow_to(bytes)?;
        }
    }
    Ok(LogResult { entries, stats })
}

/// What is done to an entry whose stored line passes.
pub(crate) enum Stages {
    Pipeline(PipelineTask),
    None(PlainLabels),
}

impl Stages {
    pub(crate) fn new(query: &LogQuery) -> Self {
        match &query.pipeline {
            Some(pipeline) => Stages::Pipeline(pipeline.task()),
            None => Stages::None(PlainLabels::default()),
        }
    }

    pub(crate) fn process(
        &mut self,
        timestamp: Timestamp,
        line: &Bytes,
        stream: &Labels,
        metadata: LabelsRef<'_>,
    ) -> Option<Processed> {
        match self {
            Stages::Pipeline(task) => task.process(timestamp, line, stream, metadata),
            Stages::None(plain) => {
                Some(Processed { line: line.clone(), labels: plain.labels(stream, metadata) })
            }
        }
    }
}

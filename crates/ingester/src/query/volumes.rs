//! How much is in memory, and where in time.

use std::collections::HashSet;
use std::sync::Arc;

use skald_model::{
    GroupVolume, Result, Selector, StepVolume, StreamId, TimeRange, VolumeCollector, VolumeSpec,
};

use super::Cancelled;
use super::removals::{self, Removing};
use crate::segment::{Row, Segment, StreamRows};

/// What the streams that pass one of the selectors (none passes all) hold in `range`, counted entry by entry.
pub(crate) fn volumes(
    segments: &[Arc<Segment>],
    selectors: &[Selector],
    range: TimeRange,
    spec: VolumeSpec,
    skip: &HashSet<StreamId>,
    mut removing: Option<Removing>,
    cancelled: &Cancelled,
) -> Result<Vec<GroupVolume>> {
    let passes = |s: &StreamRows| {
        !skip.contains(&s.id)
            && (selectors.is_empty() || selectors.iter().any(|sel| sel.matches(s.labels.as_ref())))
    };
    let mut all = VolumeCollector::new(spec, range);
    for segment in segments {
        for stream in segment.streams().iter().filter(|s| passes(s)) {
            cancelled.check()?;
            let rows = removals::rows(removing.as_mut(), segment, stream, &range);
            let steps = count(segment, stream, &rows, all.spec());
            all.add_counted(&stream.labels, steps)?;
        }
    }
    Ok(all.finish())
}

fn count(segment: &Segment, stream: &StreamRows, mut rows: &[Row], spec: &VolumeSpec) -> Vec<StepVolume> {
    let whole = rows.len() == stream.rows.len();
    let mut steps = Vec::new();
    while let Some(first) = rows.first() {
        let step = spec.step_of(first.timestamp);
        let end = spec.end_of(step);
        let (inside, rest) = rows.split_at(rows.partition_point(|r| r.timestamp < end).max(1));
        let bytes = match whole && rest.is_empty() && steps.is_empty() {
            // The common case needs no look at the entries.
            true => stream.bytes + stream.metadata_bytes,
            false => {
                let batches = segment.batches();
                inside.iter().map(|r| batches.line_len(r) + batches.metadata_text_len(r)).sum()
            }
        };
        steps.push(StepVolume { step, chunks: 1, entries: inside.len() as u64, bytes });
        rows = rest;
    }
    steps
}

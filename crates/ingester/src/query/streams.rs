//! Which streams are in memory.

use std::sync::Arc;

use skald_model::{Result, Selector, TimeRange};
use skald_rpc::ingester::{HeldStreams, StreamInfo};

use super::Cancelled;
use super::removals::{self, Removing};
use crate::segment::{Segment, StreamRows};

/// The streams with entries in `range` that pass one of the selectors (none passes all), each once, by labels.
pub(crate) fn streams(
    segments: &[Arc<Segment>],
    selectors: &[Selector],
    range: TimeRange,
    mut removing: Option<Removing>,
    cancelled: &Cancelled,
) -> Result<HeldStreams> {
    let passes =
        |s: &StreamRows| selectors.is_empty() || selectors.iter().any(|sel| sel.matches(s.labels.as_ref()));
    let mut found = Vec::new();
    for segment in segments {
        cancelled.check()?;
        let streams = segment.streams().iter().filter(|s| passes(s));
        found.extend(streams.filter_map(|s| info(segment, s, range, removing.as_mut())));
    }
    let cut = segments.iter().filter_map(|s| s.lsns()).map(|(_, last)| last).max().unwrap_or(0);
    Ok(HeldStreams { cut, streams: StreamInfo::join(found) })
}

fn info(
    segment: &Segment,
    stream: &StreamRows,
    range: TimeRange,
    removing: Option<&mut Removing>,
) -> Option<StreamInfo> {
    let rows = removals::rows(removing, segment, stream, &range);
    let (first, last) = (rows.first()?, rows.last()?);
    let bytes = match rows.len() == stream.rows.len() {
        true => stream.bytes,
        false => rows.iter().map(|r| segment.batches().line_len(r)).sum(),
    };
    Some(StreamInfo {
        id: stream.id,
        labels: stream.labels.clone(),
        min_ts: first.timestamp,
        max_ts: last.timestamp,
        entries: rows.len() as u64,
        bytes,
        digest: stream.digest,
    })
}

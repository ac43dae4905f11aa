//! What a task must not see of a block.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use skald_model::{Labels, LabelsRef, Result, TimeRange, Timestamp};
use skald_removal::{Entry, Keep, Removals, RowRules, Sieve, Source};
use skald_rpc::querier::BlockRef;
use skald_storage::block::StreamInfo;

use crate::blocks::Block;

/// The source that a block is.
pub(crate) fn source(block: &BlockRef) -> Source {
    Source::Block { deletes: block.deletes, received_min: block.received_min }
}

/// Streams of a block, without those that are gone.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Their numbers, ascending.
    pub(crate) streams: Vec<u32>,
    /// The times to look at.
    pub(crate) range: TimeRange,
    /// Those whose rows have to be looked at one by one.
    pub(crate) rows: FxHashMap<u32, RowRules>,
}

/// A stream with what stays of it.
struct Part {
    ordinal: u32,
    min: Timestamp,
    max: Timestamp,
    keep: Keep,
}

/// What is left of `streams` of a block in `range`. Where a cut through time is enough for all of them, the range is cut,
/// and no row has to be looked at for it.
pub(crate) fn keep(
    removals: Option<&Arc<Removals>>,
    block: &Block,
    source: &Source,
    streams: Vec<u32>,
    range: TimeRange,
) -> Result<Kept> {
    let totals = block.meta.streams().totals();
    let all = |streams| Kept { streams, range, rows: FxHashMap::default() };
    let Some(removals) = removals.filter(|r| r.may_concern(source, totals.min_ts, totals.max_ts)) else {
        return Ok(all(streams));
    };
    let mut parts = Vec::with_capacity(streams.len());
    for ordinal in streams {
        let s = block.meta.streams().get(ordinal).map_err(|e| block.damaged(&e))?;
        let keep = removals.stream(source, s.labels.as_ref(), s.min_ts, s.max_ts);
        let has_any = keep.bounds(s.min_ts, s.max_ts).is_some_and(|(min, max)| range.overlaps(min, max));
        if has_any {
            parts.push(Part { ordinal, min: s.min_ts, max: s.max_ts, keep });
        }
    }
    let common = common_range(&parts);
    let streams = parts.iter().map(|p| p.ordinal).collect();
    let rules = |p: Part| match p.keep {
        Keep::Rows(rules) => Some((p.ordinal, rules)),
        Keep::Within(range) if common.is_none() => Some((p.ordinal, RowRules::within(range))),
        _ => None,
    };
    let rows = parts.into_iter().filter_map(rules).collect();
    Ok(Kept { streams, range: common.map_or(range, |c| range.intersect(&c)), rows })
}

/// The range to which all the streams can be cut alike, if there is one.
fn common_range(parts: &[Part]) -> Option<TimeRange> {
    let mut common = TimeRange::ALL;
    for p in parts {
        if let Keep::Within(kept) = &p.keep {
            if kept.start > p.min {
                common.start = common.start.max(kept.start);
            }
            if kept.end <= p.max {
                common.end = common.end.min(kept.end);
            }
        }
    }
    let fits = |p: &Part| {
        let all = TimeRange::new(p.min, p.max.saturating_add(1));
        match &p.keep {
            Keep::All => all.intersect(&common) == all,
            Keep::Within(kept) => all.intersect(&common) == *kept,
            // Their rules know the times, too; the cut must only not take more.
            Keep::Rows(_) | Keep::Nothing => all.intersect(&common) == all,
        }
    };
    parts.iter().all(fits).then_some(common)
}

/// Tries the rows of a scan.
#[derive(Debug)]
pub(crate) struct Sift {
    sieve: Sieve,
    rows: FxHashMap<u32, RowRules>,
}

impl Sift {
    /// Tries the streams of `rows`; `None` when there are none.
    pub(crate) fn new(removals: Option<&Arc<Removals>>, rows: FxHashMap<u32, RowRules>) -> Option<Self> {
        match removals {
            Some(removals) if !rows.is_empty() => Some(Self { sieve: Sieve::new(removals.clone()), rows }),
            _ => None,
        }
    }

    /// Whether rows of the stream have to be looked at.
    pub(crate) fn has(&self, stream: u32) -> bool {
        self.rows.contains_key(&stream)
    }

    /// Whether a row stays.
    pub(crate) fn keeps(
        &mut self,
        stream: u32,
        labels: &Labels,
        timestamp: Timestamp,
        line: &[u8],
        metadata: LabelsRef<'_>,
    ) -> bool {
        let Some(rules) = self.rows.get(&stream) else { return true };
        self.sieve.keeps(rules, labels, Entry { timestamp, received: Entry::OF_BLOCK, line, metadata })
    }
}

/// What stays of a stream of a block; `None` if that is nothing.
pub(crate) fn stream(removals: Option<&Arc<Removals>>, source: &Source, s: &StreamInfo) -> Option<Keep> {
    let Some(removals) = removals else { return Some(Keep::All) };
    match removals.stream(source, s.labels.as_ref(), s.min_ts, s.max_ts) {
        Keep::Nothing => None,
        keep => Some(keep),
    }
}

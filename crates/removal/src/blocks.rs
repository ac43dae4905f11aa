//! What is known of whole blocks without opening them.

use skald_model::{MatchOp, Matcher, Selector, TimeRange, Timestamp};
use skald_storage::block::BlockSummary;
use skald_storage::table::BlockEntry;

use crate::removals::{Delete, Removals, Source};

/// How a block stands towards the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// All of it stays.
    Nothing,
    /// Some of it may go.
    Some,
    /// All of it goes.
    Whole,
}

impl Source {
    /// The source that a block is.
    pub fn of(block: &BlockEntry) -> Self {
        Self::Block { deletes: block.origin.deletes, received_min: block.origin.received_min }
    }
}

impl Removals {
    /// How a block stands towards these rules, as far as the table knows it.
    pub fn block(&self, block: &BlockEntry) -> Concern {
        let summary = &block.summary;
        let (earliest, latest) = self.cutoffs_of(summary);
        let by_size = summary.max_ts <= self.size_cutoff && self.size_cutoff != skald_model::removal::NEVER;
        if earliest > summary.max_ts || by_size {
            return Concern::Whole;
        }
        let mut concern = if latest > summary.min_ts { Concern::Some } else { Concern::Nothing };
        for delete in self.deletes.iter().filter(|d| d.is_due(block)) {
            let covers = delete.is_plain()
                && delete.rule.range.covers(summary.min_ts, summary.max_ts)
                && matches_all(&delete.query.selector, summary);
            if covers {
                return Concern::Whole;
            }
            concern = Concern::Some;
        }
        concern
    }

    /// The earliest and the latest time before which streams of the block may have expired.
    pub(crate) fn cutoffs_of(&self, summary: &BlockSummary) -> (Timestamp, Timestamp) {
        let (mut earliest, mut latest) = (Timestamp::MAX, Timestamp::MIN);
        let mut take = |cutoff: Timestamp| {
            earliest = earliest.min(cutoff);
            latest = latest.max(cutoff);
        };
        for (selector, cutoff) in &self.cutoffs {
            if summary.may_hold(selector, TimeRange::ALL) {
                take(*cutoff);
            }
            if matches_all(selector, summary) {
                // No stream is left for the rules behind it.
                return (earliest, latest);
            }
        }
        take(self.cutoff);
        (earliest, latest)
    }

    /// Tells the blocks that are too much when a tenant may have `bytes_max` stored bytes: those of which the newer ones alone
    /// have as much. 0 is no limit.
    #[must_use]
    pub fn with_size<'a>(mut self, blocks: impl Iterator<Item = &'a BlockEntry>, bytes_max: u64) -> Self {
        self.size_cutoff = size_cutoff(blocks, bytes_max);
        self
    }
}

/// The time of the newest entry of the newest block that is too much.
fn size_cutoff<'a>(blocks: impl Iterator<Item = &'a BlockEntry>, bytes_max: u64) -> Timestamp {
    if bytes_max == 0 {
        return skald_model::removal::NEVER;
    }
    let mut blocks: Vec<(Timestamp, u64)> = blocks.map(|b| (b.summary.max_ts, b.size())).collect();
    blocks.sort_unstable_by_key(|(max_ts, _)| std::cmp::Reverse(*max_ts));
    let (mut newer, mut oldest_kept) = (0u64, Timestamp::MAX);
    for (max_ts, size) in blocks {
        // Blocks that end together stay or go together.
        if newer >= bytes_max && max_ts < oldest_kept {
            return max_ts;
        }
        newer = newer.saturating_add(size);
        oldest_kept = max_ts;
    }
    skald_model::removal::NEVER
}

impl Delete {
    /// Whether the block may hold what the request is about, and it has not been carried out on it.
    pub fn is_due(&self, block: &BlockEntry) -> bool {
        block.origin.deletes < self.rule.generation && self.is_about(block)
    }

    /// Whether the block may hold, or have held, what the request is about.
    pub fn is_about(&self, block: &BlockEntry) -> bool {
        block.origin.received_min <= self.rule.accepted
            && block.summary.may_hold(&self.query.selector, self.rule.range)
    }
}

/// Whether the selector is sure to match every stream of a block.
fn matches_all(selector: &Selector, summary: &BlockSummary) -> bool {
    let all = |m: &Matcher| match summary.label_values.get(&*m.name) {
        Some(Some(values)) => values.iter().all(|v| m.matches(v)),
        // Some have other values than are listed; only an expression that takes anything is sure.
        Some(None) => matches!(m.op, MatchOp::Match) && matches!(&*m.value, ".*"),
        None => m.matches_empty(),
    };
    selector.matchers.iter().all(all)
}

#[cfg(test)]
mod tests;

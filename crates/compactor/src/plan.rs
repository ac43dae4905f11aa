//! Which blocks to merge next. Pure: blocks and a moment in, jobs out.
//!
//! Blocks have levels: 0 as flushed, 1 gathered, 2 final. What is compacted lies within slices of its day. Three kinds of
//! job, in this order of urgency for each day:
//!
//! * **gather**: flushed blocks to level 1, as soon as there are enough of them; of a slice that closes, all.
//! * **close**: what a slice has at level 1 to level 2, once, when the slice has ended and nothing came for a while. The
//!   blocks of one slice at level 2 are disjoint by streams.
//! * **late**: what came to level 1 after that is gathered by itself, and goes into the final blocks when it amounts to as
//!   much as they, or has lain beside them for long enough.
//!
//! So an entry that comes in time is rewritten twice. An entry of a final block is rewritten again only when its slice has
//! doubled, or once in `late_after`; a late one besides once for each factor of four by which the piece that it lies in
//! grows. All rewrites together write less than four times what was flushed; a property test holds that.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use skald_model::time::SECOND;
use skald_storage::rewrite::{slice_of, slices};
use skald_storage::table::BlockEntry;

/// A block of this level or above is final.
const FINAL: u8 = 2;
/// Late pieces that are merged with each other grow by this factor.
const GROWTH: u64 = 4;
/// A slice for which entries keep coming closes when it has ended for so many times `close_after`.
const PATIENCE: i64 = 6;

/// What decides.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Length of slices, nanoseconds.
    pub slice: i64,
    /// Bytes of flushed blocks that are worth a merge, however few they are.
    pub target_bytes: u64,
    /// Flushed blocks that are worth a merge.
    pub min_blocks: usize,
    /// Most runs of one merge.
    pub runs_max: usize,
    /// Seconds after the last entry of a block with a list of pushes was received until every replica has seen the list.
    pub settle: i64,
    /// Seconds after the end of a slice, and after the last news of it, until it closes.
    pub close_after: i64,
    /// Seconds that few late entries may lie beside final blocks.
    pub late_after: i64,
}

/// Why blocks are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There are many small ones.
    Gather,
    /// Their slice has ended.
    Close,
    /// Something came after that.
    Late,
}

/// Blocks to be merged.
#[derive(Clone, Debug)]
pub struct Job {
    /// Why.
    pub reason: Reason,
    /// The oldest first; the blocks of a run follow each other.
    pub runs: Vec<Run>,
    /// Level of what is written.
    pub level: u8,
}

/// Blocks that one rewrite wrote in one slice, in the order of their streams; or a flushed block.
pub type Run = Vec<Arc<BlockEntry>>;

impl Job {
    /// The blocks that go in.
    pub fn inputs(&self) -> impl Iterator<Item = &Arc<BlockEntry>> {
        self.runs.iter().flatten()
    }
}

/// What to do about a tenant's blocks at second `now`. No block is in two jobs; what is left may become due by them.
pub fn plan(blocks: &[Arc<BlockEntry>], now: i64, rules: &Rules) -> Vec<Job> {
    let mut jobs = Vec::new();
    // In order of the path, and so of the day.
    for day in blocks.chunk_by(|a, b| a.date == b.date) {
        jobs.extend(Day::new(day, now, rules).plan());
    }
    // The newest first: they are what is asked for most.
    jobs.sort_by_key(|job| Reverse(job.inputs().map(|b| b.date).max()));
    jobs
}

struct Day<'a> {
    date: i32,
    now: i64,
    rules: &'a Rules,
    /// Flushed blocks that may be merged, by age.
    flushed: Vec<Arc<BlockEntry>>,
    /// Of each slice, how many flushed blocks have entries of it, and whether one of them is news.
    fresh: BTreeMap<i64, (usize, bool)>,
    /// What was compacted, by slice: runs of level 1 and final ones, each by age.
    slices: BTreeMap<i64, (Vec<Run>, Vec<Run>)>,
}

impl<'a> Day<'a> {
    fn new(blocks: &[Arc<BlockEntry>], now: i64, rules: &'a Rules) -> Self {
        let date = blocks.first().map_or(0, |b| b.date);
        let (mut flushed, mut fresh) = (Vec::new(), BTreeMap::<i64, (usize, bool)>::new());
        let mut runs: BTreeMap<(i64, u64, &str), Run> = BTreeMap::new();
        for block in blocks {
            let origin = &block.origin;
            if origin.level == 0 {
                // What has a list that somebody may need is left alone.
                let settled = origin.pushes.is_none() || origin.received_max + rules.settle <= now;
                let is_news = !settled || origin.received_max + rules.close_after > now;
                for slice in slices_of(block, rules) {
                    let (count, has_news) = fresh.entry(slice).or_default();
                    *count += 1;
                    *has_news |= is_news;
                }
                if settled {
                    flushed.push(block.clone());
                }
                continue;
            }
            // A block of an older build does not know its run; then it is one.
            let name = if origin.run == 0 { block.path.as_str() } else { "" };
            let slice = slice_of(block.summary.min_ts, rules.slice);
            runs.entry((slice, origin.run, name)).or_default().push(block.clone());
        }
        let mut slices: BTreeMap<i64, (Vec<Run>, Vec<Run>)> = BTreeMap::new();
        for ((slice, ..), mut run) in runs {
            run.sort_by(|a, b| (a.origin.part, &a.path).cmp(&(b.origin.part, &b.path)));
            let (gathered, finals) = slices.entry(slice).or_default();
            if run.iter().all(|b| b.origin.level >= FINAL) { finals } else { gathered }.push(run);
        }
        flushed.sort_by(|a, b| age(a).cmp(&age(b)));
        for (gathered, finals) in slices.values_mut() {
            gathered.sort_by(|a, b| age(&a[0]).cmp(&age(&b[0])));
            finals.sort_by(|a, b| age(&a[0]).cmp(&age(&b[0])));
        }
        Self { date, now, rules, flushed, fresh, slices }
    }

    fn plan(mut self) -> Vec<Job> {
        let mut jobs = self.gather_flushed();
        let gathering: BTreeSet<i64> =
            jobs.iter().flat_map(Job::inputs).flat_map(|b| slices_of(b, self.rules)).collect();
        let slices = std::mem::take(&mut self.slices);
        for (slice, (gathered, finals)) in slices {
            // What is being gathered comes first.
            if !gathering.contains(&slice) {
                jobs.extend(self.slice(slice, gathered, finals));
            }
        }
        jobs
    }

    /// Merges of flushed blocks, in the order in which they came. Those of slices that close are worth it however few.
    fn gather_flushed(&self) -> Vec<Job> {
        let (closing, others): (Vec<_>, Vec<_>) = self.flushed.iter().cloned().partition(|b| self.closes(b));
        let mut jobs = self.batches(closing, 1);
        jobs.extend(self.batches(others, self.rules.min_blocks));
        jobs
    }

    /// Jobs over `blocks`, each with at least `count` of them or enough bytes.
    fn batches(&self, blocks: Vec<Arc<BlockEntry>>, count: usize) -> Vec<Job> {
        let mut jobs: Vec<Vec<Run>> = vec![Vec::new()];
        let mut bytes = 0;
        for block in blocks {
            if let Some(batch) = jobs.last()
                && (batch.len() >= self.rules.runs_max
                    || (batch.len() > 1 && bytes >= self.rules.target_bytes))
            {
                jobs.push(Vec::new());
                bytes = 0;
            }
            bytes += block.size();
            if let Some(batch) = jobs.last_mut() {
                batch.push(vec![block]);
            }
        }
        // All but the last are full.
        if jobs.last().is_some_and(|b| b.len() < count && (b.len() < 2 || bytes < self.rules.target_bytes)) {
            jobs.pop();
        }
        let jobs = jobs.into_iter().filter(|runs| !runs.is_empty());
        jobs.map(|runs| Job { reason: Reason::Gather, runs, level: 1 }).collect()
    }

    /// Whether a flushed block has entries of a slice that gets its final form. Alone in its slice it has that already.
    fn closes(&self, block: &Arc<BlockEntry>) -> bool {
        let slices = slices_of(block, self.rules);
        let is_within = slices.start() == slices.end();
        slices.into_iter().any(|slice| {
            self.ended_for(slice) >= self.rules.close_after
                && !self.has_news(slice)
                && !(is_within && self.is_alone(slice))
        })
    }

    /// What to do about what a slice has beside flushed blocks.
    fn slice(&self, slice: i64, gathered: Vec<Run>, finals: Vec<Run>) -> Option<Job> {
        let Rules { runs_max, min_blocks, close_after, late_after, .. } = *self.rules;
        if gathered.len() + finals.len() > runs_max {
            return reduce(gathered.into_iter().chain(finals).collect(), runs_max);
        }
        let ended_for = self.ended_for(slice);
        let is_closed =
            ended_for >= close_after && (!self.has_news(slice) || ended_for >= close_after * PATIENCE);
        if !finals.is_empty() {
            let of = |runs: &[Run]| runs.iter().map(|r| bytes_of(r)).sum::<u64>();
            // Each such merge doubles the slice, so all of them together write it no more than twice.
            let grown = of(&gathered) >= of(&finals) && !gathered.is_empty();
            let quiet = !gathered.is_empty() && self.now - received_max(&gathered) >= late_after;
            if !(is_closed && (grown || quiet || finals.len() > 1)) {
                return gather(gathered, min_blocks);
            }
        } else if !is_closed {
            return None;
        }
        let reason = if finals.is_empty() { Reason::Close } else { Reason::Late };
        let mut runs = finals;
        runs.extend(gathered);
        runs.sort_by(|a, b| age(&a[0]).cmp(&age(&b[0])));
        (runs.len() > 1).then_some(Job { reason, runs, level: FINAL })
    }

    /// Seconds since the end of a slice.
    fn ended_for(&self, slice: i64) -> i64 {
        let range = slices(self.date, self.rules.slice).nth(usize::try_from(slice).unwrap_or(0));
        range.map_or(i64::MIN, |r| self.now - r.end.div_euclid(SECOND))
    }

    /// Whether something has come for the slice lately.
    fn has_news(&self, slice: i64) -> bool {
        self.fresh.get(&slice).is_some_and(|(_, has_news)| *has_news)
    }

    /// Whether nothing but one flushed block has entries of the slice.
    fn is_alone(&self, slice: i64) -> bool {
        !self.slices.contains_key(&slice) && self.fresh.get(&slice).is_none_or(|(count, _)| *count <= 1)
    }
}

/// The slices that a block has entries of, as far as its first and its last time tell.
fn slices_of(block: &BlockEntry, rules: &Rules) -> RangeInclusive<i64> {
    slice_of(block.summary.min_ts, rules.slice)..=slice_of(block.summary.max_ts, rules.slice)
}

/// Merges some pieces of a slice, which are too many for one merge of all. They follow each other, so that a stream whose
/// entries come in order stays in pieces of times apart: what lies in several over the same times is costly to query. Of
/// those it takes the ones that cost the least for each piece fewer.
fn reduce(mut pieces: Vec<Run>, runs_max: usize) -> Option<Job> {
    pieces.sort_by(|a, b| age(&a[0]).cmp(&age(&b[0])));
    let sizes: Vec<u64> = pieces.iter().map(|run| bytes_of(run)).collect();
    let windows = (2..=runs_max.min(pieces.len())).flat_map(|length| sizes.windows(length).enumerate());
    let cheapest = windows.min_by(|(_, a), (_, b)| {
        let cost = |window: &[u64], other: &[u64]| {
            u128::from(window.iter().sum::<u64>()) * (other.len() as u128 - 1)
        };
        // Of equals the longer, so that there are fewer merges.
        cost(a, b).cmp(&cost(b, a)).then(b.len().cmp(&a.len()))
    });
    let (start, window) = cheapest?;
    gathered(pieces.drain(start..start + window.len()).collect(), 2)
}

/// Merges pieces of a slice that have about the same size, so that each of them grows by a factor.
fn gather(mut pieces: Vec<Run>, count: usize) -> Option<Job> {
    pieces.sort_by_key(|run| bytes_of(run));
    let mut total: u64 = pieces.iter().map(|r| bytes_of(r)).sum();
    while pieces.len() >= count
        && let Some(largest) = pieces.last().map(|r| bytes_of(r))
        && largest * GROWTH > total
    {
        pieces.pop();
        total -= largest;
    }
    gathered(pieces, count)
}

fn gathered(mut runs: Vec<Run>, count: usize) -> Option<Job> {
    runs.sort_by(|a, b| age(&a[0]).cmp(&age(&b[0])));
    (runs.len() >= count.max(2)).then_some(Job { reason: Reason::Gather, runs, level: 1 })
}

/// The order in which blocks came.
fn age(block: &BlockEntry) -> (i64, i64, &str) {
    (block.origin.received_min, block.origin.received_max, &block.path)
}

fn bytes_of(run: &[Arc<BlockEntry>]) -> u64 {
    run.iter().map(|b| b.size()).sum()
}

fn received_max(runs: &[Run]) -> i64 {
    runs.iter().flatten().map(|b| b.origin.received_max).max().unwrap_or(i64::MIN)
}

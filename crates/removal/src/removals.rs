//! The rules that hold at one moment, compiled.

use std::sync::Arc;

use skald_logql::{Expr, LogQuery, ParseOptions, PipelineTask, parse_with};
use skald_model::label_text::parse_selector;
use skald_model::removal::{CutoffRule, DeleteRule, NEVER, RemovalSpec};
use skald_model::retention::{Retention, cutoff};
use skald_model::{Error, Labels, LabelsRef, Result, Selector, TimeRange, Timestamp};
use skald_storage::block::FilterKeys;
use smallvec::SmallVec;

use crate::ranges::{Ranges, left};

/// Everything that must not be seen of one tenant.
#[derive(Clone, Debug)]
pub struct Removals {
    pub(crate) generation: u64,
    pub(crate) deletes: Vec<Arc<Delete>>,
    /// In order of precedence.
    pub(crate) cutoffs: Vec<(Selector, Timestamp)>,
    /// For streams that none of `cutoffs` matches.
    pub(crate) cutoff: Timestamp,
    /// Blocks whose newest entry is not newer are too much for `retention_bytes`.
    pub(crate) size_cutoff: Timestamp,
}

/// A delete request, compiled.
#[derive(Clone, Debug)]
pub struct Delete {
    pub(crate) rule: DeleteRule,
    pub(crate) query: LogQuery,
    /// What line filters can tell about the lines that go.
    keys: Arc<FilterKeys>,
}

/// Where entries lie, as far as it decides which requests are about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a block.
    Block {
        /// Up to which generation all requests have been carried out on it.
        deletes: u64,
        /// When its first entry was received, seconds; 0 when nobody knows.
        received_min: i64,
    },
    /// In memory, where it is known of each entry when it was received.
    Memory {
        /// When the first was received, seconds.
        received_min: i64,
        /// When the last was received, seconds.
        received_max: i64,
    },
}

/// What stays of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything.
    All,
    /// Nothing.
    Nothing,
    /// What lies in this range.
    Within(TimeRange),
    /// What a [`Sieve`] keeps.
    Rows(RowRules),
}

/// The rules that have to be tried on each row of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRules {
    /// Only these times are left.
    left: Ranges,
    /// Numbers of the requests.
    deletes: SmallVec<[u32; 2]>,
}

/// A row as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its time.
    pub timestamp: Timestamp,
    /// When it was received, seconds; of a row of a block anything, as a request is about the whole block or not.
    pub received: i64,
    /// Its line.
    pub line: &'a [u8],
    /// Its structured metadata.
    pub metadata: LabelsRef<'a>,
}

/// Tries rows, with the buffers that this needs. One for each scan.
#[derive(Debug)]
pub struct Sieve {
    removals: Arc<Removals>,
    /// Of each request; made when it is first needed.
    pipelines: Vec<Option<PipelineTask>>,
}

impl Delete {
    /// Compiles a request.
    ///
    /// # Errors
    /// `Kind::InvalidArgument` for what is not a log query, in Loki's words.
    pub fn compile(rule: DeleteRule) -> Result<Self> {
        let invalid = |e: &dyn std::fmt::Display| Error::invalid(format!("invalid query expression: {e}"));
        let options = ParseOptions { loki_strict: false };
        let log = match parse_with(&rule.query, options).map_err(|e| invalid(&e))? {
            Expr::Log(log) => log,
            Expr::Metric(_) => return Err(invalid(&"only log selector is supported")),
        };
        if log.range.is_some() {
            return Err(invalid(&"a range is not allowed; start and end say what is deleted"));
        }
        let query = LogQuery::compile(&log);
        match &query.invalid {
            Some(e) => Err(invalid(e)),
            None => {
                let keys = Arc::new(FilterKeys::new(&query.predicate));
                Ok(Self { rule, query, keys })
            }
        }
    }

    /// What was asked for.
    pub fn rule(&self) -> &DeleteRule {
        &self.rule
    }

    /// Whether every entry of the streams and times goes.
    pub(crate) fn is_plain(&self) -> bool {
        self.query.predicate.is_trivial() && self.query.pipeline.is_none()
    }

    fn concerns(&self, source: &Source) -> bool {
        match *source {
            Source::Block { deletes, received_min } => {
                self.rule.generation > deletes && received_min <= self.rule.accepted
            }
            Source::Memory { received_min, .. } => received_min <= self.rule.accepted,
        }
    }

    /// Whether some entries of the source may have come after the request.
    fn is_timed(&self, source: &Source) -> bool {
        matches!(*source, Source::Memory { received_max, .. } if received_max > self.rule.accepted)
    }
}

impl Default for Removals {
    fn default() -> Self {
        Self { generation: 0, deletes: Vec::new(), cutoffs: Vec::new(), cutoff: NEVER, size_cutoff: NEVER }
    }
}

impl Removals {
    /// Rules of retention at `now`, and requests of one generation.
    pub fn new(generation: u64, deletes: Vec<Arc<Delete>>, retention: &Retention, now: Timestamp) -> Self {
        let rule = |r: &skald_model::retention::Rule| (r.selector.clone(), cutoff(now, r.period));
        Self {
            generation,
            deletes,
            cutoffs: retention.rules().iter().map(rule).collect(),
            cutoff: cutoff(now, retention.period()),
            size_cutoff: NEVER,
        }
    }

    /// What another process has told.
    ///
    /// # Errors
    /// When this process does not understand it.
    pub fn compile(spec: &RemovalSpec) -> Result<Self> {
        let RemovalSpec { generation, deletes, cutoffs, cutoff } = spec;
        let deletes = deletes.iter().map(|rule| Delete::compile(rule.clone()).map(Arc::new));
        let rule = |r: &CutoffRule| match parse_selector(&r.selector) {
            Ok(selector) => Ok((selector, r.cutoff)),
            Err(e) => Err(Error::invalid(format!("retention selector {}: {e}", r.selector))),
        };
        Ok(Self {
            generation: *generation,
            deletes: deletes.collect::<Result<_>>()?,
            cutoffs: cutoffs.iter().map(rule).collect::<Result<_>>()?,
            cutoff: *cutoff,
            size_cutoff: NEVER,
        })
    }

    /// What another process is to be told; `None` when that is nothing.
    pub fn spec(&self) -> Option<Arc<RemovalSpec>> {
        if self.deletes.is_empty() && self.latest_cutoff() == NEVER {
            return None;
        }
        let rule = |(selector, cutoff): &(Selector, Timestamp)| CutoffRule {
            selector: selector.to_string().into(),
            cutoff: *cutoff,
        };
        Some(Arc::new(RemovalSpec {
            generation: self.generation,
            deletes: self.deletes.iter().map(|d| d.rule.clone()).collect(),
            cutoffs: self.cutoffs.iter().map(rule).collect(),
            cutoff: self.cutoff,
        }))
    }

    /// The generation of the tenant's requests that these are of.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether everything stays.
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.latest_cutoff() == NEVER && self.size_cutoff == NEVER
    }

    /// Those that are about times in `range`; `None` when none are.
    pub fn within(self: &Arc<Self>, range: TimeRange) -> Option<Arc<Self>> {
        let timely = |d: &&Arc<Delete>| overlap(&d.rule.range, &range);
        let expires = self.latest_cutoff() > range.start;
        let sized = self.size_cutoff >= range.start && self.size_cutoff != NEVER;
        let deletes: Vec<_> = self.deletes.iter().filter(timely).cloned().collect();
        if deletes.is_empty() && !expires && !sized {
            return None;
        }
        if deletes.len() == self.deletes.len() && expires {
            return Some(self.clone());
        }
        let (cutoffs, cutoff) =
            if expires { (self.cutoffs.clone(), self.cutoff) } else { (Vec::new(), NEVER) };
        let size_cutoff = self.size_cutoff;
        Some(Arc::new(Self { generation: self.generation, deletes, cutoffs, cutoff, size_cutoff }))
    }

    /// Whether anything may go of what a source holds from `min` to `max`, both inclusive.
    pub fn may_concern(&self, source: &Source, min: Timestamp, max: Timestamp) -> bool {
        self.latest_cutoff() > min
            || self.deletes.iter().any(|d| d.concerns(source) && d.rule.range.overlaps(min, max))
    }

    /// The latest time at which any stream begins.
    pub(crate) fn latest_cutoff(&self) -> Timestamp {
        self.cutoffs.iter().map(|(_, cutoff)| *cutoff).fold(self.cutoff, Timestamp::max)
    }

    /// Before which time entries of a stream have expired.
    pub fn cutoff_of(&self, labels: LabelsRef<'_>) -> Timestamp {
        let rule = self.cutoffs.iter().find(|(selector, _)| selector.matches(labels));
        rule.map_or(self.cutoff, |(_, cutoff)| *cutoff)
    }

    /// What stays of a stream with `labels` that a source holds from `min` to `max`, both inclusive.
    pub fn stream(&self, source: &Source, labels: LabelsRef<'_>, min: Timestamp, max: Timestamp) -> Keep {
        let cutoff = self.cutoff_of(labels);
        let mut gone = Ranges::new();
        if cutoff > min {
            gone.push(TimeRange::new(NEVER, cutoff));
        }
        let mut deletes = SmallVec::new();
        for (number, delete) in self.deletes.iter().enumerate() {
            let concerned = delete.concerns(source)
                && delete.rule.range.overlaps(min, max)
                && delete.query.selector.matches(labels);
            match concerned {
                false => {}
                true if delete.is_plain() && !delete.is_timed(source) => gone.push(delete.rule.range),
                true => deletes.push(number as u32),
            }
        }
        if gone.is_empty() && deletes.is_empty() {
            return Keep::All;
        }
        let left = left(min, max, gone);
        match &left[..] {
            [] => Keep::Nothing,
            [one] if deletes.is_empty() => Keep::Within(*one),
            _ => Keep::Rows(RowRules { left, deletes }),
        }
    }
}

impl Removals {
    /// Keys of which at least one passes every line that goes by `rules`, which were told of a stream from `min` to `max`;
    /// `None` if nothing is known of those lines.
    pub fn keys_of_gone(
        &self,
        rules: &RowRules,
        min: Timestamp,
        max: Timestamp,
    ) -> Option<Vec<Arc<FilterKeys>>> {
        let is_uncut = rules.left.iter().any(|left| left.start <= min && max < left.end);
        let keys = || rules.deletes.iter().map(|number| self.deletes[*number as usize].keys.clone());
        (is_uncut && keys().all(|keys| !keys.is_empty())).then(|| keys().collect())
    }
}

impl Keep {
    /// The times that are left of a stream that is held from `min` to `max`: all that is known without looking at rows.
    pub fn left(&self, min: Timestamp, max: Timestamp) -> Vec<TimeRange> {
        match self {
            Keep::All => vec![TimeRange::new(min, max.saturating_add(1))],
            Keep::Nothing => Vec::new(),
            Keep::Within(range) => vec![*range],
            Keep::Rows(rules) => rules.left.to_vec(),
        }
    }

    /// The same, where only the first and the last time of it are of interest.
    pub fn bounds(&self, min: Timestamp, max: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let left = self.left(min, max);
        Some((left.first()?.start, left.last()?.end.saturating_sub(1).min(max)))
    }

    /// The part of `whole` that stays, if it is spread evenly over the time from `min` to `max`.
    pub fn share(&self, whole: u64, min: Timestamp, max: Timestamp) -> u64 {
        if *self == Keep::All {
            return whole;
        }
        let length = |r: &TimeRange| i128::from(r.end) - i128::from(r.start);
        let left: i128 = self.left(min, max).iter().map(length).sum();
        let share = i128::from(whole) * left / (i128::from(max) - i128::from(min) + 1);
        u64::try_from(share).unwrap_or(0)
    }
}

impl RowRules {
    /// Only what lies in `range` stays.
    pub fn within(range: TimeRange) -> Self {
        Self { left: Ranges::from_elem(range, 1), deletes: SmallVec::new() }
    }
}

impl Sieve {
    /// A sieve of these rules.
    pub fn new(removals: Arc<Removals>) -> Self {
        let pipelines = removals.deletes.iter().map(|_| None).collect();
        Self { removals, pipelines }
    }

    /// Whether an entry of the stream with `labels`, for which `rules` were told, stays.
    pub fn keeps(&mut self, rules: &RowRules, labels: &Labels, entry: Entry<'_>) -> bool {
        rules.left.iter().any(|r| r.contains(entry.timestamp))
            && !rules.deletes.iter().any(|number| self.deletes(*number as usize, labels, entry))
    }

    fn deletes(&mut self, number: usize, labels: &Labels, entry: Entry<'_>) -> bool {
        let Delete { rule, query, .. } = &*self.removals.deletes[number];
        if !rule.range.contains(entry.timestamp)
            || entry.received > rule.accepted
            || !query.predicate.matches(entry.line)
        {
            return false;
        }
        match &query.pipeline {
            None => true,
            Some(pipeline) => {
                let task = self.pipelines[number].get_or_insert_with(|| pipeline.task());
                task.accepts(entry.timestamp, entry.line, labels, entry.metadata)
            }
        }
    }
}

impl Entry<'_> {
    /// What [`Entry::received`] is of rows of blocks.
    pub const OF_BLOCK: i64 = i64::MIN;
}

fn overlap(a: &TimeRange, b: &TimeRange) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests;

//! Adding entries to the state of a range aggregation.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use skald_model::{Error, Labels, LabelsRef, Timestamp};

use super::plan::RangeLeaf;
use super::state::{Fold, Partial, SERIES_BYTES};
use super::window::{Span, Steps, Windows};
use crate::ast::{Conversion, RangeOp, Unwrap};
use crate::pipeline::{ERROR, ERROR_DETAILS, EntryState, Filter, NameId, Pipeline, PipelineTask, pack};
use crate::units;

/// What `__error__` says when a label cannot be unwrapped.
const SAMPLE_ERROR: &str = "SampleExtractionErr";
/// Series of one aggregation in one task; more would not fit the answer of any query that Grafana makes.
const MAX_SERIES: usize = 200_000;
/// Label sets remembered before they are looked up anew.
const MAX_KEYS: usize = 65_536;
/// What such a label set costs besides its bytes.
const KEY_BYTES: usize = 64;

/// Takes the entries of one task for one range aggregation.
#[derive(Debug)]
pub struct RangeObserver {
    leaf: Arc<RangeLeaf>,
    windows: Windows,
    /// The bucket of the last entry: the next one is probably in it too.
    span: Span,
    fold: Fold,
    task: PipelineTask,
    partial: Partial,
    /// What `partial` and `series` take, counted as they grow.
    bytes: isize,
    unwrap: Option<UnwrapTask>,
    /// The labels of `by`, by number; `None` if all labels count but `without`.
    by: Option<Vec<(String, NameId)>>,
    without: Vec<NameId>,
    /// From what an entry's labels look like to the series.
    series: FxHashMap<Box<[u8]>, u32>,
    key: Vec<u8>,
    /// The stream of the last entry that had no labels but the stream's, and its series.
    plain: Option<(Labels, u32)>,
    is_plain: bool,
}

#[derive(Debug)]
struct UnwrapTask {
    label: NameId,
    conversion: Conversion,
    filters: Vec<Filter>,
}

impl RangeLeaf {
    /// Begins a task of this aggregation. Fails if a stage is not valid, so it is to be called once a stream matches.
    pub fn observer(self: &Arc<Self>, steps: Steps) -> Result<RangeObserver, Error> {
        if let Some(e) = &self.invalid {
            return Err(e.clone().into());
        }
        let pipeline = match &self.pipeline {
            Some(p) => p.clone(),
            None => Pipeline::compile(&[], &None)?,
        };
        let mut task = pipeline.task();
        let names = &mut task.state.names;
        let unwrap = self.unwrap.as_ref().map(|u| UnwrapTask::new(u, &mut |n| names.id(n))).transpose()?;
        let (mut by, mut without) = (None, vec![]);
        match &self.grouping {
            Some(g) if !g.without => {
                let mut labels: Vec<_> = g.labels.iter().map(|l| (l.clone(), names.id(l))).collect();
                labels.sort();
                labels.dedup();
                by = Some(labels);
            }
            Some(g) => without = g.labels.iter().map(|l| names.id(l)).collect(),
            None => {}
        }
        if by.is_none() {
            without.extend(unwrap.as_ref().map(|u| u.label));
        }
        let is_plain = !self.has_stages && unwrap.is_none();
        let windows = Windows::new(steps, self.interval, self.offset);
        Ok(RangeObserver {
            span: windows.span(steps.start()),
            windows,
            fold: self.fold(),
            partial: Partial::new(self.fold()),
            bytes: 0,
            leaf: self.clone(),
            task,
            unwrap,
            by,
            without,
            series: FxHashMap::default(),
            key: vec![],
            plain: None,
            is_plain,
        })
    }
}

impl UnwrapTask {
    fn new(unwrap: &Unwrap, id: &mut dyn FnMut(&str) -> NameId) -> Result<Self, Error> {
        let filters = unwrap
            .filters
            .iter()
            .map(|f| {
                Filter::compile(f, &mut |name| id(name))
                    .map_err(|e| Error::invalid(format!("parse error : {e}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { label: id(&unwrap.label), conversion: unwrap.conversion, filters })
    }

    /// The sample of the entry in hand; `None` if it has none, or a filter drops it.
    fn value(&self, state: &mut EntryState) -> Option<f64> {
        let text = state.get(self.label).filter(|t| !t.is_empty())?;
        let value = match self.conversion {
            Conversion::Number => units::parse_go_float(text),
            Conversion::Duration | Conversion::DurationSeconds => {
                units::parse_go_duration(text).map(|nanos| nanos as f64 / 1e9)
            }
            Conversion::Bytes => units::parse_bytes(text).map(|b| b as f64),
        };
        let value = match value {
            Ok(v) => v,
            Err(reason) => {
                state.fail(SAMPLE_ERROR, Some(&reason));
                0.0
            }
        };
        self.filters.iter().all(|f| f.matches(state)).then_some(value)
    }
}

impl RangeObserver {
    /// Adds an entry that has passed the leaf's selector and predicate. Entries outside of all windows are ignored.
    pub fn observe(
        &mut self,
        timestamp: Timestamp,
        line: &[u8],
        stream: &Labels,
        metadata: LabelsRef<'_>,
    ) -> Result<(), Error> {
        let Some(bucket) = self.bucket(timestamp) else { return Ok(()) };
        if self.is_plain && (metadata.is_empty() || !self.leaf.needs_metadata()) {
            let value = self.line_value(line.len());
            let series = self.plain_series(stream)?;
            self.add(series, bucket, timestamp, value);
            return Ok(());
        }
        let Some(changed) = self.task.run(timestamp, line, stream, metadata) else { return Ok(()) };
        let value = match &self.unwrap {
            Some(unwrap) => match unwrap.value(&mut self.task.state) {
                Some(v) => v,
                None => return Ok(()),
            },
            None => self.line_value(if changed { self.task.line().len() } else { line.len() }),
        };
        if self.task.state.has_error() && !self.leaf.keeps_errors {
            self.fail();
            return Ok(());
        }
        let series = self.series()?;
        self.add(series, bucket, timestamp, value);
        Ok(())
    }

    fn add(&mut self, series: u32, bucket: i64, timestamp: Timestamp, value: f64) {
        self.bytes += self.partial.buckets[series as usize].add(self.fold, bucket, timestamp, value);
    }

    /// Adds entries of one stream by their times alone. Only for a leaf that needs neither lines nor their lengths, and
    /// for entries without structured metadata unless it needs none; see [`RangeLeaf::counts_only`]. `times` ascend.
    pub fn observe_times(&mut self, times: &[Timestamp], stream: &Labels) -> Result<(), Error> {
        debug_assert!(self.is_plain && !self.leaf.needs_line_length() && times.is_sorted());
        let all = self.windows.times();
        let start = times.partition_point(|t| *t < all.start);
        let end = times.partition_point(|t| *t < all.end);
        if start >= end {
            return Ok(());
        }
        let series = self.plain_series(stream)?;
        let mut rest = &times[start..end];
        while let Some(first) = rest.first() {
            let bucket = self.bucket(*first);
            let (same, others) = rest.split_at(run_len(rest, self.span.to));
            rest = others;
            let Some(bucket) = bucket else { continue };
            if self.fold == Fold::Sum {
                self.add(series, bucket, *first, same.len() as f64);
            } else {
                for t in same {
                    self.add(series, bucket, *t, 1.0);
                }
            }
        }
        Ok(())
    }

    fn bucket(&mut self, t: Timestamp) -> Option<i64> {
        if !self.span.contains(t) {
            self.span = self.windows.span(t);
        }
        self.span.bucket
    }

    /// Bytes of memory that the state takes, roughly, to be held against a query's budget. Costs nothing to ask.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.max(0) as usize
    }

    /// The state so far.
    pub fn finish(self) -> Partial {
        self.partial
    }

    fn line_value(&self, len: usize) -> f64 {
        match self.leaf.op {
            RangeOp::Bytes | RangeOp::BytesRate => len as f64,
            _ => 1.0,
        }
    }

    /// The series of entries that have no labels but the stream's.
    fn plain_series(&mut self, stream: &Labels) -> Result<u32, Error> {
        if let Some((known, series)) = &self.plain
            && (std::ptr::eq(known.packed(), stream.packed()) || known == stream)
        {
            return Ok(*series);
        }
        self.task.state.begin(stream, LabelsRef::EMPTY);
        let series = self.series()?;
        self.plain = Some((stream.clone(), series));
        Ok(series)
    }

    /// The series of the entry in hand.
    fn series(&mut self) -> Result<u32, Error> {
        self.key.clear();
        let state = &self.task.state;
        match &self.by {
            Some(by) => {
                for (name, id) in by {
                    match value_of(state, name, *id) {
                        Some(value) => {
                            self.key.extend_from_slice(&(value.len() as u32).to_le_bytes());
                            self.key.extend_from_slice(value.as_bytes());
                        }
                        None => self.key.extend_from_slice(&u32::MAX.to_le_bytes()),
                    }
                }
            }
            None => state.add_key(&mut self.key),
        }
        if let Some(series) = self.series.get(&self.key[..]) {
            return Ok(*series);
        }
        if self.partial.labels.len() >= MAX_SERIES {
            return Err(Error::invalid(format!(
                "maximum number of series ({MAX_SERIES}) reached for one range aggregation; consider reducing query \
                 cardinality by adding more specific stream selectors or aggregating with sum by()"
            )));
        }
        let labels = match &self.by {
            Some(by) => pack(
                by.iter()
                    .filter_map(|(name, id)| Some((name.as_str(), value_of(state, name, *id)?)))
                    .collect(),
            ),
            None => {
                let excluded = |name: &str| self.without.iter().any(|id| state.names.name(*id) == name);
                pack(state.pairs().filter(|(name, _)| !excluded(name)).collect())
            }
        };
        let (known, bytes) = (self.partial.series(), labels.packed().len() + self.key.len());
        let series = self.partial.series_of(labels);
        if self.partial.series() > known {
            self.bytes += (bytes + SERIES_BYTES + KEY_BYTES) as isize;
        }
        if self.series.len() >= MAX_KEYS {
            self.series.clear();
        }
        self.series.insert(self.key.clone().into_boxed_slice(), series);
        Ok(series)
    }

    /// Notes an entry with an error, for which the whole query fails.
    fn fail(&mut self) {
        if self.partial.failed.is_none() {
            let state = &self.task.state;
            let labels = pack(state.pairs().collect());
            self.partial.failed = Some((state.error().to_owned(), labels.to_string()));
        }
    }
}

/// How many of the ascending `times`, of which there is one at least, are not after `to`; found in steps that grow, as
/// most runs are short beside all of them.
fn run_len(times: &[Timestamp], to: Timestamp) -> usize {
    let (mut known, mut step) = (1, 8);
    while known < times.len() {
        let next = (known + step).min(times.len());
        if times[next - 1] > to {
            return known + times[known..next].partition_point(|t| *t <= to);
        }
        (known, step) = (next, step * 2);
    }
    known
}

/// A label by which series are grouped; one with an empty value counts as missing.
fn value_of<'s>(state: &'s EntryState, name: &str, id: NameId) -> Option<&'s str> {
    match name {
        ERROR => Some(state.error()),
        ERROR_DETAILS => Some(state.details()),
        _ => state.get(id),
    }
    .filter(|v| !v.is_empty())
}

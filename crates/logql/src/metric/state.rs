//! What range aggregations remember of entries, per series and bucket; two such states merge into one.

use rustc_hash::FxHashMap;
use skald_model::Labels;

use super::sketch::{EXACT_VALUES, Sketch};
use super::window::Windows;
use crate::ast::RangeOp;

/// How an aggregation adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    Sum,
    Min,
    Max,
    Moments,
    First,
    Last,
    Values,
    Samples,
}

impl Fold {
    pub(crate) fn of(op: RangeOp) -> Self {
        match op {
            RangeOp::Rate
            | RangeOp::Count
            | RangeOp::BytesRate
            | RangeOp::Bytes
            | RangeOp::Sum
            | RangeOp::Absent => Fold::Sum,
            RangeOp::Min => Fold::Min,
            RangeOp::Max => Fold::Max,
            RangeOp::Avg | RangeOp::Stdvar | RangeOp::Stddev => Fold::Moments,
            RangeOp::First => Fold::First,
            RangeOp::Last => Fold::Last,
            RangeOp::Quantile => Fold::Values,
            RangeOp::RateCounter => Fold::Samples,
        }
    }
}

/// The samples of one bucket, folded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Folded {
    /// Sum, minimum or maximum.
    One(f64),
    /// Number, mean, and sum of squared distances from the mean.
    Moments(f64, f64, f64),
    /// A sample with its time.
    Edge(i64, f64),
    Values(Vec<f64>),
    /// Too many values to keep them all.
    Sketch(Box<Sketch>),
    Samples(Vec<(i64, f64)>),
}

impl Folded {
    pub(crate) fn new(fold: Fold, time: i64, value: f64) -> Self {
        match fold {
            Fold::Sum | Fold::Min | Fold::Max => Folded::One(value),
            Fold::Moments => Folded::Moments(1.0, value, 0.0),
            Fold::First | Fold::Last => Folded::Edge(time, value),
            Fold::Values => Folded::Values(vec![value]),
            Fold::Samples => Folded::Samples(vec![(time, value)]),
        }
    }

    pub(crate) fn add(&mut self, fold: Fold, time: i64, value: f64) {
        match (fold, self) {
            (Fold::Sum, Folded::One(a)) => *a += value,
            (Fold::Min, Folded::One(a)) if value < *a || a.is_nan() => *a = value,
            (Fold::Max, Folded::One(a)) if value > *a || a.is_nan() => *a = value,
            (Fold::Moments, Folded::Moments(n, mean, squares)) => {
                *n += 1.0;
                let delta = value - *mean;
                *mean += delta / *n;
                *squares += delta * (value - *mean);
            }
            (Fold::First, Folded::Edge(t, v)) if time < *t => (*t, *v) = (time, value),
            (Fold::Last, Folded::Edge(t, v)) if time >= *t => (*t, *v) = (time, value),
            (_, all @ Folded::Values(_)) => all.push(&[value]),
            (_, Folded::Sketch(sketch)) => sketch.add(value, 1),
            (_, Folded::Samples(samples)) => samples.push((time, value)),
            _ => {}
        }
    }

    pub(crate) fn merge(&mut self, fold: Fold, other: &Folded) {
        match (fold, self, other) {
            (Fold::Sum, Folded::One(a), Folded::One(b)) => *a += b,
            (Fold::Min, Folded::One(a), Folded::One(b)) if *b < *a || a.is_nan() => *a = *b,
            (Fold::Max, Folded::One(a), Folded::One(b)) if *b > *a || a.is_nan() => *a = *b,
            (Fold::Moments, Folded::Moments(n, mean, squares), Folded::Moments(n2, mean2, squares2)) => {
                let total = *n + n2;
                let delta = mean2 - *mean;
                *squares += squares2 + delta * delta * *n * n2 / total;
                *mean += delta * n2 / total;
                *n = total;
            }
            (Fold::First, Folded::Edge(t, v), Folded::Edge(t2, v2)) if t2 < t => (*t, *v) = (*t2, *v2),
            (Fold::Last, Folded::Edge(t, v), Folded::Edge(t2, v2)) if t2 >= t => (*t, *v) = (*t2, *v2),
            (_, all @ Folded::Values(_), Folded::Values(b)) => all.push(b),
            (_, all @ Folded::Values(_), Folded::Sketch(b)) => all.sketch().merge(b),
            (_, Folded::Sketch(a), Folded::Values(b)) => b.iter().for_each(|v| a.add(*v, 1)),
            (_, Folded::Sketch(a), Folded::Sketch(b)) => a.merge(b),
            (_, Folded::Samples(a), Folded::Samples(b)) => a.extend_from_slice(b),
            _ => {}
        }
    }
}

impl Folded {
    /// Adds values; beyond [`EXACT_VALUES`] they are sketched.
    fn push(&mut self, more: &[f64]) {
        match self {
            Folded::Values(values) if values.len() + more.len() <= EXACT_VALUES => {
                values.extend_from_slice(more)
            }
            _ => {
                let sketch = self.sketch();
                more.iter().for_each(|v| sketch.add(*v, 1));
            }
        }
    }

    /// Turns values into a sketch of them.
    fn sketch(&mut self) -> &mut Sketch {
        if let Folded::Values(values) = self {
            let mut sketch = Sketch::default();
            values.iter().for_each(|v| sketch.add(*v, 1));
            *self = Folded::Sketch(Box::new(sketch));
        }
        match self {
            Folded::Sketch(sketch) => sketch,
            _ => unreachable!("only values are sketched"),
        }
    }

    /// Adds a sample and returns by how many bytes its memory has grown.
    fn add_measured(&mut self, fold: Fold, time: i64, value: f64) -> isize {
        if !matches!(fold, Fold::Values | Fold::Samples) {
            self.add(fold, time, value);
            return 0;
        }
        let before = self.memory_bytes() as isize;
        self.add(fold, time, value);
        self.memory_bytes() as isize - before
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Folded::Values(v) => v.capacity() * 8,
            Folded::Samples(v) => v.capacity() * 16,
            Folded::Sketch(s) => s.memory_bytes(),
            _ => 0,
        }
    }
}

/// What a bucket costs, with the room that its vector has to grow.
const BUCKET_BYTES: usize = size_of::<(i64, Folded)>() * 3 / 2;
/// What a series costs besides the bytes of its labels, of which there are two copies.
pub(crate) const SERIES_BYTES: usize = 160;

/// The buckets of one series, by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Buckets(pub(crate) Vec<(i64, Folded)>);

impl Buckets {
    /// Adds a sample and returns by how many bytes the memory of all has grown, roughly.
    pub(crate) fn add(&mut self, fold: Fold, bucket: i64, time: i64, value: f64) -> isize {
        // Entries come in order of time, nearly: the last bucket is the one, or a new one after it.
        let at = match self.0.last_mut() {
            Some((last, folded)) if *last == bucket => return folded.add_measured(fold, time, value),
            Some((last, _)) if *last > bucket => self.0.binary_search_by_key(&bucket, |(b, _)| *b),
            _ => Err(self.0.len()),
        };
        match at {
            Ok(i) => self.0[i].1.add_measured(fold, time, value),
            Err(i) => {
                let folded = Folded::new(fold, time, value);
                let bytes = BUCKET_BYTES + folded.memory_bytes();
                self.0.insert(i, (bucket, folded));
                bytes as isize
            }
        }
    }

    fn merge(&mut self, fold: Fold, other: Buckets) {
        if self.0.last().is_none_or(|(last, _)| other.0.first().is_none_or(|(first, _)| last < first)) {
            self.0.extend(other.0);
            return;
        }
        for (bucket, folded) in other.0 {
            match self.0.binary_search_by_key(&bucket, |(b, _)| *b) {
                Ok(i) => self.0[i].1.merge(fold, &folded),
                Err(i) => self.0.insert(i, (bucket, folded)),
            }
        }
    }
}

/// The state of one range aggregation after some of its entries. States of one query over disjoint sets of entries
/// merge into the state of all of them, in any order.
#[derive(Clone, Debug)]
pub struct Partial {
    pub(crate) fold: Fold,
    pub(crate) labels: Vec<Labels>,
    pub(crate) buckets: Vec<Buckets>,
    pub(crate) index: FxHashMap<Labels, u32>,
    /// An error of the first entry that had one: kind and labels of the series.
    pub(crate) failed: Option<(String, String)>,
}

impl Partial {
    pub(crate) fn new(fold: Fold) -> Self {
        Self { fold, labels: vec![], buckets: vec![], index: FxHashMap::default(), failed: None }
    }

    /// Number of series.
    pub fn series(&self) -> usize {
        self.labels.len()
    }

    /// Bytes of memory that the state takes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|l| l.packed().len() + SERIES_BYTES).sum();
        let folded = self.buckets.iter().flat_map(|b| &b.0).map(|(_, f)| BUCKET_BYTES + f.memory_bytes());
        labels + folded.sum::<usize>()
    }

    /// The number of a series, which is new if it was not known.
    pub(crate) fn series_of(&mut self, labels: Labels) -> u32 {
        if let Some(i) = self.index.get(&labels) {
            return *i;
        }
        let i = self.labels.len() as u32;
        self.labels.push(labels.clone());
        self.buckets.push(Buckets::default());
        self.index.insert(labels, i);
        i
    }

    /// Merges another state of the same aggregation into this one.
    pub fn merge(&mut self, other: Partial) {
        if self.labels.is_empty() {
            let failed = self.failed.take().or(other.failed.clone());
            *self = other;
            self.failed = failed;
            return;
        }
        for (labels, buckets) in other.labels.into_iter().zip(other.buckets) {
            let i = self.series_of(labels) as usize;
            self.buckets[i].merge(self.fold, buckets);
        }
        if self.failed.is_none() {
            self.failed = other.failed;
        }
    }
}

/// The value of a window, if there was anything in it.
pub(crate) fn window_value(
    op: RangeOp,
    parameter: f64,
    fold: Fold,
    buckets: &[(i64, Folded)],
    windows: &Windows,
    step: usize,
    interval: i64,
) -> Option<f64> {
    let (_, first) = buckets.first()?;
    let merged;
    let all = if buckets.len() == 1 {
        first
    } else {
        let mut all = first.clone();
        buckets[1..].iter().for_each(|(_, b)| all.merge(fold, b));
        merged = all;
        &merged
    };
    let seconds = interval as f64 / 1e9;
    Some(match (op, all) {
        (RangeOp::Rate | RangeOp::BytesRate, Folded::One(v)) => v / seconds,
        (_, Folded::One(v) | Folded::Edge(_, v)) => *v,
        (RangeOp::Avg, Folded::Moments(_, mean, _)) => *mean,
        (RangeOp::Stddev, Folded::Moments(n, _, squares)) => (squares / n).sqrt(),
        (_, Folded::Moments(n, _, squares)) => squares / n,
        (_, Folded::Values(values)) => quantile(parameter, &mut values.clone()),
        (_, Folded::Sketch(sketch)) => sketch.quantile(parameter),
        (_, Folded::Samples(samples)) => {
            let mut samples = samples.clone();
            samples.sort_by_key(|(t, _)| *t);
            counter_rate(&samples, windows.bounds(step), seconds)
        }
    })
}

/// The quantile of values, interpolated between the two nearest, as Prometheus computes it.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor() as usize;
    let order = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()));
    let (_, low, above) = values.select_nth_unstable_by(lower, order);
    let low = *low;
    let high = above.iter().copied().min_by(order).unwrap_or(low);
    let weight = rank - rank.floor();
    low * (1.0 - weight) + high * weight
}

/// The rate of a counter that may start over, extrapolated to the window as Prometheus does.
fn counter_rate(samples: &[(i64, f64)], (start, end): (i64, i64), seconds: f64) -> f64 {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return 0.0 };
    if samples.len() < 2 {
        return 0.0;
    }
    let mut increase = last.1 - first.1;
    for pair in samples.windows(2) {
        if pair[1].1 < pair[0].1 {
            increase += pair[0].1;
        }
    }
    let distance = |a: i64, b: i64| (b - a) as f64 / 1e9;
    let sampled = distance(first.0, last.0);
    let average = sampled / (samples.len() - 1) as f64;
    let mut to_start = distance(start, first.0);
    if increase > 0.0 && first.1 >= 0.0 {
        // A counter was not below zero.
        to_start = to_start.min(sampled * (first.1 / increase));
    }
    let to_end = distance(last.0, end);
    let threshold = average * 1.1;
    let reach = |gap: f64| if gap < threshold { gap } else { average / 2.0 };
    increase * ((sampled + reach(to_start) + reach(to_end)) / sampled) / seconds
}

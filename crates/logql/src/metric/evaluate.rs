//! The outer part of a metric query: from the states of its range aggregations to series.
//!
//! Every part of the query gives a matrix: series with a value or nothing for each step. Labels are compared once per
//! series and not once per step; an instant query is a matrix of one step.

use rustc_hash::FxHashMap;
use skald_model::labels::pack_pair;
use skald_model::{Error, Labels, Timestamp};

use super::fold_literals;
use super::plan::{LabelReplaceNode, MetricQuery, Node, RangeLeaf};
use super::state::{Partial, window_value};
use super::window::{Steps, Windows};
use crate::ast::{BinaryOp, Cardinality, Grouping, Matching, RangeOp, VectorOp};
use crate::pipeline::pack;

/// Limits of an answer.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    /// Most series of the answer.
    pub max_series: usize,
}

/// The answer of a metric query.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryValue {
    /// One number, of an instant query without series.
    Scalar(Timestamp, f64),
    /// One sample per series, of an instant query.
    Vector(Vec<Sample>),
    /// Samples over time per series, of a range query.
    Matrix(Vec<Series>),
}

/// A sample of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Labels of the series.
    pub labels: Labels,
    /// Nanoseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// The value.
    pub value: f64,
}

/// A series over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Time in nanoseconds and value, oldest first.
    pub points: Vec<(Timestamp, f64)>,
}

/// A series with a place for each step.
#[derive(Clone, Debug)]
struct Row {
    labels: Labels,
    values: Vec<Option<f64>>,
}

enum Matrix {
    Scalar(f64),
    Rows(Vec<Row>),
}

impl MetricQuery {
    /// About how many bytes it takes to compute the answer: a place for each step of each series, and its point in the
    /// answer.
    pub fn evaluation_bytes(&self, partials: &[Partial], steps: Steps) -> usize {
        const STEP_BYTES: usize = size_of::<Option<f64>>() + size_of::<(Timestamp, f64)>();
        let series: usize = partials.iter().map(Partial::series).sum();
        series.saturating_mul(steps.count()).saturating_mul(STEP_BYTES)
    }

    /// Computes the answer. `partials` are the merged states of the leaves, in their order; a leaf for which no stream
    /// matched has an empty state.
    pub fn evaluate(
        &self,
        partials: &[Partial],
        steps: Steps,
        limits: QueryLimits,
    ) -> Result<QueryValue, Error> {
        for partial in partials {
            if let Some((kind, series)) = &partial.failed {
                return Err(pipeline_error(kind, series));
            }
        }
        let evaluation = Evaluation { query: self, partials, steps };
        let matrix = evaluation.node(&self.root)?;
        let rows = match matrix {
            Matrix::Scalar(v) if steps.is_instant() => return Ok(QueryValue::Scalar(steps.at(0), v)),
            Matrix::Scalar(v) => {
                vec![Row { labels: Labels::empty(), values: vec![Some(v); steps.count()] }]
            }
            Matrix::Rows(rows) => rows,
        };
        let rows: Vec<Row> = rows.into_iter().filter(|r| r.values.iter().any(Option::is_some)).collect();
        if limits.max_series > 0 && rows.len() > limits.max_series {
            return Err(Error::invalid(format!(
                "maximum number of series ({}) reached for a single query; consider reducing query cardinality by \
                 adding more specific stream selectors, reducing the time range, or aggregating results with functions \
                 like sum(), count() or topk()",
                limits.max_series
            )));
        }
        if steps.is_instant() {
            let sample = |r: Row| {
                let value = r.values.first().copied().flatten()?;
                Some(Sample { labels: r.labels, timestamp: steps.at(0), value })
            };
            return Ok(QueryValue::Vector(rows.into_iter().filter_map(sample).collect()));
        }
        let series = |r: Row| {
            let points =
                r.values.iter().enumerate().filter_map(|(i, v)| v.map(|v| (steps.at(i), v))).collect();
            Series { labels: r.labels, points }
        };
        let mut series: Vec<Series> = rows.into_iter().map(series).collect();
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(QueryValue::Matrix(series))
    }
}

/// What a query with an entry that has an error label fails with.
fn pipeline_error(kind: &str, series: &str) -> Error {
    Error::invalid(format!(
        "pipeline error: '{kind}' for series: '{series}'.\nUse a label filter to intentionally skip this error. (e.g | \
         __error__!=\"{kind}\").\nTo skip all potential errors you can match empty errors.(e.g __error__=\"\")\nThe label \
         filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n"
    ))
}

struct Evaluation<'a> {
    query: &'a MetricQuery,
    partials: &'a [Partial],
    steps: Steps,
}

impl Evaluation<'_> {
    fn node(&self, node: &Node) -> Result<Matrix, Error> {
        Ok(match node {
            Node::Leaf(i) => Matrix::Rows(match self.partials.get(*i) {
                Some(partial) => self.leaf(&self.query.leaves[*i], partial),
                None => vec![],
            }),
            Node::Literal(v) => Matrix::Scalar(*v),
            Node::VectorOf(v) => Matrix::Rows(vec![Row {
                labels: Labels::empty(),
                values: vec![Some(*v); self.steps.count()],
            }]),
            Node::Vector { op, parameter, grouping, of } => {
                Matrix::Rows(aggregate(*op, *parameter, grouping, self.rows(of)?))
            }
            Node::Binary { op, returns_bool, matching, left, right } => {
                match (self.node(left)?, self.node(right)?) {
                    (Matrix::Scalar(a), Matrix::Scalar(b)) => Matrix::Scalar(fold_literals(*op, a, b)),
                    (Matrix::Scalar(a), Matrix::Rows(rows)) => {
                        Matrix::Rows(with_scalar(*op, *returns_bool, rows, a, true))
                    }
                    (Matrix::Rows(rows), Matrix::Scalar(b)) => {
                        Matrix::Rows(with_scalar(*op, *returns_bool, rows, b, false))
                    }
                    (Matrix::Rows(a), Matrix::Rows(b)) if op.is_set() => {
                        Matrix::Rows(set_operation(*op, matching, a, b))
                    }
                    (Matrix::Rows(a), Matrix::Rows(b)) => {
                        Matrix::Rows(combine(*op, *returns_bool, matching, a, b, self.steps.count())?)
                    }
                }
            }
            Node::Replace(replace) => Matrix::Rows(label_replace(replace, self.rows(&replace.of)?)),
        })
    }

    fn rows(&self, node: &Node) -> Result<Vec<Row>, Error> {
        Ok(match self.node(node)? {
            Matrix::Rows(rows) => rows,
            Matrix::Scalar(v) => {
                vec![Row { labels: Labels::empty(), values: vec![Some(v); self.steps.count()] }]
            }
        })
    }

    /// The values of a range aggregation.
    fn leaf(&self, leaf: &RangeLeaf, partial: &Partial) -> Vec<Row> {
        let windows = Windows::new(self.steps, leaf.interval, leaf.offset);
        let count = windows.count();
        let mut rows: Vec<Row> = Vec::with_capacity(partial.labels.len());
        for (labels, buckets) in partial.labels.iter().zip(&partial.buckets) {
            let all = &buckets.0[..];
            let (mut from, mut to) = (0, 0);
            let values = (0..count).map(|m| {
                let (first, last) = windows.window(m);
                while from < all.len() && all[from].0 < first {
                    from += 1;
                }
                to = to.max(from);
                while to < all.len() && all[to].0 <= last {
                    to += 1;
                }
                let inside = &all[from..to];
                window_value(leaf.op, leaf.parameter, partial.fold, inside, &windows, m, leaf.interval)
            });
            rows.push(Row { labels: labels.clone(), values: values.collect() });
        }
        if leaf.op != RangeOp::Absent {
            return rows;
        }
        let absent = |m: usize| rows.iter().all(|r| r.values[m].is_none()).then_some(1.0);
        vec![Row { labels: leaf.absent_labels(), values: (0..count).map(absent).collect() }]
    }
}

/// The labels by which a series is grouped.
fn group_labels(labels: &Labels, grouping: &Grouping) -> Labels {
    let listed = |name: &str| grouping.labels.iter().any(|l| l == name);
    pack(
        labels.iter().filter(|(name, value)| listed(name) != grouping.without && !value.is_empty()).collect(),
    )
}

/// Series by the labels that they share.
fn groups(rows: &[Row], key: impl Fn(&Labels) -> Labels) -> Vec<(Labels, Vec<usize>)> {
    let mut index: FxHashMap<Labels, usize> = FxHashMap::default();
    let mut out: Vec<(Labels, Vec<usize>)> = vec![];
    for (i, row) in rows.iter().enumerate() {
        let labels = key(&row.labels);
        let group = *index.entry(labels.clone()).or_insert_with(|| {
            out.push((labels, vec![]));
            out.len() - 1
        });
        out[group].1.push(i);
    }
    out
}

fn aggregate(op: VectorOp, parameter: usize, grouping: &Grouping, mut rows: Vec<Row>) -> Vec<Row> {
    let steps = rows.first().map_or(0, |r| r.values.len());
    match op {
        VectorOp::Sort | VectorOp::SortDesc => {
            // Of one step only: the series of a matrix have no order by value.
            if steps == 1 {
                rows.sort_by(|a, b| {
                    let (a, b) = (a.values[0].unwrap_or(f64::NAN), b.values[0].unwrap_or(f64::NAN));
                    let order = a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
                    match op {
                        VectorOp::SortDesc if !a.is_nan() && !b.is_nan() => order.reverse(),
                        _ => order,
                    }
                });
            }
            return rows;
        }
        VectorOp::Topk | VectorOp::Bottomk | VectorOp::ApproxTopk => {
            let top = op != VectorOp::Bottomk;
            let groups = groups(&rows, |l| group_labels(l, grouping));
            let mut order: Vec<usize> = vec![];
            for (_, members) in groups {
                for step in 0..steps {
                    let mut present: Vec<(f64, usize)> =
                        members.iter().filter_map(|i| rows[*i].values[step].map(|v| (v, *i))).collect();
                    // NaN comes last in either direction; equal values keep the order of their series.
                    present.sort_by(|(a, i), (b, j)| {
                        let by_value = match a.partial_cmp(b) {
                            Some(order) if top => order.reverse(),
                            Some(order) => order,
                            None => a.is_nan().cmp(&b.is_nan()),
                        };
                        by_value.then(i.cmp(j))
                    });
                    for (_, i) in present.iter().skip(parameter) {
                        rows[*i].values[step] = None;
                    }
                    if steps == 1 {
                        order.extend(present.iter().take(parameter).map(|(_, i)| *i));
                    }
                }
            }
            if steps == 1 {
                return order.into_iter().map(|i| rows[i].clone()).collect();
            }
            return rows;
        }
        _ => {}
    }
    let groups = groups(&rows, |l| group_labels(l, grouping));
    groups
        .into_iter()
        .map(|(labels, members)| {
            let values =
                (0..steps).map(|step| fold_group(op, members.iter().filter_map(|i| rows[*i].values[step])));
            Row { labels, values: values.collect() }
        })
        .collect()
}

fn fold_group(op: VectorOp, mut values: impl Iterator<Item = f64>) -> Option<f64> {
    let first = values.next()?;
    let (mut n, mut value, mut mean, mut squares) = (1.0f64, first, first, 0.0f64);
    for v in values {
        n += 1.0;
        let delta = v - mean;
        mean += delta / n;
        squares += delta * (v - mean);
        match op {
            VectorOp::Sum => value += v,
            VectorOp::Max if v > value || value.is_nan() => value = v,
            VectorOp::Min if v < value || value.is_nan() => value = v,
            _ => {}
        }
    }
    Some(match op {
        VectorOp::Avg => mean,
        VectorOp::Count => n,
        VectorOp::Stddev => (squares / n).sqrt(),
        VectorOp::Stdvar => squares / n,
        _ => value,
    })
}

/// What an operation on a pair of samples gives: the left value where a comparison filters.
fn pair(op: BinaryOp, returns_bool: bool, left: f64, right: f64) -> Option<f64> {
    let value = fold_literals(op, left, right);
    if op.is_comparison() && !returns_bool { (value == 1.0).then_some(left) } else { Some(value) }
}

fn with_scalar(
    op: BinaryOp,
    returns_bool: bool,
    mut rows: Vec<Row>,
    scalar: f64,
    scalar_left: bool,
) -> Vec<Row> {
    for row in &mut rows {
        for slot in &mut row.values {
            *slot = slot.and_then(|v| {
                let (a, b) = if scalar_left { (scalar, v) } else { (v, scalar) };
                let result = pair(op, returns_bool, a, b)?;
                // A comparison that filters keeps the sample, on whichever side it stands.
                Some(if op.is_comparison() && !returns_bool { v } else { result })
            });
        }
    }
    rows
}

/// The labels on which the series of both sides are matched.
fn signature(labels: &Labels, matching: &Matching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|l| l == name);
    let mut out = vec![];
    for (name, value) in labels.iter().filter(|(name, v)| listed(name) == matching.on && !v.is_empty()) {
        pack_pair(&mut out, name, value);
    }
    Labels::from_packed(&out).unwrap_or_else(Labels::empty)
}

fn set_operation(op: BinaryOp, matching: &Matching, mut left: Vec<Row>, mut right: Vec<Row>) -> Vec<Row> {
    let steps = left.first().or(right.first()).map_or(0, |r| r.values.len());
    // Per signature: at which steps a side has a sample.
    let presence = |rows: &[Row]| {
        let mut out: FxHashMap<Labels, Vec<bool>> = FxHashMap::default();
        for row in rows {
            let seen = out.entry(signature(&row.labels, matching)).or_insert_with(|| vec![false; steps]);
            for (seen, value) in seen.iter_mut().zip(&row.values) {
                *seen |= value.is_some();
            }
        }
        out
    };
    let keep = |rows: &mut Vec<Row>, other: &FxHashMap<Labels, Vec<bool>>, wanted: bool| {
        for row in rows {
            let seen = other.get(&signature(&row.labels, matching));
            for (step, value) in row.values.iter_mut().enumerate() {
                if seen.is_some_and(|s| s[step]) != wanted {
                    *value = None;
                }
            }
        }
    };
    match op {
        BinaryOp::And => keep(&mut left, &presence(&right), true),
        BinaryOp::Unless => keep(&mut left, &presence(&right), false),
        _ => {
            keep(&mut right, &presence(&left), false);
            left.extend(right);
            return unique(left);
        }
    }
    left
}

/// Joins series with equal labels.
fn unique(rows: Vec<Row>) -> Vec<Row> {
    let mut index: FxHashMap<Labels, usize> = FxHashMap::default();
    let mut out: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        match index.get(&row.labels) {
            Some(i) => {
                for (slot, value) in out[*i].values.iter_mut().zip(row.values) {
                    *slot = slot.or(value);
                }
            }
            None => {
                index.insert(row.labels.clone(), out.len());
                out.push(row);
            }
        }
    }
    out
}

/// Arithmetic and comparisons between series.
fn combine(
    op: BinaryOp,
    returns_bool: bool,
    matching: &Matching,
    left: Vec<Row>,
    right: Vec<Row>,
    steps: usize,
) -> Result<Vec<Row>, Error> {
    // The "many" side is walked through, the "one" side looked up.
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let one_to_one = matching.cardinality == Cardinality::OneToOne;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    let one_groups: FxHashMap<Labels, Vec<usize>> =
        groups(&one, |l| signature(l, matching)).into_iter().collect();
    for members in one_groups.values() {
        for step in 0..steps {
            if members.iter().filter(|i| one[**i].values[step].is_some()).count() > 1 {
                let side = if swapped { "left" } else { "right" };
                return Err(Error::internal(format!(
                    "found duplicate series on the {side} hand-side;many-to-many matching not allowed: matching labels \
                     must be unique on one side"
                )));
            }
        }
    }
    let mut out: Vec<Row> = vec![];
    let mut index: FxHashMap<Labels, usize> = FxHashMap::default();
    for (key, members) in groups(&many, |l| signature(l, matching)) {
        let Some(partners) = one_groups.get(&key) else { continue };
        for step in 0..steps {
            let Some((partner, b)) = partners.iter().find_map(|i| one[*i].values[step].map(|v| (*i, v)))
            else {
                continue;
            };
            let mut matched = 0;
            for i in &members {
                let Some(a) = many[*i].values[step] else { continue };
                matched += 1;
                if one_to_one && matched > 1 {
                    return Err(Error::internal(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    ));
                }
                let labels = result_labels(&many[*i].labels, &one[partner].labels, matching);
                let (x, y) = if swapped { (b, a) } else { (a, b) };
                let row = *index.entry(labels.clone()).or_insert_with(|| {
                    out.push(Row { labels, values: vec![None; steps] });
                    out.len() - 1
                });
                if out[row].values[step].is_some() {
                    return Err(Error::internal(
                        "multiple matches for labels: grouping labels must ensure unique matches",
                    ));
                }
                out[row].values[step] = pair(op, returns_bool, x, y);
            }
        }
    }
    Ok(out)
}

/// The labels of a result: those of the "many" side, or those matched on, with what `group_left (…)` takes over.
fn result_labels(many: &Labels, one: &Labels, matching: &Matching) -> Labels {
    if matching.cardinality == Cardinality::OneToOne {
        return if matching.explicit { signature(many, matching) } else { many.clone() };
    }
    if matching.include.is_empty() {
        return many.clone();
    }
    let included = |name: &str| matching.include.iter().any(|l| l == name);
    let kept = many.iter().filter(|(name, _)| !included(name));
    let taken = one.iter().filter(|(name, value)| included(name) && !value.is_empty());
    pack(kept.chain(taken).collect())
}

fn label_replace(replace: &LabelReplaceNode, rows: Vec<Row>) -> Vec<Row> {
    let engine = replace.regex.engine();
    let mut captures = engine.create_captures();
    let change = |row: Row| {
        let value = row.labels.get(&replace.source).unwrap_or_default();
        engine.captures(value, &mut captures);
        if !captures.is_match() {
            return row;
        }
        let mut text = vec![];
        replace.regex.expand(&replace.replacement, value.as_bytes(), &captures, &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let others = row.labels.iter().filter(|(name, _)| *name != replace.destination);
        let set = Some((replace.destination.as_str(), text.as_str())).filter(|(_, v)| !v.is_empty());
        Row { labels: pack(others.chain(set).collect()), values: row.values.clone() }
    };
    unique(rows.into_iter().map(change).collect())
}

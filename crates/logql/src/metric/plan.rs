//! From the tree of a metric query to leaves and what is computed over them.

use std::sync::Arc;

use skald_model::{Error, LinePredicate, MatchOp, Selector, TimeRange};

use super::state::{Fold, Partial};
use super::window::{Steps, Windows};
use crate::ast::*;
use crate::error::ParseError;
use crate::pipeline::{ERROR, Needs, Pipeline, unwrap_labels};
use crate::plan::LogQuery;

/// A compiled metric query.
#[derive(Clone, Debug)]
pub struct MetricQuery {
    pub(crate) root: Node,
    pub(crate) leaves: Vec<Arc<RangeLeaf>>,
}

/// What is computed over the leaves.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Leaf(usize),
    Vector { op: VectorOp, parameter: usize, grouping: Grouping, of: Box<Node> },
    Binary { op: BinaryOp, returns_bool: bool, matching: Matching, left: Box<Node>, right: Box<Node> },
    Literal(f64),
    VectorOf(f64),
    Replace(Box<LabelReplaceNode>),
}

#[derive(Clone, Debug)]
pub(crate) struct LabelReplaceNode {
    pub of: Node,
    pub destination: String,
    pub replacement: String,
    pub source: String,
    pub regex: skald_model::regex::Regex,
}

/// One range aggregation of a metric query: which entries it wants, and what it makes of them.
#[derive(Debug)]
pub struct RangeLeaf {
    /// Which streams.
    pub selector: Selector,
    /// Conditions on the stored line, to be evaluated as early as can be.
    pub predicate: LinePredicate,
    /// A stage that is not valid; see [`LogQuery::invalid`].
    pub invalid: Option<ParseError>,
    pub(crate) pipeline: Option<Arc<Pipeline>>,
    /// Whether the pipeline has any stage.
    pub(crate) has_stages: bool,
    pub(crate) op: RangeOp,
    pub(crate) parameter: f64,
    pub(crate) interval: i64,
    pub(crate) offset: i64,
    pub(crate) unwrap: Option<Unwrap>,
    pub(crate) grouping: Option<Grouping>,
    /// Entries with an error are results, because the error is one of the labels asked for.
    pub(crate) keeps_errors: bool,
}

impl MetricQuery {
    /// Compiles a metric query. Fails for what Loki refuses to evaluate.
    pub fn compile(expr: &MetricExpr) -> Result<Self, Error> {
        let mut leaves = vec![];
        let root = node(expr, None, &mut leaves)?;
        Ok(Self { root, leaves: leaves.into_iter().map(Arc::new).collect() })
    }

    /// The range aggregations, in the order in which [`MetricQuery::evaluate`] takes their states.
    pub fn leaves(&self) -> &[Arc<RangeLeaf>] {
        &self.leaves
    }

    /// Whether the query is one number, without series: an instant query of it gives a scalar.
    pub fn is_scalar(&self) -> bool {
        matches!(self.root, Node::Literal(_))
    }
}

impl RangeLeaf {
    /// The times of the entries that the aggregation wants.
    pub fn times(&self, steps: Steps) -> TimeRange {
        Windows::new(steps, self.interval, self.offset).times()
    }

    /// Length of the range in nanoseconds.
    pub fn interval(&self) -> i64 {
        self.interval
    }

    /// Whether the aggregation looks at an entry's line after the predicate. If not, an observer may be given any line,
    /// unless [`RangeLeaf::needs_line_length`].
    pub fn needs_line(&self) -> bool {
        self.has_stages
    }

    /// Whether the aggregation adds up the lengths of lines.
    pub fn needs_line_length(&self) -> bool {
        self.unwrap.is_none() && matches!(self.op, RangeOp::Bytes | RangeOp::BytesRate)
    }

    /// Whether the times of entries are all that counts, so that [`super::RangeObserver::observe_times`] may be used (with
    /// a trivial predicate, and for entries without structured metadata unless [`RangeLeaf::needs_metadata`] is false).
    pub fn counts_only(&self) -> bool {
        !self.has_stages && self.unwrap.is_none() && !self.needs_line_length()
    }

    /// Whether the aggregation looks at an entry's structured metadata. If not, an observer may be given none.
    pub fn needs_metadata(&self) -> bool {
        match &self.grouping {
            Some(g) if !g.without => self.has_stages || self.unwrap.is_some() || !g.labels.is_empty(),
            _ => self.op != RangeOp::Absent || self.has_stages || self.unwrap.is_some(),
        }
    }

    /// The state without any entry.
    pub fn empty(&self) -> Partial {
        Partial::new(self.fold())
    }

    pub(crate) fn fold(&self) -> Fold {
        Fold::of(self.op)
    }

    /// The labels of `absent_over_time`'s result: those that the selector fixes.
    pub(crate) fn absent_labels(&self) -> skald_model::Labels {
        let matchers = &self.selector.matchers;
        let fixed = matchers
            .iter()
            .filter(|m| m.op == MatchOp::Equal && matchers.iter().filter(|o| o.name == m.name).count() == 1);
        skald_model::Labels::from_pairs(fixed.map(|m| (&*m.name, &*m.value)))
    }
}

fn node(
    expr: &MetricExpr,
    outer: Option<(VectorOp, &Grouping)>,
    leaves: &mut Vec<RangeLeaf>,
) -> Result<Node, Error> {
    Ok(match expr {
        MetricExpr::Range(range) => {
            leaves.push(leaf(range, outer));
            Node::Leaf(leaves.len() - 1)
        }
        MetricExpr::Vector(v) => {
            if v.op == VectorOp::ApproxTopk {
                return Err(Error::internal("approx_topk is not enabled. See -limits.shard_aggregations"));
            }
            // Without grouping there is one group of no labels.
            let grouping = v.grouping.clone().unwrap_or(Grouping { without: false, labels: vec![] });
            let of = node(&v.of, Some((v.op, &grouping)), leaves)?.into();
            Node::Vector { op: v.op, parameter: v.parameter.unwrap_or(0).max(0) as usize, grouping, of }
        }
        MetricExpr::Binary(b) => Node::Binary {
            op: b.op,
            returns_bool: b.returns_bool,
            matching: b.matching.clone(),
            left: node(&b.left, None, leaves)?.into(),
            right: node(&b.right, None, leaves)?.into(),
        },
        MetricExpr::Literal(v) => Node::Literal(*v),
        MetricExpr::VectorOf(v) => Node::VectorOf(*v),
        MetricExpr::LabelReplace(r) => Node::Replace(Box::new(LabelReplaceNode {
            of: node(&r.of, None, leaves)?,
            destination: r.destination.clone(),
            replacement: r.replacement.clone(),
            source: r.source.clone(),
            regex: r.regex.clone(),
        })),
    })
}

/// Compiles a range aggregation; `outer` is the aggregation directly around it.
fn leaf(range: &RangeAggregation, outer: Option<(VectorOp, &Grouping)>) -> RangeLeaf {
    let adds_up = matches!(
        range.op,
        RangeOp::Bytes | RangeOp::BytesRate | RangeOp::Sum | RangeOp::Rate | RangeOp::Count
    );
    // What is summed up over labels afterwards need not be kept apart by them before.
    let outer = outer.filter(|(op, _)| match op {
        VectorOp::Sum => adds_up,
        VectorOp::Max => range.op == RangeOp::Max,
        VectorOp::Min => range.op == RangeOp::Min,
        _ => false,
    });
    let absent = Grouping { without: false, labels: vec![] };
    let grouping = match (&range.grouping, outer) {
        _ if range.op == RangeOp::Absent => Some(absent),
        (Some(own), _) => Some(own.clone()),
        (None, outer) => outer.map(|(_, g)| g.clone()),
    };
    let mut names: Vec<&str> = vec![];
    if let Some(g) = &grouping {
        names.extend(g.labels.iter().map(String::as_str));
    }
    let unwrapped = range.unwrap.as_ref().map(unwrap_labels).unwrap_or_default();
    names.extend(unwrapped.iter().map(String::as_str));
    let needs: Needs = match &grouping {
        Some(g) if !g.without => Some(names.iter().map(|n| (*n).to_owned()).collect()),
        _ => None,
    };
    let log = LogQuery::compile_with(&range.log, &names, &needs);
    let keeps_errors = grouping.as_ref().is_some_and(|g| !g.without && g.labels.iter().any(|l| l == ERROR));
    let has_stages = log.pipeline.as_ref().is_some_and(|p| p.has_stages());
    RangeLeaf {
        selector: log.selector,
        predicate: log.predicate,
        invalid: log.invalid,
        pipeline: log.pipeline,
        has_stages,
        op: range.op,
        parameter: range.parameter.unwrap_or(0.0),
        interval: range.interval,
        offset: range.offset,
        unwrap: range.unwrap.clone(),
        grouping,
        keeps_errors,
    }
}

//! Label filters.

use skald_model::{MatchOp, Matcher};

use super::ip::IpMatcher;
use super::labels::{ERROR, EntryState, NameId};
use super::reduce::Reduced;
use crate::ast::{Comparison, LabelFilter};
use crate::units;

/// What `__error__` says when a label does not parse.
const LABEL_FILTER_ERROR: &str = "LabelFilterErr";

/// A compiled condition on labels.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    Text(NameId, Matcher),
    /// A regular expression that Loki reduces to comparisons of texts.
    Reduced(NameId, bool, Reduced),
    /// On `__error__`, which is not an ordinary label.
    Error(NameId, Matcher),
    Number(NameId, Comparison, f64),
    /// Seconds are not used: nanoseconds, as the literal was read.
    Duration(NameId, Comparison, i64),
    Bytes(NameId, Comparison, u64),
    Ip(NameId, bool, IpMatcher),
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
}

impl Filter {
    /// Compiles a filter; fails if an `ip()` is not valid.
    pub(crate) fn compile(filter: &LabelFilter, id: &mut impl FnMut(&str) -> NameId) -> Result<Self, String> {
        Ok(match filter {
            LabelFilter::Text(m) if &*m.name == ERROR => Filter::Error(id(ERROR), m.clone()),
            LabelFilter::Text(m) => {
                let negative = m.op == MatchOp::NotMatch;
                let is_regex = negative || m.op == MatchOp::Match;
                match Reduced::of(&m.value).filter(|_| is_regex) {
                    Some(reduced) => Filter::Reduced(id(&m.name), negative, reduced),
                    None => Filter::Text(id(&m.name), m.clone()),
                }
            }
            LabelFilter::Number(name, op, v) => Filter::Number(id(name), *op, *v),
            LabelFilter::Duration(name, op, v) => Filter::Duration(id(name), *op, *v),
            LabelFilter::Bytes(name, op, v) => Filter::Bytes(id(name), *op, *v),
            LabelFilter::Ip { name, negative, pattern } => {
                Filter::Ip(id(name), *negative, IpMatcher::new(pattern)?)
            }
            LabelFilter::And(a, b) => Filter::And(Self::compile(a, id)?.into(), Self::compile(b, id)?.into()),
            LabelFilter::Or(a, b) => Filter::Or(Self::compile(a, id)?.into(), Self::compile(b, id)?.into()),
        })
    }

    /// The one label that the filter looks at, if it is a simple one.
    pub(crate) fn single_label(&self) -> Option<NameId> {
        match self {
            Filter::Text(id, _)
            | Filter::Reduced(id, ..)
            | Filter::Number(id, ..)
            | Filter::Duration(id, ..)
            | Filter::Bytes(id, ..)
            | Filter::Ip(id, ..) => Some(*id),
            Filter::Error(..) | Filter::And(..) | Filter::Or(..) => None,
        }
    }

    /// Whether the filter is a simple one that no entry without its label passes.
    pub(crate) fn needs_label(&self) -> bool {
        match self {
            Filter::Number(..) | Filter::Duration(..) | Filter::Bytes(..) => true,
            Filter::Text(_, m) => !m.matches_empty(),
            Filter::Reduced(_, negative, reduced) => reduced.matches("") == *negative,
            Filter::Error(..) | Filter::Ip(..) | Filter::And(..) | Filter::Or(..) => false,
        }
    }

    /// Whether no entry whose label has this value passes the filter, which is a simple one. Values that do not parse
    /// pass, with an error.
    pub(crate) fn fails_on(&self, value: &str) -> bool {
        match self {
            Filter::Number(_, op, want) => units::parse_go_float(value).is_ok_and(|v| !op.compare(&v, want)),
            Filter::Duration(_, op, want) => {
                units::parse_go_duration(value).is_ok_and(|v| !op.compare(&v, want))
            }
            Filter::Bytes(_, op, want) => units::parse_bytes(value).is_ok_and(|v| !op.compare(&v, want)),
            Filter::Text(_, m) => !m.matches(value),
            Filter::Reduced(_, negative, reduced) => reduced.matches(value) == *negative,
            Filter::Error(..) | Filter::Ip(..) | Filter::And(..) | Filter::Or(..) => false,
        }
    }

    /// Adds the labels that the filter looks at.
    pub(crate) fn add_labels(&self, out: &mut Vec<NameId>) {
        match self {
            Filter::And(a, b) | Filter::Or(a, b) => {
                a.add_labels(out);
                b.add_labels(out);
            }
            // No parser makes this label, so whoever looks for errors makes parsers read to the end.
            Filter::Error(id, _) => out.push(*id),
            other => out.extend(other.single_label()),
        }
    }

    /// Whether the entry passes. A label that does not parse lets it pass and leaves an error.
    pub(crate) fn matches(&self, state: &mut EntryState) -> bool {
        match self {
            Filter::Text(id, m) => m.matches(state.get(*id).unwrap_or_default()),
            Filter::Reduced(id, negative, reduced) => {
                reduced.matches(state.get(*id).unwrap_or_default()) != *negative
            }
            Filter::Error(_, m) => m.matches(state.error()),
            Filter::And(a, b) => {
                // Both are evaluated: the second may leave an error that a later filter sees.
                let left = a.matches(state);
                b.matches(state) && left
            }
            Filter::Or(a, b) => a.matches(state) || b.matches(state),
            // A label that is not there drops the entry; else only text filters decide once there is an error.
            other if other.single_label().is_some_and(|id| state.get(id).is_none()) => false,
            _ if state.has_error() => true,
            Filter::Number(id, op, want) => compare(state, *id, *op, want, units::parse_go_float),
            Filter::Duration(id, op, want) => compare(state, *id, *op, want, units::parse_go_duration),
            Filter::Bytes(id, op, want) => compare(state, *id, *op, want, units::parse_bytes),
            Filter::Ip(id, negative, ip) => match state.get(*id) {
                Some(text) => ip.find(text.as_bytes()) != *negative,
                None => false,
            },
        }
    }
}

fn compare<T: PartialOrd>(
    state: &mut EntryState,
    id: NameId,
    op: Comparison,
    want: &T,
    parse: impl Fn(&str) -> Result<T, String>,
) -> bool {
    let Some(text) = state.get(id) else { return false };
    match parse(text) {
        Ok(value) => op.compare(&value, want),
        Err(reason) => {
            state.fail(LABEL_FILTER_ERROR, Some(&reason));
            true
        }
    }
}

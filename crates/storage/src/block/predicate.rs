//! A line predicate, prepared for pages.

use memchr::memmem::Finder;
use skald_model::LinePredicate;
use skald_model::line_filter::LineFilter;

use super::line_filter::FilterKeys;

/// Most alternatives of a clause that a page is searched for; above that, lines are looked at one by one.
const LITERALS: usize = 8;

/// A predicate with what can be known from it before looking at lines. Prepared once per query.
#[derive(Clone, Debug)]
pub struct PreparedPredicate {
    predicate: LinePredicate,
    /// Of these at least one occurs in every line that passes; empty if none is known.
    literals: Vec<Finder<'static>>,
    /// Whether every line in which a literal occurs passes.
    exact: bool,
    trivial: bool,
    keys: FilterKeys,
}

impl PreparedPredicate {
    /// Prepares `predicate`.
    pub fn new(predicate: &LinePredicate) -> Self {
        let clauses = predicate.required();
        // Clauses come strongest first.
        let searched =
            clauses.iter().find(|c| c.len() <= LITERALS && c.iter().all(|n| !n.bytes().is_empty()));
        let literals: Vec<_> =
            searched.map(|c| c.iter().map(|n| n.finder().clone()).collect()).unwrap_or_default();
        let exact = matches!(&predicate.all[..], [LineFilter::Contains(_)]) && !literals.is_empty();
        Self {
            literals,
            exact,
            trivial: predicate.is_trivial(),
            keys: FilterKeys::new(predicate),
            predicate: predicate.clone(),
        }
    }

    /// The predicate that every line passes.
    pub fn all() -> Self {
        Self::new(&LinePredicate::default())
    }

    /// The predicate itself.
    pub fn predicate(&self) -> &LinePredicate {
        &self.predicate
    }

    /// Whether every line passes.
    pub fn is_trivial(&self) -> bool {
        self.trivial
    }

    /// What to ask the line filter.
    pub fn keys(&self) -> &FilterKeys {
        &self.keys
    }

    pub(crate) fn literals(&self) -> &[Finder<'static>] {
        &self.literals
    }

    /// Whether a line passes.
    #[inline]
    pub(crate) fn matches(&self, line: &[u8]) -> bool {
        self.trivial || self.predicate.matches(line)
    }

    /// Whether a line that a literal occurs in passes.
    #[inline]
    pub(crate) fn matches_hit(&self, line: &[u8]) -> bool {
        self.exact || self.predicate.matches(line)
    }
}

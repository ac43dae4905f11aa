//! Line filters as storage and memory scans understand them.
//!
//! `logql` lowers the leading line filters of a query to a [`LinePredicate`]; whoever holds lines evaluates it as
//! early as it can: on filters of a block, on whole pages, on single lines.

use memchr::memmem::Finder;

use crate::regex::Regex;

/// One condition on a line.
#[derive(Clone, Debug)]
pub enum LineFilter {
    /// The line contains these bytes (`|=`). Empty needles match every line.
    Contains(Needle),
    /// The line does not contain these bytes (`!=`).
    NotContains(Needle),
    /// The expression matches somewhere in the line (`|~`).
    Matches(LineRegex),
    /// The expression matches nowhere in the line (`!~`).
    NotMatches(LineRegex),
    /// At least one of the conditions holds (`or` chains).
    Any(Vec<LineFilter>),
    /// A condition that only its owner can decide, such as `ip()` or a pattern; storage gives it every line that
    /// is left after the other conditions.
    Custom(std::sync::Arc<dyn CustomFilter>),
}

/// A condition on lines that `model` does not know the inside of.
pub trait CustomFilter: std::fmt::Debug + Send + Sync {
    /// Whether the line passes.
    fn matches(&self, line: &[u8]) -> bool;
}

/// A literal with its prepared searcher.
#[derive(Clone, Debug)]
pub struct Needle {
    finder: Finder<'static>,
}

impl Needle {
    /// Prepares a search for `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self { finder: Finder::new(bytes).into_owned() }
    }
    /// The literal.
    pub fn bytes(&self) -> &[u8] {
        self.finder.needle()
    }
    /// The searcher.
    pub fn finder(&self) -> &Finder<'static> {
        &self.finder
    }
}

/// A regular expression of a line filter with the literals that any match must contain.
#[derive(Clone, Debug)]
pub struct LineRegex {
    /// The compiled expression.
    pub regex: Regex,
    /// Clauses that every matching line satisfies: of each inner list at least one literal occurs in the line,
    /// byte for byte. Empty when nothing is known.
    pub required: Vec<Vec<Needle>>,
    /// The same where the expression ignores letter case: literals in small letters, of which one occurs in the line
    /// once its ASCII letters are made small.
    pub folded: Vec<Vec<Box<[u8]>>>,
}

/// A text that occurs in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clue<'a> {
    /// The text; in small letters if it is folded.
    pub text: &'a [u8],
    /// Whether it occurs only once the line's ASCII letters are made small.
    pub folded: bool,
}

impl<'a> Clue<'a> {
    fn exact(needle: &'a Needle) -> Self {
        Self { text: needle.bytes(), folded: false }
    }
}

impl LineFilter {
    /// Whether a line passes.
    pub fn matches(&self, line: &[u8]) -> bool {
        match self {
            LineFilter::Contains(n) => n.finder.find(line).is_some(),
            LineFilter::NotContains(n) => n.finder.find(line).is_none(),
            LineFilter::Matches(r) => r.regex.is_match(line),
            LineFilter::NotMatches(r) => !r.regex.is_match(line),
            LineFilter::Any(any) => any.iter().any(|f| f.matches(line)),
            LineFilter::Custom(c) => c.matches(line),
        }
    }

    /// The clauses of texts that every passing line satisfies, for those who look for texts without regard to case.
    fn clues(&self) -> Vec<Vec<Clue<'_>>> {
        match self {
            LineFilter::Matches(r) => {
                let exact = r.required.iter().map(|c| c.iter().map(Clue::exact).collect());
                let small =
                    r.folded.iter().map(|c| c.iter().map(|t| Clue { text: t, folded: true }).collect());
                exact.chain(small).collect()
            }
            LineFilter::Any(any) => {
                one_of_each(any.iter().map(|f| {
                    f.clues().into_iter().max_by_key(|c| c.iter().map(|clue| clue.text.len()).min())
                }))
            }
            _ => self.required().iter().map(|c| c.iter().copied().map(Clue::exact).collect()).collect(),
        }
    }

    /// The clauses of literals that every passing line satisfies; see [`LineRegex::required`].
    fn required(&self) -> Vec<Vec<&Needle>> {
        match self {
            LineFilter::Contains(n) if !n.bytes().is_empty() => vec![vec![n]],
            LineFilter::Matches(r) => r.required.iter().map(|c| c.iter().collect()).collect(),
            LineFilter::Any(any) => {
                one_of_each(any.iter().map(|f| f.required().into_iter().max_by_key(|c| clause_strength(c))))
            }
            _ => vec![],
        }
    }
}

/// One clause of each alternative makes a clause of the whole; where one has none, nothing is known.
fn one_of_each<T>(strongest: impl Iterator<Item = Option<Vec<T>>>) -> Vec<Vec<T>> {
    let clauses: Option<Vec<Vec<T>>> = strongest.collect();
    clauses.map_or_else(Vec::new, |c| vec![c.into_iter().flatten().collect()])
}

/// Conditions on a line that must all hold. The empty predicate passes every line.
#[derive(Clone, Debug, Default)]
pub struct LinePredicate {
    /// The conditions in the order they were written.
    pub all: Vec<LineFilter>,
}

impl LinePredicate {
    /// Whether a line passes.
    pub fn matches(&self, line: &[u8]) -> bool {
        self.all.iter().all(|f| f.matches(line))
    }

    /// Whether every line passes.
    pub fn is_trivial(&self) -> bool {
        self.all.iter().all(|f| matches!(f, LineFilter::Contains(n) if n.bytes().is_empty()))
    }

    /// The clauses of texts that every passing line satisfies: of each clause at least one occurs. More than
    /// [`LinePredicate::required`] gives, which is for searching.
    pub fn clues(&self) -> Vec<Vec<Clue<'_>>> {
        self.all.iter().flat_map(LineFilter::clues).collect()
    }

    /// The clauses of literals that every passing line satisfies: of each clause at least one literal occurs.
    /// Strongest clause first, so its literals are the ones to search a page for.
    pub fn required(&self) -> Vec<Vec<&Needle>> {
        let mut clauses: Vec<_> = self.all.iter().flat_map(LineFilter::required).collect();
        clauses.sort_by_key(|c| std::cmp::Reverse(clause_strength(c)));
        clauses
    }
}

/// A clause is as strong as its shortest literal is long; fewer alternatives are better.
fn clause_strength(clause: &[&Needle]) -> (usize, std::cmp::Reverse<usize>) {
    (clause.iter().map(|n| n.bytes().len()).min().unwrap_or(0), std::cmp::Reverse(clause.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(s: &str) -> LineFilter {
        LineFilter::Contains(Needle::new(s.as_bytes()))
    }

    #[test]
    fn or_chains_need_one_literal_of_each_alternative() {
        let p = LinePredicate { all: vec![LineFilter::Any(vec![contains("ab"), contains("cde")])] };
        let required = p.required();
        assert_eq!(required.len(), 1);
        assert_eq!(required[0].iter().map(|n| n.bytes()).collect::<Vec<_>>(), [&b"ab"[..], b"cde"]);
        assert!(p.matches(b"xcdex") && !p.matches(b"xcd"));
        let p = LinePredicate {
            all: vec![LineFilter::Any(vec![contains("ab"), LineFilter::NotContains(Needle::new(b"x"))])],
        };
        assert!(p.required().is_empty());
    }

    #[test]
    fn the_strongest_clause_comes_first() {
        let p = LinePredicate {
            all: vec![contains("ab"), contains("abcdef"), LineFilter::NotContains(Needle::new(b"z"))],
        };
        assert_eq!(p.required()[0][0].bytes(), b"abcdef");
        assert!(!LinePredicate::default().matches(b"") || LinePredicate::default().is_trivial());
    }
}

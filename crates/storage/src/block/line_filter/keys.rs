//! What a line predicate asks of the filter, prepared once.

use skald_model::LinePredicate;
use skald_model::line_filter::Clue;

use crate::block::delta::load;

use super::words::{self, PageSet, WordIndex, WordRun};
use super::{ID_LEN, IdFilter, anchor_hash};

/// The ids and words that lines passing a predicate must have; empty if nothing can be told about it.
#[derive(Clone, Debug, Default)]
pub struct FilterKeys {
    /// All clauses hold; of each, at least one literal occurs.
    pub(super) clauses: Vec<Vec<Literal>>,
}

/// What occurs in every line that a literal occurs in.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    /// All of these.
    pub(super) ids: Vec<Run>,
    /// And all of these.
    words: Vec<WordRun>,
}

/// An id-like run of letters and digits in a needle.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Hashes of the first and the last eight bytes.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Its length, at most 63.
    pub(super) len_bit: u32,
    /// Whether a token must begin where the run does.
    pub(super) begins: bool,
    /// Whether a token must end where the run does.
    pub(super) ends: bool,
}

impl FilterKeys {
    /// The keys of a predicate.
    pub fn new(predicate: &LinePredicate) -> Self {
        let mut clauses = Vec::new();
        for clause in predicate.clues() {
            let literals: Vec<_> = clause.into_iter().map(Literal::new).collect();
            // A literal without ids and words may be anywhere, so its clause tells nothing.
            if !literals.is_empty() && !literals.iter().any(Literal::is_empty) {
                clauses.push(literals);
            }
        }
        Self { clauses }
    }

    /// Whether nothing can be told about the predicate.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }
}

impl Literal {
    fn new(clue: Clue<'_>) -> Self {
        Self { ids: runs(clue.text), words: words::runs(clue) }
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.words.is_empty()
    }
}

/// Which line pages of one block may hold lines that pass a predicate.
pub struct PageProbe<'a> {
    filter: Option<&'a IdFilter>,
    keys: &'a FilterKeys,
    /// For each literal of each clause the pages with its words; none where the words tell nothing.
    words: Vec<Vec<Option<PageSet>>>,
}

impl<'a> PageProbe<'a> {
    /// The probe of a block that has these parts.
    pub fn new(filter: Option<&'a IdFilter>, words: Option<&WordIndex>, keys: &'a FilterKeys) -> Self {
        let pages_of = |literal: &Literal| {
            words.filter(|_| !literal.words.is_empty()).map(|w| w.pages_of(&literal.words))
        };
        let words = keys.clauses.iter().map(|any| any.iter().map(pages_of).collect()).collect();
        Self { filter, keys, words }
    }

    /// Whether a line page may hold a line that passes.
    pub fn may_hold(&self, page: usize) -> bool {
        let id_filter = self.filter.and_then(|f| f.page(page));
        self.keys.clauses.iter().zip(&self.words).all(|(literals, words)| {
            literals.iter().zip(words).any(|(literal, pages)| {
                pages.as_ref().is_none_or(|p| p.contains(page))
                    && id_filter.as_ref().is_none_or(|f| literal.ids.iter().all(|r| f.may_hold(r)))
            })
        })
    }
}

/// The id-like runs of a literal.
fn runs(literal: &[u8]) -> Vec<Run> {
    let mut out = Vec::new();
    let mut start = 0;
    while start < literal.len() {
        if !literal[start].is_ascii_alphanumeric() {
            start += 1;
            continue;
        }
        let len = literal[start..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let run = &literal[start..start + len];
        if len >= ID_LEN && run.iter().any(u8::is_ascii_digit) {
            out.push(Run {
                first: anchor_hash(load(run, 0)),
                last: anchor_hash(load(run, len - ID_LEN)),
                len_bit: len.min(63) as u32,
                begins: start > 0,
                ends: start + len < literal.len(),
            });
        }
        start += len;
    }
    out
}

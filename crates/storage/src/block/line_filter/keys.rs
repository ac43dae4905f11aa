//! What a line predicate asks of the filter, prepared once.

use skald_model::LinePredicate;

use crate::block::delta::load;

use super::{ID_LEN, anchor_hash};

/// The anchors that lines passing a predicate must have; empty if the filter can't tell anything about it.
#[derive(Clone, Debug, Default)]
pub struct FilterKeys {
    /// All clauses hold; of each, at least one literal occurs; of a literal, all runs.
    pub(super) clauses: Vec<Vec<Vec<Run>>>,
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
        for clause in predicate.required() {
            let literals: Vec<_> = clause.iter().map(|needle| runs(needle.bytes())).collect();
            // A literal without ids may be anywhere, so its clause tells nothing.
            if !literals.is_empty() && literals.iter().all(|r| !r.is_empty()) {
                clauses.push(literals);
            }
        }
        Self { clauses }
    }

    /// Whether the filter can't tell anything about the predicate.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
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

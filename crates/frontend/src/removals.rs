//! What a query must not see: which blocks are left of a version, and what their tasks have to be told.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use skald_model::{RemovalSpec, TimeRange};
use skald_removal::{Concern, Removals};
use skald_storage::table::BlockEntry;

/// The rules that hold for one attempt of a query; `None` when everything stays.
pub(crate) type Rules = Option<Arc<Removals>>;

/// What is left of blocks.
pub(crate) struct Left<'a> {
    /// Those that are not gone as a whole.
    pub(crate) blocks: Vec<&'a Arc<BlockEntry>>,
    /// What their tasks have to be told; `None` when all of the blocks stay as they are.
    pub(crate) spec: Option<Arc<RemovalSpec>>,
    /// Stands for the blocks that are gone.
    pub(crate) gone: u64,
}

impl<'a> Left<'a> {
    /// What is left of `blocks` for a query about `range`.
    pub(crate) fn of(
        blocks: impl Iterator<Item = &'a Arc<BlockEntry>>,
        rules: &Rules,
        range: TimeRange,
    ) -> Self {
        let Some(rules) = within(rules, range) else {
            return Self { blocks: blocks.collect(), spec: None, gone: 0 };
        };
        let (mut left, mut gone, mut concerned) = (Vec::new(), DefaultHasher::new(), false);
        for block in blocks {
            let concern = rules.block(block);
            concerned |= concern == Concern::Some;
            match concern {
                Concern::Whole => block.path.hash(&mut gone),
                Concern::Some | Concern::Nothing => left.push(block),
            }
        }
        let spec = if concerned { rules.spec() } else { None };
        Self { blocks: left, spec, gone: gone.finish() }
    }
}

/// The rules that are about `range`.
pub(crate) fn within(rules: &Rules, range: TimeRange) -> Rules {
    rules.as_ref().and_then(|r| r.within(range))
}

/// What ingesters have to be told for a query about `range`.
pub(crate) fn spec(rules: &Rules, range: TimeRange) -> Option<Arc<RemovalSpec>> {
    within(rules, range).and_then(|r| r.spec())
}

/// What the task of one block has to be told; `of_all` is what that of any could be.
pub(crate) fn spec_of_block(
    rules: &Rules,
    block: &BlockEntry,
    of_all: &Option<Arc<RemovalSpec>>,
) -> Option<Arc<RemovalSpec>> {
    let concerned = rules.as_ref().is_some_and(|r| r.block(block) != Concern::Nothing);
    if concerned { of_all.clone() } else { None }
}

#[cfg(test)]
mod tests;

//! One version of a table, compactly: all that planning needs and nothing of arrow.

use std::collections::BTreeMap;
use std::sync::Arc;

use skald_model::{Selector, TimeRange};

use super::entry::BlockEntry;

/// The version of a table that does not exist yet.
pub const NO_VERSION: i64 = -1;

/// A table at one version. Immutable; sharing it is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The Delta version; [`NO_VERSION`] while there is no table.
    pub version: i64,
    /// All blocks, in order of their path, and so of their day.
    pub blocks: Arc<[Arc<BlockEntry>]>,
    /// For each application id the newest version of it that is committed.
    pub txns: Arc<BTreeMap<String, i64>>,
    blocks_bytes: usize,
}

/// What one commit changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) version: i64,
    pub(super) adds: Vec<Arc<BlockEntry>>,
    pub(super) removes: Vec<String>,
    pub(super) txns: Vec<(String, i64)>,
}

impl Snapshot {
    /// The table that does not exist yet.
    pub fn empty() -> Self {
        Self::new(NO_VERSION, Vec::new(), BTreeMap::new())
    }

    /// A version with `blocks`, in any order.
    pub fn new(version: i64, mut blocks: Vec<Arc<BlockEntry>>, txns: BTreeMap<String, i64>) -> Self {
        blocks.sort_by(|a, b| a.path.cmp(&b.path));
        let blocks_bytes = blocks.iter().map(|b| b.memory_bytes()).sum();
        Self { version, blocks: blocks.into(), txns: Arc::new(txns), blocks_bytes }
    }

    /// The block at `path`.
    pub fn block(&self, path: &str) -> Option<&Arc<BlockEntry>> {
        let at = self.blocks.binary_search_by(|b| b.path.as_str().cmp(path)).ok()?;
        Some(&self.blocks[at])
    }

    /// The newest committed version of the application `id`.
    pub fn txn(&self, id: &str) -> Option<i64> {
        self.txns.get(id).copied()
    }

    /// The generation of the tenant's delete requests; 0 when there never were any.
    pub fn deletes(&self) -> u64 {
        self.txn(super::commit::DELETES).and_then(|g| u64::try_from(g).ok()).unwrap_or(0)
    }

    /// The blocks that may hold entries of streams that pass `selector` in `range`.
    pub fn select<'a>(
        &'a self,
        range: TimeRange,
        selector: &'a Selector,
    ) -> impl Iterator<Item = &'a Arc<BlockEntry>> {
        self.blocks.iter().filter(move |b| b.summary.may_hold(selector, range))
    }

    /// The table after the commits of `log`, which follow on this version in order.
    pub(super) fn after(&self, log: &[Changes]) -> Self {
        let Some(last) = log.last() else { return self.clone() };
        let mut txns = Arc::clone(&self.txns);
        for (id, version) in log.iter().flat_map(|c| &c.txns) {
            Arc::make_mut(&mut txns).insert(id.clone(), *version);
        }
        let (blocks, blocks_bytes) = self.blocks_after(log);
        Self { version: last.version, blocks, txns, blocks_bytes }
    }

    /// The blocks after `log` and their bytes in memory.
    fn blocks_after(&self, log: &[Changes]) -> (Arc<[Arc<BlockEntry>]>, usize) {
        // The last word on each path: there (with its entry) or gone.
        let mut changed: BTreeMap<&str, Option<&Arc<BlockEntry>>> = BTreeMap::new();
        for changes in log {
            changed.extend(changes.removes.iter().map(|path| (path.as_str(), None)));
            changed.extend(changes.adds.iter().map(|block| (block.path.as_str(), Some(block))));
        }
        if changed.is_empty() {
            return (Arc::clone(&self.blocks), self.blocks_bytes);
        }
        let mut bytes = self.blocks_bytes;
        bytes += changed.values().flatten().map(|b| b.memory_bytes()).sum::<usize>();
        let mut blocks = Vec::with_capacity(self.blocks.len() + changed.len());
        let mut changed = changed.into_iter().peekable();
        for block in self.blocks.iter() {
            while let Some((_, new)) = changed.next_if(|(path, _)| *path < block.path.as_str()) {
                blocks.extend(new.cloned());
            }
            match changed.next_if(|(path, _)| *path == block.path) {
                Some((_, new)) => {
                    bytes -= block.memory_bytes();
                    blocks.extend(new.cloned());
                }
                None => blocks.push(Arc::clone(block)),
            }
        }
        blocks.extend(changed.filter_map(|(_, new)| new.cloned()));
        (blocks.into(), bytes)
    }

    /// Bytes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        256 + self.blocks_bytes + 8 * self.blocks.len() + 96 * self.txns.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn entry(n: u8) -> Arc<BlockEntry> {
        Arc::new(BlockEntry {
            path: format!("b{n:03}"),
            date: 0,
            summary: Default::default(),
            origin: Default::default(),
        })
    }

    fn changes(version: i64, add: &BTreeSet<u8>, remove: &BTreeSet<u8>) -> Changes {
        Changes {
            version,
            adds: add.iter().map(|n| entry(*n)).collect(),
            // One commit never names a path twice.
            removes: remove.difference(add).map(|n| entry(*n).path.clone()).collect(),
            txns: vec![("a".into(), version)],
        }
    }

    proptest! {
        #[test]
        fn commits_one_by_one_or_together_give_the_model(
            log in prop::collection::vec((prop::collection::btree_set(0u8..40, 0..6), prop::collection::btree_set(0u8..40, 0..6)), 1..12),
            cut in 0usize..12,
        ) {
            let mut model = BTreeSet::new();
            let log: Vec<Changes> = log.iter().enumerate().map(|(i, (add, remove))| {
                model.retain(|n| !remove.contains(n));
                model.extend(add);
                changes(i as i64, add, remove)
            }).collect();
            let cut = cut.min(log.len());
            let together = Snapshot::empty().after(&log);
            let in_two = Snapshot::empty().after(&log[..cut]).after(&log[cut..]);
            let paths: Vec<String> = model.into_iter().map(|n| entry(n).path.clone()).collect();
            prop_assert_eq!(together.blocks.iter().map(|b| b.path.clone()).collect::<Vec<_>>(), paths);
            prop_assert_eq!(together.version, log.len() as i64 - 1);
            prop_assert_eq!(together.txn("a"), Some(together.version));
            prop_assert!(together.blocks.iter().all(|b| together.block(&b.path).is_some()));
            prop_assert_eq!(&together, &in_two);
            let anew = Snapshot::new(together.version, together.blocks.to_vec(), (*together.txns).clone());
            prop_assert_eq!(&together, &anew);
        }
    }
}

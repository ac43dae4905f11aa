//! What the blocks of a table list, remembered as long as it can be of use.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;
use skald_storage::block::PushList;

/// The lists of blocks that were read, in the order in which that happened.
#[derive(Debug, Default)]
pub struct Lists {
    known: FxHashSet<String>,
    lists: VecDeque<Listed>,
    /// The number of the first of `lists`; numbers are never used twice.
    first: u64,
}

#[derive(Debug)]
struct Listed {
    path: String,
    /// When the last of its entries was received, in seconds.
    received_max: i64,
    list: PushList,
}

impl Lists {
    /// Whether the block at `path` has been read.
    pub fn has(&self, path: &str) -> bool {
        self.known.contains(path)
    }

    /// Remembers the list of the block at `path`, whose last entry was received at `received_max` (seconds).
    pub fn add(&mut self, path: &str, received_max: i64, list: PushList) {
        if self.known.insert(path.to_owned()) {
            self.lists.push_back(Listed { path: path.to_owned(), received_max, list });
        }
    }

    /// The lists from number `from` on, with the number after the last.
    pub(crate) fn since(&self, from: u64) -> (impl Iterator<Item = &PushList>, u64) {
        let skip = from.saturating_sub(self.first) as usize;
        (self.lists.iter().skip(skip).map(|l| &l.list), self.first + self.lists.len() as u64)
    }

    /// Forgets lists of what was all received before `second`, the oldest first.
    pub(crate) fn forget_before(&mut self, second: i64) {
        while self.lists.front().is_some_and(|l| l.received_max < second) {
            if let Some(gone) = self.lists.pop_front() {
                self.known.remove(&gone.path);
                self.first += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_seen_once_by_who_counts_along_and_forgotten_when_old() {
        let mut lists = Lists::default();
        lists.add("a", 5, PushList::default());
        lists.add("b", 9, PushList::default());
        lists.add("a", 5, PushList::default());
        let (all, next) = lists.since(0);
        assert_eq!((all.count(), next), (2, 2));
        lists.forget_before(6);
        assert!(!lists.has("a") && lists.has("b"));
        lists.add("c", 9, PushList::default());
        let (new, next) = lists.since(2);
        assert_eq!((new.count(), next), (1, 3));
        assert_eq!(lists.since(0).0.count(), 2, "who begins now sees what is left");
    }
}

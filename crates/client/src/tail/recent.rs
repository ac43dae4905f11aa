//! What was shown last, so that nothing is shown twice after a new connection.

use std::collections::{HashMap, VecDeque};

use skald_model::Timestamp;
use skald_model::time::SECOND;

use crate::answer::Entry;

/// Entries may come late by this much and are still found after a new connection.
const WINDOW: i64 = 10 * SECOND;

/// No more entries than this are remembered; about 3 MB.
const ENTRIES_MAX: usize = 50_000;

/// The identities of the entries of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Recent {
    newest: Option<Timestamp>,
    /// Everything from here on is remembered.
    from: Timestamp,
    order: VecDeque<(Timestamp, u128)>,
    counts: HashMap<(Timestamp, u128), u32>,
    limit: Option<usize>,
}

impl Recent {
    /// Where to go on. From there on it is known what was shown.
    pub(super) fn resume_from(&self) -> Option<Timestamp> {
        self.newest.map(|newest| newest.saturating_sub(WINDOW).max(self.from))
    }

    /// Leaves out what was shown before, and remembers the rest. An answer may hold equal entries; those are all shown.
    pub(super) fn take_new(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        if self.newest.is_none() {
            // What is older was left out because of the limit, and does not become new later.
            self.from = entries.iter().map(|entry| entry.timestamp).min().unwrap_or_default();
        }
        let mut known: HashMap<(Timestamp, u128), u32> = HashMap::new();
        let mut new = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = (entry.timestamp, entry.identity());
            let seen = known.entry(key).or_insert_with(|| self.counts.get(&key).copied().unwrap_or_default());
            if *seen > 0 {
                *seen -= 1;
                continue;
            }
            new.push((key, entry));
        }
        for (key, _) in &new {
            self.remember(*key);
        }
        new.into_iter().map(|(_, entry)| entry).collect()
    }

    fn remember(&mut self, key: (Timestamp, u128)) {
        self.newest = Some(self.newest.map_or(key.0, |newest| newest.max(key.0)));
        self.order.push_back(key);
        *self.counts.entry(key).or_default() += 1;
        while self.order.len() > self.limit.unwrap_or(ENTRIES_MAX) {
            let Some(oldest) = self.order.pop_front() else { break };
            self.from = self.from.max(oldest.0.saturating_add(1));
            if let Some(count) = self.counts.get_mut(&oldest) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&oldest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::answer::Pairs;

    fn entries(entries: &[(i64, &str)]) -> Vec<Entry> {
        entries
            .iter()
            .map(|(timestamp, line)| Entry {
                timestamp: *timestamp,
                line: (*line).into(),
                labels: Arc::new(Pairs::new()),
                metadata: Pairs::new(),
                parsed: Pairs::new(),
            })
            .collect()
    }

    fn new(recent: &mut Recent, given: &[(i64, &str)]) -> Vec<String> {
        recent.take_new(entries(given)).into_iter().map(|entry| entry.line).collect()
    }

    #[test]
    fn what_was_shown_is_not_shown_again() {
        let mut recent = Recent::default();
        assert_eq!(recent.resume_from(), None);
        assert_eq!(new(&mut recent, &[(94 * SECOND, "a"), (100 * SECOND, "b")]), ["a", "b"]);
        assert_eq!(recent.resume_from(), Some(94 * SECOND), "what was left out at first is not asked for");
        assert_eq!(new(&mut recent, &[(106 * SECOND, "c")]), ["c"]);
        assert_eq!(recent.resume_from(), Some(96 * SECOND));
        let again = [(97 * SECOND, "late"), (106 * SECOND, "c"), (100 * SECOND, "b"), (107 * SECOND, "d")];
        assert_eq!(new(&mut recent, &again), ["late", "d"]);
    }

    #[test]
    fn entries_that_look_the_same_in_one_answer_are_shown_all() {
        let mut recent = Recent::default();
        assert_eq!(new(&mut recent, &[(1, "a"), (1, "a")]).len(), 2);
        assert_eq!(new(&mut recent, &[(1, "a"), (1, "a"), (1, "a")]).len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_nothing_forgotten_is_asked_for_again() {
        let mut recent = Recent { limit: Some(2), ..Recent::default() };
        let now = 1000 * SECOND;
        assert_eq!(new(&mut recent, &[(now, "a"), (now + 1, "b"), (now + 2, "c")]).len(), 3);
        assert_eq!((recent.order.len(), recent.counts.len()), (2, 2));
        assert_eq!(recent.resume_from(), Some(now + 1));
        assert!(new(&mut recent, &[(now + 1, "b"), (now + 2, "c")]).is_empty());
    }
}

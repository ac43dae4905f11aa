//! Fetching more entries than one answer may hold: page by page, none lost and none twice.
//!
//! A page ends somewhere among entries of one time, and servers promise no order among these. So the next page begins
//! at that very time again, and what was shown of it before is left out, by identity and number.

use std::collections::HashMap;

use skald_model::{Timestamp, time::Direction};

use crate::answer::Entry;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// First nanosecond inside.
    pub(crate) start: Timestamp,
    /// First nanosecond after it.
    pub(crate) end: Timestamp,
    /// Most entries to answer with.
    pub(crate) limit: u64,
}

/// Where we are in a query of many pages.
#[derive(Debug)]
pub(crate) struct Pager {
    direction: Direction,
    start: Timestamp,
    end: Timestamp,
    /// Entries per page.
    batch: u64,
    /// Entries still wanted.
    remaining: u64,
    border: Border,
    /// The most that the server answers with, once it said so.
    ceiling: u64,
    exhausted: bool,
}

/// More entries have one time than the server answers with at once: there is no way to ask for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "at least {entries} entries have the time {timestamp} (in nanoseconds), and the server answers with no more at once; \
     narrow the query, or raise the server's max_entries_limit_per_query"
)]
pub(crate) struct Stuck {
    entries: u64,
    timestamp: Timestamp,
}

impl Pager {
    /// Over `start <= t < end`, in pages of `batch` entries, `limit` entries in all (0: every one).
    pub(crate) fn new(
        direction: Direction,
        start: Timestamp,
        end: Timestamp,
        batch: u64,
        limit: u64,
    ) -> Self {
        let remaining = if limit == 0 { u64::MAX } else { limit };
        Self {
            direction,
            start,
            end,
            batch: batch.max(1),
            remaining,
            border: Border::default(),
            ceiling: u64::MAX,
            exhausted: start >= end,
        }
    }

    /// The order of the entries.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// The page to ask for, or `None` when everything has been seen.
    ///
    /// It is larger than usual when many entries of one time have been seen, so that there is always room for a new one.
    pub(crate) fn next(&self) -> Result<Option<Page>, Stuck> {
        if self.exhausted || self.remaining == 0 {
            return Ok(None);
        }
        let seen = self.border.seen();
        if seen >= self.ceiling {
            return Err(Stuck { entries: seen, timestamp: self.border.timestamp.unwrap_or_default() });
        }
        let wanted = self.batch.max(seen.saturating_mul(2)).min(self.remaining.saturating_add(seen));
        Ok(Some(Page { start: self.start, end: self.end, limit: wanted.min(self.ceiling) }))
    }

    /// Asks for no more than `limit` entries from now on, after the server said so. False if that was known.
    pub(crate) fn shrink(&mut self, limit: u64) -> bool {
        let news = limit < self.ceiling;
        self.ceiling = self.ceiling.min(limit);
        news
    }

    /// Takes the answer to `page` and returns what is new in it, in the direction of the query.
    pub(crate) fn accept(&mut self, page: Page, mut entries: Vec<Entry>) -> Vec<Entry> {
        let full = entries.len() as u64 >= page.limit;
        match self.direction {
            Direction::Forward => entries.sort_by_key(|entry| entry.timestamp),
            Direction::Backward => entries.sort_by_key(|entry| std::cmp::Reverse(entry.timestamp)),
        }
        let mut new = self.border.take_new(entries);
        new.truncate(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.remaining -= new.len() as u64;
        self.border.advance(&new);
        self.exhausted = !full;
        if let Some(border) = self.border.timestamp {
            match self.direction {
                Direction::Forward => self.start = border,
                Direction::Backward => self.end = border.saturating_add(1),
            }
        }
        new
    }
}

/// The entries at the time that a page ended with.
#[derive(Debug, Default)]
struct Border {
    timestamp: Option<Timestamp>,
    /// How many of each identity.
    counts: HashMap<u128, u64>,
}

impl Border {
    fn seen(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Leaves out as many of each identity as have been seen.
    fn take_new(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut known = self.counts.clone();
        let mut is_new = |entry: &Entry| {
            if Some(entry.timestamp) != self.timestamp {
                return true;
            }
            match known.get_mut(&entry.identity()) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    false
                }
                _ => true,
            }
        };
        entries.into_iter().filter(|entry| is_new(entry)).collect()
    }

    /// Moves on to the end of what was shown last.
    fn advance(&mut self, shown: &[Entry]) {
        let Some(last) = shown.last() else { return };
        if self.timestamp != Some(last.timestamp) {
            self.timestamp = Some(last.timestamp);
            self.counts.clear();
        }
        for entry in shown.iter().rev().take_while(|entry| entry.timestamp == last.timestamp) {
            *self.counts.entry(entry.identity()).or_default() += 1;
        }
    }
}

/// The limit that a server names when a page is too large for it: `… (5000 > 1000)`.
pub(crate) fn limit_named_by(message: &str) -> Option<u64> {
    let (_, rest) = message.split_once("max entries limit per query exceeded")?;
    let (_, rest) = rest.split_once('(')?;
    let (numbers, _) = rest.split_once(')')?;
    numbers.split_once('>')?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::answer::Pairs;

    fn entry(timestamp: Timestamp, line: u32) -> Entry {
        Entry {
            timestamp,
            line: line.to_string(),
            labels: Arc::new(Pairs::new()),
            metadata: Pairs::new(),
            parsed: Pairs::new(),
        }
    }

    /// A server that keeps every promise of the API and no other: the order among equal times changes with each request.
    struct Server {
        entries: Vec<Entry>,
        requests: u64,
    }

    impl Server {
        fn answer(&mut self, page: Page, direction: Direction) -> Vec<Entry> {
            self.requests += 1;
            let mut found: Vec<Entry> = self
                .entries
                .iter()
                .filter(|e| (page.start..page.end).contains(&e.timestamp))
                .cloned()
                .collect();
            let whim = |e: &Entry| {
                (e.identity() as u64).wrapping_mul(self.requests.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
            };
            match direction {
                Direction::Forward => found.sort_by_key(|e| (e.timestamp, whim(e))),
                Direction::Backward => found.sort_by_key(|e| (std::cmp::Reverse(e.timestamp), whim(e))),
            }
            found.truncate(page.limit as usize);
            // Streams come one after the other, so an answer as a whole has no order.
            found.sort_by_key(whim);
            found
        }
    }

    fn fetch(server: &mut Server, mut pager: Pager) -> Vec<Entry> {
        let mut all = Vec::new();
        while let Some(page) = pager.next().unwrap() {
            let new = pager.accept(page, server.answer(page, pager.direction));
            all.extend(new);
            assert!(server.requests < 1000, "no progress");
        }
        all
    }

    fn sorted(entries: &[Entry]) -> Vec<(Timestamp, String)> {
        let mut keys: Vec<_> = entries.iter().map(|e| (e.timestamp, e.line.clone())).collect();
        keys.sort();
        keys
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn every_entry_comes_once_and_in_order(
            // Few times and few lines: ties are the rule, and some entries look the same.
            entries in prop::collection::vec((0i64..8, 0u32..6), 0..60),
            batch in 1u64..12,
            forward in any::<bool>(),
            limit in prop_oneof![Just(0u64), 1u64..70],
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(t, line)| entry(t, line)).collect();
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            let mut server = Server { entries: entries.clone(), requests: 0 };
            let got = fetch(&mut server, Pager::new(direction, 1, 7, batch, limit));

            let inside: Vec<_> = entries.into_iter().filter(|e| (1..7).contains(&e.timestamp)).collect();
            let times: Vec<_> = got.iter().map(|e| e.timestamp).collect();
            let mut ordered = times.clone();
            ordered.sort_unstable();
            let mut expected_times: Vec<_> = inside.iter().map(|e| e.timestamp).collect();
            expected_times.sort_unstable();
            if !forward {
                ordered.reverse();
                expected_times.reverse();
            }
            prop_assert_eq!(&times, &ordered);
            if limit == 0 || limit as usize >= inside.len() {
                prop_assert_eq!(sorted(&got), sorted(&inside));
            } else {
                // Which of the entries of the last time are shown is the server's choice; the times are not.
                expected_times.truncate(limit as usize);
                prop_assert_eq!(times, expected_times);
                let mut left = sorted(&inside);
                for key in sorted(&got) {
                    let at = left.iter().position(|k| *k == key);
                    prop_assert!(at.is_some(), "{:?} came more often than it is there", key);
                    left.remove(at.unwrap());
                }
            }
        }
    }

    #[test]
    fn pages_become_smaller_when_the_server_says_so() {
        let mut pager = Pager::new(Direction::Backward, 0, 10, 5000, 0);
        let message =
            "max entries limit per query exceeded, limit > max_entries_limit_per_query (5000 > 1000)";
        assert_eq!(limit_named_by(message), Some(1000));
        assert_eq!(limit_named_by("parse error (1 > 2)"), None);
        assert!(pager.shrink(1000));
        assert_eq!(pager.next().unwrap().unwrap().limit, 1000);
        assert!(!pager.shrink(1000), "the same again does not help");
        let page = pager.next().unwrap().unwrap();
        pager.accept(page, (0..1000).map(|line| entry(3 + i64::from(line < 400), line)).collect());
        assert_eq!(pager.next().unwrap().unwrap().limit, 1000, "600 at the border leave room for 400");
        let page = pager.next().unwrap().unwrap();
        pager.accept(page, (400..1400).map(|line| entry(3, line)).collect());
        assert_eq!(pager.next(), Err(Stuck { entries: 1000, timestamp: 3 }));
    }

    #[test]
    fn an_empty_range_needs_no_request() {
        assert_eq!(Pager::new(Direction::Forward, 5, 5, 10, 0).next(), Ok(None));
    }
}

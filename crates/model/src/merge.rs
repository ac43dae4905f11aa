//! Joins the entries of several sources into one answer: in order of time, each entry once, no more than the limit.

use std::collections::HashSet;

use crate::result::LogEntry;
use crate::time::{Direction, TimeRange, Timestamp};

/// Collects the first `limit` entries in one direction.
///
/// Every source hands in the first `limit` entries that it has, so the first `limit` of the union are among them.
/// Entries are one if stream, timestamp and identity are equal, however many sources hold a copy.
#[derive(Debug)]
pub struct LogMerger {
    direction: Direction,
    limit: usize,
    entries: Vec<LogEntry>,
    duplicates: u64,
}

impl LogMerger {
    /// An empty answer of at most `limit` entries.
    pub fn new(direction: Direction, limit: usize) -> Self {
        Self { direction, limit, entries: Vec::new(), duplicates: 0 }
    }

    /// Takes the entries of one source in. Entries of one stream and time keep the order they come in.
    pub fn add(&mut self, entries: Vec<LogEntry>) {
        if entries.is_empty() {
            return;
        }
        self.entries.extend(entries);
        let direction = self.direction;
        // The sort is stable, so ties inside a stream keep their order; across streams the labels decide, so that
        // pages of one answer do not depend on which source came first.
        self.entries.sort_by(|a, b| {
            let time = a.timestamp.cmp(&b.timestamp);
            let time = if direction == Direction::Backward { time.reverse() } else { time };
            time.then_with(|| a.labels.stream.cmp(&b.labels.stream)).then_with(|| a.stream.cmp(&b.stream))
        });
        let before = self.entries.len();
        let mut seen = HashSet::new();
        let mut time = None;
        self.entries.dedup_by(|b, a| same(a, b));
        // Copies need not be neighbours where several entries of a stream share one time.
        self.entries.retain(|e| {
            if time != Some(e.timestamp) {
                time = Some(e.timestamp);
                seen.clear();
            }
            seen.insert((e.stream, e.identity))
        });
        self.duplicates += (before - self.entries.len()) as u64;
        self.entries.truncate(self.limit);
    }

    /// The part of `range` in which an entry can still change the answer.
    pub fn open_range(&self, range: TimeRange) -> TimeRange {
        match (self.cut_off(), self.direction) {
            (None, _) => range,
            (Some(t), Direction::Backward) => TimeRange::new(range.start.max(t), range.end),
            (Some(t), Direction::Forward) => TimeRange::new(range.start, range.end.min(t.saturating_add(1))),
        }
    }

    /// The time of the last entry of a full answer.
    fn cut_off(&self) -> Option<Timestamp> {
        (self.entries.len() >= self.limit).then(|| self.entries.last().map(|e| e.timestamp)).flatten()
    }

    /// Whether the answer has as many entries as it may.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// Bytes of memory that the entries so far take, roughly.
    pub fn memory_bytes(&self) -> usize {
        self.entries.iter().map(LogEntry::memory_bytes).sum()
    }

    /// The answer and how many copies were joined.
    pub fn finish(self) -> (Vec<LogEntry>, u64) {
        (self.entries, self.duplicates)
    }
}

fn same(a: &LogEntry, b: &LogEntry) -> bool {
    a.timestamp == b.timestamp && a.stream == b.stream && a.identity == b.identity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntryHash, EntryLabels, Labels, LabelsRef, StreamId};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn entry(stream: u64, timestamp: i64, line: u8) -> LogEntry {
        let labels = EntryLabels {
            stream: Labels::from_pairs([("s", stream.to_string().as_str())]),
            structured_metadata: Labels::empty(),
            parsed: Labels::empty(),
        };
        LogEntry {
            timestamp,
            line: vec![line].into(),
            labels: Arc::new(labels),
            stream: StreamId(stream),
            identity: EntryHash::of(timestamp, &[line], LabelsRef::EMPTY),
        }
    }

    fn key(e: &LogEntry) -> (i64, u64, u8) {
        (e.timestamp, e.stream.0, e.line[0])
    }

    proptest! {
        #[test]
        fn any_split_into_sources_gives_the_same_answer(
            all in proptest::collection::btree_set((0i64..6, 0u64..3, 0u8..3), 0..40),
            sources in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..60), 0..5),
            limit in 1usize..20, backward in any::<bool>(),
        ) {
            let direction = if backward { Direction::Backward } else { Direction::Forward };
            let all: Vec<_> = all.into_iter().collect();
            let entries = |keys: &[(i64, u64, u8)]| keys.iter().map(|k| entry(k.1, k.0, k.2)).collect::<Vec<_>>();
            let mut whole = LogMerger::new(direction, limit);
            whole.add(entries(&all));
            let whole: Vec<_> = whole.finish().0.iter().map(|e| (e.timestamp, e.stream)).collect();

            let mut merged = LogMerger::new(direction, limit);
            merged.add(entries(&all[..all.len() / 2]));
            for s in sources {
                let mut keys: Vec<_> = if all.is_empty() { vec![] } else { s.iter().map(|i| all[i.index(all.len())]).collect() };
                keys.sort();
                keys.dedup();
                merged.add(entries(&keys));
            }
            merged.add(entries(&all[all.len() / 2..]));
            let got = merged.finish().0;
            prop_assert_eq!(got.iter().map(|e| (e.timestamp, e.stream)).collect::<Vec<_>>(), whole);
            let mut keys: Vec<_> = got.iter().map(key).collect();
            keys.sort();
            keys.dedup();
            prop_assert_eq!(keys.len(), got.len());
        }
    }
}

//! What is known about a block without opening it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use skald_model::{Digest, LabelsRef, Selector, TimeRange, Timestamp};

/// Most values of one label name that a summary keeps.
pub const LABEL_VALUES: usize = 64;

/// What is known about a block without opening it; kept in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Number of rows.
    pub rows: u64,
    /// Bytes of all lines.
    pub raw_bytes: u64,
    /// Bytes of all structured metadata, packed.
    pub metadata_bytes: u64,
    /// Number of streams.
    pub streams: u32,
    /// Earliest time, nanoseconds.
    pub min_ts: Timestamp,
    /// Latest time, nanoseconds.
    pub max_ts: Timestamp,
    /// Length of the file.
    pub file_size: u64,
    /// Where Skald's sections and the footer begin: reading from here to the end gives all that planning needs.
    pub tail_offset: u64,
    /// For each label name its values in the block, or none if there are more than [`LABEL_VALUES`]. The empty
    /// value stands for streams without the label; names that are not listed no stream has.
    pub label_values: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Digest of all rows.
    pub digest: Digest,
}

impl BlockSummary {
    /// Whether the block may hold rows of streams that `selector` passes in `range`.
    pub fn may_hold(&self, selector: &Selector, range: TimeRange) -> bool {
        self.rows > 0
            && range.overlaps(self.min_ts, self.max_ts)
            && selector.matchers.iter().all(|m| match self.label_values.get(&*m.name) {
                Some(Some(values)) => values.iter().any(|v| m.matches(v)),
                Some(None) => true,
                None => m.matches_empty(),
            })
    }
}

/// Collects the values of labels over the streams of a block.
#[derive(Debug, Default)]
pub(crate) struct LabelValues {
    values: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Streams that have the name.
    counts: BTreeMap<String, u32>,
    streams: u32,
}

impl LabelValues {
    /// Adds a stream's labels.
    pub(crate) fn add(&mut self, labels: LabelsRef<'_>) {
        self.streams += 1;
        for (name, value) in labels.iter() {
            if !self.values.contains_key(name) {
                self.values.insert(name.to_owned(), Some(BTreeSet::new()));
                self.counts.insert(name.to_owned(), 0);
            }
            if let Some(count) = self.counts.get_mut(name) {
                *count += 1;
            }
            let Some(slot) = self.values.get_mut(name) else { continue };
            let Some(set) = slot else { continue };
            if !set.contains(value) {
                set.insert(value.to_owned());
                if set.len() > LABEL_VALUES {
                    *slot = None;
                }
            }
        }
    }

    /// The sets, with the empty value where streams lack the name.
    pub(crate) fn finish(mut self) -> BTreeMap<String, Option<BTreeSet<String>>> {
        for (name, slot) in &mut self.values {
            if let Some(set) = slot
                && self.counts.get(name).is_some_and(|n| *n < self.streams)
            {
                set.insert(String::new());
            }
        }
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::{Labels, MatchOp, Matcher};

    #[test]
    fn small_sets_prune_and_large_ones_do_not() {
        let mut v = LabelValues::default();
        for i in 0..100 {
            let pod = format!("p{i}");
            let app = if i == 0 { "" } else { "web" };
            v.add(Labels::from_pairs([("pod", pod.as_str()), ("app", app)]).as_ref());
        }
        let summary = BlockSummary { rows: 1, max_ts: 10, label_values: v.finish(), ..Default::default() };
        let holds = |name: &str, op, value: &str| {
            let matchers = vec![Matcher::new(name, op, value).unwrap()];
            summary.may_hold(&Selector { matchers }, TimeRange::ALL)
        };
        assert!(holds("app", MatchOp::Equal, "web"));
        assert!(!holds("app", MatchOp::Equal, "db"));
        assert!(holds("app", MatchOp::NotEqual, "web"), "one stream has no app");
        assert!(holds("pod", MatchOp::Equal, "unknown"));
        assert!(!holds("zone", MatchOp::Equal, "a"));
        assert!(holds("zone", MatchOp::Equal, ""));
        assert!(!summary.may_hold(&Selector::default(), TimeRange::new(11, 20)));
    }

    #[test]
    fn goes_through_json() {
        let s = BlockSummary { digest: Digest { count: 1, sum: u128::MAX }, ..Default::default() };
        let text = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<BlockSummary>(&text).unwrap(), s);
    }
}

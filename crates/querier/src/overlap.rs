//! Streams that several blocks hold over the same times: there an entry may lie in more than one block and counts once.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use skald_model::{EntryHash, Labels, Timestamp};

/// What such an identity takes in a hash table with room to grow.
const IDENTITY_BYTES: usize = 32;

/// Times from the first to the last, both included.
pub(crate) type Span = (Timestamp, Timestamp);

/// The times at which more than one of several blocks has entries of a stream: spans in ascending order, apart from each
/// other.
#[derive(Clone, Debug)]
pub(crate) struct Zones(Arc<[Span]>);

impl Zones {
    /// Those of a stream with entries over `spans`, one for each block that holds it.
    pub(crate) fn of(mut spans: Vec<Span>) -> Self {
        spans.sort_unstable();
        let mut zones: Vec<Span> = Vec::new();
        let mut latest: Option<Timestamp> = None;
        for (min, max) in spans {
            if let Some(end) = latest.filter(|end| min <= *end) {
                let end = end.min(max);
                match zones.last_mut() {
                    Some(last) if min <= last.1 => last.1 = last.1.max(end),
                    _ => zones.push((min, end)),
                }
            }
            latest = latest.max(Some(max));
        }
        Self(zones.into())
    }

    /// Whether a block with entries from `min` to `max` has to be compared with others.
    pub(crate) fn touch(&self, (min, max): Span) -> bool {
        let at = self.0.partition_point(|zone| zone.1 < min);
        self.0.get(at).is_some_and(|zone| zone.0 <= max)
    }

    fn has(&self, timestamp: Timestamp) -> bool {
        self.touch((timestamp, timestamp))
    }
}

/// The identities of entries seen, by stream, as far as another block may have them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    sets: FxHashMap<Labels, FxHashSet<EntryHash>>,
    count: usize,
}

/// The zones of streams of one block, by their number.
pub(crate) type ZonesOf = FxHashMap<u32, Zones>;

impl Seen {
    /// Identities that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Bytes that they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.count * IDENTITY_BYTES
    }

    /// Whether an entry of a stream with these zones was not seen before. Its identity is computed only if it matters.
    pub(crate) fn is_new(
        &mut self,
        zones: Option<&Zones>,
        labels: &Labels,
        timestamp: Timestamp,
        identity: impl FnOnce() -> EntryHash,
    ) -> bool {
        if !zones.is_some_and(|z| z.has(timestamp)) {
            return true;
        }
        let new = match self.sets.get_mut(labels) {
            Some(known) => known.insert(identity()),
            None => {
                self.sets.insert(labels.clone(), FxHashSet::from_iter([identity()]));
                true
            }
        };
        self.count += usize::from(new);
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_that_only_touch_share_that_one_time() {
        let zones = Zones::of(vec![(0, 10), (10, 20), (21, 30)]);
        assert_eq!(&*zones.0, &[(10, 10)]);
        assert!(zones.touch((0, 10)) && zones.touch((10, 20)) && !zones.touch((21, 30)));
    }

    #[test]
    fn an_entry_counts_once_where_blocks_overlap_and_is_not_remembered_elsewhere() {
        let zones = Zones::of(vec![(0, 10), (8, 20)]);
        let labels = Labels::from_pairs([("a", "b")]);
        let mut seen = Seen::default();
        let identity = |timestamp| move || EntryHash::of(timestamp, b"line", Labels::empty().as_ref());
        for timestamp in [5, 9] {
            assert!(seen.is_new(Some(&zones), &labels, timestamp, identity(timestamp)));
        }
        assert_eq!(seen.len(), 1);
        assert!(!seen.is_new(Some(&zones), &labels, 9, identity(9)));
        assert!(seen.is_new(Some(&zones), &labels, 15, identity(15)));
        assert!(seen.is_new(None, &labels, 9, identity(9)));
        assert_eq!(seen.len(), 1);
    }

    proptest! {
        #[test]
        fn zones_are_the_times_that_two_blocks_have(spans in proptest::collection::vec((0i64..40, 0i64..10), 0..8)) {
            let spans: Vec<Span> = spans.into_iter().map(|(min, length)| (min, min + length)).collect();
            let zones = Zones::of(spans.clone());
            for t in 0..60 {
                let holders = spans.iter().filter(|s| s.0 <= t && t <= s.1).count();
                prop_assert_eq!(zones.has(t), holders > 1, "at {}", t);
            }
            for pair in zones.0.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
        }
    }
}

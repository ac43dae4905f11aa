//! How much lies where in time: entries, bytes and chunks of streams, per step.
//!
//! A *chunk* is what one source (a block, or a segment in memory) holds of one stream. A source that lies inside a step
//! counts there exactly. Of one that crosses a border only its first and last time are known, so its entries and bytes
//! are spread evenly over that time; the parts of one source add up to the whole.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::labels::{Labels, LabelsRef};
use crate::time::{TimeRange, Timestamp};

/// Most places (group and step) that one answer has: about 40 bytes each, and the labels of the groups.
const PLACES_MAX: usize = 1 << 20;

/// What counts together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum VolumeGroups {
    /// Each stream by itself.
    #[default]
    Streams,
    /// Streams with the same values of these labels, sorted; the group has only these labels.
    Labels(Vec<String>),
    /// All streams that have a label of a name, for each of these names, or for each that is met if there are none. Such
    /// a group has one label, whose name and value are both that name.
    Names(Vec<String>),
}

/// What to count, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeSpec {
    /// Where time is cut: at multiples of this many nanoseconds since the epoch; 0 does not cut it.
    pub step: i64,
    /// What counts together.
    pub groups: VolumeGroups,
    /// Whether the bytes of each chunk are rounded to KiB, as Loki's index keeps them.
    pub whole_kib: bool,
}

/// What a group holds in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepVolume {
    /// Number of the step: the multiple of its length at which it begins; 0 if time is not cut.
    pub step: i64,
    /// Chunks that reach into it.
    pub chunks: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of lines and structured metadata.
    pub bytes: u64,
}

/// A group and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupVolume {
    /// What its streams have in common; see [`VolumeGroups`].
    pub labels: Labels,
    /// Ascending, each step once.
    pub steps: Vec<StepVolume>,
}

/// What a source holds of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Oldest entry.
    pub min_ts: Timestamp,
    /// Newest entry.
    pub max_ts: Timestamp,
    /// Entries.
    pub entries: u64,
    /// Bytes of lines and structured metadata.
    pub bytes: u64,
}

impl VolumeSpec {
    /// The number of the step that `t` lies in.
    pub fn step_of(&self, t: Timestamp) -> i64 {
        if self.step > 0 { t.div_euclid(self.step) } else { 0 }
    }

    /// The first time after step `number`.
    pub fn end_of(&self, number: i64) -> Timestamp {
        if self.step > 0 { number.saturating_add(1).saturating_mul(self.step) } else { Timestamp::MAX }
    }

    fn bytes(&self, bytes: u64) -> u64 {
        if self.whole_kib { bytes.saturating_add(512) >> 10 << 10 } else { bytes }
    }
}

/// Adds up volumes.
#[derive(Debug)]
pub struct VolumeCollector {
    spec: VolumeSpec,
    range: TimeRange,
    groups: BTreeMap<Labels, Vec<StepVolume>>,
    places: usize,
}

impl VolumeCollector {
    /// Counts what lies in `range` as `spec` says.
    pub fn new(spec: VolumeSpec, range: TimeRange) -> Self {
        Self { spec, range, groups: BTreeMap::new(), places: 0 }
    }

    /// How it counts.
    pub fn spec(&self) -> &VolumeSpec {
        &self.spec
    }

    /// Adds a chunk of the stream with `labels` by what is known of the whole of it.
    ///
    /// # Errors
    /// When the answer becomes too large.
    pub fn add_chunk(&mut self, labels: &Labels, chunk: &Chunk) -> Result<()> {
        let steps = self.spread(chunk);
        self.add_steps(labels, &steps)
    }

    /// Adds what was counted entry by entry of a chunk of the stream with `labels`. With [`VolumeSpec::whole_kib`] each
    /// step is rounded.
    ///
    /// # Errors
    /// When the answer becomes too large.
    pub fn add_counted(&mut self, labels: &Labels, mut steps: Vec<StepVolume>) -> Result<()> {
        steps.iter_mut().for_each(|s| s.bytes = self.spec.bytes(s.bytes));
        self.add_steps(labels, &steps)
    }

    /// Adds a group that another collector of the same kind has made.
    ///
    /// # Errors
    /// When the answer becomes too large.
    pub fn merge(&mut self, group: GroupVolume) -> Result<()> {
        self.add_to(group.labels, &group.steps)
    }

    /// The groups, sorted by labels.
    pub fn finish(self) -> Vec<GroupVolume> {
        self.groups.into_iter().map(|(labels, steps)| GroupVolume { labels, steps }).collect()
    }

    fn add_steps(&mut self, labels: &Labels, steps: &[StepVolume]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        match &self.spec.groups {
            VolumeGroups::Streams => self.add_to(labels.clone(), steps),
            VolumeGroups::Labels(names) => {
                let group = Labels::from_pairs(labels.iter().filter(|(n, _)| has(names, n)));
                self.add_to(group, steps)
            }
            VolumeGroups::Names(names) => {
                let wanted = |name: &str| names.is_empty() || has(names, name);
                let present: Vec<Labels> = labels
                    .iter()
                    .filter(|(n, _)| wanted(n))
                    .map(|(n, _)| Labels::from_pairs([(n, n)]))
                    .collect();
                present.into_iter().try_for_each(|group| self.add_to(group, steps))
            }
        }
    }

    fn add_to(&mut self, labels: Labels, steps: &[StepVolume]) -> Result<()> {
        let known = self.groups.entry(labels).or_default();
        let before = known.len();
        add_up(known, steps);
        self.places += known.len() - before;
        if self.places > PLACES_MAX {
            return Err(Error::invalid(format!(
                "the volume has more than {PLACES_MAX} points; use a larger step, fewer labels, a narrower selector or a \
                 shorter time range"
            )));
        }
        Ok(())
    }

    /// Spreads a chunk over the steps that it reaches into.
    fn spread(&self, chunk: &Chunk) -> Vec<StepVolume> {
        let Chunk { min_ts, max_ts, entries, .. } = *chunk;
        let bytes = self.spec.bytes(chunk.bytes);
        let (from, to) = (self.range.start.max(min_ts), self.range.end.min(max_ts.saturating_add(1)));
        let span = i128::from(max_ts) - i128::from(min_ts) + 1;
        // What lies before `t`: parts are differences of it, so they add up.
        let before = |whole: u64, t: Timestamp| {
            let share = i128::from(whole) * (i128::from(t) - i128::from(min_ts)) / span;
            u64::try_from(share).unwrap_or(0)
        };
        let mut steps = Vec::new();
        let mut at = from;
        while at < to {
            let step = self.spec.step_of(at);
            let end = self.spec.end_of(step).min(to);
            let part = StepVolume {
                step,
                chunks: 1,
                entries: before(entries, end) - before(entries, at),
                bytes: before(bytes, end) - before(bytes, at),
            };
            if part.entries > 0 || part.bytes > 0 || self.spec.step <= 0 {
                steps.push(part);
            }
            at = end;
        }
        steps
    }
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|n| n == name)
}

/// Adds `more` to `known`, both ascending.
fn add_up(known: &mut Vec<StepVolume>, more: &[StepVolume]) {
    for new in more {
        match known.binary_search_by_key(&new.step, |s| s.step) {
            Ok(at) => {
                let s = &mut known[at];
                s.chunks += new.chunks;
                s.entries += new.entries;
                s.bytes += new.bytes;
            }
            Err(at) => known.insert(at, *new),
        }
    }
}

/// Bytes of names and values of structured metadata: what they count for as volume.
pub fn metadata_text_bytes(metadata: LabelsRef<'_>) -> u64 {
    metadata.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    fn collector(step: i64, groups: VolumeGroups, range: TimeRange) -> VolumeCollector {
        VolumeCollector::new(VolumeSpec { step, groups, whole_kib: false }, range)
    }

    #[test]
    fn chunks_inside_a_step_are_exact_and_others_are_spread() {
        let mut c = collector(10, VolumeGroups::Streams, TimeRange::new(0, 30));
        let a = labels(&[("app", "a")]);
        c.add_chunk(&a, &Chunk { min_ts: 12, max_ts: 19, entries: 3, bytes: 100 }).unwrap();
        c.add_chunk(&a, &Chunk { min_ts: 15, max_ts: 34, entries: 20, bytes: 200 }).unwrap();
        let steps = vec![
            StepVolume { step: 1, chunks: 2, entries: 3 + 5, bytes: 100 + 50 },
            StepVolume { step: 2, chunks: 1, entries: 10, bytes: 100 },
        ];
        assert_eq!(c.finish(), [GroupVolume { labels: a, steps }]);
    }

    #[test]
    fn streams_are_grouped_by_labels_or_by_names() {
        let chunk = Chunk { min_ts: 0, max_ts: 5, entries: 1, bytes: 10 };
        let streams = [
            labels(&[("app", "a"), ("pod", "1")]),
            labels(&[("app", "a"), ("pod", "2")]),
            labels(&[("x", "y")]),
        ];
        let check = |groups: VolumeGroups, expected: &[(&str, u64)]| {
            let mut c = collector(0, groups, TimeRange::ALL);
            streams.iter().for_each(|s| c.add_chunk(s, &chunk).unwrap());
            let got: Vec<_> = c.finish().iter().map(|g| (g.labels.to_string(), g.steps[0].bytes)).collect();
            let expected: Vec<_> = expected.iter().map(|(l, b)| ((*l).to_owned(), *b)).collect();
            assert_eq!(got, expected);
        };
        check(VolumeGroups::Labels(vec!["app".into()]), &[("{}", 10), (r#"{app="a"}"#, 20)]);
        check(VolumeGroups::Names(vec!["app".into()]), &[(r#"{app="app"}"#, 20)]);
        let all = [(r#"{app="app"}"#, 20), (r#"{pod="pod"}"#, 20), (r#"{x="x"}"#, 10)];
        check(VolumeGroups::Names(vec![]), &all);
    }

    #[test]
    fn kib_are_rounded_per_chunk_when_asked_for() {
        let spec = VolumeSpec { step: 0, groups: VolumeGroups::Streams, whole_kib: true };
        let mut c = VolumeCollector::new(spec, TimeRange::ALL);
        for bytes in [511, 512, 2000] {
            c.add_chunk(&Labels::empty(), &Chunk { min_ts: 0, max_ts: 0, entries: 1, bytes }).unwrap();
        }
        assert_eq!(c.finish()[0].steps[0].bytes, 1024 + 2048);
    }

    #[test]
    fn an_answer_that_becomes_too_large_is_refused() {
        let mut c = collector(1, VolumeGroups::Streams, TimeRange::ALL);
        let n = PLACES_MAX as i64;
        let chunk = Chunk { min_ts: 0, max_ts: n, entries: n as u64 + 1, bytes: 1 };
        let error = c.add_chunk(&Labels::empty(), &chunk).unwrap_err();
        assert!(error.message.contains("larger step"), "{error}");
    }

    proptest! {
        #[test]
        fn the_parts_of_a_chunk_add_up(
            start in -100i64..100, length in 0i64..100, step in 1i64..50, entries in 0u64..1000, bytes in 0u64..1000,
            cut in -50i64..150,
        ) {
            let chunk = Chunk { min_ts: start, max_ts: start + length, entries, bytes };
            let total = |ranges: &[TimeRange]| {
                let mut sum = (0, 0);
                for range in ranges {
                    let mut c = collector(step, VolumeGroups::Streams, *range);
                    c.add_chunk(&Labels::empty(), &chunk).unwrap();
                    for s in c.finish().iter().flat_map(|g| &g.steps) {
                        prop_assert!(range.start < (s.step + 1) * step && s.step * step < range.end);
                        sum = (sum.0 + s.entries, sum.1 + s.bytes);
                    }
                }
                prop_assert_eq!(sum, (entries, bytes));
                Ok(())
            };
            total(&[TimeRange::new(-1000, 1000)])?;
            total(&[TimeRange::new(-1000, cut), TimeRange::new(cut, 1000)])?;
        }
    }
}

//! What of a sealed segment the table is not known to hold.
//!
//! The unit is the part of one push that belongs to one stream: an ingester has all of it or none (what it refused it
//! marks, see [`PushStamp::partial`](skald_model::PushStamp)), and every block that a replica writes lists which of
//! these parts it holds. So a replica needs to look at no entry to know that the table has its copy.

use rustc_hash::FxHashMap;
use skald_model::{PushId, StreamId};
use skald_storage::block::PushList;

use crate::segment::Segment;

/// The parts of pushes in a segment that the table is not known to hold.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// By number of the stream in the segment: the batches with rows of it that are not covered, sorted.
    streams: Vec<(StreamId, Vec<u32>)>,
    by_stream: FxHashMap<StreamId, Vec<u32>>,
    by_push: FxHashMap<PushId, Vec<u32>>,
    /// Streams with batches that are not covered.
    left: usize,
}

/// Some streams of a segment, each with some of its batches: numbers in both cases, sorted.
pub(crate) type Selection = Vec<(u32, Vec<u32>)>;

impl Pending {
    /// Everything in `segment`.
    pub(crate) fn all_of(segment: &Segment) -> Self {
        let mut pending = Self::default();
        for (number, stream) in segment.streams().iter().enumerate() {
            let mut batches: Vec<u32> = stream.rows.iter().map(|r| r.batch).collect();
            batches.sort_unstable();
            batches.dedup();
            pending.left += usize::from(!batches.is_empty());
            pending.by_stream.entry(stream.id).or_default().push(number as u32);
            pending.streams.push((stream.id, batches));
        }
        for number in 0..segment.batches().len() as u32 {
            if let Some(push) = segment.batches().get(number).stamp.push() {
                pending.by_push.entry(push).or_default().push(number);
            }
        }
        pending
    }

    /// Takes note of what a block holds.
    pub(crate) fn cover(&mut self, list: &PushList) {
        for (stream, pushes) in list.streams() {
            let Some(numbers) = self.by_stream.get(&stream) else { continue };
            let mut batches: Vec<u32> =
                pushes.filter_map(|p| self.by_push.get(&p)).flatten().copied().collect();
            batches.sort_unstable();
            for number in numbers.clone() {
                self.cover_batches(number, &batches);
            }
        }
    }

    /// Takes note that the table holds a selection.
    pub(crate) fn cover_selection(&mut self, selection: &Selection) {
        for (number, batches) in selection {
            self.cover_batches(*number, batches);
        }
    }

    fn cover_batches(&mut self, number: u32, covered: &[u32]) {
        let (_, batches) = &mut self.streams[number as usize];
        if batches.is_empty() {
            return;
        }
        batches.retain(|b| covered.binary_search(b).is_err());
        self.left -= usize::from(batches.is_empty());
    }

    /// Whether the table holds everything.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Number of streams of which the table lacks something.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// What the table is not known to hold, of those streams that `wanted` wants.
    pub(crate) fn select(&self, wanted: impl Fn(StreamId) -> bool) -> Selection {
        let open = self.streams.iter().enumerate().filter(|(_, (_, batches))| !batches.is_empty());
        open.filter(|(_, (id, _))| wanted(*id))
            .map(|(number, (_, batches))| (number as u32, batches.clone()))
            .collect()
    }

    /// The numbers of the streams of which the table lacks something.
    pub(crate) fn open_streams(&self) -> impl Iterator<Item = u32> + '_ {
        let open = self.streams.iter().enumerate().filter(|(_, (_, batches))| !batches.is_empty());
        open.map(|(number, _)| number as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use skald_model::PushStamp;

    use super::*;
    use crate::replicas::copies::list_of;
    use crate::samples::{batch, tenant};
    use crate::segment::HeldBatch;
    use skald_runtime::memory::Memory;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn segment(pushes: &[(u64, Vec<usize>)]) -> Segment {
        let mut segment = Segment::new(true);
        for (lsn, (sequence, streams)) in pushes.iter().enumerate() {
            let line = format!("line {lsn}");
            let entries = [(*sequence as i64, line.as_str(), "")];
            let streams: Vec<_> = streams.iter().map(|s| (NAMES[*s], &entries[..])).collect();
            let batch = batch(&tenant("t"), &streams);
            let reservation = Memory::new(1 << 30).try_reserve(100).unwrap();
            let stamp = PushStamp { origin: 1, sequence: *sequence, ..PushStamp::default() };
            segment.insert(HeldBatch::new(batch, lsn as u64 + 1, stamp, reservation));
        }
        segment
    }

    fn pushes() -> impl Strategy<Value = Vec<(u64, Vec<usize>)>> {
        let streams = proptest::sample::subsequence(vec![0usize, 1, 2], 1..=3);
        proptest::collection::vec((0u64..6, streams), 1..8)
    }

    proptest! {
        /// Whatever of the pushes another replica got, and whatever of it was written: what is not listed stays open, and
        /// what is listed is not.
        #[test]
        fn exactly_what_is_listed_is_covered(mine in pushes(), theirs in pushes(), written in 0u8..8) {
            let (mine, theirs) = (segment(&mine), segment(&theirs));
            let wanted = |s: StreamId, of: &Segment| {
                of.streams().iter().any(|x| x.id == s && {
                    let app = x.labels.get("app").unwrap();
                    written & 1 << NAMES.iter().position(|n| *n == app).unwrap() != 0
                })
            };
            let of_theirs = Pending::all_of(&theirs);
            let selection = of_theirs.select(|s| wanted(s, &theirs));
            let list = list_of(&theirs, &selection);
            let listed: BTreeSet<_> =
                list.streams().flat_map(|(s, of)| of.map(move |p| (s, p)).collect::<Vec<_>>()).collect();
            let mut pending = Pending::all_of(&mine);
            pending.cover(&list);
            for (number, stream) in mine.streams().iter().enumerate() {
                for row in stream.rows.iter() {
                    let push = mine.batches().stamp(row).push().unwrap();
                    let open = pending.streams[number].1.contains(&row.batch);
                    prop_assert_eq!(open, !listed.contains(&(stream.id, push)));
                }
            }
            let rest = pending.select(|_| true);
            prop_assert_eq!(pending.is_done(), rest.is_empty());
            prop_assert_eq!(pending.left(), rest.len());
            pending.cover_selection(&rest);
            prop_assert!(pending.is_done());
        }
    }

    #[test]
    fn a_stream_that_the_writer_did_not_get_with_a_push_is_not_covered_by_it() {
        let mine = segment(&[(1, vec![0, 1]), (2, vec![0, 1])]);
        // The writer keeps b only since the second push, and has the first one for another stream's sake.
        let theirs = segment(&[(1, vec![0]), (2, vec![0, 1])]);
        let mut pending = Pending::all_of(&mine);
        let of_theirs = Pending::all_of(&theirs);
        pending.cover(&list_of(&theirs, &of_theirs.select(|_| true)));
        let open = pending.select(|_| true);
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].1, [0], "the first push's part of b");
    }
}

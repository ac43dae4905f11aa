//! What one of several replicas writes.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use skald_model::{PushId, StreamId};
use skald_storage::block::PushList;
use xxhash_rust::xxh3::Xxh3;

use super::pending::Selection;
use crate::segment::Segment;

/// A part of a sealed segment on its way to the table.
#[derive(Clone, Debug)]
pub struct Copies {
    /// The entries.
    pub segment: Arc<Segment>,
    /// The pushes that they came with, as far as all of their entries are among them.
    pub pushes: PushList,
    /// Tells this part of the segment from others; the same for the same part.
    pub name: u64,
    /// Counts the names under which the part was written because earlier ones were given up.
    pub attempt: u32,
}

impl Copies {
    /// The part `selection` of `segment`.
    pub(crate) fn new(segment: &Segment, selection: &Selection, attempt: u32) -> Self {
        let mut name = Xxh3::new();
        for (number, batches) in selection {
            name.update(&segment.streams()[*number as usize].id.0.to_le_bytes());
            batches.iter().for_each(|b| name.update(&segment.batches().get(*b).lsn.to_le_bytes()));
        }
        Self {
            segment: Arc::new(segment.only(selection)),
            pushes: list_of(segment, selection),
            name: name.digest(),
            attempt,
        }
    }
}

/// The pushes whose entries of a stream are all in the selection, for each stream. Where all batches of a stream are
/// selected, those count, too, that brought only what an earlier one had brought.
pub(super) fn list_of(segment: &Segment, selection: &Selection) -> PushList {
    let mut by_stream: FxHashMap<StreamId, Vec<u32>> = FxHashMap::default();
    for number in 0..segment.batches().len() as u32 {
        let held = segment.batches().get(number);
        for stream in held.batch.streams.iter().filter(|s| !s.entries.is_empty()) {
            by_stream.entry(stream.id).or_default().push(number);
        }
    }
    let listed = selection.iter().map(|(number, batches)| {
        let stream = &segment.streams()[*number as usize];
        let with_rows: FxHashSet<u32> = stream.rows.iter().map(|r| r.batch).collect();
        let whole = with_rows.len() == batches.len();
        let chosen = |b: &u32| match whole {
            true => true,
            false => batches.binary_search(b).is_ok(),
        };
        let held = by_stream.get(&stream.id).into_iter().flatten().filter(|b| chosen(b));
        let stamps = held.map(|b| segment.batches().get(*b).stamp);
        let mut pushes: Vec<PushId> = stamps.filter(|s| !s.partial).filter_map(|s| s.push()).collect();
        if whole {
            pushes.extend(segment.repeated().iter().filter(|(_, of)| of.contains(&stream.id)).map(|r| r.0));
        }
        (stream.id, pushes)
    });
    PushList::new(listed)
}

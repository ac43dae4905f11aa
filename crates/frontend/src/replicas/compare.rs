//! Comparing entries by identity: what is asked for, and what the answers mean.

use std::collections::{BTreeMap, HashSet};

use skald_model::{EntryHash, StreamId, TimeRange};

use super::Side;

/// Entries that are compared in one query at most; each takes some 60 bytes.
pub(crate) const COMPARED_MAX: usize = 1_000_000;

/// What tells an entry from all others of a tenant.
pub(crate) type Identity = (StreamId, EntryHash);

/// The identities that each side told.
pub(crate) type Compared = BTreeMap<Side, Vec<Identity>>;

/// Puts streams with similar times into one request each: a request has one range, and a stream that has to be compared
/// over hours must not make it ask for hours of all the others.
pub(crate) fn requests(streams: &[(StreamId, TimeRange)]) -> Vec<(TimeRange, Vec<StreamId>)> {
    let mut by_class: BTreeMap<u32, Vec<(StreamId, TimeRange)>> = BTreeMap::new();
    for (id, range) in streams {
        let length = range.end.saturating_sub(range.start).max(1);
        // Lengths of one class differ by a factor of 16 at most.
        by_class.entry(length.ilog2() / 4).or_default().push((*id, *range));
    }
    let mut out: Vec<(TimeRange, Vec<StreamId>)> = Vec::new();
    for (class, mut streams) in by_class {
        streams.sort_by_key(|(id, range)| (range.start, *id));
        let length_max = 1i64.checked_shl((class + 1) * 4 + 1).filter(|l| *l > 0).unwrap_or(i64::MAX);
        let first_of_class = out.len();
        for (id, range) in streams {
            match out[first_of_class..].last_mut() {
                Some((hull, ids)) if range.end.saturating_sub(hull.start) <= length_max => {
                    hull.end = hull.end.max(range.end);
                    ids.push(id);
                }
                _ => out.push((range, vec![id])),
            }
        }
    }
    out
}

/// What each ingester leaves out so that every entry counts once: what the table has, and what an ingester has that comes
/// before it in `order`.
pub(crate) fn exclusions(compared: Compared, order: &[usize]) -> BTreeMap<usize, HashSet<Identity>> {
    let mut compared = compared;
    let mut claimed: HashSet<Identity> =
        compared.remove(&Side::Table).unwrap_or_default().into_iter().collect();
    let mut out: BTreeMap<usize, HashSet<Identity>> = BTreeMap::new();
    for i in order {
        let own = compared.remove(&Side::Ingester(*i)).unwrap_or_default();
        let excluded: HashSet<_> = own.iter().filter(|id| claimed.contains(id)).copied().collect();
        claimed.extend(own);
        if !excluded.is_empty() {
            out.insert(*i, excluded);
        }
    }
    out
}

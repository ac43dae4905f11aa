//! Insertion into the sorted rows of a stream.

use rustc_hash::FxHashSet;
use skald_model::{Digest, EntryHash, Timestamp};

use super::Batches;

/// Where one entry is, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Nanoseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// Number of the batch in its segment.
    pub batch: u32,
    /// Number of the entry in its batch.
    pub entry: u32,
}

/// Up to so many entries of one time are compared one by one; beyond it by hash, so that a flood of entries of one
/// time costs a hash each, not a comparison with all before.
const COMPARED_MAX: usize = 16;

/// The hashes of the entries at the newest time of a stream, once there are many.
#[derive(Clone, Debug, Default)]
pub(super) struct Ties {
    at: Timestamp,
    hashes: Option<Box<FxHashSet<u128>>>,
}

/// Entries added, raw bytes of their lines, bytes of their metadata, and their digest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) metadata_bytes: u64,
    /// Of the entries added, if it is wanted.
    pub(super) digest: Option<Digest>,
}

/// Inserts `new` in the order of arrival. Entries in order of time go straight to the end; what is late is merged at
/// once for the whole push.
pub(super) fn insert(
    rows: &mut Vec<Row>,
    ties: &mut Ties,
    mut new: impl ExactSizeIterator<Item = Row>,
    batches: &Batches,
    digests: bool,
) -> Added {
    let mut added = Added { digest: digests.then(Digest::default), ..Added::default() };
    let mut late = Vec::new();
    rows.reserve_exact_amortized(new.len());
    for row in new.by_ref() {
        let fits = match rows.last() {
            Some(last) if row.timestamp < last.timestamp => {
                late.push(row);
                continue;
            }
            Some(last) if row.timestamp == last.timestamp => ties.is_new(rows, &row, batches),
            _ => true,
        };
        if fits {
            added.count(&row, batches);
            rows.push(row);
        }
    }
    if !late.is_empty() {
        merge(rows, late, batches, &mut added);
    }
    added
}

/// Growth by a quarter instead of doubling: rows live long and many streams have few.
trait ReserveExactAmortized {
    fn reserve_exact_amortized(&mut self, additional: usize);
}

impl ReserveExactAmortized for Vec<Row> {
    fn reserve_exact_amortized(&mut self, additional: usize) {
        if self.capacity() - self.len() < additional {
            self.reserve_exact(additional.max(self.len() / 4));
        }
    }
}

impl Added {
    fn count(&mut self, row: &Row, batches: &Batches) {
        self.entries += 1;
        self.bytes += batches.line_len(row);
        self.metadata_bytes += batches.metadata_text_len(row);
        if let Some(digest) = &mut self.digest {
            digest.add(batches.identity(row));
        }
    }
}

impl Ties {
    /// Whether `row`, which has the time of the last row, is not among the rows of that time. Remembers it if so.
    fn is_new(&mut self, rows: &[Row], row: &Row, batches: &Batches) -> bool {
        if self.at != row.timestamp {
            *self = Self { at: row.timestamp, hashes: None };
        }
        if self.hashes.is_none() {
            let same_time = || rows.iter().rev().take_while(|r| r.timestamp == row.timestamp);
            if same_time().take(COMPARED_MAX + 1).count() <= COMPARED_MAX {
                return !same_time().any(|r| batches.same(r, row));
            }
            self.hashes = Some(Box::new(same_time().map(|r| hash(r, batches)).collect()));
        }
        self.hashes.as_mut().is_none_or(|hashes| hashes.insert(hash(row, batches)))
    }
}

fn hash(row: &Row, batches: &Batches) -> u128 {
    EntryHash::of(row.timestamp, batches.line(row), batches.metadata(row)).0
}

/// Merges `late` rows, given in the order of arrival, into `rows`. At equal times what was there comes first.
fn merge(rows: &mut Vec<Row>, mut late: Vec<Row>, batches: &Batches, added: &mut Added) {
    late.sort_by_key(|r| r.timestamp);
    let late = without_duplicates(rows, &late, batches);
    for row in &late {
        added.count(row, batches);
    }
    // From the back, so that every row moves at most once.
    let (mut old, mut new) = (rows.len(), late.len());
    rows.extend_from_slice(&late);
    while new > 0 {
        let to = old + new - 1;
        if old > 0 && rows[old - 1].timestamp > late[new - 1].timestamp {
            old -= 1;
            rows[to] = rows[old];
        } else {
            new -= 1;
            rows[to] = late[new];
        }
    }
}

/// The rows of `late` (sorted by time) that are neither in `rows` nor twice in `late`.
fn without_duplicates(rows: &[Row], late: &[Row], batches: &Batches) -> Vec<Row> {
    let mut kept: Vec<Row> = Vec::with_capacity(late.len());
    for group in late.chunk_by(|a, b| a.timestamp == b.timestamp) {
        let at = group[0].timestamp;
        let start = rows.partition_point(|r| r.timestamp < at);
        let len = rows[start..].partition_point(|r| r.timestamp == at);
        let there = &rows[start..start + len];
        if there.len() + group.len() <= 2 * COMPARED_MAX {
            let first = kept.len();
            for row in group {
                let known = there.iter().chain(&kept[first..]).any(|r| batches.same(r, row));
                if !known {
                    kept.push(*row);
                }
            }
        } else {
            let mut hashes: FxHashSet<u128> = there.iter().map(|r| hash(r, batches)).collect();
            kept.extend(group.iter().filter(|row| hashes.insert(hash(row, batches))));
        }
    }
    kept
}

//! Which entries a tail has sent lately.

use rustc_hash::FxHashSet;
use skald_model::LogEntry;

/// Entries that a generation remembers. Two generations take about two megabytes when a tail is busy.
const GENERATION_ENTRIES: usize = 32 * 1024;

/// The identities of at least the last [`GENERATION_ENTRIES`] entries.
#[derive(Debug, Default)]
pub(super) struct Seen {
    young: FxHashSet<u128>,
    old: FxHashSet<u128>,
}

impl Seen {
    /// Remembers an entry; `false` if it was there.
    pub(super) fn insert(&mut self, entry: &LogEntry) -> bool {
        // Identities are hashes already; an entry of another stream differs in its identity or here.
        let key = entry.identity.0 ^ (u128::from(entry.stream.0) << 32);
        if self.old.contains(&key) || !self.young.insert(key) {
            return false;
        }
        if self.young.len() >= GENERATION_ENTRIES {
            self.old = std::mem::take(&mut self.young);
        }
        true
    }
}

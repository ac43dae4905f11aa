//! What a flush does about delete requests.
//!
//! Requests that can no longer be taken back are carried out while the block is written. Others are not, but a block must
//! not mix what they are about with what came after them: queries take all of a block for what came before a request
//! that was accepted after its first entry. So a flush across such a request writes what came after it apart, if there is
//! any of the same streams and times.

use std::sync::Arc;
use std::time::Duration;

use skald_model::limits::DeletionMode;
use skald_model::{Limits, Timestamp};

use crate::lists::Loaded;
use crate::removals::{Delete, Removals};

/// The requests as a flush sees them.
#[derive(Clone, Debug)]
pub struct AtFlush {
    /// The generation of the requests.
    pub generation: u64,
    /// Those that are carried out now, and the generation up to which they are all there are.
    pub done: Arc<Removals>,
    /// Those that may still be taken back.
    pub pending: Vec<Arc<Delete>>,
}

impl AtFlush {
    /// The requests of `loaded` at `now`.
    pub fn new(loaded: &Loaded, limits: &Limits, now: Timestamp, cancel_period: Duration) -> Self {
        let (ready, generation) = match limits.deletion_mode {
            DeletionMode::FilterAndDelete => {
                let (ready, generation) = loaded.list.ready(now, cancel_period);
                (ready.len(), generation)
            }
            // Nothing is carried out, but a tenant may get its requests back.
            DeletionMode::Disabled | DeletionMode::FilterOnly => (0, 0),
        };
        let (done, pending) = loaded.deletes.split_at(ready);
        let done = Removals { generation, deletes: done.to_vec(), ..Removals::default() };
        Self { generation: loaded.list.generation, done: Arc::new(done), pending: pending.to_vec() }
    }

    /// The seconds after which entries are written apart, of requests that came while a segment did from second `first`
    /// to second `last`.
    pub fn borders(&self, first: i64, last: i64) -> Vec<&Delete> {
        let between = |d: &&Delete| first <= d.rule.accepted && d.rule.accepted < last;
        self.pending.iter().map(|d| &**d).filter(between).collect()
    }
}

impl Delete {
    /// Whether the request is about streams with `labels`.
    pub fn is_about_stream(&self, labels: skald_model::LabelsRef<'_>) -> bool {
        self.query.selector.matches(labels)
    }
}

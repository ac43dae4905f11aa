//! What stays of a block's rows when it is rewritten.

use skald_model::{LabelsRef, Timestamp};

pub use crate::block::merge::{KeepRow, Kept, KeptRows};
use crate::table::BlockOrigin;

/// What stays of a block's rows when it is rewritten.
pub trait Keep: Send + Sync {
    /// What stays of one stream of one input between the times of its first and its last row. `origin` is the input's: it
    /// tells when its entries were received.
    fn stream(
        &self,
        origin: &BlockOrigin,
        labels: LabelsRef<'_>,
        min_ts: Timestamp,
        max_ts: Timestamp,
    ) -> Kept;

    /// The generation of delete requests that are applied to every row that passes; what is written carries it.
    fn generation(&self) -> u64;
}

/// Everything stays. Whatever was applied to the inputs, nothing more is.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAll {
    /// What is known to be applied to all inputs.
    pub generation: u64,
}

impl Keep for KeepAll {
    fn stream(&self, _: &BlockOrigin, _: LabelsRef<'_>, _: Timestamp, _: Timestamp) -> Kept {
        Kept::All
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

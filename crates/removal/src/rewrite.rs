//! What a rewrite of blocks does about retention and delete requests.

use std::sync::Arc;
use std::time::Duration;

use skald_model::limits::DeletionMode;
use skald_model::{Result, TenantId, Timestamp};
use skald_storage::table::{BlockEntry, Snapshot};

use crate::blocks::Concern;
use crate::flush::AtFlush;
use crate::removals::{Delete, Removals};
use crate::resolve::Resolver;
use crate::service::finished;

/// The rules as rewrites see them.
#[derive(Clone, Debug, Default)]
pub struct AtRewrite {
    /// What has to go now: what has expired, and requests that can no longer be taken back.
    pub done: Arc<Removals>,
    /// Requests that may still be taken back, or that the tenant wants obeyed but not carried out.
    pub pending: Vec<Arc<Delete>>,
    /// Requests of which nothing is left to do.
    pub finished: Vec<String>,
}

/// What is to be done about a block that nothing else is done about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// To remove it: all of it goes.
    Drop,
    /// To rewrite it, because requests are about it.
    Rewrite,
    /// To rewrite it if it has one of the streams of which all has expired that its summary can't rule out.
    RewriteIfExpired,
}

impl AtRewrite {
    /// What is to be done about `block`. Streams of which only a part has expired wait until all of it has, so that a block
    /// is rewritten no more often than there are rules; queries do not show that part.
    pub fn due(&self, block: &BlockEntry) -> Due {
        if self.done.block(block) == Concern::Whole {
            Due::Drop
        } else if self.done.deletes.iter().any(|d| d.is_due(block)) {
            Due::Rewrite
        } else if self.done.cutoffs_of(&block.summary).1 > block.summary.max_ts {
            Due::RewriteIfExpired
        } else {
            Due::Nothing
        }
    }

    /// Blocks may be merged where this is equal. The others must stay apart: what came after a request would be taken for
    /// what it is about.
    pub fn group(&self, block: &BlockEntry) -> Vec<u64> {
        self.pending.iter().filter(|d| d.is_due(block)).map(|d| d.rule().generation).collect()
    }
}

impl Resolver {
    /// What a rewrite of the table at `snapshot` has to do at `now`; `snapshot` must not be older than that. Requests count
    /// as carried out when flushes that did not know them have had the time `settle` to end.
    pub async fn at_rewrite(
        &self,
        tenant: &TenantId,
        snapshot: &Snapshot,
        now: Timestamp,
        cancel_period: Duration,
        settle: Duration,
    ) -> Result<AtRewrite> {
        let limits = self.limits.of(tenant);
        let retention = self.retention(tenant, &limits)?;
        let (mut pending, mut deletes, mut generation) = (Vec::new(), Vec::new(), 0);
        let mut done_with = Vec::new();
        if let Some(loaded) = self.lists().at(tenant, snapshot).await? {
            let at = AtFlush::new(&loaded, &limits, now, cancel_period);
            (deletes, generation) = (at.done.deletes.clone(), at.done.generation());
            pending = at.pending;
            if limits.deletion_mode == DeletionMode::FilterAndDelete {
                done_with = finished(&loaded, snapshot, now, cancel_period, settle);
            }
        }
        let mut done = Removals::new(generation, deletes, &retention, now);
        if self.retention_enabled {
            done = done.with_size(snapshot.blocks.iter().map(|b| &**b), limits.retention_bytes);
        }
        Ok(AtRewrite { done: Arc::new(done), pending, finished: done_with })
    }
}

//! What has to go from a table: where retention and deletes come in.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{Result, TenantId, Timestamp};
use skald_storage::rewrite::{Keep, KeepAll};
use skald_storage::table::{BlockEntry, Snapshot};

use crate::archive::HowArchived;

/// What has to go from a tenant's table, for one pass over it.
#[derive(Clone)]
pub struct Removals {
    /// Says for every row that is rewritten, for whatever reason, whether it stays.
    pub keep: Arc<dyn Keep>,
    /// Paths of blocks of which nothing stays; they are removed by a commit alone.
    pub drop: Vec<String>,
    /// Paths of blocks of which something goes; they are rewritten though no merge is due.
    pub rewrite: Vec<String>,
    /// Blocks may be merged where this is equal.
    pub group: Arc<Group>,
    /// How blocks are archived before they are dropped or rewritten.
    pub archived: Arc<HowArchived>,
    /// When each delete request was accepted that is not carried out yet, nanoseconds.
    pub open_requests: Vec<Timestamp>,
    /// Delete requests that were found to be carried out for good.
    pub finished_requests: usize,
}

/// Tells which blocks have to stay apart.
pub type Group = dyn Fn(&BlockEntry) -> Vec<u64> + Send + Sync;

impl Default for Removals {
    /// Nothing goes.
    fn default() -> Self {
        Self {
            keep: Arc::new(KeepAll::default()),
            drop: Vec::new(),
            rewrite: Vec::new(),
            group: Arc::new(|_| Vec::new()),
            archived: Arc::new(|_| None),
            open_requests: Vec::new(),
            finished_requests: 0,
        }
    }
}

impl std::fmt::Debug for Removals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut removals = f.debug_struct("Removals");
        removals.field("generation", &self.keep.generation());
        removals.field("drop", &self.drop).field("rewrite", &self.rewrite).finish_non_exhaustive()
    }
}

/// Knows what has to go.
#[async_trait]
pub trait KeepProvider: Send + Sync + 'static {
    /// What has to go from the tenant's table as it is in `snapshot`. Asked before every pass; after an error nothing is
    /// rewritten, because it is not known what may stay.
    async fn removals(&self, tenant: &TenantId, snapshot: &Snapshot) -> Result<Removals>;
}

/// Everything stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepEverything;

#[async_trait]
impl KeepProvider for KeepEverything {
    async fn removals(&self, _: &TenantId, _: &Snapshot) -> Result<Removals> {
        Ok(Removals::default())
    }
}

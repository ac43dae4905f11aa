//! What the ingester asks of the table of a tenant.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{Result, TenantId};

use crate::replicas::{Copies, Lists};
use crate::segment::Segment;
use crate::wal::Lsn;

/// How far the table has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The newest version; −1 while there is no table.
    pub version: i64,
    /// All log records of this ingester up to here are in it.
    pub committed: Option<Lsn>,
}

/// A segment on its way to the table.
#[derive(Clone, Debug)]
pub struct Part {
    /// The entries.
    pub segment: Arc<Segment>,
    /// Counts the names under which the part was written because earlier ones were given up.
    pub attempt: u32,
}

/// Where segments are flushed to.
#[async_trait]
pub trait Table: Send + Sync + 'static {
    /// How far the tenant's table has come; at least as new as when this was called.
    async fn standing(&self, tenant: &TenantId) -> Result<Standing>;

    /// The second of the newest delete request of the tenant that is no longer remembered; 0 when none was forgotten.
    /// What was received until then may be deleted without anybody knowing.
    async fn forgotten(&self, _tenant: &TenantId) -> Result<i64> {
        Ok(0)
    }

    /// A border between two seconds with a delete request between them: the request was accepted in second `from` or later
    /// and before second `to`. As far as this process knows, without a look at the table.
    fn delete_between(&self, _tenant: &TenantId, _from: i64, _to: i64) -> Option<i64> {
        None
    }

    /// Learns of delete requests up to `generation`, if this process does not know them yet.
    async fn learn_deletes(&self, _tenant: &TenantId, _generation: u64) -> Result<()> {
        Ok(())
    }

    /// Writes the part and commits it, with the segment's last LSN as the mark of how far the ingester has come. Returns
    /// a version that has it.
    ///
    /// Calls `committing` before anything that other readers of the table may see; until then nothing has happened.
    /// After an error the commit may have taken place: [`Table::standing`] tells.
    async fn commit(&self, tenant: &TenantId, part: &Part, committing: &(dyn Fn() + Sync)) -> Result<i64>;

    /// Adds to `lists` what blocks list that received something in second `since` or later and are not there yet. Returns a
    /// version of the table, at least as new as when this was called, that has all of these blocks.
    async fn listed(&self, tenant: &TenantId, lists: &mut Lists, since: i64) -> Result<i64>;

    /// Writes a part of a segment with its list of pushes, and commits it. `covered` is how far everything that this
    /// ingester was given is in the table already. Returns a version that has it.
    ///
    /// After an error the commit may have taken place: [`Table::listed`] tells.
    async fn commit_copies(&self, tenant: &TenantId, copies: &Copies, covered: Option<Lsn>) -> Result<i64>;
}

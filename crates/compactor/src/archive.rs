//! Where entries go that have expired, before the table loses them: a table of its own in another place, which nothing here
//! removes anything from.

use std::sync::Arc;

use skald_model::{LabelsRef, TenantId, Timestamp};
use skald_storage::rewrite::{Keep, Kept, RewriteOptions, rewrite_into};
use skald_storage::table::{self, BlockEntry, BlockOrigin, Catalog, CopiesCommit, NewBlock, RewriteCommit};
use xxhash_rust::xxh3::xxh3_64;

use crate::Compactor;

/// Blocks that are dropped by one commit when they have to be archived before.
pub(crate) const DROPS_MAX: usize = 16;

/// How a block of which something is about to go is archived.
#[derive(Clone)]
pub enum Archived {
    /// As it is.
    Whole,
    /// The rows that this keeps.
    Rows(Arc<dyn Keep>),
}

/// Tells how blocks are archived; `None` where nothing has expired.
pub type HowArchived = dyn Fn(&BlockEntry) -> Option<Archived> + Send + Sync;

/// What has expired: the rows that delete requests leave and retention does not.
pub(crate) struct Expired {
    /// What delete requests leave.
    pub(crate) left: Arc<dyn Keep>,
    /// What stays in the table.
    pub(crate) stays: Arc<dyn Keep>,
}

impl Keep for Expired {
    fn stream(
        &self,
        origin: &BlockOrigin,
        labels: LabelsRef<'_>,
        min_ts: Timestamp,
        max_ts: Timestamp,
    ) -> Kept {
        let left = self.left.stream(origin, labels, min_ts, max_ts);
        match (left, self.stays.stream(origin, labels, min_ts, max_ts)) {
            (Kept::Nothing, _) | (_, Kept::All) => Kept::Nothing,
            (left, Kept::Nothing) => left,
            (Kept::All, Kept::Rows(mut stays)) => {
                Kept::rows(move |time, line, metadata| !stays.keep(time, line, metadata))
            }
            (Kept::Rows(mut left), Kept::Rows(mut stays)) => Kept::rows(move |time, line, metadata| {
                left.keep(time, line, metadata) && !stays.keep(time, line, metadata)
            }),
        }
    }

    fn generation(&self) -> u64 {
        self.left.generation()
    }
}

impl Compactor {
    /// Copies what has expired of `blocks`, which the caller is about to drop or to rewrite, to the archive, if there is
    /// one. May be repeated, after a crash for instance, until the blocks have left the table: what the archive has of
    /// them is replaced then.
    pub(crate) async fn archive<'a>(
        &self,
        tenant: &TenantId,
        blocks: impl Iterator<Item = &'a Arc<BlockEntry>>,
        archived: &HowArchived,
    ) -> table::Result<()> {
        let Some(archive) = &self.parts.archive else { return Ok(()) };
        let wanted: Vec<_> = blocks.filter_map(|block| Some((block, archived(block)?))).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let base = archive.snapshot(tenant).await?;
        let (mut removes, mut adds) = (Vec::new(), Vec::new());
        for (block, how) in wanted {
            let writer = writer_of(block);
            let is_earlier = |b: &&Arc<BlockEntry>| b.date == block.date && b.origin.writer == writer;
            let earlier: Vec<_> = base.blocks.iter().filter(is_earlier).collect();
            if earlier.iter().any(|b| b.path == block.path) {
                // A copy of the whole block, which is not more now.
                continue;
            }
            removes.extend(earlier.iter().map(|b| b.path.clone()));
            adds.extend(self.copy(archive, tenant, block, how, writer).await?);
        }
        let (blocks, rows) = (adds.len(), adds.iter().map(|b| b.summary.rows).sum::<u64>());
        if removes.is_empty() && adds.is_empty() {
            return Ok(());
        }
        if removes.is_empty() {
            let commit = CopiesCommit { blocks: adds, app_id: "skald-archive".into(), covered: None };
            archive.commit_copies(tenant, &commit).await?;
        } else {
            let commit = RewriteCommit { base, removes, adds, data_change: true };
            archive.commit_rewrite(tenant, &commit).await?;
        }
        self.metrics.rows_archived.inc_by(rows);
        tracing::info!(%tenant, blocks, rows, "archived what has expired");
        Ok(())
    }

    async fn copy(
        &self,
        archive: &Catalog,
        tenant: &TenantId,
        block: &Arc<BlockEntry>,
        how: Archived,
        writer: String,
    ) -> table::Result<Vec<NewBlock>> {
        let catalog = &self.parts.catalog;
        let keep = match how {
            Archived::Whole => {
                let mut copy = catalog.copy_block(tenant, block, archive).await?;
                copy.origin.writer = writer;
                return Ok(vec![copy]);
            }
            Archived::Rows(keep) => keep,
        };
        let options = RewriteOptions::alone(block, self.config.rewrite_bytes(), writer);
        Ok(rewrite_into(catalog, archive, tenant, &[vec![block.clone()]], &keep, &options).await?.blocks)
    }
}

/// The name of the writer of what the archive has of a block. It tells which block that was.
fn writer_of(block: &BlockEntry) -> String {
    format!("archive-{:016x}", xxh3_64(block.path.as_bytes()))
}

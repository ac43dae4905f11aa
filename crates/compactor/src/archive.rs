//! Where entries go that have expired, before the table loses them: a table of its own in another place, which nothing here
//! removes anything from.

use std::sync::Arc;

use skald_model::{LabelsRef, TenantId, Timestamp};
use skald_storage::rewrite::{Keep, Kept, RewriteOptions, block_name, rewrite_into};
use skald_storage::table::{self, BlockEntry, BlockOrigin, Catalog, NewBlock, Snapshot, block_path};
use tokio::time::Instant;

use crate::Compactor;
use crate::outbox::Outbox;

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
    /// Copies what has expired of `blocks`, which the caller is about to drop or to rewrite by a commit on top of `snapshot`,
    /// to the archive, if there is one. The commit has to note what is returned; then the archive's table gets it by
    /// [`deliver`](Self::deliver), which has to be done for `snapshot` already.
    pub(crate) async fn stage<'a>(
        &self,
        tenant: &TenantId,
        snapshot: &Snapshot,
        blocks: impl Iterator<Item = &'a Arc<BlockEntry>>,
        archived: &HowArchived,
    ) -> table::Result<Option<(String, i64)>> {
        let Some(archive) = &self.parts.archive else { return Ok(None) };
        let wanted: Vec<_> = blocks.filter_map(|block| Some((block, archived(block)?))).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut copies = Vec::new();
        for (block, how) in wanted {
            copies.extend(self.copy(archive, tenant, block, how).await?);
        }
        if copies.is_empty() {
            return Ok(None);
        }
        self.check_time(tenant, begun)?;
        Outbox::new(archive, tenant).put(snapshot, &copies).await.map(Some)
    }

    async fn copy(
        &self,
        archive: &Catalog,
        tenant: &TenantId,
        block: &Arc<BlockEntry>,
        how: Archived,
    ) -> table::Result<Vec<NewBlock>> {
        let (catalog, writer) = (&self.parts.catalog, &self.parts.name);
        let keep = match how {
            Archived::Whole => {
                // A name of this call alone: the file is garbage if the commit loses.
                let origin = BlockOrigin { writer: writer.clone(), ..block.origin.clone() };
                let path = block_path(block.date, &block_name(&origin, skald_runtime::random(), 0));
                return Ok(vec![catalog.copy_block(tenant, block, archive, &path).await?]);
            }
            Archived::Rows(keep) => keep,
        };
        let options = RewriteOptions::alone(block, self.config.rewrite_bytes(), writer.clone());
        Ok(rewrite_into(catalog, archive, tenant, &[vec![block.clone()]], &keep, &options).await?.blocks)
    }
}

//! Copies of a part of a table, as a table of its own.

use std::sync::Arc;

use object_store::ObjectStoreExt as _;
use skald_model::{TenantId, TimeRange};

use super::catalog::Catalog;
use super::commit::CopiesCommit;
use super::entry::{BlockEntry, NewBlock};
use super::error::Result;
use crate::rewrite::{Keep, RewriteOptions, rewrite_into};

/// Bytes that are copied at a time.
const PART_BYTES: usize = 8 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Blocks of the new table.
    pub blocks: usize,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Catalog {
    /// Copies what the tenant's table has in `range` to the tenant's table of `target`, which is made if it is not there.
    /// Blocks that lie within the range are copied as they are, others without what lies outside. `keep` has the last
    /// word. One commit adds everything.
    ///
    /// # Errors
    /// When a store fails or a block can't be read; then the target's table is as it was.
    pub async fn export(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        target: &Self,
        keep: Option<&Arc<dyn Keep>>,
        memory_bytes: u64,
    ) -> Result<Exported> {
        let snapshot = self.snapshot(tenant).await?;
        let wanted = snapshot.blocks.iter().filter(|b| range.overlaps(b.summary.min_ts, b.summary.max_ts));
        let everything: Arc<dyn Keep> = Arc::new(crate::rewrite::KeepAll::default());
        let mut blocks: Vec<NewBlock> = Vec::new();
        for block in wanted {
            let is_whole = range.covers(block.summary.min_ts, block.summary.max_ts);
            if is_whole && keep.is_none() {
                blocks.push(self.copy_block(tenant, block, target, &block.path).await?);
                continue;
            }
            let options =
                RewriteOptions { range, ..RewriteOptions::alone(block, memory_bytes, "export".into()) };
            let (runs, keep) = ([vec![block.clone()]], keep.unwrap_or(&everything));
            let written = rewrite_into(self, target, tenant, &runs, keep, &options).await?;
            blocks.extend(written.blocks);
        }
        let exported = Exported {
            blocks: blocks.len(),
            rows: blocks.iter().map(|b| b.summary.rows).sum(),
            bytes: blocks.iter().map(|b| b.summary.file_size).sum(),
        };
        if !blocks.is_empty() {
            let commit = CopiesCommit { blocks, app_id: "skald-export".into(), covered: None };
            target.commit_copies(tenant, &commit).await?;
        }
        Ok(exported)
    }

    /// Copies the file of a block as it is to `path` in the tenant's table of `target`. No commit names it there yet.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn copy_block(
        &self,
        tenant: &TenantId,
        block: &BlockEntry,
        target: &Self,
        path: &str,
    ) -> Result<NewBlock> {
        let location = self.location(tenant, &block.path);
        let mut upload = target.begin_block(tenant, path, PART_BYTES);
        let mut at = 0;
        while at < block.size() {
            let end = block.size().min(at + PART_BYTES as u64);
            let part = self.store.get_range(&location, at..end).await;
            upload.write(part.map_err(|e| self.table(tenant).failed("read a block", e))?.into()).await?;
            at = end;
        }
        upload.finish().await?;
        let origin = block.origin.in_another_table();
        Ok(NewBlock { path: path.to_owned(), origin, ..NewBlock::from(block) })
    }
}

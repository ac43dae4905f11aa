//! A table again from its files, when its log is lost.

use skald_model::TenantId;

use super::catalog::Catalog;
use super::check::Finding;
use super::commit::CopiesCommit;
use super::entry::{BlockEntry, BlockOrigin, NewBlock};
use super::error::Result;
use super::files::DataFile;
use crate::block::{self, BlockMeta, BlockSummary, TAIL_GUESS};

/// Blocks of one commit.
const COMMIT_BLOCKS: usize = 500;
/// Who wrote the blocks of a rebuilt table, as far as the table knows.
const WRITER: &str = "rebuild";

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Rebuilt {
    /// Blocks that the table has now.
    pub blocks: usize,
    /// Their rows.
    pub rows: u64,
    /// Files that are no blocks, with the reason. They stay where they are.
    pub unreadable: Vec<Finding>,
}

impl Catalog {
    /// Makes the tenant's table from `files`. What a block's origin was is not in its file but for what its name tells, so
    /// requests for deletion and lists of pushes are forgotten. Blocks that the table has already stay as they are.
    ///
    /// # Errors
    /// When the store fails or the table is not one of Skald's.
    pub async fn rebuild(&self, tenant: &TenantId, files: &[DataFile]) -> Result<Rebuilt> {
        let mut rebuilt = Rebuilt::default();
        let mut blocks: Vec<NewBlock> = Vec::new();
        for file in files {
            match self.read_block(tenant, file).await? {
                Ok(block) => {
                    rebuilt.blocks += 1;
                    rebuilt.rows += block.summary.rows;
                    blocks.push(block);
                }
                Err(what) => rebuilt.unreadable.push(Finding { path: file.path.clone(), what }),
            }
            if blocks.len() == COMMIT_BLOCKS {
                self.add(tenant, std::mem::take(&mut blocks)).await?;
            }
        }
        if !blocks.is_empty() {
            self.add(tenant, blocks).await?;
        }
        Ok(rebuilt)
    }

    async fn add(&self, tenant: &TenantId, blocks: Vec<NewBlock>) -> Result<()> {
        let commit = CopiesCommit { blocks, app_id: "skald-rebuild".into(), covered: None };
        self.commit_copies(tenant, &commit).await.map(drop)
    }

    /// What the table has to know of a file. The inner error is what is wrong with it.
    async fn read_block(
        &self,
        tenant: &TenantId,
        file: &DataFile,
    ) -> Result<std::result::Result<NewBlock, String>> {
        let from = file.size.saturating_sub(TAIL_GUESS);
        let meta = match self.read_end(tenant, &file.path, file.size, from).await? {
            Ok(meta) => meta,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let summary = match summary_of(&meta) {
            Ok(summary) => summary,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let date = skald_model::time::day_of(summary.min_ts);
        let entry = BlockEntry { path: file.path.clone(), date, summary, origin: origin_of(&file.path) };
        let block = NewBlock::from(&entry);
        Ok(super::log::check_block(&block).map(|()| block))
    }
}

fn summary_of(meta: &BlockMeta) -> block::Result<BlockSummary> {
    let totals = meta.streams().totals();
    let mut values = block::LabelValues::default();
    for ordinal in 0..meta.streams().len() as u32 {
        values.add(meta.streams().get(ordinal)?.labels.as_ref());
    }
    Ok(BlockSummary {
        rows: totals.rows,
        raw_bytes: totals.raw_bytes,
        metadata_bytes: totals.metadata_bytes,
        streams: totals.streams,
        min_ts: totals.min_ts,
        max_ts: totals.max_ts,
        file_size: meta.file_size(),
        tail_offset: meta.tail_offset(),
        label_values: values.finish(),
        digest: totals.digest,
    })
}

/// What the name of a file tells: when its entries were received, and whether it was compacted.
fn origin_of(path: &str) -> BlockOrigin {
    let name = path.rsplit('/').next().unwrap_or_default();
    let received = name.split('-').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    let level = name.rsplit('-').nth(2).and_then(|part| part.strip_prefix('c')).and_then(|n| n.parse().ok());
    BlockOrigin {
        level: level.unwrap_or_default(),
        received_min: received,
        received_max: received,
        writer: WRITER.to_owned(),
        ..BlockOrigin::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_level_and_time() {
        let check = |path, level, received| {
            let origin = origin_of(path);
            assert_eq!((origin.level, origin.received_min), (level, received), "{path}");
        };
        check("date=2026-01-31/1769817600-c1-a-c2-0123456789abcdef-0003.parquet", 2, 1_769_817_600);
        check("date=2026-01-31/1769817600-i-1-9-0.parquet", 0, 1_769_817_600);
        check("date=2026-01-31/other.parquet", 0, 0);
    }
}

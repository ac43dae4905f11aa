//! Segments as blocks of the tenant's Delta table.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use skald_model::{Error, Result, TenantId};
use skald_storage::block::{self, BlockOptions, BlockSummary, BlockWriter};
use skald_storage::table::{BlockOrigin, Catalog, FlushCommit, NewBlock, block_path};

use crate::instance::Instance;
use crate::segment::{DayRows, Segment};
use crate::table::{Part, Standing, Table};
use crate::wal::Lsn;

/// The tables of all tenants in one catalog.
#[derive(Debug)]
pub struct DeltaTable {
    catalog: Arc<Catalog>,
    options: BlockOptions,
    writer: String,
    app_id: String,
}

/// A block that lies in memory.
#[derive(Debug)]
struct BuiltBlock {
    new: NewBlock,
    bytes: Bytes,
}

impl DeltaTable {
    /// Tables in `catalog`, written to in the name of `instance`.
    pub fn new(catalog: Arc<Catalog>, options: BlockOptions, instance: &Instance) -> Self {
        Self { catalog, options, writer: instance.id.clone(), app_id: instance.app_id.clone() }
    }

    /// Builds the blocks of a part on a thread for heavy work.
    async fn build(&self, part: &Part) -> Result<Vec<BuiltBlock>> {
        let (part, options, writer) = (part.clone(), self.options, self.writer.clone());
        let built = tokio::task::spawn_blocking(move || build(&part, &options, &writer)).await;
        let built = built.map_err(|e| Error::internal(format!("building a block panicked: {e}")))?;
        built.map_err(|e| Error::internal(format!("failed to build a block: {e}")))
    }
}

#[async_trait]
impl Table for DeltaTable {
    async fn standing(&self, tenant: &TenantId) -> Result<Standing> {
        let snapshot = self.catalog.snapshot(tenant).await?;
        let committed = snapshot.txn(&self.app_id).and_then(|v| Lsn::try_from(v).ok());
        Ok(Standing { version: snapshot.version, committed })
    }

    async fn commit(&self, tenant: &TenantId, part: &Part, committing: &(dyn Fn() + Sync)) -> Result<i64> {
        let (_, last) = part.segment.lsns().ok_or_else(|| Error::internal("an empty segment was sealed"))?;
        let built = self.build(part).await?;
        let mut blocks = Vec::with_capacity(built.len());
        for block in built {
            self.catalog.put_block(tenant, &block.new.path, block.bytes).await?;
            blocks.push(block.new);
        }
        let app_version =
            i64::try_from(last).map_err(|_| Error::internal("the log has run out of numbers"))?;
        let commit = FlushCommit { blocks, app_id: self.app_id.clone(), app_version };
        committing();
        let committed = self.catalog.commit_flush(tenant, &commit).await?;
        // Nobody else checkpoints the table while there is no compactor. The commit stands whatever becomes of it.
        if let Err(error) = self.catalog.maintain(tenant).await {
            tracing::warn!(%tenant, %error, "failed to checkpoint the table; the next flush tries again");
        }
        Ok(committed.snapshot.version)
    }
}

/// One block for each day that the segment touches. Equal parts give equal names.
fn build(part: &Part, options: &BlockOptions, writer: &str) -> block::Result<Vec<BuiltBlock>> {
    let segment = &part.segment;
    let (first, last) = segment.lsns().unwrap_or_default();
    let (received_min, received_max) = segment.seconds().unwrap_or_default();
    let name = format!("{received_min}-{writer}-{first}-{last}-{}", part.attempt);
    let origin =
        BlockOrigin { level: 0, received_min, received_max, part: part.attempt, writer: writer.to_owned() };
    let days = segment.days();
    days.into_iter()
        .map(|(date, streams)| {
            let (bytes, summary) = build_day(segment, &streams, options)?;
            let ids = streams.iter().map(|s| segment.streams()[s.stream].id.0 as i64);
            let stream_ids = ids.clone().min().zip(ids.max());
            let path = block_path(date, &name);
            let new = NewBlock { path, date, summary, origin: origin.clone(), stream_ids };
            Ok(BuiltBlock { new, bytes })
        })
        .collect()
}

fn build_day(
    segment: &Segment,
    streams: &[DayRows],
    options: &BlockOptions,
) -> block::Result<(Bytes, BlockSummary)> {
    let raw: u64 = streams.iter().map(|s| segment.streams()[s.stream].bytes).sum();
    // Logs shrink to a fifth or less; a guess that is not far off spares the doubling of a large buffer.
    let output = Vec::with_capacity((raw / 5) as usize + 4096);
    let mut writer = BlockWriter::to(output, options)?;
    let batches = segment.batches();
    for day in streams {
        let stream = &segment.streams()[day.stream];
        writer.begin_stream(&stream.labels, stream.id)?;
        for row in &stream.rows[day.rows.clone()] {
            writer.row(row.timestamp, batches.line(row), batches.metadata(row))?;
        }
    }
    let finished = writer.finish()?;
    Ok((finished.output.into(), finished.summary))
}

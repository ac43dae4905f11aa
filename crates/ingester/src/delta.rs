//! Segments as blocks of the tenant's Delta table.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use skald_cluster::Topology;
use skald_model::{Error, Result, TenantId};
use skald_removal::AtFlush;
use skald_storage::block::{self, BlockOptions, BlockSummary, BlockWriter, PushList, PushesPlace};
use skald_storage::table::{
    BlockEntry, BlockOrigin, Catalog, CopiesCommit, FlushCommit, NewBlock, block_path,
};

pub use crate::deletes::FlushDeletes;
use crate::deletes::split;
use crate::instance::Instance;
use crate::replicas::{Copies, Lists};
use crate::segment::{DayRows, Segment};
use crate::table::{Part, Standing, Table};
use crate::wal::Lsn;

/// Lists of pushes that are read at a time.
const LISTS_READ_AT_ONCE: usize = 4;

/// The tables of all tenants in one catalog.
pub struct DeltaTable {
    catalog: Arc<Catalog>,
    options: BlockOptions,
    writer: String,
    app_id: String,
    deletes: Option<FlushDeletes>,
    /// Whose compactors checkpoint the tables.
    members: Option<Arc<Topology>>,
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
        let (writer, app_id) = (instance.id.clone(), instance.app_id.clone());
        Self { catalog, options, writer, app_id, deletes: None, members: None }
    }

    /// Obeys delete requests while it writes.
    #[must_use]
    pub fn with_deletes(self, deletes: FlushDeletes) -> Self {
        Self { deletes: Some(deletes), ..self }
    }

    /// The same tables, whose checkpoints are left to the compactors among `members` as long as there are any.
    #[must_use]
    pub fn with_compactors_of(mut self, members: Arc<Topology>) -> Self {
        self.members = Some(members);
        self
    }

    /// Builds the blocks of a part on a thread for heavy work; of copies with their name and their list.
    async fn build(
        &self,
        tenant: &TenantId,
        part: &Part,
        copies: Option<(u64, PushList)>,
    ) -> Result<Vec<BuiltBlock>> {
        let at = match &self.deletes {
            Some(deletes) => deletes.at(tenant).await?,
            None => None,
        };
        let (part, options, writer) = (part.clone(), self.options, self.writer.clone());
        let work = move || build(&part, copies.as_ref(), at.as_ref(), &options, &writer);
        let built = skald_runtime::blocking(work).await;
        let built = built.map_err(|e| Error::internal(format!("building a block panicked: {e}")))?;
        built.map_err(|e| Error::internal(format!("failed to build a block: {e}")))
    }

    async fn upload(&self, tenant: &TenantId, built: Vec<BuiltBlock>) -> Result<Vec<NewBlock>> {
        let mut blocks = Vec::with_capacity(built.len());
        for block in built {
            self.catalog.put_block(tenant, &block.new.path, block.bytes).await?;
            blocks.push(block.new);
        }
        Ok(blocks)
    }

    /// Nobody else checkpoints the table while there is no compactor. The commit stands whatever becomes of it.
    async fn maintain(&self, tenant: &TenantId) {
        if self.members.as_ref().is_some_and(|m| !m.view().compactors().is_empty()) {
            return;
        }
        if let Err(error) = self.catalog.maintain(tenant).await {
            tracing::warn!(%tenant, %error, "failed to checkpoint the table; the next flush tries again");
        }
    }
}

#[async_trait]
impl Table for DeltaTable {
    async fn standing(&self, tenant: &TenantId) -> Result<Standing> {
        let snapshot = self.catalog.snapshot(tenant).await?;
        let committed = snapshot.txn(&self.app_id).and_then(|v| Lsn::try_from(v).ok());
        Ok(Standing { version: snapshot.version, committed })
    }

    async fn forgotten(&self, tenant: &TenantId) -> Result<i64> {
        match &self.deletes {
            Some(deletes) => deletes.forgotten(tenant).await,
            None => Ok(0),
        }
    }

    fn delete_between(&self, tenant: &TenantId, from: i64, to: i64) -> Option<i64> {
        self.deletes.as_ref()?.between(tenant, from, to)
    }

    async fn learn_deletes(&self, tenant: &TenantId, generation: u64) -> Result<()> {
        match &self.deletes {
            Some(deletes) => deletes.learn(tenant, generation).await,
            None => Ok(()),
        }
    }

    async fn commit(&self, tenant: &TenantId, part: &Part, committing: &(dyn Fn() + Sync)) -> Result<i64> {
        let (_, last) = part.segment.lsns().ok_or_else(|| Error::internal("an empty segment was sealed"))?;
        let built = self.build(tenant, part, None).await?;
        let blocks = self.upload(tenant, built).await?;
        let app_version =
            i64::try_from(last).map_err(|_| Error::internal("the log has run out of numbers"))?;
        let commit = FlushCommit { blocks, app_id: self.app_id.clone(), app_version };
        committing();
        let committed = self.catalog.commit_flush(tenant, &commit).await?;
        self.maintain(tenant).await;
        Ok(committed.snapshot.version)
    }

    async fn listed(&self, tenant: &TenantId, lists: &mut Lists, since: i64) -> Result<i64> {
        let snapshot = self.catalog.snapshot(tenant).await?;
        let wanted = |b: &&Arc<BlockEntry>| {
            b.origin.pushes.is_some() && b.origin.received_max >= since && !lists.has(&b.path)
        };
        let unread: Vec<_> = snapshot.blocks.iter().filter(wanted).cloned().collect();
        let reads = unread.into_iter().map(|block| async move {
            let list = self.catalog.pushes(tenant, &block).await;
            (block, list)
        });
        let mut reads = stream::iter(reads).buffer_unordered(LISTS_READ_AT_ONCE);
        while let Some((block, list)) = reads.next().await {
            lists.add(&block.path, block.origin.received_max, list?);
        }
        Ok(snapshot.version)
    }

    async fn commit_copies(&self, tenant: &TenantId, copies: &Copies, covered: Option<Lsn>) -> Result<i64> {
        let part = Part { segment: copies.segment.clone(), attempt: copies.attempt };
        let built = self.build(tenant, &part, Some((copies.name, copies.pushes.clone()))).await?;
        let blocks = self.upload(tenant, built).await?;
        let covered = covered.and_then(|lsn| i64::try_from(lsn).ok());
        let commit = CopiesCommit { blocks, app_id: self.app_id.clone(), covered };
        let committed = self.catalog.commit_copies(tenant, &commit).await?;
        self.maintain(tenant).await;
        Ok(committed.snapshot.version)
    }
}

/// One block for each day that the segment touches, without what delete requests take away; where requests came while the
/// segment was gathered perhaps more than one. Equal parts at equal requests give equal names; those of copies have a
/// name of their own and a list of pushes besides.
fn build(
    part: &Part,
    copies: Option<&(u64, PushList)>,
    at: Option<&AtFlush>,
    options: &BlockOptions,
    writer: &str,
) -> block::Result<Vec<BuiltBlock>> {
    let (first, last) = part.segment.lsns().unwrap_or_default();
    let (first_second, _) = part.segment.seconds().unwrap_or_default();
    let mut name = format!("{first_second}-{writer}-{first}-{last}-{}", part.attempt);
    if let Some((own, _)) = copies {
        name += &format!("-{own:016x}");
    }
    if let Some(at) = at {
        name += &format!("-d{}-{}", at.generation, at.done.generation());
    }
    let mut days = Vec::new();
    for (number, segment) in split(&part.segment, at).into_iter().enumerate() {
        days.extend(
            segment.days().into_iter().map(|(date, streams)| (number, segment.clone(), date, streams)),
        );
    }
    // Of several blocks only the last tells the pushes: a commit has all of its blocks or none.
    let count = days.len();
    days.into_iter()
        .enumerate()
        .map(|(at_day, (number, segment, date, streams))| {
            let list = copies.filter(|_| at_day + 1 == count).map(|(_, list)| list.clone());
            let (bytes, summary, pushes) = build_day(&segment, &streams, list, options)?;
            let (received_min, received_max) = segment.seconds().unwrap_or_default();
            let origin = BlockOrigin {
                level: 0,
                received_min,
                received_max,
                part: part.attempt,
                writer: writer.to_owned(),
                pushes,
                deletes: at.map_or(0, |at| at.done.generation()),
                run: 0,
            };
            let ids = streams.iter().map(|s| segment.streams()[s.stream].id.0 as i64);
            let stream_ids = ids.clone().min().zip(ids.max());
            let path = match number {
                0 => block_path(date, &name),
                _ => block_path(date, &format!("{name}-p{number}")),
            };
            let new = NewBlock { path, date, summary, origin, stream_ids };
            Ok(BuiltBlock { new, bytes })
        })
        .collect()
}

fn build_day(
    segment: &Segment,
    streams: &[DayRows],
    pushes: Option<PushList>,
    options: &BlockOptions,
) -> block::Result<(Bytes, BlockSummary, Option<PushesPlace>)> {
    let raw: u64 = streams.iter().map(|s| segment.streams()[s.stream].bytes).sum();
    // Logs shrink to a fifth or less; a guess that is not far off spares the doubling of a large buffer.
    let output = Vec::with_capacity((raw / 5) as usize + 4096);
    let mut writer = BlockWriter::to(output, options)?;
    if let Some(pushes) = pushes {
        writer.set_pushes(pushes);
    }
    let batches = segment.batches();
    for day in streams {
        let stream = &segment.streams()[day.stream];
        writer.begin_stream(&stream.labels, stream.id)?;
        for row in &stream.rows[day.rows.clone()] {
            writer.row(row.timestamp, batches.line(row), batches.metadata(row))?;
        }
    }
    let finished = writer.finish()?;
    Ok((finished.output.into(), finished.summary, finished.pushes))
}

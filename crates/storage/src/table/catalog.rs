//! The way into the tables of all tenants.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use skald_model::TenantId;

use super::commit::{AppliedCommit, Committed, CopiesCommit, DeletesCommit, FlushCommit, RewriteCommit};
use super::entry::BlockEntry;
use super::error::{Error, Result};
use super::maintain::Maintained;
use super::metrics::TableMetrics;
use super::snapshot::Snapshot;
use super::tenant::TenantTable;
use crate::block::{self, BlockMeta, PushList};
use crate::store::retry::{Backoff, RetryPolicy};

/// Blocks longer than this are uploaded in parts.
const SINGLE_PUT_BYTES_MAX: usize = 32 << 20;
const PART_BYTES: usize = 16 << 20;
/// Below this a process that is merely busy might miss a commit that was cleaned away.
const LOG_RETENTION_MIN: Duration = Duration::from_secs(3600);
/// Parts of one block under way at a time.
const PARTS_MAX: usize = 4;

/// How tables are handled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CatalogConfig {
    /// How long a commit is tried. More rides out longer outages of the store; less tells the flush sooner that
    /// it has to come again.
    #[serde(with = "skald_runtime::units::duration")]
    pub commit_timeout: Duration,
    /// Commits from one checkpoint to the next. Fewer make opening a table quicker and checkpointing dearer.
    pub checkpoint_interval: u64,
    /// How long old versions of the log are kept after a checkpoint. At least an hour: a process that has not
    /// looked at a table for half of this reads it anew.
    #[serde(with = "skald_runtime::units::duration")]
    pub log_retention: Duration,
    /// Memory for the snapshots of all tenants; those not used for longest are dropped and read again on use.
    #[serde(with = "skald_runtime::units::bytes")]
    pub snapshots_bytes_max: u64,
}

impl Default for CatalogConfig {
    fn default() -> Self {
        Self {
            commit_timeout: Duration::from_secs(60),
            checkpoint_interval: 50,
            log_retention: Duration::from_secs(24 * 3600),
            snapshots_bytes_max: 256 << 20,
        }
    }
}

/// The tables of all tenants below one root of a store. Share it by `Arc`; there should be one in a process.
///
/// * [`snapshot`](Self::snapshot) sees every commit that was acknowledged anywhere before it was called.
/// * [`commit_flush`](Self::commit_flush) adds all its blocks or none, exactly once per application id and
///   version, and when it returns, every snapshot taken through this catalog has them.
/// * [`commit_rewrite`](Self::commit_rewrite) replaces blocks; of rewrites with the same base one wins.
///
/// All of them may be dropped at any point: a dropped commit has happened or not, and asking again settles it.
#[derive(Debug)]
pub struct Catalog {
    pub(super) config: CatalogConfig,
    pub(super) store: Arc<dyn ObjectStore>,
    root: Path,
    pub(super) metrics: TableMetrics,
    tables: moka::sync::Cache<TenantId, Arc<TenantTable>>,
}

impl Catalog {
    /// A catalog of the tables below `root` (may be empty) of `store`, with its metrics in `registry`. Nothing
    /// is read yet.
    pub fn new(
        config: &CatalogConfig,
        store: Arc<dyn ObjectStore>,
        root: &str,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let log_retention = config.log_retention.max(LOG_RETENTION_MIN);
        let config = CatalogConfig { log_retention, ..config.clone() };
        let tables = moka::sync::Cache::builder()
            .max_capacity(config.snapshots_bytes_max)
            .weigher(|_, table: &Arc<TenantTable>| {
                let bytes = table.known().map_or(0, |s| s.memory_bytes()) + 512;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .build();
        Ok(Self { config, store, root: Path::from(root), metrics: TableMetrics::new(registry)?, tables })
    }

    /// The newest version of the tenant's table: at least as new as when this was called. Empty, with version
    /// -1, while there is no table.
    ///
    /// Costs one small request when there is nothing new.
    pub async fn snapshot(&self, tenant: &TenantId) -> Result<Arc<Snapshot>> {
        let table = self.table(tenant);
        let before = table.known();
        let snapshot = table.refresh().await?;
        self.weigh_again(&table, before.as_ref(), &snapshot);
        Ok(snapshot)
    }

    /// The newest version that this process has seen, its own commits included, without a request; `None` if it
    /// has seen none lately.
    pub fn cached(&self, tenant: &TenantId) -> Option<Arc<Snapshot>> {
        self.tables.get(tenant)?.known()
    }

    /// The newest committed version of application `app_id` in the tenant's table.
    pub async fn txn_version(&self, tenant: &TenantId, app_id: &str) -> Result<Option<i64>> {
        Ok(self.snapshot(tenant).await?.txn(app_id))
    }

    /// Uploads the file of a block to `path`, made by [`block_path`](super::block_path). Durable when it
    /// returns; not part of the table before a commit names it.
    ///
    /// What an earlier try left at `path` is replaced, because one name stands for one content; but a block that
    /// the table has already is left alone.
    pub async fn put_block(&self, tenant: &TenantId, path: &str, bytes: Bytes) -> Result<()> {
        let table = self.table(tenant);
        if table.known_or_load().await?.block(path).is_some() {
            return Ok(());
        }
        let location = self.location(tenant, path);
        let policy = RetryPolicy { elapsed_max: self.config.commit_timeout, ..Default::default() };
        let mut backoff = Backoff::new(policy, bytes.len() as u64);
        loop {
            let uploaded = match bytes.len() {
                0..=SINGLE_PUT_BYTES_MAX => self.store.put(&location, bytes.clone().into()).await.map(|_| ()),
                _ => self.put_parts(&location, &bytes).await,
            };
            match uploaded {
                Ok(()) => return Ok(()),
                Err(e) if !backoff.pause().await => return Err(table.failed("upload a block", e)),
                Err(e) => tracing::debug!(%tenant, path, error = %e, "uploading block again"),
            }
        }
    }

    /// Adds the blocks of a flush to the tenant's table, which is made if it is not there. The files must lie in
    /// place.
    ///
    /// Flushes of one application id must come in order of their version: if a version that is not older is
    /// committed already, nothing is done and [`Committed::already`] is set.
    pub async fn commit_flush(&self, tenant: &TenantId, commit: &FlushCommit) -> Result<Committed> {
        self.commit(tenant, commit).await
    }

    /// Adds blocks that one of several replicas has written. The files must lie in place.
    ///
    /// If the table has them all, nothing is done and [`Committed::already`] is set.
    pub async fn commit_copies(&self, tenant: &TenantId, commit: &CopiesCommit) -> Result<Committed> {
        self.commit(tenant, commit).await
    }

    /// The pushes that the entries of a block came with; empty if it does not tell.
    pub async fn pushes(&self, tenant: &TenantId, block: &BlockEntry) -> Result<PushList> {
        let Some(place) = &block.origin.pushes else { return Ok(PushList::default()) };
        let location = self.location(tenant, &block.path);
        let range = place.offset..place.offset.saturating_add(place.length);
        let bytes = self.store.get_range(&location, range).await;
        let bytes = bytes.map_err(|e| self.table(tenant).failed("read the pushes of a block", e))?;
        let damaged =
            |e: crate::block::Error| Error::Damaged { table: location.to_string(), reason: e.to_string() };
        PushList::read(&bytes, place).map_err(damaged)
    }

    /// The end of a file of `size` bytes, filters included: from `from` on, or from where it begins if that is earlier. The
    /// inner error is what is wrong with it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read_end(
        &self,
        tenant: &TenantId,
        path: &str,
        size: u64,
        from: u64,
    ) -> Result<block::Result<BlockMeta>> {
        let (location, mut from) = (self.location(tenant, path), from.min(size));
        loop {
            let tail = self.store.get_range(&location, from..size).await;
            let tail = tail.map_err(|e| self.table(tenant).failed("read a block", e))?;
            if tail.len() as u64 != size - from {
                let detail = format!("it has fewer than the {size} bytes that the table says");
                return Ok(Err(block::Error::Corrupt { what: "file", detail }));
            }
            match BlockMeta::parse(&tail, size) {
                Err(block::Error::NeedTail { offset }) if offset < from => from = offset,
                parsed => return Ok(parsed),
            }
        }
    }

    /// Replaces blocks of the tenant's table by others, or removes them.
    ///
    /// [`Error::Conflict`] means that another rewrite came between `base` and now.
    pub async fn commit_rewrite(&self, tenant: &TenantId, commit: &RewriteCommit) -> Result<Committed> {
        self.commit(tenant, commit).await
    }

    /// Says of blocks that more delete requests have been applied to them. To other engines nothing changes.
    ///
    /// [`Error::Conflict`] as for [`Catalog::commit_rewrite`].
    pub async fn commit_applied(&self, tenant: &TenantId, commit: &AppliedCommit) -> Result<Committed> {
        self.commit(tenant, commit).await
    }

    /// Makes `generation` of the tenant's delete requests the one that counts: snapshots from then on tell it
    /// ([`Snapshot::deletes`]). A tenant without a table gets one. Nothing is done if it is not newer.
    pub async fn commit_deletes(&self, tenant: &TenantId, generation: u64) -> Result<Committed> {
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        self.commit(tenant, &DeletesCommit { generation }).await
    }

    /// The tenant's table as it would be if no rewrite (compaction, retention, deletion, restore) after `version` had taken
    /// place: all blocks of that version, and those that were flushed since. `None` if the log does not reach back so
    /// far. Reads the log anew.
    pub async fn without_rewrites_since(&self, tenant: &TenantId, version: i64) -> Result<Option<Snapshot>> {
        self.table(tenant).without_rewrites_since(version).await
    }

    /// Whether the tenant's table has a log, readable or not.
    pub async fn has_log(&self, tenant: &TenantId) -> Result<bool> {
        Ok(!self.table(tenant).list(None).await?.is_empty())
    }

    /// Writes a checkpoint of the tenant's table if enough was committed since the last, and then removes from
    /// the log what is older than its retention. To be called now and then by one process per tenant.
    pub async fn maintain(&self, tenant: &TenantId) -> Result<Maintained> {
        super::maintain::maintain(self, &self.table(tenant)).await
    }

    /// The tenants that have a folder, in order.
    pub async fn tenants(&self) -> Result<Vec<TenantId>> {
        let root = (!self.root.as_ref().is_empty()).then_some(&self.root);
        let listing = self.store.list_with_delimiter(root).await;
        let listing = listing.map_err(|e| Error::Listing { source: Arc::new(e) })?;
        let names = listing.common_prefixes.iter().filter_map(Path::filename);
        let mut tenants: Vec<_> = names.filter_map(|name| TenantId::new(name).ok()).collect();
        tenants.sort();
        Ok(tenants)
    }

    /// Where the block at `path` of the tenant's table lies in the [`store`](Self::store).
    pub fn location(&self, tenant: &TenantId, path: &str) -> Path {
        path.split('/').fold(self.folder(tenant), |folder, part| folder.join(part))
    }

    /// The store that the tables are in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(super) fn table(&self, tenant: &TenantId) -> Arc<TenantTable> {
        self.tables.get_with_by_ref(tenant, || {
            let (path, store) = (self.folder(tenant), Arc::clone(&self.store));
            Arc::new(TenantTable::new(tenant.clone(), path, store, self.config.log_retention / 2))
        })
    }

    /// Tells the cache that a table has grown or shrunk.
    pub(super) fn weigh_again(
        &self,
        table: &Arc<TenantTable>,
        before: Option<&Arc<Snapshot>>,
        after: &Arc<Snapshot>,
    ) {
        if before.is_none_or(|b| b.version != after.version) {
            self.tables.insert(table.tenant.clone(), Arc::clone(table));
        }
    }

    pub(super) fn folder(&self, tenant: &TenantId) -> Path {
        // As it is: every character of a tenant id is allowed in a path, even those that `join` would escape.
        let root = self.root.as_ref();
        let text = if root.is_empty() { tenant.to_string() } else { format!("{root}/{tenant}") };
        Path::parse(&text).unwrap_or_else(|_| self.root.clone().join(tenant.as_str()))
    }

    async fn put_parts(&self, location: &Path, bytes: &Bytes) -> object_store::Result<()> {
        let mut upload = self.store.put_multipart(location).await?;
        let parts: Vec<_> = (0..bytes.len())
            .step_by(PART_BYTES)
            .map(|at| upload.put_part(bytes.slice(at..bytes.len().min(at + PART_BYTES)).into()))
            .collect();
        let sent =
            futures::stream::iter(parts.into_iter().map(Ok)).try_for_each_concurrent(PARTS_MAX, |part| part);
        let ended = match sent.await {
            Ok(()) => upload.complete().await.map(|_| ()),
            Err(e) => Err(e),
        };
        if ended.is_err()
            && let Err(e) = upload.abort().await
        {
            tracing::debug!(%location, error = %e, "failed to abort an upload");
        }
        ended
    }
}

//! Blocks by name: their ends from the cache, their pages from the object store.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use skald_model::{Chunk, Error, Result, Selector, TenantId, TimeRange, VolumeCollector};
use skald_removal::{Removals, Source};
use skald_rpc::ingester::StreamInfo;
use skald_rpc::querier::BlockRef;
use skald_storage::block::{self, BlockMeta, BlockOptions, Fetched};
use skald_storage::cache::{ByteCache, CacheMetrics, Weigh};
use skald_storage::table::Catalog;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pool::Cancelled;
use crate::removals;

/// Raw bytes of the largest file of another tool that is read. It is converted in memory.
const CONVERTED_BYTES_MAX: u64 = 512 << 20;

/// Opens blocks and fetches their pages.
pub(crate) struct Blocks {
    catalog: Arc<Catalog>,
    opened: ByteCache<(TenantId, Arc<str>), Arc<Block>>,
    /// In KiB.
    room: Arc<Semaphore>,
    room_kib: u32,
}

/// An open block.
pub(crate) struct Block {
    name: Arc<str>,
    location: Path,
    pub(crate) meta: BlockMeta,
    /// The whole file, for a block that another tool has rewritten and that was converted back.
    converted: Option<Bytes>,
}

impl Weigh for Block {
    fn weight(&self) -> usize {
        self.meta.memory_bytes() + self.converted.as_ref().map_or(0, Bytes::len)
    }
}

/// Pages of one block, with their share of the memory for fetched bytes.
pub(crate) struct Pages {
    pub(crate) fetched: Fetched,
    /// Bytes that were read from the store.
    pub(crate) read: u64,
    _room: OwnedSemaphorePermit,
}

impl Blocks {
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        cache_bytes: u64,
        fetch_bytes_max: u64,
        metrics: &CacheMetrics,
    ) -> Self {
        let room_kib = u32::try_from(fetch_bytes_max >> 10).unwrap_or(u32::MAX >> 3).clamp(1, u32::MAX >> 3);
        Self {
            catalog,
            opened: ByteCache::new("block", cache_bytes, metrics),
            room: Arc::new(Semaphore::new(room_kib as usize)),
            room_kib,
        }
    }

    /// The block that a task names. Its end is read once.
    pub(crate) async fn open(&self, tenant: &TenantId, block: &BlockRef) -> Result<Arc<Block>> {
        let load = self.load(tenant, block);
        let opened = self.opened.get_or_load((tenant.clone(), block.path.clone()), load).await;
        opened.map_err(|e: Arc<Error>| (*e).clone())
    }

    async fn load(&self, tenant: &TenantId, block: &BlockRef) -> Result<Arc<Block>> {
        let location = self.catalog.location(tenant, &block.path);
        let end = self.catalog.read_end(tenant, &block.path, block.size, block.tail_offset).await?;
        let (meta, converted) = match end {
            Ok(meta) => (meta, None),
            Err(block::Error::Foreign(_)) => {
                let file = self.read(&location, 0..block.size).await?;
                let (file, meta) = convert(&block.path, file).await?;
                (meta, Some(file))
            }
            Err(e) => return Err(damaged(&block.path, &e)),
        };
        Ok(Arc::new(Block { name: block.path.clone(), location, meta, converted }))
    }

    /// The bytes of `ranges` of `block`, once there is room for them.
    pub(crate) async fn fetch(&self, block: &Block, ranges: &[Range<u64>]) -> Result<Pages> {
        if let Some(file) = &block.converted {
            let room = self.room(0).await?;
            return Ok(Pages { fetched: Fetched::whole(file.clone()), read: 0, _room: room });
        }
        let read: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        let room = self.room(read).await?;
        let pieces = self.catalog.store().get_ranges(&block.location, ranges).await;
        let pieces = pieces.map_err(|e| unreadable(&block.location, &e))?;
        let mut fetched = Fetched::new();
        for (range, bytes) in ranges.iter().zip(pieces) {
            fetched.insert(range.start, bytes);
        }
        Ok(Pages { fetched, read, _room: room })
    }

    /// A share of the memory; what is larger than all of it gets all of it.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.room_kib);
        let room = self.room.clone().acquire_many_owned(kib).await;
        room.map_err(|_| Error::unavailable("the querier is stopping"))
    }

    async fn read(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.catalog.store().get_range(location, range.clone()).await;
        let bytes = bytes.map_err(|e| unreadable(location, &e))?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::internal(format!(
                "block {location} is shorter than its table says: bytes {range:?} gave {}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }
}

async fn convert(name: &Arc<str>, file: Bytes) -> Result<(Bytes, BlockMeta)> {
    let name = name.clone();
    let work = move || {
        let options = BlockOptions::default();
        let block =
            block::convert_foreign(file, CONVERTED_BYTES_MAX, &options).map_err(|e| damaged(&name, &e))?;
        let file = Bytes::from(block.output);
        let meta = BlockMeta::parse(&file, file.len() as u64).map_err(|e| damaged(&name, &e))?;
        Ok((file, meta))
    };
    skald_runtime::blocking(work).await.unwrap_or_else(|_| Err(Error::internal("converting a block failed")))
}

impl Block {
    /// Adds the block's name to an error of the format.
    pub(crate) fn damaged(&self, e: &block::Error) -> Error {
        damaged(&self.name, e)
    }

    /// Its streams that pass one of the selectors and have entries in `range`, without those that are gone.
    pub(crate) fn streams(
        &self,
        selectors: &[Selector],
        range: TimeRange,
        removals: Option<&Arc<Removals>>,
        source: &Source,
    ) -> Result<Vec<StreamInfo>> {
        let index = self.meta.streams();
        let mut found = Vec::new();
        for ordinal in self.select(selectors, range)? {
            let s = index.get(ordinal).map_err(|e| self.damaged(&e))?;
            let Some(keep) = removals::stream(removals, source, &s) else { continue };
            let Some((min_ts, max_ts)) = keep.bounds(s.min_ts, s.max_ts) else { continue };
            if range.overlaps(min_ts, max_ts) {
                let entries = u64::from(s.rows.end - s.rows.start);
                let (entries, bytes) =
                    (keep.share(entries, s.min_ts, s.max_ts), keep.share(s.bytes, s.min_ts, s.max_ts));
                let (id, labels, digest) = (s.id, s.labels, s.digest);
                found.push(StreamInfo { id, labels, min_ts, max_ts, entries, bytes, digest });
            }
        }
        Ok(found)
    }

    /// Adds what the block holds of the streams that pass one of the selectors.
    pub(crate) fn add_volumes(
        &self,
        selectors: &[Selector],
        range: TimeRange,
        (removals, source): (Option<&Arc<Removals>>, &Source),
        all: &mut VolumeCollector,
        cancelled: &Cancelled,
    ) -> Result<()> {
        for ordinal in self.select(selectors, range)? {
            cancelled.check()?;
            let s = self.meta.streams().get(ordinal).map_err(|e| self.damaged(&e))?;
            let Some(keep) = removals::stream(removals, source, &s) else { continue };
            let Some((min_ts, max_ts)) = keep.bounds(s.min_ts, s.max_ts) else { continue };
            let chunk = Chunk {
                min_ts,
                max_ts,
                entries: keep.share(u64::from(s.rows.end - s.rows.start), s.min_ts, s.max_ts),
                bytes: keep.share(s.bytes + s.metadata_bytes, s.min_ts, s.max_ts),
            };
            all.add_chunk(&s.labels, &chunk)?;
        }
        Ok(())
    }

    /// The numbers of the streams that pass one of the selectors and have entries in `range`.
    fn select(&self, selectors: &[Selector], range: TimeRange) -> Result<Vec<u32>> {
        let mut ordinals = Vec::new();
        for s in selectors {
            ordinals.extend(self.meta.streams().select(s, range).map_err(|e| self.damaged(&e))?);
        }
        ordinals.sort_unstable();
        ordinals.dedup();
        Ok(ordinals)
    }
}

fn damaged(name: &str, e: &block::Error) -> Error {
    Error::internal(format!("failed to read block {name}: {e}"))
}

fn unreadable(location: &Path, e: &object_store::Error) -> Error {
    Error::unavailable(format!("failed to read {location}: {e}"))
}

//! Checks a table against its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use skald_model::{Digest, EntryHash, Labels, LinePredicate, StreamId, TenantId, TimeRange, Timestamp};

use super::catalog::Catalog;
use super::entry::BlockEntry;
use super::error::Result;
use super::files::DataFile;
use crate::block::{
    self, BlockMeta, Fetched, PreparedPredicate, ScanBuffers, ScanPlan, ScanRequest, plan_scan, scan_pages,
};

/// Compressed bytes that are read at a time.
const PART_BYTES: u64 = 8 << 20;

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its path.
    pub path: String,
    /// In words.
    pub what: String,
}

/// What a check has found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Version of the table.
    pub version: i64,
    /// Blocks that were looked at.
    pub blocks: usize,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Files that the table does not name. They do no harm; vacuum removes them.
    pub orphans: Vec<DataFile>,
}

/// The first and the last stream of a block, with the time of its last row and of its first.
struct Ends {
    first: (Labels, StreamId, Timestamp),
    last: (Labels, StreamId, Timestamp),
}

impl Catalog {
    /// Checks that every block of the tenant's table is there, can be read, and holds what the table says; and that the
    /// blocks of one rewrite do not overlap. With `data` every row is read and compared with the digests.
    ///
    /// # Errors
    /// When the table itself can't be read, or the store fails.
    pub async fn check(&self, tenant: &TenantId, data: bool) -> Result<Checked> {
        // Listed first, so that what is flushed meanwhile is named.
        let files = self.data_files(tenant).await?;
        let snapshot = self.snapshot(tenant).await?;
        let mut checked = Checked { version: snapshot.version, ..Checked::default() };
        let sizes: BTreeMap<&str, u64> = files.iter().map(|f| (f.path.as_str(), f.size)).collect();
        let mut runs: BTreeMap<u64, Vec<(&BlockEntry, Ends)>> = BTreeMap::new();
        for block in snapshot.blocks.iter() {
            checked.blocks += 1;
            checked.rows += block.summary.rows;
            checked.bytes += block.size();
            let listed = sizes.get(block.path.as_str()).copied();
            match self.check_block(tenant, block, listed, data).await? {
                Ok(Some(ends)) if block.origin.run != 0 => {
                    runs.entry(block.origin.run).or_default().push((block, ends));
                }
                Ok(_) => {}
                Err(what) => checked.findings.push(Finding { path: block.path.clone(), what }),
            }
        }
        checked.findings.extend(runs.into_values().flat_map(overlaps));
        let named: BTreeSet<&str> = snapshot.blocks.iter().map(|b| b.path.as_str()).collect();
        checked.orphans = files.iter().filter(|f| !named.contains(f.path.as_str())).cloned().collect();
        Ok(checked)
    }

    /// Checks one block. The inner error is what is wrong with it.
    async fn check_block(
        &self,
        tenant: &TenantId,
        block: &Arc<BlockEntry>,
        listed: Option<u64>,
        data: bool,
    ) -> Result<std::result::Result<Option<Ends>, String>> {
        let size = match listed {
            Some(size) => size,
            // Written after the listing, or missing.
            None => match self.store.head(&self.location(tenant, &block.path)).await {
                Ok(meta) => meta.size,
                Err(object_store::Error::NotFound { .. }) => return Ok(Err("the file is missing".into())),
                Err(e) => return Err(self.table(tenant).failed("look for a file", e)),
            },
        };
        if size != block.size() {
            return Ok(Err(format!("the file has {size} bytes, the table says {}", block.size())));
        }
        let meta = match self.open_block(tenant, block).await? {
            Ok(meta) => meta,
            Err(e) => return Ok(Err(e.to_string())),
        };
        if let Err(what) = compare(&meta, block) {
            return Ok(Err(what));
        }
        if block.origin.pushes.is_some()
            && let Err(e) = self.pushes(tenant, block).await
        {
            return Ok(Err(e.to_string()));
        }
        if data && let Err(what) = self.check_rows(tenant, block, &meta).await? {
            return Ok(Err(what));
        }
        Ok(ends(&meta).map_err(|e| e.to_string()))
    }

    /// The end of a block, filters included. The inner error is what is wrong with it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open_block(
        &self,
        tenant: &TenantId,
        block: &BlockEntry,
    ) -> Result<block::Result<BlockMeta>> {
        self.read_end(tenant, &block.path, block.size(), block.summary.tail_offset).await
    }

    async fn check_rows(
        &self,
        tenant: &TenantId,
        block: &BlockEntry,
        meta: &BlockMeta,
    ) -> Result<std::result::Result<(), String>> {
        let plan = match whole(meta) {
            Ok(plan) => plan,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let location = self.location(tenant, &block.path);
        let (mut buffers, mut digest) = (ScanBuffers::new(), Digest::default());
        for part in plan.parts(meta, PART_BYTES) {
            let ranges = plan.part_ranges(meta, &part);
            let pieces: Vec<Bytes> = self
                .store
                .get_ranges(&location, &ranges)
                .await
                .map_err(|e| self.table(tenant).failed("read a block", e))?;
            let mut fetched = Fetched::new();
            ranges.iter().zip(pieces).for_each(|(range, bytes)| fetched.insert(range.start, bytes));
            let scanned = scan_pages(meta, &plan, &part, &fetched, &mut buffers, |row| {
                digest.add(EntryHash::of(row.timestamp, row.line, row.metadata));
                ControlFlow::Continue(())
            });
            if let Err(e) = scanned {
                return Ok(Err(e.to_string()));
            }
        }
        let told = block.summary.digest;
        Ok(match digest == told {
            true => Ok(()),
            false => Err(format!(
                "its rows have digest {:032x} over {}, the table says {:032x} over {}",
                digest.sum, digest.count, told.sum, told.count
            )),
        })
    }
}

/// Compares what a block says of itself with what the table says of it.
fn compare(meta: &BlockMeta, block: &BlockEntry) -> std::result::Result<(), String> {
    let (t, s) = (meta.streams().totals(), &block.summary);
    let pairs = [
        ("rows", i128::from(t.rows), i128::from(s.rows)),
        ("bytes of lines", i128::from(t.raw_bytes), i128::from(s.raw_bytes)),
        ("streams", i128::from(t.streams), i128::from(s.streams)),
        ("as first time", i128::from(t.min_ts), i128::from(s.min_ts)),
        ("as last time", i128::from(t.max_ts), i128::from(s.max_ts)),
        ("entries in its digest", i128::from(t.digest.count), i128::from(s.digest.count)),
    ];
    if let Some((what, found, told)) = pairs.into_iter().find(|(_, found, told)| found != told) {
        return Err(format!("it has {found} {what}, the table says {told}"));
    }
    if t.digest.sum != s.digest.sum {
        return Err(format!("its digest is {:032x}, the table says {:032x}", t.digest.sum, s.digest.sum));
    }
    Ok(())
}

fn whole(meta: &BlockMeta) -> block::Result<ScanPlan> {
    let streams: Vec<u32> = (0..meta.streams().len() as u32).collect();
    let predicate = PreparedPredicate::new(&LinePredicate::default());
    plan_scan(
        meta,
        &ScanRequest { streams: &streams, range: TimeRange::ALL, predicate: &predicate, metadata: true },
    )
}

fn ends(meta: &BlockMeta) -> block::Result<Option<Ends>> {
    let Some(last) = meta.streams().len().checked_sub(1) else { return Ok(None) };
    let (first, last) = (meta.streams().get(0)?, meta.streams().get(last as u32)?);
    Ok(Some(Ends {
        first: (first.labels, first.id, first.min_ts),
        last: (last.labels, last.id, last.max_ts),
    }))
}

/// Blocks of one rewrite follow each other in the order of streams, within each slice of the day.
fn overlaps(mut blocks: Vec<(&BlockEntry, Ends)>) -> Vec<Finding> {
    blocks.sort_by(|a, b| (a.0.origin.part, &a.0.path).cmp(&(b.0.origin.part, &b.0.path)));
    let mut findings = Vec::new();
    for pair in blocks.windows(2) {
        let [(one, a), (other, b)] = pair else { continue };
        let same_times =
            one.summary.min_ts <= other.summary.max_ts && other.summary.min_ts <= one.summary.max_ts;
        if same_times && one.origin.part != other.origin.part && a.last > b.first {
            let what = format!("it overlaps with {} of the same rewrite", one.path);
            findings.push(Finding { path: other.path.clone(), what });
        }
    }
    findings
}

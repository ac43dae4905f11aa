//! Rewrites over a store, with and without faults.

use std::collections::BTreeSet;

use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use prometheus::Registry;
use skald_model::time::{DAY, SECOND, day_of};
use skald_model::{EntryHash, Labels, LabelsRef, StreamId, Timestamp};

use super::*;
use crate::block::{
    BlockWriter, PreparedPredicate, PushList, ScanBuffers, ScanRequest, plan_scan, scan_pages,
};
use crate::store::fault::{Fault, FaultConfig, FaultHandle, FaultStore, Request};
use crate::store::retry::{RetryPolicy, RetryStore};
use crate::table::{AppliedCommit, CatalogConfig, FlushCommit, RewriteCommit};

const DATE: i32 = 20_000;
const HOUR: i64 = 3600 * SECOND;

struct Rig {
    catalog: Catalog,
    faults: FaultHandle,
    memory: Arc<InMemory>,
    tenant: TenantId,
}

fn rig() -> Rig {
    let memory = Arc::new(InMemory::new());
    let core: Arc<dyn object_store::ObjectStore> = memory.clone();
    let faulty = FaultStore::new(core, FaultConfig::default());
    let faults = faulty.handle();
    let policy = RetryPolicy { elapsed_max: std::time::Duration::from_millis(1), ..RetryPolicy::default() };
    let store = Arc::new(RetryStore::new(faulty, policy, 1));
    let catalog = Catalog::new(&CatalogConfig::default(), store, "", &Registry::new()).unwrap();
    Rig { catalog, faults, memory, tenant: TenantId::new("t").unwrap() }
}

impl Rig {
    /// Flushes a block: for each stream times within the day, and a line for each.
    async fn flush(&self, number: i64, rows: &[(&str, Timestamp)]) {
        let mut writer = BlockWriter::new(&BlockOptions::default()).unwrap();
        let streams: BTreeSet<&str> = rows.iter().map(|r| r.0).collect();
        for app in &streams {
            let labels = Labels::from_pairs([("app", *app)]);
            writer.begin_stream(&labels, StreamId::of(&self.tenant, labels.as_ref())).unwrap();
            let mut times: Vec<_> = rows.iter().filter(|r| r.0 == *app).map(|r| r.1).collect();
            times.sort_unstable();
            for ts in times {
                let at = i64::from(DATE) * DAY + ts;
                writer.row(at, format!("{app} at {ts}").as_bytes(), LabelsRef::EMPTY).unwrap();
            }
        }
        let finished = writer.finish().unwrap();
        let path = block_path(DATE, &format!("f-{number}"));
        self.catalog.put_block(&self.tenant, &path, finished.output.into()).await.unwrap();
        let origin = BlockOrigin {
            received_min: number,
            received_max: number + 1,
            writer: "i".into(),
            deletes: number as u64,
            ..BlockOrigin::default()
        };
        let new = NewBlock { path, date: DATE, summary: finished.summary, origin, stream_ids: None };
        let commit = FlushCommit { blocks: vec![new], app_id: "i".into(), app_version: number };
        self.catalog.commit_flush(&self.tenant, &commit).await.unwrap();
    }

    async fn blocks(&self) -> Vec<Vec<Arc<BlockEntry>>> {
        let snapshot = self.catalog.snapshot(&self.tenant).await.unwrap();
        snapshot.blocks.iter().map(|b| vec![b.clone()]).collect()
    }

    async fn rows(&self, path: &str) -> Vec<(String, Timestamp)> {
        let location = self.catalog.location(&self.tenant, path);
        let file = self.memory.get(&location).await.unwrap().bytes().await.unwrap();
        let meta = BlockMeta::parse(&file, file.len() as u64).unwrap();
        let streams: Vec<u32> = (0..meta.streams().len() as u32).collect();
        let predicate = PreparedPredicate::all();
        let request =
            ScanRequest { streams: &streams, range: TimeRange::ALL, predicate: &predicate, metadata: true };
        let plan = plan_scan(&meta, &request).unwrap();
        let (mut rows, fetched) = (Vec::new(), Fetched::whole(file.clone()));
        for part in plan.parts(&meta, 1 << 20) {
            let visit = |r: block::Row<'_>| {
                let app = meta.streams().get(r.stream).unwrap().labels.get("app").unwrap().to_owned();
                rows.push((app, r.timestamp - i64::from(DATE) * DAY));
                std::ops::ControlFlow::Continue(())
            };
            let _ = scan_pages(&meta, &plan, &part, &fetched, &mut ScanBuffers::new(), visit).unwrap();
        }
        rows
    }

    fn files(&self) -> usize {
        let listing = futures::executor::block_on_stream(self.memory.list(None));
        listing.filter(|f| f.as_ref().unwrap().location.as_ref().ends_with(".parquet")).count()
    }
}

fn options() -> RewriteOptions {
    RewriteOptions {
        block: BlockOptions::default(),
        target_bytes: 1 << 20,
        memory_bytes: 32 << 20,
        range: TimeRange::ALL,
        slice: 4 * HOUR,
        level: 1,
        place: None,
        writer: "c".into(),
    }
}

fn keep_all() -> Arc<dyn Keep> {
    Arc::new(KeepAll::default())
}

#[tokio::test]
async fn what_is_written_keeps_within_slices_and_replaces_its_inputs() {
    let rig = rig();
    // The second flush crosses the border of a slice and repeats a row; the third has a late entry.
    rig.flush(1, &[("a", HOUR), ("b", 2 * HOUR)]).await;
    rig.flush(2, &[("a", HOUR), ("a", 4 * HOUR - 1), ("a", 4 * HOUR), ("c", 5 * HOUR)]).await;
    rig.flush(3, &[("a", 7 * HOUR), ("b", 1)]).await;
    let inputs = rig.blocks().await;
    let written = rewrite(&rig.catalog, &rig.tenant, &inputs, &keep_all(), &options()).await.unwrap();
    assert_eq!((written.stats.rows_written, written.stats.duplicates), (7, 1));
    let rows = |i: usize| rig.rows(&written.blocks[i].path);
    let owned = |rows: &[(&str, i64)]| rows.iter().map(|r| (r.0.to_owned(), r.1)).collect::<Vec<_>>();
    assert_eq!(written.blocks.len(), 2);
    assert_eq!(rows(0).await, owned(&[("a", HOUR), ("a", 4 * HOUR - 1), ("b", 1), ("b", 2 * HOUR)]));
    assert_eq!(rows(1).await, owned(&[("a", 4 * HOUR), ("a", 7 * HOUR), ("c", 5 * HOUR)]));
    let origin = &written.blocks[1].origin;
    assert_eq!((origin.level, origin.part, origin.received_min, origin.received_max), (1, 1, 1, 4));
    assert_eq!(origin.deletes, 1, "what is applied to all inputs");
    assert_eq!(origin.run, written.blocks[0].origin.run);

    let base = rig.catalog.snapshot(&rig.tenant).await.unwrap();
    let removes = inputs.iter().flatten().map(|b| b.path.clone()).collect();
    let commit = RewriteCommit { base, removes, adds: written.blocks, data_change: false, note: None };
    let committed = rig.catalog.commit_rewrite(&rig.tenant, &commit).await.unwrap();
    assert_eq!(committed.snapshot.blocks.len(), 2);
    assert!(committed.snapshot.blocks.iter().all(|b| day_of(b.summary.min_ts) == DATE));
}

struct Without(&'static str);

impl Keep for Without {
    fn stream(&self, origin: &BlockOrigin, labels: LabelsRef<'_>, min: Timestamp, max: Timestamp) -> Kept {
        assert!(origin.received_max > 0 && min <= max);
        match labels.get("app") == Some(self.0) {
            true => Kept::Nothing,
            false => Kept::rows(|ts, line, _| ts % 2 == 0 && line.starts_with(b"b")),
        }
    }

    fn generation(&self) -> u64 {
        7
    }
}

#[tokio::test]
async fn rows_that_do_not_stay_go() {
    let rig = rig();
    rig.flush(1, &[("a", HOUR), ("b", 2), ("b", 3), ("c", 4)]).await;
    let keep: Arc<dyn Keep> = Arc::new(Without("a"));
    let written = rewrite(&rig.catalog, &rig.tenant, &rig.blocks().await, &keep, &options()).await.unwrap();
    assert_eq!(rig.rows(&written.blocks[0].path).await, [("b".to_owned(), 2)]);
    assert_eq!((written.blocks[0].origin.deletes, written.stats.removed), (7, 2));
    assert_eq!(written.blocks[0].summary.digest.count, 1);
}

#[tokio::test]
async fn delete_requests_of_another_table_count_for_nothing_here() {
    let (rig, other) = (rig(), rig());
    rig.flush(1, &[("a", HOUR), ("b", 2)]).await;
    let keep: Arc<dyn Keep> = Arc::new(Without("a"));
    let runs = rig.blocks().await;
    let rows =
        rewrite_into(&rig.catalog, &other.catalog, &rig.tenant, &runs, &keep, &options()).await.unwrap();
    assert_eq!(rows.blocks[0].origin.deletes, 0);
    let applied =
        rewrite(&rig.catalog, &rig.tenant, &runs, &keep, &options()).await.unwrap().blocks.remove(0);
    assert_eq!(applied.origin.deletes, 7);
    let applied = BlockEntry {
        path: applied.path,
        date: applied.date,
        summary: applied.summary,
        origin: applied.origin,
    };
    let path = block_path(DATE, "copy");
    let copy = rig.catalog.copy_block(&rig.tenant, &applied, &other.catalog, &path).await.unwrap();
    assert_eq!((copy.origin.deletes, copy.path), (0, path));
}

#[tokio::test]
async fn a_rewrite_that_fails_leaves_nothing_behind() {
    let rig = rig();
    for n in 1..6 {
        let rows: Vec<_> = (0..24).map(|h| ("a", h * HOUR + n)).collect();
        rig.flush(n, &rows).await;
    }
    let (inputs, before) = (rig.blocks().await, rig.files());
    // Six slices: the third upload fails for good.
    for path in ["-c1-", "-c1-"] {
        rig.faults.arm(Request::Put, path, Fault::Lost);
    }
    (0..2000).for_each(|_| rig.faults.arm(Request::Put, "-0002.parquet", Fault::Error));
    let config =
        CatalogConfig { commit_timeout: std::time::Duration::from_millis(200), ..Default::default() };
    let impatient = Catalog::new(&config, rig.catalog.store().clone(), "", &Registry::new()).unwrap();
    let error = rewrite(&impatient, &rig.tenant, &inputs, &keep_all(), &options()).await.unwrap_err();
    assert!(error.to_string().contains("upload a block"), "{error}");
    assert_eq!(rig.files(), before);
}

#[tokio::test]
async fn large_blocks_go_off_in_parts_within_the_memory() {
    let rig = rig();
    // Lines that do not shrink.
    let line = |n: i64| {
        (0..40)
            .map(|i| format!("{:016x}", EntryHash::of(n * 100 + i, b"", LabelsRef::EMPTY).0 as u64))
            .collect::<String>()
    };
    let labels = Labels::from_pairs([("app", "a")]);
    let mut writer = BlockWriter::new(&BlockOptions::default()).unwrap();
    writer.begin_stream(&labels, StreamId(1)).unwrap();
    writer.set_pushes(PushList::default());
    let rows = 52_000;
    for n in 0..rows {
        writer.row(i64::from(DATE) * DAY + n, line(n).as_bytes(), LabelsRef::EMPTY).unwrap();
    }
    let finished = writer.finish().unwrap();
    let path = block_path(DATE, "large");
    rig.catalog.put_block(&rig.tenant, &path, finished.output.into()).await.unwrap();
    let (summary, origin) = (finished.summary, BlockOrigin::default());
    let entry = Arc::new(BlockEntry { path, date: DATE, summary: summary.clone(), origin });
    let options = RewriteOptions { target_bytes: 1 << 30, ..options() };
    let inputs = [vec![entry.clone()]];
    let written = rewrite(&rig.catalog, &rig.tenant, &inputs, &keep_all(), &options).await.unwrap();
    let (count, rows_of): (u64, u64) =
        (written.blocks.len() as u64, written.blocks.iter().map(|b| b.summary.rows).sum());
    assert!(summary.file_size > 3 * (5 << 20), "{}", summary.file_size);
    assert_eq!((rows_of, count), (rows as u64, 1));
    assert_eq!(written.blocks[0].summary.digest, summary.digest);
    assert_eq!(rig.rows(&written.blocks[0].path).await.len(), rows as usize);
    // Alone, what stays is copied without a look at its rows.
    let alone = RewriteOptions::alone(&entry, 32 << 20, "c".into());
    let other = Catalog::new(&CatalogConfig::default(), rig.catalog.store().clone(), "o", &Registry::new());
    let (other, keep) = (other.unwrap(), keep_all());
    let written = rewrite_into(&rig.catalog, &other, &rig.tenant, &inputs, &keep, &alone).await.unwrap();
    assert_eq!((written.stats.rows_copied, written.stats.rows_read), (rows as u64, 0));
    assert_eq!(written.blocks[0].summary, summary);
    assert!(written.bytes_read < summary.file_size + summary.file_size / 8, "{}", written.bytes_read);
}

#[tokio::test]
async fn a_block_of_which_nothing_goes_is_left_where_it_is() {
    let rig = rig();
    rig.flush(1, &[("b", 2), ("b", 4), ("c", 6)]).await;
    let (inputs, before) = (rig.blocks().await, rig.files());
    let block = &inputs[0][0];
    // What is about it goes by its rows, and none of them does.
    let keep: Arc<dyn Keep> = Arc::new(Without("a"));
    let alone = RewriteOptions::alone(block, 32 << 20, "c".into());
    let c_goes = rewrite(&rig.catalog, &rig.tenant, &inputs, &keep, &alone).await.unwrap();
    assert_eq!((c_goes.unchanged, c_goes.stats.rows_written), (None, 2));
    rig.catalog.discard(&rig.tenant, &c_goes.blocks).await;
    let keep: Arc<dyn Keep> = Arc::new(KeepAll { generation: 9 });
    let written = rewrite(&rig.catalog, &rig.tenant, &inputs, &keep, &alone).await.unwrap();
    assert!(written.blocks.is_empty());
    let unchanged = written.unchanged.unwrap();
    assert_eq!((&unchanged.path, &unchanged.summary), (&block.path, &block.summary));
    let base = rig.catalog.snapshot(&rig.tenant).await.unwrap();
    let commit = AppliedCommit { base, blocks: vec![unchanged] };
    let after = rig.catalog.commit_applied(&rig.tenant, &commit).await.unwrap().snapshot;
    assert_eq!(after.blocks[0].origin, BlockOrigin { deletes: 9, ..block.origin.clone() });
    assert_eq!((after.blocks.len(), rig.files()), (1, before));
}

//! Compactors that are killed at any request, that race each other, over a store that fails: while blocks are flushed, and
//! read at the newest version and at older ones. On simulated time; all chance comes from the seed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::ObjectStore;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use prometheus::Registry;
use skald_compactor::ownership::OwnsAll;
use skald_compactor::{Compactor, Config, KeepEverything, KeepProvider, Parts, Rules, restore};
use skald_model::limits::StreamRetention;
use skald_model::time::{DAY, SECOND, day_of};
use skald_model::{Labels, LabelsRef, Limits, StreamId, TenantId, TenantLimits, TimeRange, Timestamp};
use skald_rpc::Compaction as _;
use skald_runtime::{Clock, Deterministic, random};
use skald_storage::block::{
    self, BlockMeta, BlockOptions, BlockWriter, Fetched, PreparedPredicate, ScanBuffers, ScanRequest,
};
use skald_storage::store::fault::{FaultConfig, FaultStore};
use skald_storage::store::retry::{RetryPolicy, RetryStore};
use skald_storage::table::{
    BlockOrigin, Catalog, CatalogConfig, FlushCommit, NewBlock, Snapshot, block_path,
};

const HOUR: i64 = 3600;
const DELAY: i64 = 24 * HOUR;
/// Runs of a test; `SKALD_SEEDS` makes it others.
const SEEDS: u64 = 8;

/// The system's clock and some more: files in memory carry the system's time.
#[derive(Clone, Debug)]
struct ShiftedClock(Arc<AtomicI64>);

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
        system + self.0.load(Ordering::Relaxed) * SECOND
    }
}

/// A row: stream, time, line.
type Row = (String, Timestamp, String);

struct World {
    memory: Arc<InMemory>,
    clock: ShiftedClock,
    tenant: TenantId,
    /// The begin of the day that everything lies in.
    day: i64,
    flushed: BTreeSet<Row>,
    /// Those of them that were flushed more than once.
    repeated: BTreeSet<Row>,
    flushes: i64,
    /// Versions that queries still read, with the second in which they began.
    reading: Vec<(i64, Arc<Snapshot>)>,
    faults: FaultConfig,
}

fn chance(part: u64, of: u64) -> bool {
    random() % of < part
}

impl World {
    fn new() -> Self {
        let clock = ShiftedClock(Arc::default());
        let day = (clock.now() / DAY - 2) * DAY;
        Self {
            memory: Arc::new(InMemory::new()),
            clock,
            tenant: TenantId::new("t").unwrap(),
            day,
            flushed: BTreeSet::new(),
            repeated: BTreeSet::new(),
            flushes: 0,
            reading: Vec::new(),
            faults: FaultConfig {
                error: 0.04,
                lost: 0.04,
                torn: 0.02,
                slow: 1.0,
                slow_max: Duration::from_millis(40),
                ..FaultConfig::default()
            },
        }
    }

    fn now(&self) -> i64 {
        self.clock.now() / SECOND
    }

    fn calm(&self) -> Catalog {
        calm_to(&self.memory)
    }

    /// A process's way to the tables.
    fn stormy(&self) -> Catalog {
        self.stormy_to(&self.memory)
    }

    fn stormy_to(&self, memory: &Arc<InMemory>) -> Catalog {
        let core: Arc<dyn ObjectStore> = memory.clone();
        let faulty = FaultStore::new(core, FaultConfig { seed: random(), ..self.faults.clone() });
        let store = Arc::new(RetryStore::new(faulty, RetryPolicy::default(), random()));
        let config = CatalogConfig { checkpoint_interval: 1 << 40, ..CatalogConfig::default() };
        Catalog::new(&config, store, "", &Registry::new()).unwrap()
    }

    fn compactor(&self, catalog: Catalog) -> Arc<Compactor> {
        self.compactor_with(catalog, Arc::new(KeepEverything), None)
    }

    fn compactor_with(
        &self,
        catalog: Catalog,
        keep: Arc<dyn KeepProvider>,
        archive: Option<Catalog>,
    ) -> Arc<Compactor> {
        let config = Config {
            min_blocks: 3,
            memory_budget: 32 << 20,
            target_block_bytes: 4 << 10,
            retention_delete_delay: Duration::from_secs(DELAY as u64),
            // Each round vacuums.
            vacuum_interval: Duration::from_nanos(1),
            compaction_interval: Duration::from_secs(3600),
            ..Config::default()
        };
        let parts = Parts {
            name: format!("c{}", random() % 100),
            clock: Arc::new(self.clock.clone()),
            catalog: Arc::new(catalog),
            ownership: Arc::new(OwnsAll),
            keep,
            archive: archive.map(Arc::new),
            settle_after: Duration::ZERO,
        };
        Compactor::new(&config, parts, &Registry::new()).unwrap()
    }

    /// Flushes some rows of the day, some of them again.
    async fn flush(&mut self) {
        self.flushes += 1;
        let mut rows: BTreeMap<(String, Timestamp), Vec<String>> = BTreeMap::new();
        let around = (random() % 86_000) as i64;
        for _ in 0..1 + random() % 12 {
            let stream = format!("s{}", random() % 5);
            let at =
                if chance(1, 5) { random() % 86_400 } else { (around as u64 + random() % 400).min(86_399) };
            let ts = self.day + at as i64 * SECOND;
            rows.entry((stream, ts)).or_default().push(format!("line {}", random() % 3));
        }
        if chance(1, 3) {
            let again = self.flushed.iter().nth((random() as usize) % self.flushed.len().max(1)).cloned();
            rows.extend(again.map(|(stream, ts, line)| ((stream, ts), vec![line])));
        }
        let mut writer = BlockWriter::new(&BlockOptions::default()).unwrap();
        let mut last = String::new();
        for ((stream, ts), mut lines) in rows {
            lines.sort();
            lines.dedup();
            if stream != last {
                let labels = Labels::from_pairs([("app", stream.as_str())]);
                writer.begin_stream(&labels, StreamId::of(&self.tenant, labels.as_ref())).unwrap();
                last.clone_from(&stream);
            }
            for line in lines {
                writer.row(ts, line.as_bytes(), LabelsRef::EMPTY).unwrap();
                let row = (stream.clone(), ts, line);
                if !self.flushed.insert(row.clone()) {
                    self.repeated.insert(row);
                }
            }
        }
        let finished = writer.finish().unwrap();
        let date = day_of(self.day);
        let path = block_path(date, &format!("{}-i-{}", self.now(), self.flushes));
        let (catalog, received) = (self.calm(), self.now());
        catalog.put_block(&self.tenant, &path, finished.output.into()).await.unwrap();
        let origin = BlockOrigin {
            received_min: received,
            received_max: received,
            writer: "i".into(),
            ..BlockOrigin::default()
        };
        let block = NewBlock { path, date, summary: finished.summary, origin, stream_ids: None };
        let commit = FlushCommit { blocks: vec![block], app_id: "i".into(), app_version: self.flushes };
        catalog.commit_flush(&self.tenant, &commit).await.unwrap();
    }

    async fn file(&self, path: &str) -> Bytes {
        self.file_in(&self.memory, path).await
    }

    async fn file_in(&self, memory: &InMemory, path: &str) -> Bytes {
        let file = memory.get(&self.calm().location(&self.tenant, path)).await;
        file.unwrap_or_else(|e| panic!("a block that is needed: {e}")).bytes().await.unwrap()
    }

    /// All rows at a version, and how often each.
    async fn rows(&self, snapshot: &Snapshot) -> BTreeMap<Row, usize> {
        self.rows_of(&self.memory, snapshot).await
    }

    async fn rows_of(&self, memory: &InMemory, snapshot: &Snapshot) -> BTreeMap<Row, usize> {
        let mut rows = BTreeMap::new();
        for entry in snapshot.blocks.iter() {
            for (row, times) in Self::rows_in(&self.file_in(memory, &entry.path).await) {
                *rows.entry(row).or_default() += times;
            }
        }
        rows
    }

    /// All rows of a block's file.
    fn rows_in(file: &Bytes) -> BTreeMap<Row, usize> {
        let mut rows = BTreeMap::new();
        let meta = BlockMeta::parse(file, file.len() as u64).unwrap();
        let streams: Vec<u32> = (0..meta.streams().len() as u32).collect();
        let predicate = PreparedPredicate::all();
        let request =
            ScanRequest { streams: &streams, range: TimeRange::ALL, predicate: &predicate, metadata: false };
        let plan = block::plan_scan(&meta, &request).unwrap();
        let fetched = Fetched::whole(file.clone());
        for part in plan.parts(&meta, 1 << 20) {
            let visit = |r: block::Row<'_>| {
                let labels = meta.streams().get(r.stream).unwrap().labels;
                let line = String::from_utf8(r.line.to_vec()).unwrap();
                let row = (labels.get("app").unwrap().to_owned(), r.timestamp, line);
                *rows.entry(row).or_default() += 1;
                ControlFlow::Continue(())
            };
            let _ = block::scan_pages(&meta, &plan, &part, &fetched, &mut ScanBuffers::new(), visit).unwrap();
        }
        rows
    }

    /// Nothing is lost and nothing is invented, now and at every version that is still read.
    async fn look(&mut self) {
        let newest = self.calm().snapshot(&self.tenant).await.unwrap();
        let rows = self.rows(&newest).await;
        assert!(rows.keys().eq(self.flushed.iter()), "version {}", newest.version);
        let now = self.now();
        self.reading.retain(|(since, _)| now - since < DELAY);
        // The oldest are the ones in danger.
        for (_, snapshot) in self.reading.iter().take(2) {
            assert!(self.rows(snapshot).await.keys().all(|row| self.flushed.contains(row)));
        }
        self.reading.push((now, newest));
    }

    fn pass_time(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::Relaxed);
    }

    async fn files(&self) -> BTreeSet<String> {
        files_of(&self.calm(), &self.tenant).await
    }
}

async fn files_of(catalog: &Catalog, tenant: &TenantId) -> BTreeSet<String> {
    catalog.data_files(tenant).await.unwrap().into_iter().map(|f| f.path).collect()
}

/// The tables in `memory`, without faults on the way.
fn calm_to(memory: &Arc<InMemory>) -> Catalog {
    Catalog::new(&CatalogConfig::default(), memory.clone(), "", &Registry::new()).unwrap()
}

fn simulate<T, F: Future<Output = T>>(seed: u64, work: impl FnOnce() -> F) -> T {
    let _deterministic = Deterministic::enter(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async { work().await })
}

#[test]
fn nothing_is_lost_doubled_or_left_behind_whenever_compactors_die() {
    let seeds = std::env::var("SKALD_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        simulate(seed, || async move {
            let mut world = World::new();
            world.flush().await;
            for _ in 0..20 {
                for _ in 0..random() % 4 {
                    world.flush().await;
                }
                let (a, b) = (world.compactor(world.stormy()), world.compactor(world.stormy()));
                let die = |most: u64| Duration::from_millis(random() % most);
                let (first, second) = (die(3000), die(3000));
                let race = async {
                    if chance(1, 3) {
                        let _ = tokio::time::timeout(second, b.round()).await;
                    }
                };
                let (_, ()) = tokio::join!(tokio::time::timeout(first, a.round()), race);
                world.look().await;
                world.pass_time((random() % (6 * HOUR) as u64) as i64);
            }
            come_to_rest(&mut world, seed).await;
        });
    }
}

/// Without faults everything ends in good order.
async fn come_to_rest(world: &mut World, seed: u64) {
    for _ in 0..4 {
        world.pass_time(2 * DELAY);
        let compactor = world.compactor(world.calm());
        assert!(compactor.round().await, "seed {seed}: it does not end");
        let status = compactor.tables().remove(0);
        assert_eq!(status.last_error, None, "seed {seed}");
        assert_eq!(status.waiting_since.is_some(), status.files_waiting > 0, "seed {seed}");
        world.look().await;
    }
    let snapshot = world.calm().snapshot(&world.tenant).await.unwrap();
    let rows = world.rows(&snapshot).await;
    let twice: Vec<_> = rows.iter().filter(|(_, n)| **n > 1).collect();
    let blocks = || snapshot.blocks.iter().map(|b| (&b.path, &b.origin, b.summary.min_ts, b.summary.max_ts));
    assert!(
        twice.is_empty(),
        "seed {seed}: duplicates are left: {twice:?} in {:#?}",
        blocks().collect::<Vec<_>>()
    );
    let named: BTreeSet<String> = snapshot.blocks.iter().map(|b| b.path.clone()).collect();
    assert_eq!(world.files().await, named, "seed {seed}: orphans are left");
    let checked = world.calm().check(&world.tenant, true).await.unwrap();
    assert_eq!(checked.findings, [], "seed {seed}");
    assert_eq!(checked.rows as usize, world.flushed.len(), "seed {seed}");
}

/// A tenant whose streams live for different times, all of them shorter than the test.
struct ShortLives;

impl TenantLimits for ShortLives {
    fn of(&self, _: &TenantId) -> Arc<Limits> {
        let stream = |selector: &str, hours: i64| StreamRetention {
            selector: selector.into(),
            priority: 1,
            period: hours * HOUR * SECOND,
        };
        Arc::new(Limits {
            retention_period: 90 * HOUR * SECOND,
            retention_stream: vec![stream(r#"{app="s0"}"#, 60), stream(r#"{app=~"s[12]"}"#, 75)],
            ..Limits::default()
        })
    }
}

#[test]
fn what_expires_is_in_the_archive_before_it_leaves_the_table() {
    let seeds = std::env::var("SKALD_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        simulate(seed, || async move {
            let mut world = World::new();
            let elsewhere = Arc::new(InMemory::new());
            let archive = calm_to(&elsewhere);
            let removal =
                skald_removal::Config { retention_enabled: true, ..skald_removal::Config::default() };
            let keep = |world: &World| -> Arc<dyn KeepProvider> {
                let (catalog, clock) = (Arc::new(world.calm()), Arc::new(world.clock.clone()));
                Arc::new(Rules::new(catalog, Arc::new(ShortLives), clock, &removal, Duration::ZERO))
            };
            for _ in 0..12 {
                for _ in 0..1 + random() % 3 {
                    world.flush().await;
                }
                let compactor =
                    || world.compactor_with(world.stormy(), keep(&world), Some(world.stormy_to(&elsewhere)));
                let (a, b) = (compactor(), compactor());
                let die = || Duration::from_millis(random() % 6000);
                let (first, second) = (die(), die());
                // Another one that believes the tenant its own, somewhat later, when more has expired.
                let race = async {
                    if chance(1, 3) {
                        tokio::time::sleep(Duration::from_millis(random() % 2000)).await;
                        world.pass_time((random() % HOUR as u64) as i64);
                        let _ = tokio::time::timeout(second, b.round()).await;
                    }
                };
                let (_, ()) = tokio::join!(tokio::time::timeout(first, a.round()), race);
                world.pass_time((random() % (6 * HOUR) as u64) as i64);
                let mut rows = world.rows(&world.calm().snapshot(&world.tenant).await.unwrap()).await;
                // What the archive's table does not name yet it is owed.
                for path in files_of(&archive, &world.tenant).await {
                    rows.extend(World::rows_in(&world.file_in(&elsewhere, &path).await));
                }
                assert!(rows.keys().eq(world.flushed.iter()), "seed {seed}: an entry is nowhere");
            }
            for _ in 0..3 {
                world.pass_time(2 * DELAY);
                let to = calm_to(&elsewhere);
                assert!(
                    world.compactor_with(world.calm(), keep(&world), Some(to)).round().await,
                    "seed {seed}"
                );
            }
            let left = world.calm().snapshot(&world.tenant).await.unwrap();
            assert_eq!(left.blocks.len(), 0, "seed {seed}");
            let archived = archive.snapshot(&world.tenant).await.unwrap();
            let rows = world.rows_of(&elsewhere, &archived).await;
            assert!(rows.keys().eq(world.flushed.iter()), "seed {seed}");
            let twice = rows.iter().find(|(row, n)| **n > 1 && !world.repeated.contains(row));
            assert_eq!(twice, None, "seed {seed}: an entry was archived twice");
            let named: BTreeSet<String> = archived.blocks.iter().map(|b| b.path.clone()).collect();
            assert_eq!(files_of(&archive, &world.tenant).await, named, "seed {seed}: orphans in the archive");
            let lists = elsewhere.list(Some(&"_skald/archive".into())).count().await;
            assert_eq!(lists, 0, "seed {seed}: lists of what is to be archived are left");
            assert_eq!(archive.check(&world.tenant, true).await.unwrap().findings, [], "seed {seed}");
        });
    }
}

#[test]
fn a_restore_takes_back_rewrites_and_keeps_what_was_flushed_since() {
    simulate(1, || async {
        let mut world = World::new();
        for _ in 0..9 {
            world.flush().await;
        }
        let before = world.calm().snapshot(&world.tenant).await.unwrap();
        world.pass_time(2 * HOUR);
        let (compactor, begun) = (world.compactor(world.calm()), world.now());
        assert!(compactor.round().await);
        let status = compactor.tables().remove(0);
        let since = status.waiting_since.unwrap() / SECOND;
        assert!(status.files_waiting > 0 && (begun..=world.now()).contains(&since), "{status:?}");
        let compacted = world.calm().snapshot(&world.tenant).await.unwrap();
        assert!(compacted.blocks.iter().all(|b| b.origin.level > 0 || before.block(&b.path).is_some()));
        world.flush().await;
        let (calm, now) = (world.calm(), world.now());
        let restored = restore(&calm, &world.tenant, before.version, now, DELAY).await.unwrap();
        let after = calm.snapshot(&world.tenant).await.unwrap();
        assert_eq!(after.version, restored.version);
        assert!(before.blocks.iter().all(|b| after.block(&b.path).is_some()));
        assert_eq!(after.blocks.len(), before.blocks.len() + 1);
        world.look().await;
        // The restore is a rewrite, too, and can be taken back.
        restore(&calm, &world.tenant, compacted.version, now, DELAY).await.unwrap();
        let again = calm.snapshot(&world.tenant).await.unwrap();
        assert!(compacted.blocks.iter().all(|b| again.block(&b.path).is_some()));
        world.look().await;
        // When the delay is over, so is the window.
        world.pass_time(2 * HOUR);
        assert!(world.compactor(world.calm()).round().await);
        world.pass_time(DELAY * 15 / 16);
        let late = restore(&calm, &world.tenant, before.version, world.now(), DELAY).await.unwrap_err();
        assert!(late.to_string().contains("about to remove"), "{late}");
        world.pass_time(DELAY);
        assert!(world.compactor(world.calm()).round().await);
        let late = restore(&calm, &world.tenant, before.version, world.now(), DELAY).await.unwrap_err();
        assert!(late.to_string().contains("vacuum has removed"), "{late}");
        let unknown = restore(&calm, &world.tenant, 1000, world.now(), DELAY).await.unwrap_err();
        assert!(unknown.to_string().contains("versions up to"), "{unknown}");
    });
}

#[test]
fn damage_is_found_and_named_and_stops_nothing_else() {
    simulate(2, || async {
        let mut world = World::new();
        for _ in 0..6 {
            world.flush().await;
        }
        let (calm, tenant) = (world.calm(), world.tenant.clone());
        let snapshot = calm.snapshot(&tenant).await.unwrap();
        let [missing, short, flipped, ..] = &snapshot.blocks[..] else { panic!("six blocks") };
        let place = |b: &skald_storage::table::BlockEntry| calm.location(&tenant, &b.path);
        let half = world.file(&short.path).await.slice(..short.size() as usize / 2);
        let mut damaged = world.file(&flipped.path).await.to_vec();
        damaged[20] ^= 1;
        world.memory.delete(&place(missing)).await.unwrap();
        world.memory.put(&place(short), half.into()).await.unwrap();
        world.memory.put(&place(flipped), damaged.into()).await.unwrap();
        let orphan = block_path(day_of(world.day), "orphan");
        world.memory.put(&calm.location(&tenant, &orphan), "x".into()).await.unwrap();
        let checked = calm.check(&tenant, true).await.unwrap();
        let found: Vec<_> = checked.findings.iter().map(|f| (f.path.as_str(), f.what.as_str())).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], (missing.path.as_str(), "the file is missing"));
        assert!(found[1].0 == short.path && found[1].1.contains("the table says"), "{found:?}");
        assert!(found[2].0 == flipped.path && found[2].1.contains("damaged"), "{found:?}");
        assert_eq!(checked.orphans.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), [orphan]);
    });
}

#[test]
fn a_table_is_made_again_from_its_files_and_copied_in_part() {
    simulate(3, || async {
        let mut world = World::new();
        for _ in 0..20 {
            world.flush().await;
        }
        world.pass_time(2 * HOUR);
        assert!(world.compactor(world.calm()).round().await);
        let before = world.calm().snapshot(&world.tenant).await.unwrap();
        let rows = world.rows(&before).await;

        // A copy of six hours.
        let range = TimeRange::new(world.day + 6 * HOUR * SECOND, world.day + 12 * HOUR * SECOND + 5);
        let elsewhere = Arc::new(InMemory::new());
        let target = calm_to(&elsewhere);
        let exported = world.calm().export(&world.tenant, range, &target, None, 32 << 20).await.unwrap();
        let copy = target.snapshot(&world.tenant).await.unwrap();
        assert_eq!(copy.blocks.len(), exported.blocks);
        assert_eq!(target.check(&world.tenant, true).await.unwrap().findings, []);
        let expected = rows.iter().filter(|(row, _)| range.contains(row.1));
        assert_eq!(exported.rows as usize, expected.map(|(_, n)| n).sum::<usize>());

        // The log is lost.
        let log = world.calm().location(&world.tenant, "_delta_log");
        let files: Vec<_> = futures::executor::block_on_stream(world.memory.list(Some(&log))).collect();
        for file in files {
            world.memory.delete(&file.unwrap().location).await.unwrap();
        }
        let calm = world.calm();
        assert!(!calm.has_log(&world.tenant).await.unwrap());
        let marks = skald_compactor::vacuum::marks(&calm, &world.tenant).await.unwrap();
        let mut files = calm.data_files(&world.tenant).await.unwrap();
        files.retain(|f| marks.since(&f.path).is_none());
        let rebuilt = calm.rebuild(&world.tenant, &files).await.unwrap();
        assert_eq!((rebuilt.blocks, rebuilt.unreadable.len()), (before.blocks.len(), 0));
        let again = calm.snapshot(&world.tenant).await.unwrap();
        assert_eq!(world.rows(&again).await, rows);
        let summaries = |s: &Snapshot| s.blocks.iter().map(|b| b.summary.clone()).collect::<Vec<_>>();
        assert_eq!(summaries(&again), summaries(&before));
        let levels = |s: &Snapshot| s.blocks.iter().map(|b| b.origin.level).collect::<Vec<_>>();
        assert_eq!(levels(&again), levels(&before));
    });
}

//! The ingester over a real log and a real Delta table in a directory, with a store that fails: after every step, what
//! memory and table hold together is each acknowledged entry once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use skald_ingester::delta::DeltaTable;
use skald_ingester::wal::WalConfig;
use skald_ingester::{Config, Ingester};
use skald_model::time::{DAY, SECOND};
use skald_model::{
    Batch, BatchStream, Direction, EntryRef, Kind, Labels, Limits, LinePredicate, PushStamp, Selector,
    StreamId, TenantId, TimeRange,
};
use skald_rpc::Ingester as _;
use skald_rpc::ingester::{IngesterPush, StreamsRequest};
use skald_rpc::memory::QueryMemory;
use skald_rpc::querier::LogTask;
use skald_runtime::clock::{Clock, ManualClock};
use skald_storage::block::{
    BlockMeta, BlockOptions, Fetched, PreparedPredicate, Row, ScanBuffers, ScanRequest, plan_scan, scan_pages,
};
use skald_storage::store::fault::FaultConfig;
use skald_storage::store::{FilesystemConfig, StoreConfig, open};
use skald_storage::table::{Catalog, CatalogConfig};

/// Half an hour before midnight, so that entries fall on two days.
const START: i64 = 20_469 * DAY - 1800 * SECOND;

type Entry = (String, i64, String);

/// A process: ingester and catalog over the directories of a test.
struct Process {
    ingester: Arc<Ingester>,
    catalog: Arc<Catalog>,
    clock: ManualClock,
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

impl Process {
    async fn start(dir: &Path, faults: Option<FaultConfig>) -> Self {
        let registry = Registry::new();
        let filesystem = Some(FilesystemConfig { directory: dir.join("table") });
        let store =
            open(&StoreConfig { filesystem, faults, ..StoreConfig::default() }, &registry).await.unwrap();
        let config = CatalogConfig { commit_timeout: Duration::from_millis(300), ..CatalogConfig::default() };
        let catalog = Arc::new(Catalog::new(&config, store, "", &registry).unwrap());
        let clock = ManualClock::new(START);
        let config = Config {
            wal: WalConfig { dir: dir.join("wal"), segment_bytes: 16 << 10, ..WalConfig::default() },
            segment_target_bytes: 64 << 10,
            flush_op_backoff_max: Duration::from_millis(20),
            ..Config::default()
        };
        let limits = Arc::new(Arc::new(Limits::default()));
        let of_table = catalog.clone();
        let ingester = Ingester::start(
            config,
            QueryMemory::default(),
            Arc::new(clock.clone()),
            limits,
            &registry,
            |instance| Arc::new(DeltaTable::new(of_table, BlockOptions::default(), instance)),
            |_| None,
        );
        Self { ingester: ingester.await.unwrap(), catalog, clock }
    }

    async fn push(&self, entries: &[Entry]) {
        let stamp = PushStamp::unnumbered(self.clock.now().div_euclid(SECOND));
        let push = IngesterPush { tenant: tenant(), stamp, batch: Arc::new(batch(entries)) };
        self.ingester.push(push).await.unwrap();
    }

    /// All entries at the table's present version, sorted: those of the blocks and those in memory.
    async fn everything(&self, dir: &Path) -> Vec<Entry> {
        loop {
            let Ok(snapshot) = self.catalog.snapshot(&tenant()).await else { continue };
            let task = LogTask {
                tenant: tenant(),
                query: r#"{app=~".+"}"#.into(),
                range: TimeRange::ALL,
                direction: Direction::Forward,
                limit: usize::MAX,
                version: snapshot.version,
                blocks: Vec::new(),
                max_bytes: u64::MAX,
                removals: None,
            };
            let memory = match self.ingester.query_logs(task).await {
                Ok(result) => result.entries,
                Err(e) if matches!(e.kind, Kind::SnapshotTooOld | Kind::Unavailable) => continue,
                Err(e) => panic!("{e}"),
            };
            let mut all: Vec<Entry> = memory
                .into_iter()
                .map(|e| {
                    let app = e.labels.stream.get("app").unwrap().to_owned();
                    (app, e.timestamp, String::from_utf8(e.line.to_vec()).unwrap())
                })
                .collect();
            for block in snapshot.blocks.iter() {
                let file = std::fs::read(dir.join("table/t").join(&block.path)).unwrap();
                all.extend(block_entries(file.into(), block.summary.tail_offset));
            }
            all.sort();
            return all;
        }
    }
}

fn batch(entries: &[Entry]) -> Batch {
    let mut by_app: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_app.entry(&entry.0).or_default().push(entry);
    }
    let (mut out, mut body) = (Batch::default(), Vec::new());
    for (app, entries) in by_app {
        let start = out.entries.refs.len() as u32;
        for (_, timestamp, line) in entries {
            let (line_start, line_len) = (body.len() as u32, line.len() as u32);
            body.extend_from_slice(line.as_bytes());
            let place =
                EntryRef { timestamp: *timestamp, line_start, line_len, metadata_start: 0, metadata_len: 0 };
            out.entries.refs.push(place);
        }
        let labels = Labels::from_pairs([("app", app)]);
        let id = StreamId::of(&tenant(), labels.as_ref());
        out.streams.push(BatchStream { id, labels, entries: start..out.entries.refs.len() as u32 });
    }
    out.entries.compressed = Some(snap::raw::Encoder::new().compress_vec(&body).unwrap().into());
    out.entries.body = body.into();
    out
}

fn block_entries(file: Bytes, tail_offset: u64) -> Vec<Entry> {
    let meta = BlockMeta::parse(&file.slice(tail_offset as usize..), file.len() as u64).unwrap();
    let streams = meta.streams().select(&Selector::default(), TimeRange::ALL).unwrap();
    let predicate = PreparedPredicate::new(&LinePredicate::default());
    let request =
        ScanRequest { streams: &streams, range: TimeRange::ALL, predicate: &predicate, metadata: true };
    let plan = plan_scan(&meta, &request).unwrap();
    let (fetched, mut buffers, mut out) = (Fetched::whole(file), ScanBuffers::new(), Vec::new());
    for part in plan.parts(&meta, 1 << 20) {
        let visit = |row: Row<'_>| {
            let labels = meta.streams().get(row.stream).unwrap().labels;
            let line = String::from_utf8(row.line.to_vec()).unwrap();
            out.push((labels.get("app").unwrap().to_owned(), row.timestamp, line));
            ControlFlow::Continue(())
        };
        let _ = scan_pages(&meta, &plan, &part, &fetched, &mut buffers, visit).unwrap();
    }
    out
}

/// A small generator of numbers, so that a seed gives one history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

async fn history(seed: u64, faults: Option<FaultConfig>) {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(seed);
    let mut process = Process::start(dir.path(), faults.clone()).await;
    let mut expected: Vec<Entry> = Vec::new();
    for step in 0..40 {
        match dice.roll(10) {
            0..=5 => {
                let entries: Vec<Entry> = (0..1 + dice.roll(40))
                    .map(|i| {
                        let time = START + (dice.roll(3600) as i64) * SECOND;
                        (format!("app-{}", dice.roll(4)), time, format!("seed {seed} step {step} line {i}"))
                    })
                    .collect();
                process.push(&entries).await;
                if dice.roll(4) == 0 {
                    // A client that did not hear the answer.
                    process.push(&entries).await;
                }
                expected.extend(entries);
            }
            6 | 7 => drop(process.ingester.flush(None).await),
            _ => {
                process.ingester.shutdown().await;
                process = Process::start(dir.path(), faults.clone()).await;
            }
        }
        expected.sort();
        assert_eq!(process.everything(dir.path()).await, expected, "seed {seed}, step {step}");
    }
    // Nothing fails for ever.
    while process.ingester.flush(None).await.is_err() {}
    assert_eq!(process.everything(dir.path()).await, expected, "seed {seed}, flushed");
    let request = StreamsRequest {
        tenant: tenant(),
        version: process.catalog.snapshot(&tenant()).await.map_or(i64::MAX, |s| s.version),
        range: TimeRange::ALL,
        selectors: Vec::new(),
        removals: None,
    };
    if let Ok(held) = process.ingester.streams(request).await {
        assert!(held.streams.is_empty(), "nothing is left in memory");
    }
    process.ingester.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_over_a_sound_store_show_each_entry_once() {
    for seed in 1..4 {
        history(seed, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_over_a_failing_store_show_each_entry_once() {
    for seed in 11..14 {
        let faults = FaultConfig {
            seed,
            error: 0.15,
            lost: 0.15,
            torn: 0.05,
            slow: 0.1,
            slow_max: Duration::from_millis(5),
        };
        history(seed, Some(faults)).await;
    }
}

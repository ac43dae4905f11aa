//! What it costs to take pushes in and to search what is in memory, in bytes of raw lines per second of CPU time of the
//! whole process (the thread of the log included), with the allocator of the binary.
#![allow(missing_docs, reason = "the macros of criterion make undocumented items")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use skald_ingester::replicas::{Copies, Lists};
use skald_ingester::segment::{HeldBatch, Segment, memory_cost};
use skald_ingester::table::{Part, Standing, Table};
use skald_ingester::wal::{EncodedRecord, WalConfig};
use skald_ingester::{Config, Ingester};
use skald_model::{
    Batch, BatchStream, Direction, EntryRef, Labels, Limits, PushStamp, Result, StreamId, TenantId, TimeRange,
};
use skald_rpc::Ingester as _;
use skald_rpc::ingester::IngesterPush;
use skald_rpc::querier::LogTask;
use skald_runtime::clock::ManualClock;
use skald_runtime::memory::Memory;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pushes of one iteration.
const PUSHES: u64 = 32;

/// Nanoseconds that this process has run on any core.
struct CpuTime;

impl CpuTime {
    fn now() -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;
    fn start(&self) -> u64 {
        Self::now()
    }
    fn end(&self, start: u64) -> u64 {
        Self::now() - start
    }
    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }
    fn zero(&self) -> u64 {
        0
    }
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Forgets what it is given.
#[derive(Default)]
struct NoTable(AtomicI64);

#[async_trait]
impl Table for NoTable {
    async fn standing(&self, _: &TenantId) -> Result<Standing> {
        Ok(Standing { version: self.0.load(Ordering::SeqCst), committed: None })
    }
    async fn commit(&self, _: &TenantId, _: &Part, committing: &(dyn Fn() + Sync)) -> Result<i64> {
        committing();
        Ok(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
    async fn listed(&self, _: &TenantId, _: &mut Lists, _: i64) -> Result<i64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
    async fn commit_copies(&self, _: &TenantId, _: &Copies, _: Option<u64>) -> Result<i64> {
        Ok(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

fn tenant() -> TenantId {
    TenantId::new("fake").expect("a valid id")
}

/// About 1 MB of lines in 50 streams, as the distributor hands them over; `number` makes its times and ids.
fn push(number: u64) -> (Batch, u64) {
    let mut seed = number + 7;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut out, mut body) = (Batch::default(), String::new());
    let mut raw = 0;
    for stream in 0..50 {
        let start = out.entries.refs.len() as u32;
        for i in 0..140 {
            // Framing between lines, as in a decoded request.
            body.push_str("\x12\x34\x0a\x0c");
            let line_start = body.len() as u32;
            let _ = write!(
                body,
                "level=info caller=handler.go:{} msg=\"request done\" trace_id={:016x} path=/api/v1/items/{} status=200 \
                 duration={}ms",
                random() % 400,
                random(),
                random() % 10_000,
                random() % 900
            );
            let line_len = body.len() as u32 - line_start;
            raw += u64::from(line_len);
            let timestamp = (number * 1000 + i) as i64 * 1_000_000;
            out.entries.refs.push(EntryRef {
                timestamp,
                line_start,
                line_len,
                metadata_start: 0,
                metadata_len: 0,
            });
        }
        let pod = format!("shop-{stream}");
        let labels = Labels::from_pairs([("app", "shop"), ("namespace", "production"), ("pod", &pod)]);
        let id = StreamId::of(&tenant(), labels.as_ref());
        out.streams.push(BatchStream { id, labels, entries: start..out.entries.refs.len() as u32 });
    }
    let block = snap::raw::Encoder::new().compress_vec(body.as_bytes()).expect("fits");
    out.entries.compressed = Some(block.into());
    out.entries.body = body.into();
    (out, raw)
}

async fn ingester(dir: &std::path::Path, fsync: bool) -> Arc<Ingester> {
    let config = Config {
        wal: WalConfig { dir: dir.to_owned(), fsync, ..WalConfig::default() },
        memory_budget: 1 << 30,
        segment_target_bytes: 256 << 20,
        ..Config::default()
    };
    let limits = Arc::new(Arc::new(Limits::default()));
    let registry = prometheus::Registry::new();
    let table = Arc::new(NoTable::default());
    let memory = skald_rpc::memory::QueryMemory::default();
    let clock = Arc::new(ManualClock::new(0));
    Ingester::start(config, memory, clock, limits, &registry, |_| table, |_| None).await.expect("starts")
}

fn benches(c: &mut Criterion<CpuTime>) {
    let pushes: Vec<(Batch, u64)> = (0..PUSHES).map(push).collect();
    let raw: u64 = pushes.iter().map(|p| p.1).sum();
    let mut group = c.benchmark_group("append");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(raw));
    group.bench_function("encode and checksum", |b| {
        b.iter(|| {
            for (batch, _) in &pushes {
                std::hint::black_box(
                    EncodedRecord::new(&tenant(), &PushStamp::default(), batch).expect("fits"),
                );
            }
        });
    });
    group.bench_function("segment", |b| {
        let memory = Memory::new(1 << 40);
        let held = || {
            let hold = |(lsn, (batch, _)): (usize, &(Batch, u64))| {
                let share = memory.try_reserve(memory_cost(batch)).expect("room");
                HeldBatch::new(batch.clone(), lsn as u64, PushStamp::default(), share)
            };
            pushes.iter().enumerate().map(hold).collect::<Vec<_>>()
        };
        let insert = |held: Vec<HeldBatch>| {
            let mut segment = Segment::default();
            for batch in held {
                segment.insert(batch);
            }
            segment
        };
        b.iter_batched(held, insert, BatchSize::PerIteration);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for (name, fsync) in [("push to release, log synced", true), ("push to release, log not synced", false)] {
        group.bench_function(name, |b| {
            let dir = tempfile::tempdir().expect("a directory");
            let ingester = runtime.block_on(ingester(dir.path(), fsync));
            let batches = || pushes.iter().map(|(b, _)| Arc::new(b.clone())).collect::<Vec<_>>();
            let send = |batches: Vec<Arc<Batch>>| {
                runtime.block_on(async {
                    for batch in batches {
                        let push = IngesterPush { tenant: tenant(), stamp: PushStamp::default(), batch };
                        ingester.push(push).await.expect("taken in");
                    }
                    ingester.flush(None).await.expect("flushed");
                });
            };
            b.iter_batched(batches, send, BatchSize::PerIteration);
            runtime.block_on(ingester.shutdown());
        });
    }
    let dir = tempfile::tempdir().expect("a directory");
    let ingester = runtime.block_on(async {
        let ingester = ingester(dir.path(), false).await;
        for (batch, _) in &pushes {
            let push = IngesterPush {
                tenant: tenant(),
                stamp: PushStamp::default(),
                batch: Arc::new(batch.clone()),
            };
            ingester.push(push).await.expect("taken in");
        }
        ingester
    });
    let search = |query: &str, limit: usize| {
        let task = LogTask {
            tenant: tenant(),
            query: query.into(),
            range: TimeRange::ALL,
            direction: Direction::Backward,
            limit,
            version: 0,
            blocks: Vec::new(),
            max_bytes: u64::MAX,
            removals: None,
        };
        runtime.block_on(ingester.query_logs(task)).expect("answered").entries.len()
    };
    group.bench_function("search memory for an id", |b| {
        b.iter(|| search(r#"{app="shop"} |= "00000000deadbeef""#, 100));
    });
    group.bench_function("search memory for a rare text", |b| {
        b.iter(|| search(r#"{app="shop"} |~ "items/9{4} .*duration=77ms""#, 100));
    });
    group.bench_function("newest 100 of memory", |b| b.iter(|| search(r#"{app="shop"}"#, 100)));
    group.finish();
    runtime.block_on(ingester.shutdown());
}

criterion_group! {
    name = appending;
    config = Criterion::default().with_measurement(CpuTime);
    targets = benches
}
criterion_main!(appending);

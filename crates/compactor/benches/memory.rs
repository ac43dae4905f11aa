//! Merges large blocks on a disk, then takes a stream out of them, and tells what each takes: time, bytes read and written, and
//! the most memory at a time, which must stay below the budget. `SKALD_BENCH_BLOCK_MB` (default 64) is the size of the blocks that are merged,
//! `SKALD_BENCH_BLOCKS` (default 4) their number, `SKALD_BENCH_TARGET_MB` (default 128) that of those that are written.
//!
//! Every tenth row of a block is in the one before it, too, so that there is something to erase.

#![allow(clippy::print_stdout, reason = "it tells what it has measured")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use prometheus::Registry;
use skald_compactor::ownership::OwnsAll;
use skald_compactor::{Compactor, Config, KeepEverything, KeepProvider, Parts, Removals};
use skald_model::time::{DAY, SECOND, day_of};
use skald_model::{Labels, LabelsRef, StreamId, TenantId, Timestamp};
use skald_rpc::Compaction as _;
use skald_runtime::{Clock as _, SystemClock};
use skald_storage::block::{BlockOptions, BlockWriter};
use skald_storage::rewrite::{Keep, Kept, RewriteOptions, rewrite};
use skald_storage::store::{self, FilesystemConfig, StoreConfig};
use skald_storage::table::{
    BlockOrigin, Catalog, CatalogConfig, FlushCommit, NewBlock, Snapshot, block_path,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// As in the server: the system's allocator keeps much of what was freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STREAMS: u64 = 200;

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Outcome<()> {
    let setting = |name: &str, default: u64| -> Outcome<u64> {
        std::env::var(name).map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let block_bytes = setting("SKALD_BENCH_BLOCK_MB", 64)? << 20;
    let blocks = setting("SKALD_BENCH_BLOCKS", 4)?;
    let target_block_bytes = setting("SKALD_BENCH_TARGET_MB", 128)? << 20;
    let directory = tempfile::tempdir()?;
    let filesystem = Some(FilesystemConfig { directory: directory.path().to_owned() });
    let registry = Registry::new();
    let store = store::open(&StoreConfig { filesystem, ..StoreConfig::default() }, &registry).await?;
    let catalog = Arc::new(Catalog::new(&CatalogConfig::default(), store, "", &registry)?);
    let tenant = TenantId::new("bench")?;
    for number in 0..blocks {
        flush(&catalog, &tenant, number as i64, block_bytes).await?;
    }
    let raw: u64 = catalog.snapshot(&tenant).await?.blocks.iter().map(|b| b.summary.raw_bytes).sum();

    let config =
        Config { target_block_bytes, min_blocks: 2, compaction_interval: DAY_LONG, ..Config::default() };
    println!("{:.0} MB of lines; a block as flushed without one of {STREAMS} streams", mb(raw));
    alone(&config, &catalog, &tenant).await?;
    println!("merged");
    let after = round(&config, &catalog, &tenant, Arc::new(KeepEverything)).await?;
    if after.blocks.iter().any(|b| b.origin.level == 0) {
        return Err("not everything was merged".into());
    }
    println!("without one stream");
    round(&config, &catalog, &tenant, Arc::new(WithoutOne)).await?;
    Ok(())
}

/// Rewrites one block for itself, and commits nothing.
async fn alone(config: &Config, catalog: &Arc<Catalog>, tenant: &TenantId) -> Outcome<()> {
    let snapshot = catalog.snapshot(tenant).await?;
    let block = snapshot.blocks.first().ok_or("no block")?;
    let options = RewriteOptions::alone(block, config.memory_budget / 8 * 7, "bench".into());
    let keep: Arc<dyn Keep> = Arc::new(WithoutOne);
    let (baseline, begun) = (forget_peak()?, Instant::now());
    let written = rewrite(catalog, tenant, &[vec![block.clone()]], &keep, &options).await?;
    let (stats, bytes) = (written.stats, written.blocks.iter().map(|b| b.summary.file_size).sum());
    println!("  blocks          1 -> {}", written.blocks.len());
    println!("  rows            {} written, of them {} copied", stats.rows_written, stats.rows_copied);
    report(config, block.size(), bytes, begun, baseline)?;
    catalog.discard(tenant, &written.blocks).await;
    Ok(())
}

/// Lets a compactor of its own do what is due, and tells what that took.
async fn round(
    config: &Config,
    catalog: &Arc<Catalog>,
    tenant: &TenantId,
    keep: Arc<dyn KeepProvider>,
) -> Outcome<Arc<Snapshot>> {
    let parts = Parts {
        name: "bench".into(),
        clock: Arc::new(SystemClock),
        catalog: catalog.clone(),
        ownership: Arc::new(OwnsAll),
        keep,
        archive: None,
        settle_after: Duration::ZERO,
    };
    let before = catalog.snapshot(tenant).await?;
    let compactor = Compactor::new(config, parts, &Registry::new())?;
    let baseline = forget_peak()?;
    let begun = Instant::now();
    compactor.round().await;

    let after = catalog.snapshot(tenant).await?;
    let status = compactor.tables();
    let status = status.first().ok_or("nothing was looked at")?;
    let (read, written) = (status.rewritten_bytes_read, status.rewritten_bytes_written);
    let bytes = |snapshot: &Snapshot| snapshot.blocks.iter().map(|b| b.size()).sum::<u64>();
    println!("  blocks          {} -> {}", before.blocks.len(), after.blocks.len());
    println!("  read, written   {:.0} MB, {:.0} MB", mb(read), mb(written));
    println!("  amplification   {:.2}", written as f64 / bytes(&before) as f64);
    report(config, bytes(&before), bytes(&after), begun, baseline)?;
    match &status.last_error {
        None => Ok(after),
        Some(error) => Err(error.as_str().into()),
    }
}

/// Tells what was done to so many bytes of blocks; an error if it took more memory than the budget.
fn report(config: &Config, before: u64, after: u64, begun: Instant, baseline: u64) -> Outcome<()> {
    let (took, taken) = (begun.elapsed().as_secs_f64(), peak()?.saturating_sub(baseline));
    println!("  bytes           {:.0} MB -> {:.0} MB", mb(before), mb(after));
    println!("  time            {took:.1} s, {:.0} MB of blocks a second", mb(before) / took);
    println!("  memory          {:.0} MB at most beside {:.0} MB at first", mb(taken), mb(baseline));
    match taken > config.memory_budget {
        true => Err(format!("that is more than the budget of {:.0} MB", mb(config.memory_budget)).into()),
        false => Ok(()),
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// One stream goes from every block.
struct WithoutOne;

#[async_trait]
impl KeepProvider for WithoutOne {
    async fn removals(&self, _: &TenantId, snapshot: &Snapshot) -> skald_model::Result<Removals> {
        let due = snapshot.blocks.iter().filter(|b| b.origin.deletes == 0);
        let rewrite = due.map(|b| b.path.clone()).collect();
        Ok(Removals { keep: Arc::new(Self), rewrite, ..Removals::default() })
    }
}

impl Keep for WithoutOne {
    fn stream(&self, _: &BlockOrigin, labels: LabelsRef<'_>, _: Timestamp, _: Timestamp) -> Kept {
        if labels.get("pod") == Some("77") { Kept::Nothing } else { Kept::All }
    }

    fn generation(&self) -> u64 {
        1
    }
}

const DAY_LONG: Duration = Duration::from_secs(24 * 3600);

/// Writes a block as an ingester would, but of any size.
async fn flush(catalog: &Catalog, tenant: &TenantId, number: i64, bytes: u64) -> Outcome<()> {
    let day = (SystemClock.now() / DAY - 2) * DAY;
    let (date, path) = (day_of(day), block_path(day_of(day), &format!("{number}-i-0-0-0")));
    let mut streams: Vec<(Labels, StreamId)> = (0..STREAMS)
        .map(|n| {
            let labels = Labels::from_pairs([
                ("app", format!("app-{}", n / 10).as_str()),
                ("pod", format!("{n}").as_str()),
            ]);
            let id = StreamId::of(tenant, labels.as_ref());
            (labels, id)
        })
        .collect();
    streams.sort();
    let mut writer = BlockWriter::new(&BlockOptions::default())?;
    let mut upload = catalog.begin_block(tenant, &path, 8 << 20);
    let (mut line, mut sent) = (String::new(), 0u64);
    for (ordinal, (labels, id)) in streams.iter().enumerate() {
        writer.begin_stream(labels, *id)?;
        let end = bytes * (ordinal as u64 + 1) / STREAMS;
        let mut row = 0i64;
        while writer.bytes_written() < end {
            // All blocks are of one hour; every tenth row is the same in each.
            let of = if row % 10 == 0 { 0 } else { number };
            let id = mix((ordinal as u64) << 40 | (row as u64) << 8 | of as u64);
            line.clear();
            std::fmt::Write::write_fmt(
                &mut line,
                format_args!(
                    "level=info caller=handler.go:{} msg=\"request served\" method=GET path=/api/v1/items/{} status=200 \
                     duration={}us trace_id={id:016x}",
                    id % 90,
                    id % 5000,
                    id % 100_000
                ),
            )?;
            writer.row(day + row * SECOND / 50 + of, line.as_bytes(), LabelsRef::EMPTY)?;
            row += 1;
        }
        if writer.bytes_written() - sent > 8 << 20 {
            sent = writer.bytes_written();
            upload.write(writer.take_output()).await?;
        }
    }
    let finished = writer.finish()?;
    upload.write(finished.output).await?;
    upload.finish().await?;
    let origin =
        BlockOrigin { received_min: number, received_max: number, writer: "i".into(), ..Default::default() };
    let block = NewBlock { path, date, summary: finished.summary, origin, stream_ids: None };
    let commit = FlushCommit { blocks: vec![block], app_id: "i".into(), app_version: number };
    catalog.commit_flush(tenant, &commit).await?;
    Ok(())
}

fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Makes the system count the most memory from now on; what it is now.
#[expect(unsafe_code, reason = "the allocator has no other way")]
fn forget_peak() -> Outcome<u64> {
    // As the server does every second.
    // SAFETY: it may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
    std::fs::write("/proc/self/clear_refs", "5")?;
    peak()
}

/// The most memory that was resident.
fn peak() -> Outcome<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("the system does not tell")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

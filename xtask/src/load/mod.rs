//! More pushes and queries at once than small budgets allow: memory stays bounded, what is too much is refused with 429
//! and never fails, and everything that was acknowledged is found afterwards, once.

mod pusher;
mod querier;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::pusher::Pushed;
use crate::process::{Sampler, alarming};
use crate::server::{Client, Setup};
use crate::{answer, clock, workspace};

/// Budgets of the server, in MiB, and the keys that set them.
const BUDGETS: [(&str, u64); 11] = [
    ("compactor.memory_budget", 32),
    ("distributor.inflight_bytes_max", 24),
    ("distributor.stream_cache_bytes", 4),
    ("ingester.memory_budget", 64),
    ("ingester.wal.queue_bytes", 8),
    ("pattern_ingester.max_bytes", 8),
    ("querier.block_cache_bytes", 16),
    ("querier.fetch_bytes_max", 32),
    ("querier.query_memory_budget", 48),
    ("frontend.metadata_cache_bytes", 4),
    ("table.snapshots_bytes_max", 16),
];
/// What the program itself may take, in MiB: its code (36 MiB of a release binary are resident), threads, connections, and
/// what the allocator has not given back yet, which is more where other programs take the processor.
const ALLOWANCE: u64 = 80;

/// Options of `load`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Threads that push as fast as they are answered.
    #[arg(long, default_value_t = 20)]
    pushers: usize,
    /// Threads that query as fast as they are answered.
    #[arg(long, default_value_t = 10)]
    queries: usize,
    /// The tenant's rate in MB per second. Everything above is refused.
    #[arg(long, default_value_t = 6)]
    rate_mb: u64,
    /// How far back queries look. Metric queries need memory in proportion to it.
    #[arg(long, default_value = "1m")]
    since: String,
    /// Ask only the query with this number, to find out what it costs.
    #[arg(long)]
    query: Option<usize>,
    /// The seed of the plan.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the directory of the run.
    #[arg(long)]
    keep: bool,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What all threads share.
pub(crate) struct Shared {
    client: Client,
    stop: AtomicBool,
    seed: u64,
    only: Option<usize>,
    since: String,
    /// Nanoseconds since the Unix epoch at which the run began.
    start: i64,
    findings: Mutex<Vec<String>>,
}

impl Shared {
    fn find(&self, text: String) {
        self.findings.lock().expect("no thread panics with the findings locked").push(text);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// How long requests took and how they were answered.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u64>,
    refused: u64,
}

impl Latencies {
    fn add(&mut self, start: Instant) {
        self.micros.push(start.elapsed().as_micros() as u64);
    }

    fn join(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.micros.extend(part.micros);
            all.refused += part.refused;
        }
        all.micros.sort_unstable();
        all
    }

    fn show(&self, what: &str) {
        let at = |percent: usize| {
            let index = (self.micros.len() * percent / 100).min(self.micros.len().saturating_sub(1));
            self.micros.get(index).map_or(f64::NAN, |micros| *micros as f64 / 1000.0)
        };
        println!(
            "load: {what}: {} answered, {} refused with 429; p50 {:.1} ms, p99 {:.1} ms",
            self.micros.len(),
            self.refused,
            at(50),
            at(99)
        );
    }
}

/// Runs the load. True when there are no findings.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("skald-load-").tempdir().context("no temporary directory")?;
    let setup = Setup::new(&binary, directory.path(), &config(args.rate_mb))?;
    let server = setup.start()?;
    let shared = Shared {
        client: setup.client(),
        stop: AtomicBool::new(false),
        seed: args.seed,
        only: args.query,
        since: args.since.clone(),
        start: clock::now(),
        findings: Mutex::default(),
    };
    let sampler = Sampler::default();
    let (pushed, answered) = thread::scope(|scope| {
        let (shared, sampler) = (&shared, &sampler);
        let pid = server.id();
        scope.spawn(move || sampler.run(pid));
        let pushers: Vec<_> =
            (0..args.pushers).map(|number| scope.spawn(move || pusher::run(shared, number))).collect();
        let queriers: Vec<_> =
            (0..args.queries).map(|number| scope.spawn(move || querier::run(shared, number))).collect();
        sleep(Duration::from_secs(args.seconds));
        shared.stop.store(true, Ordering::Relaxed);
        let pushed: Vec<Pushed> =
            pushers.into_iter().map(|t| t.join().expect("pushers do not panic")).collect();
        let answered: Vec<Latencies> =
            queriers.into_iter().map(|t| t.join().expect("queriers do not panic")).collect();
        sampler.stop();
        (pushed, answered)
    });
    report(args, &pushed, &sampler, &shared);
    Latencies::join(answered).show("queries");
    shared.client.flush()?;
    for (number, pushed) in pushed.iter().enumerate() {
        verify(&shared, number, pushed)?;
    }
    server.stop()?;
    let log =
        std::fs::read_to_string(setup.directory.join("server.log")).context("failed to read the log")?;
    for line in alarming(&log) {
        shared.find(format!("in the log: {line}"));
    }
    let findings = shared.findings.into_inner().context("a thread panicked")?;
    for finding in findings.iter().take(20) {
        println!("load FINDING: {finding}");
    }
    println!("load: {} findings", findings.len());
    if args.keep {
        println!("everything of this run is kept in {}", directory.keep().display());
    }
    Ok(findings.is_empty())
}

fn config(rate_mb: u64) -> String {
    let mut text = format!(
        "limits_config: {{ingestion_rate_mb: {rate_mb}, ingestion_burst_size_mb: {}, per_stream_rate_limit: 1GB, \
         per_stream_rate_limit_burst: 1GB}}\n",
        rate_mb * 2
    );
    let sections: &[(&str, &str)] = &[
        ("distributor", ""),
        ("ingester", ", segment_target_bytes: 16MB, memory_wait: 1s"),
        ("pattern_ingester", ""),
        ("querier", ""),
        ("frontend", ""),
        ("compactor", ", compaction_interval: 5s, min_blocks: 4"),
        ("table", ""),
    ];
    for (section, more) in sections {
        let mut keys = Vec::new();
        for (key, size) in BUDGETS {
            if let Some(key) = key.strip_prefix(&format!("{section}.")) {
                keys.push(match key.split_once('.') {
                    Some((inner, key)) => format!("{inner}: {{{key}: {size}MB}}"),
                    None => format!("{key}: {size}MB"),
                });
            }
        }
        text += &format!("{section}: {{{}{more}}}\n", keys.join(", "));
    }
    text
}

fn report(args: &Args, pushed: &[Pushed], sampler: &Sampler, shared: &Shared) {
    let entries: u64 = pushed.iter().map(|p| p.entries).sum();
    let bytes: u64 = pushed.iter().map(|p| p.bytes).sum();
    println!(
        "load: {} pushers and {} queries for {} s; {entries} entries, {} MiB of lines acknowledged, {:.1} MiB/s",
        args.pushers,
        args.queries,
        args.seconds,
        bytes >> 20,
        bytes as f64 / (1 << 20) as f64 / args.seconds as f64
    );
    let pushes = Latencies::join(
        pushed.iter().map(|p| Latencies { micros: p.latencies.micros.clone(), refused: p.latencies.refused }),
    );
    pushes.show("pushes");
    if entries == 0 {
        shared.find("nothing was acknowledged".into());
    }
    if pushes.refused == 0 {
        shared.find("nothing was refused, so no limit was met: raise --pushers or lower --rate-mb".into());
    }
    let budget: u64 = BUDGETS.iter().map(|(_, size)| size).sum();
    let peak = sampler.peak() >> 20;
    println!(
        "load: at most {peak} MiB resident; budgets of {budget} MiB and an allowance of {ALLOWANCE} MiB make {} MiB",
        budget + ALLOWANCE
    );
    if peak == 0 {
        println!("load: this system does not tell the memory of a process: not checked");
    }
    if peak > budget + ALLOWANCE {
        shared.find(format!("{peak} MiB resident, more than {} MiB", budget + ALLOWANCE));
    }
}

/// Counts what a pusher's stream holds, and reads some of its pushes line by line.
fn verify(shared: &Shared, number: usize, pushed: &Pushed) -> Result<()> {
    let selector = pusher::selector(number);
    // Whole seconds: what is after the last entry does no harm.
    let end = pushed.end / 1_000_000_000 + 2;
    let length = end - shared.start / 1_000_000_000 + 1;
    let query = format!("sum(count_over_time({selector}[{length}s]))");
    let counted =
        shared.client.get("/loki/api/v1/query", &[("query", &query), ("time", &end.to_string())])?.json()?;
    let counted = counted["data"]["result"][0]["value"][1].as_str().unwrap_or("0").to_owned();
    if counted != pushed.entries.to_string() {
        shared.find(format!("{selector}: {counted} entries found, {} acknowledged", pushed.entries));
    }
    for batch in pushed.samples() {
        let (start, end) = (batch.start.to_string(), (batch.start + batch.count as i64).to_string());
        let parameters = [
            ("query", selector.as_str()),
            ("start", &start),
            ("end", &end),
            ("limit", "5000"),
            ("direction", "forward"),
        ];
        let found = shared.client.get("/loki/api/v1/query_range", &parameters)?;
        if found.status != 200 {
            bail!("{selector}: status {}: {}", found.status, found.text());
        }
        let found = found.json()?;
        let mut lines: Vec<_> =
            answer::entries(&found)?.into_iter().map(|(_, e)| (e.timestamp, e.line)).collect();
        lines.sort();
        if lines != batch.lines(shared.seed, number) {
            shared.find(format!(
                "{selector}: the push of {} entries at {start} is not as it was sent",
                batch.count
            ));
        }
    }
    Ok(())
}

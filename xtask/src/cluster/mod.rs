//! A cluster of real processes under chaos: members are killed, stopped, restarted, added and taken away while numbered
//! entries are pushed and counted. Every acknowledged entry is counted exactly once by every query, and pushes and queries
//! go on as long as the quorum promises it.
//!
//! The plan comes from the seed; what the operating system makes of it does not, so a seed that failed is worth
//! repeating, not a proof.

mod archive;
mod chaos;
mod checker;
mod deleter;
mod disk;
mod expirer;
pub(crate) mod members;
mod network;
mod pusher;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::archive::Archive;
use self::deleter::Rounds;
use self::expirer::Expiring;
use self::members::{Members, Plan};
use self::pusher::Pushed;
use crate::python::{self, Reader, Row};
use crate::seaweed::Seaweed;
use crate::server::Client;
use crate::{clock, table_test, workspace};

/// Short intervals, so that every part of the cluster works often.
const SETTINGS: &str = "\
ingester:
  instance_id: {name}
  flush_interval: 4s
  flush_grace: 500ms
  min_flush_bytes: 1KB
  max_flush_delay: 10s
  takeover_after: 4s
  max_chunk_age: 240h
  flush_abandon_after: 10s
compactor:
  compaction_interval: 2s
  min_blocks: 4
  delete_request_cancel_period: 0s
  max_compaction_parallelism: 1
  retention_delete_delay: 40s
  vacuum_interval: 2s
  retention_enabled: true
  archive: {filesystem: {chunks_directory: {archive}}}
table:
  commit_timeout: 5s
ingester_client:
  remote_timeout: 3s
limits_config:
  reject_old_samples: false
  creation_grace_period: 24h
  discover_log_levels: false
  discover_service_name: []
  shard_streams: {enabled: false}
  ingestion_rate_mb: 1000
  ingestion_burst_size_mb: 1000
  max_entries_limit_per_query: 5000
";

/// Options of `cluster-test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long chaos goes on.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// The plan; a number from the clock if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Ingesters at the begin; a further one comes and goes.
    #[arg(long, default_value_t = 3)]
    ingesters: usize,
    /// Threads that push.
    #[arg(long, default_value_t = 4)]
    pushers: usize,
    /// Store in a SeaweedFS server (`weed` on the PATH) instead of a directory.
    #[arg(long)]
    s3: bool,
    /// Let the object store fail, be slow and lose answers.
    #[arg(long)]
    faults: bool,
    /// Cut members off from each other, too (Linux, root).
    #[arg(long, conflicts_with = "s3")]
    network: bool,
    /// Fill the disks of ingesters, too (Linux, root).
    #[arg(long)]
    disks: bool,
    /// Do nothing to the members.
    #[arg(long)]
    calm: bool,
    /// Keep the directory of the run.
    #[arg(long)]
    keep: bool,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What all threads share.
pub(crate) struct Shared {
    /// The doors: each takes pushes and answers queries.
    doors: Vec<Client>,
    stop: AtomicBool,
    seed: u64,
    /// Nanoseconds since the Unix epoch at which the run began.
    start: i64,
    pushed: Vec<Pushed>,
    /// What was pushed, deleted and pushed.
    rounds: Rounds,
    /// What was pushed and expires.
    expiring: Expiring,
    /// Queries that were answered, and that were not.
    answered: AtomicU64,
    unanswered: AtomicU64,
    findings: Mutex<Vec<String>>,
}

impl Shared {
    fn find(&self, text: String) {
        println!("cluster-test FINDING: {text}");
        self.findings.lock().expect("no thread panics with the findings locked").push(text);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs the test. True when there are no findings.
pub(crate) fn run(args: &Args) -> Result<bool> {
    // Before the members start: entries are stamped from here on, and requests to delete are about what lies before them.
    let now = clock::now();
    let seed = args.seed.unwrap_or_else(clock::seed);
    println!("cluster-test: seed {seed}, {} ingesters, {} s", args.ingesters, args.seconds);
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("skald-cluster-").tempdir().context("no temporary directory")?;
    let store = if args.s3 { Some(Seaweed::start(&directory.path().join("weed"))?) } else { None };
    let faults = args.faults.then(|| format!("seed:{seed},error:0.03,lost:0.03,slow:0.03"));
    let archive = Archive::new(&binary, directory.path())?;
    let settings = SETTINGS.replace("{archive}", &archive.place().display().to_string());
    let mut members = Members::new(&Plan {
        binary: &binary,
        directory: directory.path(),
        doors: 2,
        queriers: 2,
        compactors: 2,
        ingesters: args.ingesters,
        spare_ingesters: 1,
        replication_factor: 3,
        settings: &format!("{settings}{}", expirer::RULE),
        store: store.as_ref(),
        faults: faults.as_deref(),
        network: args.network,
        small_disks: args.disks,
    })?;
    members.start_all()?;
    let shared = Shared {
        doors: members.doors(),
        stop: AtomicBool::new(false),
        seed,
        start: now,
        pushed: (0..args.pushers).map(|_| Pushed::default()).collect(),
        rounds: Rounds::default(),
        expiring: Expiring::new(now, Duration::from_secs(args.seconds)),
        answered: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
        findings: Mutex::default(),
    };
    let outcome = thread::scope(|scope| {
        let shared = &shared;
        for number in 0..args.pushers {
            scope.spawn(move || pusher::run(shared, number));
        }
        scope.spawn(move || deleter::run(shared));
        scope.spawn(move || expirer::run(shared));
        for number in 0..2 {
            scope.spawn(move || checker::run(shared, number));
        }
        let deadline = Instant::now() + Duration::from_secs(args.seconds);
        let outcome = match args.calm {
            true => {
                thread::sleep(Duration::from_secs(args.seconds));
                Ok(())
            }
            false => chaos::run(&mut members, seed, deadline),
        };
        shared.stop.store(true, Ordering::Relaxed);
        outcome
    });
    outcome?;
    if let Err(error) = finish(&mut members, &archive, &shared, args) {
        shared.find(format!("after the end of chaos: {error:#}"));
    }
    let findings = shared.findings.into_inner().context("a thread panicked")?;
    if args.keep || !findings.is_empty() {
        println!("everything of this run is kept in {}", directory.keep().display());
    }
    match findings.len() {
        0 => println!("cluster-test: every query counted every acknowledged entry once (seed {seed})"),
        n => println!("cluster-test FAILED with {n} findings (seed {seed})"),
    }
    Ok(findings.is_empty())
}

/// All rows of the only table below `place`, as others read it.
fn rows_of_table(place: &Path) -> Result<Vec<Row>> {
    let table = table_test::find_table(place)?;
    python::table_rows(Reader::Deltalake, &table, "true")?.context("the Python package went away")
}

/// With everything healed: counts from memory and from the table, and looks at the table as others do.
fn finish(members: &mut Members, archive: &Archive, shared: &Shared, args: &Args) -> Result<()> {
    members.heal()?;
    let entries: u64 = shared.pushed.iter().map(Pushed::acknowledged).sum();
    let repeats: u64 = shared.pushed.iter().map(|p| p.repeats.load(Ordering::Relaxed)).sum();
    let longest = shared.pushed.iter().map(|p| p.longest_wait_ms.load(Ordering::Relaxed)).max().unwrap_or(0);
    println!(
        "cluster-test: {entries} entries acknowledged, {repeats} pushes repeated, longest wait for an acknowledgement \
         {longest} ms; {} queries answered, {} not",
        shared.answered.load(Ordering::Relaxed),
        shared.unanswered.load(Ordering::Relaxed)
    );
    if entries == 0 {
        shared.find("nothing was acknowledged".into());
    }
    checker::count_all(shared, "with everything healed")?;
    members.flush(shared)?;
    checker::count_all(shared, "after a flush")?;
    checker::read_all(shared)?;
    deleter::finish(shared)?;
    expirer::finish(shared)?;
    members.stop_all_but_compactors()?;
    table::come_to_rest(members, archive, shared)?;
    members.stop_all()?;
    table::check("table", members.tool(), shared);
    table::check("archive", archive.tool(), shared);
    if let Some(reason) = python::missing(&["deltalake"]) {
        println!("the table was not read by SQL: {reason} (pip install deltalake)");
        return Ok(());
    }
    expirer::check_archive(shared, &rows_of_table(archive.place())?);
    if args.s3 {
        return Ok(());
    }
    let rows = rows_of_table(&members.tables())?;
    let (deleted, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.labels["job"] == "deleted");
    let (least, most) = shared.rounds.left();
    let left: BTreeSet<_> = deleted.iter().map(|r| (r.labels.to_string(), r.entry.timestamp)).collect();
    if !(least..=most).contains(&(left.len() as u64)) {
        let left = left.len();
        shared.find(format!("the table has {left} entries of deleted streams; {least} to {most} came later"));
    }
    let (expiring, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.labels["job"] == "expiring");
    expirer::check_rows(shared, &expiring);
    let mut distinct: Vec<_> =
        rows.iter().map(|r| (r.labels.to_string(), r.entry.timestamp, &r.entry.line)).collect();
    distinct.sort();
    distinct.dedup();
    let copies = rows.len() as f64 / distinct.len().max(1) as f64;
    println!(
        "cluster-test: {} rows in the table for {} entries: {copies:.3} copies",
        rows.len(),
        distinct.len()
    );
    if (distinct.len() as u64) < entries {
        shared
            .find(format!("the table has {} distinct entries, {entries} were acknowledged", distinct.len()));
    }
    Ok(())
}

//! Kills the real server at random moments while entries are pushed, starts it again, and reads everything back:
//! every acknowledged entry once, none twice, none that was never sent.
//!
//! The plan (sizes, encodings, moments) comes from the seed; what the operating system makes of it does not, so a
//! seed that failed is worth repeating, not a proof.

mod check;
mod ledger;
mod pusher;
mod workload;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::check::Found;
use self::ledger::Ledger;
use self::pusher::Shared;
use self::workload::Workload;
use crate::python::{self, Reader};
use crate::random::Random;
use crate::seaweed::Seaweed;
use crate::server::{Server, Setup};
use crate::{clock, table_test, workspace};

/// Options of `crash-test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plan; a number from the clock if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many times the server is killed.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Threads that push.
    #[arg(long, default_value_t = 4)]
    pushers: usize,
    /// Let the object store fail, be slow, tear uploads and lose answers.
    #[arg(long)]
    faults: bool,
    /// Store in a SeaweedFS server (`weed` on the PATH) instead of a directory.
    #[arg(long)]
    s3: bool,
    /// End with a failure when the run is not over after so many minutes.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Keep the directory of the run.
    #[arg(long)]
    keep: bool,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// The moments at which a server is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While it takes pushes.
    Running,
    /// While it writes to the table.
    Flushing,
    /// Before it is ready: most likely while the log is replayed.
    Starting,
    /// After SIGTERM, while it shuts down.
    Stopping,
}

/// Runs the test. True when nothing was lost, doubled or invented.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let now = clock::now();
    let seed = args.seed.unwrap_or_else(clock::seed);
    println!("crash-test: seed {seed}, {} kills, {} pushers", args.kills, args.pushers);
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("skald-crash-").tempdir().context("no temporary directory")?;
    let store = if args.s3 { Some(Seaweed::start(&directory.path().join("weed"))?) } else { None };
    let mut setup = Setup::new(&binary, directory.path(), &config(store.as_ref()))?;
    if args.faults {
        let faults = format!("seed:{seed},error:0.05,lost:0.05,slow:0.05,torn:0.02");
        setup.environment.push(("SKALD_FAULTS".to_owned(), faults));
    }
    let shared = Shared {
        workload: Workload { seed, start: now, pushers: args.pushers },
        ledger: Ledger::new(args.pushers * workload::STREAMS_PER_PUSHER),
        client: setup.client(),
        checking: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        pushes: AtomicU64::new(0),
        repeats: AtomicU64::new(0),
        refusals: Mutex::default(),
    };
    let run = Run {
        setup: &setup,
        shared: &shared,
        deadline: Instant::now() + Duration::from_secs(args.minutes * 60),
        start: vec![0; args.pushers * workload::STREAMS_PER_PUSHER],
    };

    let outcome = thread::scope(|scope| {
        for pusher in 0..args.pushers {
            let shared = &shared;
            scope.spawn(move || {
                if let Err(error) = pusher::run(shared, pusher) {
                    shared.refusals.lock().expect("refusals are never poisoned").push(format!("{error:#}"));
                }
            });
        }
        let outcome = run.rounds(args.kills);
        shared.stop.store(true, Ordering::Relaxed);
        outcome
    });
    let readers: &[Reader] = match (args.s3, args.faults) {
        (true, _) => &[],
        // A torn upload leaves a file that is no Parquet, which only a reader of the log passes over.
        (false, true) => &[Reader::Deltalake],
        (false, false) => &[Reader::DuckdbFiles, Reader::Deltalake],
    };
    let outcome = outcome.and_then(|server| run.finish(server, readers));
    let passed = match &outcome {
        Ok(()) => true,
        Err(error) => {
            println!("crash-test FAILED with seed {seed}: {error:#}");
            false
        }
    };
    if args.keep || !passed {
        println!("everything of this run is kept in {}", directory.keep().display());
    }
    if passed {
        println!("crash-test: every acknowledged entry was found once (seed {seed})");
    }
    Ok(passed)
}

/// One run over all restarts.
struct Run<'a> {
    setup: &'a Setup,
    shared: &'a Shared,
    deadline: Instant,
    /// The first entry of each stream.
    start: Vec<usize>,
}

/// How often everything is read back, and not only what is new.
const ROUNDS_PER_FULL_CHECK: u32 = 5;

impl Run<'_> {
    /// Kills the server `kills` times and returns it running.
    fn rounds(&self, kills: u32) -> Result<Server> {
        let mut random = Random::new(self.shared.workload.seed, 0xdead);
        let mut server = self.setup.start()?;
        let mut since = vec![0; self.shared.workload.streams()];
        for round in 1..=kills {
            if Instant::now() > self.deadline {
                bail!("out of time after {round} kills; see --minutes");
            }
            let moment = match random.within(0..100) {
                0..40 => Moment::Running,
                40..65 => Moment::Flushing,
                65..85 => Moment::Starting,
                _ => Moment::Stopping,
            };
            self.kill(server, moment, &mut random)?;
            let start = Instant::now();
            server = self.setup.start()?;
            let ready = start.elapsed().as_secs_f64();
            // Mostly only what is new since the round before; everything now and then.
            let all = round % ROUNDS_PER_FULL_CHECK == 0;
            let lengths = self.lengths();
            let count = self.check(if all { &self.start } else { &since }, &mut random)?;
            let scope = if all { "all" } else { "new" };
            println!("{round:4} {moment:?}: ready after {ready:.2} s, {count} entries read back ({scope})");
            since = lengths;
        }
        Ok(server)
    }

    /// Lets the server work for a while and kills it at the given moment.
    fn kill(&self, server: Server, moment: Moment, random: &mut Random) -> Result<()> {
        sleep(random.millis(50..1200));
        if random.percent(30) {
            // Errors of flushes are the server's own business: nothing may be lost either way.
            let _ = self.shared.client.flush();
        }
        match moment {
            Moment::Running => server.kill(),
            Moment::Flushing => {
                let wait = random.millis(0..80);
                thread::scope(|scope| {
                    // The answer is lost with the server.
                    scope.spawn(|| self.shared.client.flush().is_ok());
                    sleep(wait);
                    server.kill()
                })
            }
            Moment::Starting => {
                server.kill()?;
                let server = self.setup.spawn()?;
                sleep(random.millis(0..60));
                server.kill()
            }
            Moment::Stopping => {
                server.terminate()?;
                sleep(random.millis(0..100));
                server.kill()
            }
        }
    }

    /// How many entries of each stream were sent.
    fn lengths(&self) -> Vec<usize> {
        self.shared.ledger.snapshot().iter().map(Vec::len).collect()
    }

    /// Reads entries back, with pushes going on.
    fn check(&self, since: &[usize], random: &mut Random) -> Result<usize> {
        self.shared.checking.store(true, Ordering::Relaxed);
        let result = check::read_back(self.shared, since, random);
        self.shared.checking.store(false, Ordering::Relaxed);
        let (mut violations, count) = result?;
        violations.append(&mut self.shared.refusals.lock().expect("refusals are never poisoned"));
        fail_on(&violations)?;
        Ok(count)
    }

    /// With all pushers ended: reads back from memory, from the table, and by SQL.
    fn finish(&self, server: Server, readers: &[Reader]) -> Result<()> {
        let mut random = Random::new(self.shared.workload.seed, 0xe0d);
        let count = self.check(&self.start, &mut random)?;
        let pushes = self.shared.pushes.load(Ordering::Relaxed);
        let repeats = self.shared.repeats.load(Ordering::Relaxed);
        println!("{count} entries in {pushes} acknowledged pushes, {repeats} pushes repeated");
        self.flush()?;
        self.check(&self.start, &mut random).context("after the last flush")?;
        server.stop()?;
        let server = self.setup.start()?;
        self.check(&self.start, &mut random).context("after the last restart")?;
        self.check_table(readers)?;
        server.stop()?;
        if self.setup.data().join("tables").is_dir() {
            print!("{}", self.setup.check_table()?);
        }
        Ok(())
    }

    /// Flushes; with a failing store it may take more than one attempt.
    fn flush(&self) -> Result<()> {
        let mut result = Ok(());
        for _ in 0..20 {
            result = self.shared.client.flush();
            if result.is_ok() {
                break;
            }
            sleep(Duration::from_millis(200));
        }
        result
    }

    /// The table as others read it: every acknowledged entry, none that was never sent. Files that no commit names
    /// (uploads that a crash cut off from their commit) may repeat entries for a reader that lists files.
    fn check_table(&self, readers: &[Reader]) -> Result<()> {
        if readers.is_empty() {
            return Ok(());
        }
        if let Some(reason) = python::missing(&["duckdb", "deltalake"]) {
            println!("the table was not read by SQL: {reason} (pip install duckdb deltalake)");
            return Ok(());
        }
        let table = table_test::find_table(&self.setup.data())?;
        for &reader in readers {
            let rows =
                python::table_rows(reader, &table, "true")?.context("the Python packages went away")?;
            let mut found = Found::new(self.shared.workload);
            rows.iter().for_each(|row| found.add(&row.labels, &row.entry));
            println!("{}: {} rows, {} entries", reader.name(), rows.len(), found.len());
            let states = self.shared.ledger.snapshot();
            fail_on(&found.violations(&states, &states, &self.start, false))
                .with_context(|| reader.name())?;
        }
        Ok(())
    }
}

fn fail_on(violations: &[String]) -> Result<()> {
    if violations.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 20;
    let shown: Vec<String> =
        violations.iter().take(SHOWN).map(|text| text.chars().take(600).collect()).collect();
    bail!("{} violations:\n  {}", violations.len(), shown.join("\n  "))
}

/// Small segments and short intervals, so that every part of the server works often.
fn config(store: Option<&Seaweed>) -> String {
    let storage = store.map(Seaweed::config).unwrap_or_default();
    format!(
        "\
auth_enabled: false
{storage}ingester:
  flush_interval: 2s
  flush_grace: 200ms
  min_flush_bytes: 16KB
  max_flush_delay: 6s
  segment_target_bytes: 256KB
  memory_budget: 64MB
  max_chunk_age: 240h
  flush_abandon_after: 5s
  wal:
    segment_bytes: 256KB
table:
  commit_timeout: 4s
compactor:
  compaction_interval: 500ms
  min_blocks: 3
  close_after: 2s
  late_after: 5s
  slice_duration: 1h
  target_block_bytes: 1MB
  retention_delete_delay: 30s
  vacuum_interval: 2s
limits_config:
  reject_old_samples: false
  discover_log_levels: false
  discover_service_name: []
  shard_streams: {{enabled: false}}
  ingestion_rate_mb: 1000
  ingestion_burst_size_mb: 1000
  per_stream_rate_limit: 1GB
  per_stream_rate_limit_burst: 1GB
  max_entries_limit_per_query: 5000
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_violations_are_counted_and_the_first_are_shown() {
        assert!(fail_on(&[]).is_ok());
        let violations: Vec<String> = (0..100).map(|n| format!("violation {n}")).collect();
        let message = format!("{:#}", fail_on(&violations).unwrap_err());
        assert!(message.starts_with("100 violations"));
        assert!(message.contains("violation 19") && !message.contains("violation 20"));
    }
}

//! Live tail under a steady stream of pushes: how long from the push to the reader's line, whether every line comes once,
//! and what a reader that stands still costs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Sampler, cpu_seconds};
use crate::push::{Entry, Stream, as_protobuf};
use crate::server::{Client, Setup};
use crate::{clock, workspace};

/// Pushes in a second.
const PUSHES: u64 = 50;
/// How late a line may be, as live tail promises.
const LATE: Duration = Duration::from_secs(1);
/// How long after the last push the last line may come before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `tail-test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Lines pushed in a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// How long.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Streams that the lines are spread over.
    #[arg(long, default_value_t = 20)]
    streams: u64,
    /// Readers that follow, each in a process of its own.
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// A process that follows; killed when dropped.
struct Reader(Child);

impl Reader {
    fn start(binary: &Path, base: &str) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["tail", "--addr", base, "--output", "raw", "--limit", "1", r#"{job="tail"}"#]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("failed to start a reader")?))
    }

    fn signal(&self, name: &str) -> Result<()> {
        workspace::run(Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one reader saw: for each line in order its number and how many microseconds it was under way.
type Seen = Vec<(u64, u64)>;

/// Runs the test. True when every reader got each line once and in time.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("skald-tail-").tempdir().context("no temporary directory")?;
    let limits = "limits_config: {per_stream_rate_limit: 1GB, per_stream_rate_limit_burst: 1GB}\n";
    let setup = Setup::new(&binary, directory.path(), limits)?;
    let server = setup.start()?;
    let client = setup.client();
    let mut readers =
        (0..args.readers).map(|_| Reader::start(&binary, &setup.base())).collect::<Result<Vec<_>>>()?;
    let stalled = Reader::start(&binary, &setup.base())?;
    await_metric(&client, "loki_ingester_tailers", (args.readers + 1) as f64)?;
    stalled.signal("STOP")?;

    let sampler = Sampler::default();
    let total = args.rate * args.seconds;
    let before = cpu_seconds(server.id());
    let seen = thread::scope(|scope| {
        let sampler = &sampler;
        let pid = server.id();
        scope.spawn(move || sampler.run(pid));
        let following: Vec<_> = readers.iter_mut().map(|r| r.0.stdout.take()).collect();
        let following: Vec<_> = following
            .into_iter()
            .flatten()
            .map(|output| scope.spawn(move || follow(BufReader::new(output), total)))
            .collect();
        let pushed = push(&client, args);
        if pushed.is_ok() {
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end && following.iter().any(|f| !f.is_finished()) {
                sleep(Duration::from_millis(20));
            }
        }
        // Their output ends with them, and so do the threads that read it.
        readers.clear();
        sampler.stop();
        let seen: Vec<Seen> =
            following.into_iter().map(|f| f.join().expect("readers do not panic")).collect();
        pushed.map(|()| seen)
    })?;
    let cpu = before.zip(cpu_seconds(server.id())).map_or(f64::NAN, |(before, after)| after - before);
    println!(
        "tail: {} lines/s for {} s to {} readers: {:.1} % of a core, at most {} MiB resident; {} lines lost by the reader \
         that stood still",
        args.rate,
        args.seconds,
        args.readers,
        cpu / args.seconds as f64 * 100.0,
        sampler.peak() >> 20,
        metric(&client, "skald_ingester_tail_dropped_entries_total")?,
    );
    drop(stalled);
    let mut passed = true;
    for (number, seen) in seen.iter().enumerate() {
        passed &= judge(number, seen, total);
    }
    server.stop()?;
    Ok(passed)
}

/// Tells how a reader fared. True if it got every line once, none late.
fn judge(number: usize, seen: &Seen, total: u64) -> bool {
    let mut numbers: Vec<u64> = seen.iter().map(|(n, _)| *n).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut micros: Vec<u64> = seen.iter().map(|(_, micros)| *micros).collect();
    micros.sort_unstable();
    let at = |percent: usize| {
        micros
            .get((micros.len() * percent / 100).min(micros.len().saturating_sub(1)))
            .map_or(f64::NAN, |m| *m as f64 / 1e3)
    };
    println!(
        "tail: reader {number}: {} of {total} lines, {} of them twice; from push to line p50 {:.1} ms, p99 {:.1} ms, \
         at most {:.1} ms",
        numbers.len(),
        seen.len() - numbers.len(),
        at(50),
        at(99),
        at(100)
    );
    let late = micros.last().is_some_and(|m| Duration::from_micros(*m) > LATE);
    if late {
        println!("tail FINDING: reader {number} got a line more than {LATE:?} after its push");
    }
    numbers.len() as u64 == total && seen.len() as u64 == total && !late
}

fn push(client: &Client, args: &Args) -> Result<()> {
    let start = Instant::now();
    let mut next = 0;
    for turn in 0..args.seconds * PUSHES {
        sleep((Duration::from_secs(1) * turn as u32 / PUSHES as u32).saturating_sub(start.elapsed()));
        let end = args.rate * (turn + 1) / PUSHES;
        let now = clock::now();
        let stream = |s: u64| Stream {
            labels: vec![("job".into(), "tail".into()), ("stream".into(), s.to_string())],
            entries: (next..end)
                .filter(|n| n % args.streams == s)
                .map(|n| {
                    let line = format!(
                        "{n} {now} level=info msg=\"a line of about a hundred bytes, as most are\" n={n:020}"
                    );
                    Entry { timestamp: now + (n - next) as i64, line, metadata: Vec::new() }
                })
                .collect(),
        };
        let streams: Vec<_> = (0..args.streams).map(stream).filter(|s| !s.entries.is_empty()).collect();
        let body = as_protobuf(&streams)?;
        let answer = client.post("/loki/api/v1/push", body.media_type, &body.bytes)?;
        if answer.status != 204 {
            bail!("a push was refused: {} {}", answer.status, answer.text());
        }
        next = end;
    }
    Ok(())
}

/// Reads `total` lines, or as many as come.
fn follow(mut output: impl BufRead, total: u64) -> Seen {
    let mut seen = Vec::new();
    let mut line = String::new();
    while (seen.len() as u64) < total {
        line.clear();
        if output.read_line(&mut line).is_ok_and(|n| n > 0) {
            let mut parts = line.split(' ');
            let (number, pushed) = (parts.next().map(str::parse::<u64>), parts.next().map(str::parse::<i64>));
            if let (Some(Ok(number)), Some(Ok(pushed))) = (number, pushed) {
                seen.push((number, (clock::now() - pushed).max(0) as u64 / 1000));
            }
        } else {
            break;
        }
    }
    seen
}

fn metric(client: &Client, name: &str) -> Result<f64> {
    let answer = client.get("/metrics", &[])?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let line = text.lines().find(|l| l.split(' ').next() == Some(name));
    line.and_then(|l| l.split(' ').nth(1)).unwrap_or("0").parse().context("a metric that is no number")
}

fn await_metric(client: &Client, name: &str, wanted: f64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while metric(client, name)? < wanted {
        if Instant::now() > end {
            bail!("{name} did not come to {wanted} within {PATIENCE:?}");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

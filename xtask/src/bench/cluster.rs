//! What a cluster costs beside one process, and three copies beside one: the same corpus into each, CPU by component.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::product::{self, Options};
use crate::cluster::members::{Members, Plan};
use crate::process::{cpu_seconds, resident_bytes};
use crate::server::{Client, Server, Setup};
use crate::workspace;

/// How long a process has to take no CPU before it counts as idle.
const QUIET: Duration = Duration::from_millis(1500);
/// How often each query is asked.
const REPEATS: u32 = 5;

/// Selective, and over everything.
const QUERIES: [(&str, &str); 3] = [
    ("newest 1,000 lines with GET", r#"{cluster="c1"} |= "GET""#),
    ("count by app", r#"sum by (app) (count_over_time({cluster="c1"}[5m]))"#),
    ("count by app with error", r#"sum by (app) (count_over_time({cluster="c1"} |= "error" [5m]))"#),
];

/// What is measured.
enum Subject {
    Process(Setup, Server),
    Cluster(Members),
}

impl Subject {
    fn client(&self) -> Client {
        match self {
            Self::Process(setup, _) => setup.client(),
            Self::Cluster(members) => members.doors().remove(0),
        }
    }

    /// Process numbers by component.
    fn components(&self) -> Vec<(&'static str, Vec<u32>)> {
        match self {
            Self::Process(_, server) => vec![("everything", vec![server.id()])],
            Self::Cluster(members) => members.components(),
        }
    }

    fn cpu(&self) -> Vec<(&'static str, f64)> {
        let of = |pids: Vec<u32>| pids.into_iter().filter_map(cpu_seconds).sum();
        self.components().into_iter().map(|(name, pids)| (name, of(pids))).collect()
    }

    /// Waits until nobody does anything any more.
    fn settle(&self) {
        let total = || self.cpu().iter().map(|(_, seconds)| seconds).sum::<f64>();
        let (mut before, mut since) = (total(), Instant::now());
        while since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(100));
            let now = total();
            // Gossip and heartbeats go on for ever.
            if now - before > 0.03 {
                (before, since) = (now, Instant::now());
            }
        }
    }

    fn stop(self) -> Result<()> {
        match self {
            Self::Process(_, server) => server.stop(),
            Self::Cluster(mut members) => members.stop_all(),
        }
    }
}

/// Measures one process, a cluster that keeps everything once, and one that keeps it three times.
pub(super) fn run(options: &Options) -> Result<bool> {
    let (folder, cache) = product::folders(options)?;
    let lbench = product::lbench(&folder, &cache)?;
    let corpus = product::corpus(options, &folder, &cache, &lbench)?;
    let binary = workspace::release_binary(options.binary.as_deref())?;
    for replicas in [0, 1, 3] {
        let directory = tempfile::tempdir_in(&cache).context("no temporary directory")?;
        let subject = start(&binary, directory.path(), replicas)?;
        match replicas {
            0 => println!("\none process"),
            n => println!("\na cluster of a door, three ingesters and two queriers, replication factor {n}"),
        }
        measure(&subject, directory.path(), &lbench, &corpus)?;
        subject.stop()?;
    }
    Ok(true)
}

fn start(binary: &Path, directory: &Path, replicas: usize) -> Result<Subject> {
    if replicas == 0 {
        let setup = Setup::new(binary, directory, &format!("auth_enabled: false\n{}", product::LIMITS))?;
        let server = setup.start()?;
        return Ok(Subject::Process(setup, server));
    }
    let mut members = Members::new(&Plan::small(binary, directory, replicas, product::LIMITS))?;
    members.start_all()?;
    Ok(Subject::Cluster(members))
}

fn measure(subject: &Subject, directory: &Path, lbench: &Path, corpus: &Path) -> Result<()> {
    let client = subject.client();
    let before = subject.cpu();
    let mut command = Command::new(lbench);
    command.arg("replay").arg("--file").arg(corpus.join("corpus.pb"));
    command.args(["--url", &format!("{}/loki/api/v1/push", client.base()), "--conns", "4"]);
    let output = command.output().context("failed to start lbench")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("lbench gave no report")?;
    let number = |name: &str| report[name].as_f64().with_context(|| format!("lbench did not tell {name}"));
    if number("errors")? > 0.0 {
        bail!("pushes failed: {}", report["last_error"]);
    }
    client.flush()?;
    subject.settle();
    let (wall, gigabytes) = (number("wall_s")?, number("raw_bytes")? / 1e9);
    println!(
        "  ingest: {:.0} pushes/s of 1 MB, {:.0} MB/s, p99 {:.0} ms; CPU-seconds per GB: {}",
        number("requests")? / wall,
        gigabytes * 1e3 / wall,
        number("p99_ms")?,
        shares(&before, &subject.cpu(), gigabytes, 1.0)
    );
    println!(
        "  stored: {:.1} MB for {:.0} MB of lines",
        parquet_bytes(directory)? as f64 / 1e6,
        gigabytes * 1e3
    );
    let resident = |(name, pids): (&str, Vec<u32>)| {
        let most = pids.into_iter().filter_map(resident_bytes).max().unwrap_or(0);
        format!("{name} {} MB", most / 1_000_000)
    };
    let resident: Vec<_> = subject.components().into_iter().map(resident).collect();
    println!("  resident at the end, the largest of each: {}", resident.join(", "));
    let meta = std::fs::read(corpus.join("meta.json")).context("the corpus has no meta.json")?;
    let meta: Value = serde_json::from_slice(&meta).context("meta.json is not JSON")?;
    let end = meta["end_ns"].as_i64().context("meta.json does not tell the end of the corpus")?;
    for (name, query) in QUERIES {
        let times = [(end - 86_400_000_000_000).to_string(), end.to_string()];
        let parameters =
            [("query", query), ("start", &times[0]), ("end", &times[1]), ("step", "300"), ("limit", "1000")];
        let ask = || client.get("/loki/api/v1/query_range", &parameters)?.json();
        ask()?;
        let (before, began) = (subject.cpu(), Instant::now());
        for _ in 0..REPEATS {
            ask()?;
        }
        let wall = began.elapsed().as_secs_f64() / f64::from(REPEATS) * 1e3;
        let cpu = shares(&before, &subject.cpu(), f64::from(REPEATS), 1e3);
        println!("  {name}: {wall:.0} ms; CPU-ms: {cpu}");
    }
    Ok(())
}

/// What each component took between two looks, divided and multiplied.
fn shares(before: &[(&str, f64)], after: &[(&str, f64)], by: f64, times: f64) -> String {
    let taken: Vec<_> =
        before.iter().zip(after).map(|((name, a), (_, b))| (*name, (b - a) / by * times)).collect();
    let all: f64 = taken.iter().map(|(_, cpu)| cpu).sum();
    let digits = if times > 1.0 { 0 } else { 2 };
    let each: Vec<_> = taken.iter().map(|(name, cpu)| format!("{name} {cpu:.digits$}")).collect();
    format!("{all:.digits$} ({})", each.join(", "))
}

fn parquet_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in
        std::fs::read_dir(directory).with_context(|| format!("failed to list {}", directory.display()))?
    {
        let entry = entry.context("failed to list a directory")?;
        let path = entry.path();
        let metadata = entry.metadata().context("failed to look at a file")?;
        if metadata.is_dir() && path.file_name().is_some_and(|name| name != "_delta_log") {
            bytes += parquet_bytes(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

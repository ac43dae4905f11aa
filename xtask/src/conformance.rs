//! Compares a server with recorded answers of Loki, by the runner that comes with the recordings.
//!
//! Three modes: everything still in memory; after a flush and a restart, so that only the table can answer; and the
//! few queries that Loki refuses and Skald answers (`cases_extensions.jsonl`, with `loki_strict` off).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::members::{Members, Plan};
use crate::server::{Client, Server, Setup};
use crate::{python, workspace};

/// Categories of cases that pass as a whole and must go on to: one a line, `#` begins a comment.
const HELD: &str = include_str!("../conformance-held.txt");

/// Options of `conformance`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder with run.py, the data set and the cases.
    #[arg(long, default_value = "../shared/conformance")]
    folder: PathBuf,
    /// Only cases whose "id category" matches this regular expression.
    #[arg(long)]
    only: Option<String>,
    /// Only the mode where everything is in memory.
    #[arg(long)]
    memory: bool,
    /// Only the mode where everything is in the table.
    #[arg(long)]
    flush: bool,
    /// Only the queries beyond Loki's.
    #[arg(long)]
    extensions: bool,
    /// Fail only for categories that xtask/conformance-held.txt names.
    #[arg(long)]
    hold: bool,
    /// Ask a cluster of a door, three ingesters and two queriers that keeps everything three times.
    #[arg(long)]
    cluster: bool,
    /// Print each failing case.
    #[arg(long, short)]
    verbose: bool,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Memory,
    Flushed,
    Extensions,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Flushed => "table",
            Self::Extensions => "extensions",
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Count {
    passed: u64,
    failed: u64,
}

type Report = BTreeMap<String, Count>;

/// Runs the modes asked for. True when nothing failed that counts.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let folder = match args.folder.is_absolute() {
        true => args.folder.clone(),
        false if args.folder.join("run.py").exists() => workspace::absolute(&args.folder)?,
        false => workspace::root().join(&args.folder),
    };
    if !folder.join("run.py").exists() {
        bail!("no run.py in {}; name the folder with --folder", folder.display());
    }
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let mut reports = Vec::new();
    for mode in modes(args, &folder) {
        reports.push((mode, run_mode(args, mode, &folder, &binary)?));
    }
    print_table(&reports);
    Ok(verdict(args.hold, &reports))
}

fn modes(args: &Args, folder: &Path) -> Vec<Mode> {
    let any = args.memory || args.flush || args.extensions;
    let mut modes = Vec::new();
    if args.memory || !any {
        modes.push(Mode::Memory);
    }
    if args.flush || !any {
        modes.push(Mode::Flushed);
    }
    if args.extensions || (!any && folder.join("cases_extensions.jsonl").exists()) {
        modes.push(Mode::Extensions);
    }
    modes
}

/// What is asked.
enum Asked {
    Process(Setup, Server),
    Cluster(Members),
}

impl Asked {
    fn start(args: &Args, config: &str, directory: &Path, binary: &Path) -> Result<Self> {
        if !args.cluster {
            let setup = Setup::new(binary, directory, &format!("auth_enabled: false\n{config}"))?;
            let server = setup.start()?;
            return Ok(Self::Process(setup, server));
        }
        let mut members = Members::new(&Plan::small(binary, directory, 3, config))?;
        members.start_all()?;
        Ok(Self::Cluster(members))
    }

    fn client(&self) -> Client {
        match self {
            Self::Process(setup, _) => setup.client(),
            Self::Cluster(members) => members.doors().remove(0),
        }
    }

    /// Flushes and starts anew, so that only the table can answer.
    fn forget(self) -> Result<Self> {
        self.client().flush()?;
        match self {
            Self::Process(setup, server) => {
                server.stop()?;
                let server = setup.start()?;
                Ok(Self::Process(setup, server))
            }
            Self::Cluster(mut members) => {
                members.stop_all()?;
                members.start_all()?;
                Ok(Self::Cluster(members))
            }
        }
    }

    /// Everything still runs.
    fn check(&mut self) -> Result<()> {
        match self {
            Self::Process(_, server) => match server.ended()? {
                Some(status) => bail!("the server ended while cases ran: {status}\n{}", server.log_tail()),
                None => Ok(()),
            },
            Self::Cluster(members) => members.check(),
        }
    }

    fn stop(self) -> Result<()> {
        match self {
            Self::Process(_, server) => server.stop(),
            Self::Cluster(mut members) => members.stop_all(),
        }
    }
}

fn run_mode(args: &Args, mode: Mode, folder: &Path, binary: &Path) -> Result<Report> {
    let directory = tempfile::tempdir().context("failed to create a temporary directory")?;
    let mut asked = Asked::start(args, &config(mode != Mode::Extensions), directory.path(), binary)?;
    let base = asked.client().base().to_owned();
    println!("\n--- {}: {base}", mode.name());
    let runner = |arguments: &[&str]| {
        let mut command = python::command();
        command.arg(folder.join("run.py")).args(["--base", &base]).args(arguments);
        command
    };
    workspace::run(&mut runner(&["--push-only", "--settle", "0"]))
        .context("the data set could not be pushed")?;
    if mode == Mode::Flushed {
        asked = asked.forget()?;
    }
    let report = directory.path().join("report.json");
    let mut command = runner(&["--settle", "0", "--max-diffs", if args.verbose { "1000000" } else { "20" }]);
    command.arg("--report").arg(&report);
    if mode == Mode::Extensions {
        command.arg("--cases").arg(folder.join("cases_extensions.jsonl"));
    }
    if let Some(only) = &args.only {
        command.args(["--only", only]);
    }
    // Its exit status tells what the report tells; without a report something else went wrong.
    let status = command.status().context("failed to start the runner")?;
    asked.check()?;
    asked.stop()?;
    let report = std::fs::read(&report).with_context(|| format!("the runner left no report ({status})"))?;
    parse_report(&serde_json::from_slice(&report).context("the report is not JSON")?)
}

fn parse_report(report: &Value) -> Result<Report> {
    let categories = report["categories"].as_object().context("the report has no categories")?;
    let number = |value: &Value| value.as_u64().context("the report has no counts");
    categories
        .iter()
        .map(|(name, count)| {
            let count = Count { passed: number(&count["passed"])?, failed: number(&count["failed"])? };
            Ok((name.clone(), count))
        })
        .collect()
}

fn print_table(reports: &[(Mode, Report)]) {
    let mut names: Vec<&String> = reports.iter().flat_map(|(_, report)| report.keys()).collect();
    names.sort();
    names.dedup();
    print!("\n{:28}", "passed/all");
    for (mode, _) in reports {
        print!("{:>14}", mode.name());
    }
    println!();
    for name in names {
        print!("{name:28}");
        for (_, report) in reports {
            match report.get(name) {
                Some(count) => print!("{:>14}", format!("{}/{}", count.passed, count.passed + count.failed)),
                None => print!("{:>14}", ""),
            }
        }
        println!("{}", if held().any(|held| held == name) { "  held" } else { "" });
    }
    for (mode, report) in reports {
        let passed: u64 = report.values().map(|count| count.passed).sum();
        let failed: u64 = report.values().map(|count| count.failed).sum();
        println!("{}: {passed} passed, {failed} failed", mode.name());
    }
}

fn verdict(hold: bool, reports: &[(Mode, Report)]) -> bool {
    let mut passed = true;
    for (mode, report) in reports {
        for (name, count) in report {
            let counts = !hold || held().any(|held| held == name);
            if counts && count.failed > 0 {
                passed = false;
            }
            if hold && counts && count.failed > 0 {
                println!(
                    "{}: category {name} is held at 100 % and has {} failures",
                    mode.name(),
                    count.failed
                );
            }
        }
    }
    passed
}

fn held() -> impl Iterator<Item = &'static str> {
    HELD.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

/// What the recordings assume, as their README sets out.
fn config(strict: bool) -> String {
    format!(
        "\
limits_config:
  loki_strict: {strict}
  reject_old_samples: false
  discover_log_levels: false
  allow_structured_metadata: true
  volume_enabled: true
  ingestion_rate_mb: 10000
  ingestion_burst_size_mb: 10000
  per_stream_rate_limit: 10GB
  per_stream_rate_limit_burst: 10GB
"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(failed: u64, category: &str) -> Vec<(Mode, Report)> {
        let report = json!({"categories": {category: {"passed": 3, "failed": failed}}});
        vec![(Mode::Memory, parse_report(&report).unwrap())]
    }

    #[test]
    fn held_categories_fail_the_run_and_others_only_without_hold() {
        let held = held().next().unwrap();
        assert!(verdict(true, &report(0, held)));
        assert!(!verdict(true, &report(1, held)));
        assert!(verdict(true, &report(1, "a category nobody holds")));
        assert!(!verdict(false, &report(1, "a category nobody holds")));
    }
}

//! The whole-product benchmark: ingest and queries of a server, by `bench.py` of the benchmark folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{python, workspace};

/// Options of `bench --product`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder with bench.py, its corpus generator lbench and the baseline.
    #[arg(long, default_value = "../shared/bench")]
    folder: PathBuf,
    /// Raw bytes of the corpus: 200M, 1G, …
    #[arg(long, default_value = "1G")]
    size: String,
    /// Where the corpus and the data lie; a directory of that name in the system's temporary directory if not given.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Where the results go as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
    /// One ingest run, three warm runs, one cold run.
    #[arg(long)]
    quick: bool,
    /// Measure JSON pushes, too.
    #[arg(long)]
    json: bool,
    /// Only queries whose id begins with this regular expression.
    #[arg(long)]
    only: Option<String>,
    /// Keep the data of the last run instead of pushing again.
    #[arg(long)]
    skip_ingest: bool,
    /// Ingest only.
    #[arg(long)]
    skip_queries: bool,
    /// Measure a cluster beside one process, CPU by component, instead of asking all of bench.py's questions.
    #[arg(long)]
    pub(super) cluster: bool,
    /// A binary to use instead of building one.
    #[arg(long)]
    pub(super) binary: Option<PathBuf>,
}

/// The folder of bench.py, and the one for what is made.
pub(super) fn folders(options: &Options) -> Result<(PathBuf, PathBuf)> {
    let folder = match options.folder.is_absolute() {
        true => options.folder.clone(),
        false => workspace::root().join(&options.folder),
    };
    if !folder.join("bench.py").exists() {
        bail!("no bench.py in {}; name the folder with --folder", folder.display());
    }
    let cache = options.cache.clone().unwrap_or_else(|| std::env::temp_dir().join("skald-bench"));
    let cache = workspace::absolute(&cache)?;
    std::fs::create_dir_all(&cache).with_context(|| format!("failed to create {}", cache.display()))?;
    Ok((folder, cache))
}

/// The corpus, which is made if it is not there.
pub(super) fn corpus(options: &Options, folder: &Path, cache: &Path, lbench: &Path) -> Result<PathBuf> {
    let corpus = cache.join(format!("corpus-{}", options.size.to_lowercase()));
    if !corpus.join("meta.json").exists() {
        let mut command = bench(folder, lbench, "gen");
        command.arg("--corpus").arg(&corpus).args(["--size", &options.size, "--seed", "1"]);
        workspace::run(&mut command)?;
    }
    Ok(corpus)
}

/// Makes the corpus if it is not there, runs bench.py, and prints its tables.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let (folder, cache) = folders(options)?;
    let lbench = lbench(&folder, &cache)?;
    let corpus = corpus(options, &folder, &cache, &lbench)?;
    let binary = workspace::release_binary(options.binary.as_deref())?;
    let config = cache.join("skald.yaml");
    let text = format!("auth_enabled: false\nserver:\n  log_level: warn\n{LIMITS}");
    std::fs::write(&config, text).context("failed to write the configuration")?;

    let mut command = bench(&folder, &lbench, "run");
    command.arg("--corpus").arg(&corpus).arg("--work").arg(cache.join("work"));
    command.args(["--new", "skald", "--new-cmd", &server(&binary, &config)?]);
    if options.size.eq_ignore_ascii_case("1G") {
        // Loki's and VictoriaLogs' figures are those of this corpus.
        command.arg("--baseline").arg(folder.join("baseline-1g.json"));
    }
    command.arg("--out").arg(options.out.clone().unwrap_or_else(|| cache.join("results.json")));
    if options.quick {
        command.args(["--ingest-runs", "1", "--runs", "3", "--cold-runs", "1"]);
    }
    for (asked, flag) in [
        (options.json, "--json-ingest"),
        (options.skip_ingest, "--skip-ingest"),
        (options.skip_queries, "--skip-queries"),
    ] {
        command.args(asked.then_some(flag));
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    workspace::run(&mut command)?;
    Ok(true)
}

/// The command of the server, with the places that bench.py fills in.
fn server(binary: &Path, config: &Path) -> Result<String> {
    let text = |path: &Path| {
        let text = path.to_str().context("a path is not UTF-8")?;
        // bench.py splits the command as a shell does.
        Ok::<_, anyhow::Error>(format!("'{}'", text.replace('\'', "'\\''")))
    };
    Ok(format!(
        "{} serve --listen 127.0.0.1:{{port}} --data {{data}} --config.file {}",
        text(binary)?,
        text(config)?
    ))
}

fn bench(folder: &Path, lbench: &Path, subcommand: &str) -> std::process::Command {
    let mut command = python::command();
    command.arg(folder.join("bench.py")).arg(subcommand).arg("--lbench").arg(lbench);
    command
}

/// The corpus generator: the one that `LBENCH` names, or built here.
pub(super) fn lbench(folder: &Path, cache: &Path) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LBENCH") {
        return Ok(path.into());
    }
    let target = cache.join("lbench-target");
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--manifest-path"]).arg(folder.join("lbench/Cargo.toml"));
    command.arg("--target-dir").arg(&target);
    workspace::run(&mut command)?;
    Ok(target.join("release/lbench"))
}

/// The limits lifted as for the other servers of the comparison.
pub(super) const LIMITS: &str = "\
limits_config:
  discover_log_levels: false
  discover_service_name: []
  reject_old_samples: false
  ingestion_rate_mb: 10000
  ingestion_burst_size_mb: 10000
  per_stream_rate_limit: 10GB
  per_stream_rate_limit_burst: 10GB
  shard_streams: {enabled: false}
  max_global_streams_per_user: 0
  max_line_size: 1MB
  max_query_series: 100000
  max_query_length: 0
  max_entries_limit_per_query: 100000
  query_timeout: 10m
";

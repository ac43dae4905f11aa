//! Benchmarks: the hot paths by criterion, in MB/s of raw lines per core, and the whole product by `bench.py`.

mod calibration;
mod cluster;
mod product;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace;

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only benchmarks whose name contains this.
    filter: Option<String>,
    /// Print the figures of the last run instead of measuring again.
    #[arg(long)]
    show: bool,
    /// The whole product: pushes a corpus into a server and asks the questions of bench.py.
    #[arg(long)]
    product: bool,
    #[command(flatten)]
    options: product::Options,
}

/// Runs the benchmarks asked for.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if args.options.cluster {
        return cluster::run(&args.options);
    }
    if args.product {
        return product::run(&args.options);
    }
    if !args.show {
        measure(args.filter.as_deref())?;
    }
    let mut rows = results(&workspace::target().join("criterion"))?;
    rows.retain(|row| args.filter.as_ref().is_none_or(|filter| row.name.contains(filter)));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(44);
    println!("\n{:width$} {:>12} {:>14}", "benchmark", "MB/s", "time");
    for row in &rows {
        let rate = row.megabytes_per_second.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
        println!("{:width$} {rate:>12} {:>14}", row.name, duration(row.nanoseconds));
    }
    println!();
    for (name, rate) in calibration::measure()? {
        println!("{name:width$} {rate:>12.0}");
    }
    Ok(true)
}

/// Runs the benches of every package that has some, one package after the other.
fn measure(filter: Option<&str>) -> Result<()> {
    let crates = workspace::root().join("crates");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&crates)
        .with_context(|| format!("failed to list {}", crates.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("benches").is_dir())
        .collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = workspace::cargo();
        command.args(["bench", "--benches", "--package", &format!("skald-{name}"), "--"]);
        command.args(filter);
        workspace::run(&mut command)?;
    }
    Ok(())
}

/// One benchmark's figures.
struct Row {
    name: String,
    nanoseconds: f64,
    megabytes_per_second: Option<f64>,
}

/// Reads what criterion left: `benchmark.json` has the name and the bytes of an iteration, `estimates.json` the time.
fn results(folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let Ok(children) = std::fs::read_dir(folder) else { return Ok(rows) };
    for child in children.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if child.ends_with("new") && child.join("benchmark.json").exists() {
            rows.push(row(&json(&child.join("benchmark.json"))?, &json(&child.join("estimates.json"))?)?);
        } else {
            rows.extend(results(&child)?);
        }
    }
    Ok(rows)
}

fn row(benchmark: &Value, estimates: &Value) -> Result<Row> {
    let name = benchmark["full_id"].as_str().context("a benchmark has no full_id")?.to_owned();
    let estimate = if estimates["slope"].is_object() { &estimates["slope"] } else { &estimates["median"] };
    let nanoseconds =
        estimate["point_estimate"].as_f64().with_context(|| format!("{name} has no estimate"))?;
    let throughput = &benchmark["throughput"];
    let bytes = throughput["Bytes"].as_f64().or_else(|| throughput["BytesDecimal"].as_f64());
    let megabytes_per_second = bytes.map(|bytes| bytes / nanoseconds * 1e3);
    Ok(Row { name, nanoseconds, megabytes_per_second })
}

fn json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}

fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.1} ns"),
        n if n < 1e6 => format!("{:.1} us", n / 1e3),
        n if n < 1e9 => format!("{:.1} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_read_from_what_criterion_leaves() {
        let estimates = json!({"slope": null, "median": {"point_estimate": 2e6}});
        let row =
            row(&json!({"full_id": "block/build", "throughput": {"Bytes": 1_000_000}}), &estimates).unwrap();
        assert_eq!(row.name, "block/build");
        assert_eq!(row.megabytes_per_second, Some(500.0));
        assert_eq!(duration(row.nanoseconds), "2.0 ms");
    }
}

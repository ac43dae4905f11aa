//! Python, for the tools that exist only there.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::push::Entry;
use crate::workspace;

/// How a table is read by something that is not Skald.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// DuckDB over the Parquet files that the table's log names.
    DuckdbFiles,
    /// DuckDB's `delta_scan`, which needs its delta extension.
    DuckdbDelta,
    /// The Python package deltalake.
    Deltalake,
}

impl Reader {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::DuckdbFiles, Self::DuckdbDelta, Self::Deltalake];

    /// Its name for `table_rows.py` and for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DuckdbFiles => "duckdb-files",
            Self::DuckdbDelta => "duckdb-delta",
            Self::Deltalake => "deltalake",
        }
    }
}

/// A row of a table as SQL shows it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The stream's labels: a JSON object.
    pub(crate) labels: Value,
    /// The entry.
    pub(crate) entry: Entry,
}

/// The interpreter.
pub(crate) fn command() -> Command {
    Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
}

/// Whether Python and some modules can be had; if not, why.
pub(crate) fn missing(modules: &[&str]) -> Option<String> {
    let output = match command().arg("-c").arg(format!("import {}", modules.join(","))).output() {
        Ok(output) => output,
        Err(error) => return Some(format!("python3 cannot be started: {error}")),
    };
    if output.status.success() {
        return None;
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Some(message.lines().last().unwrap_or("python3 failed").to_owned())
}

/// Every row of a table whose SQL condition holds; `None` when the reader cannot be had on this machine.
pub(crate) fn table_rows(reader: Reader, table: &Path, condition: &str) -> Result<Option<Vec<Row>>> {
    rows_of(reader, table, condition, None)
}

/// The same of one version of the table; [`Reader::DuckdbDelta`] has only the newest.
pub(crate) fn table_rows_at(
    reader: Reader,
    table: &Path,
    condition: &str,
    version: u64,
) -> Result<Option<Vec<Row>>> {
    rows_of(reader, table, condition, Some(version))
}

fn rows_of(reader: Reader, table: &Path, condition: &str, version: Option<u64>) -> Result<Option<Vec<Row>>> {
    const UNAVAILABLE: i32 = 3;
    let script = workspace::root().join("xtask/python/table_rows.py");
    let mut command = command();
    command.arg(script).arg(reader.name()).arg(table).arg(condition);
    command.args(version.map(|v| v.to_string()));
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    if output.status.code() == Some(UNAVAILABLE) {
        return Ok(None);
    }
    if !output.status.success() {
        bail!(
            "{} failed on {}:\n{}",
            reader.name(),
            table.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8(output.stdout).context("table_rows.py did not print UTF-8")?;
    text.lines().map(row).collect::<Result<Vec<_>>>().map(Some)
}

fn row(line: &str) -> Result<Row> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
    let text = |key: &str| value[key].as_str().with_context(|| format!("no {key} in {line}"));
    let mut metadata: Vec<(String, String)> = value["metadata"]
        .as_object()
        .with_context(|| format!("no metadata in {line}"))?
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    metadata.sort();
    Ok(Row {
        labels: serde_json::from_str(text("labels")?)
            .with_context(|| format!("labels are not JSON in {line}"))?,
        entry: Entry {
            timestamp: value["timestamp"].as_i64().with_context(|| format!("no timestamp in {line}"))?,
            line: text("line")?.to_owned(),
            metadata,
        },
    })
}

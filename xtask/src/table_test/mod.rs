//! Compares LogQL with SQL: the same question to Skald and to readers that know nothing of Skald. Then deletes, while
//! these read.

mod deletes;

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::push::{Entry, Stream, as_json, as_protobuf};
use crate::python::{self, Reader};
use crate::server::{Client, Setup};
use crate::workspace;

/// Options of `table-test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fail instead of skipping when the Python packages are missing.
    #[arg(long)]
    require: bool,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Noon of a day, so that entries around it lie on one date; the last stream crosses midnight.
const NOON: i64 = 1_767_268_800_000_000_000;
const SECOND: i64 = 1_000_000_000;
const ENTRIES: i64 = 3_000;

/// The same question in both languages.
struct Question {
    logql: &'static str,
    sql: &'static str,
    /// How many entries the data set has for it.
    expected: usize,
}

const QUESTIONS: [Question; 4] = [
    Question { logql: "{job=\"table-test\"}", sql: "true", expected: 4 * ENTRIES as usize },
    Question {
        logql: "{app=\"checkout\"} |= \"timeout\"",
        sql: "labels LIKE '%\"app\":\"checkout\"%' AND line LIKE '%timeout%'",
        expected: ENTRIES as usize / 10,
    },
    Question {
        logql: "{app=\"night\"}",
        sql: "labels LIKE '%\"app\":\"night\"%'",
        expected: ENTRIES as usize,
    },
    Question { logql: "{app=~\".+\"} |= \"no such thing\"", sql: "line LIKE '%no such thing%'", expected: 0 },
];

/// Runs the comparison. True when all readers agree with LogQL.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if let Some(reason) = python::missing(&["duckdb", "deltalake"]) {
        println!("table-test: skipped, {reason} (pip install duckdb deltalake)");
        return Ok(!args.require);
    }
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let directory = tempfile::tempdir().context("failed to create a temporary directory")?;
    let setup = Setup::new(&binary, directory.path(), CONFIG)?;
    let server = setup.start()?;
    let client = setup.client();
    push(&client)?;

    // Compaction is at work meanwhile, or has not begun.
    let table = find_table(&setup.data())?;
    println!("while it is compacted:");
    let mut passed = compare_all(&client, &table)?;
    // Everything again, which the table then has twice until compaction erases it.
    push(&client)?;
    wait_for_compaction(&client, &table)?;
    println!("compacted:");
    passed &= compare_all(&client, &table)?;
    println!("while entries are deleted:");
    passed &= deletes::run(&client, &table)?;
    server.stop()?;
    print!("{}", setup.check_table()?);
    println!("table-test: {}", if passed { "SQL and LogQL agree" } else { "SQL and LogQL differ" });
    Ok(passed)
}

fn compare_all(client: &Client, table: &Path) -> Result<bool> {
    let mut passed = true;
    for question in QUESTIONS {
        let answer = ask(client, question.logql)?;
        if answer.len() != question.expected {
            println!("FAIL {}: {} entries, pushed were {}", question.logql, answer.len(), question.expected);
            passed = false;
        }
        for reader in Reader::ALL {
            passed &= compare(reader, table, &question, &answer)?;
        }
    }
    Ok(passed)
}

/// How long compaction may take, and how often to look.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(120), Duration::from_millis(200));

/// Waits until the newest version of the table has every row once and nothing is left to merge.
fn wait_for_compaction(client: &Client, table: &Path) -> Result<()> {
    let log = table.join("_delta_log");
    let begun = Instant::now();
    loop {
        let status = client.get_json("/compactor/status")?;
        let seen = &status["tables"][0];
        let (rows, due) = (seen["rows"].as_u64(), seen["pending"]["merges"].as_u64());
        let next = seen["version"].as_i64().unwrap_or(-1) + 1;
        let is_newest = !log.join(format!("{next:020}.json")).exists();
        if is_newest && rows == Some(QUESTIONS[0].expected as u64) && due == Some(0) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE.0 {
            bail!("the table is not compacted after {:?}: {status}", PATIENCE.0);
        }
        sleep(PATIENCE.1);
    }
}

const CONFIG: &str = "\
auth_enabled: false
compactor:
  compaction_interval: 1s
  min_blocks: 2
  delete_request_cancel_period: 0s
  close_after: 1s
  late_after: 2s
limits_config:
  reject_old_samples: false
  discover_log_levels: false
  discover_service_name: []
  shard_streams: {enabled: false}
  ingestion_rate_mb: 1000
  ingestion_burst_size_mb: 1000
  max_entries_limit_per_query: 100000
";

fn push(client: &Client) -> Result<()> {
    let streams = data_set();
    for (number, stream) in streams.iter().enumerate() {
        let stream = std::slice::from_ref(stream);
        let body = if number % 2 == 0 { as_json(stream)? } else { as_protobuf(stream)? };
        let answer = client.post("/loki/api/v1/push", body.media_type, &body.bytes)?;
        if answer.status != 204 {
            bail!("push: status {}: {}", answer.status, answer.text());
        }
        // A block of its own.
        client.flush()?;
    }
    Ok(())
}

fn data_set() -> Vec<Stream> {
    let apps = [("checkout", "a"), ("checkout", "b"), ("gateway", "a"), ("night", "a")];
    apps.iter()
        .map(|&(app, pod)| {
            let labels = [("job", "table-test"), ("app", app), ("pod", pod)];
            let first = if app == "night" { NOON + 12 * 3600 * SECOND - ENTRIES / 2 * SECOND } else { NOON };
            Stream {
                labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
                entries: (0..ENTRIES).map(|n| entry(app, first, n)).collect(),
            }
        })
        .collect()
}

fn entry(app: &str, first: i64, n: i64) -> Entry {
    let result = if n % 20 == 7 { "timeout" } else { "done" };
    Entry {
        // Odd nanoseconds, and quotes, tabs and letters beyond ASCII: what a reader could get wrong.
        timestamp: first + n * SECOND + n * 7919 % 1000,
        line: format!(
            "{{\"n\":{n},\"result\":\"{result}\",\"app\":\"{app}\",\"text\":\"tab\\tand ünïcode\"}}"
        ),
        metadata: match n % 3 {
            0 => vec![("trace_id".to_owned(), format!("{:016x}", crate::random::mix(n.cast_unsigned())))],
            _ => Vec::new(),
        },
    }
}

fn ask(client: &Client, logql: &str) -> Result<Vec<Entry>> {
    let start = (NOON - 24 * 3600 * SECOND).to_string();
    let end = (NOON + 48 * 3600 * SECOND).to_string();
    let parameters = [("query", logql), ("start", &start), ("end", &end), ("limit", "100000")];
    let answer =
        client.get("/loki/api/v1/query_range", &parameters)?.json().with_context(|| logql.to_owned())?;
    let mut entries: Vec<Entry> =
        crate::answer::entries(&answer)?.into_iter().map(|(_, entry)| entry).collect();
    sort(&mut entries);
    Ok(entries)
}

fn sort(entries: &mut [Entry]) {
    entries.sort_by(|a, b| (a.timestamp, &a.line, &a.metadata).cmp(&(b.timestamp, &b.line, &b.metadata)));
}

fn compare(reader: Reader, table: &Path, question: &Question, answer: &[Entry]) -> Result<bool> {
    let Some(rows) = python::table_rows(reader, table, question.sql)? else {
        println!("skip {} ({} is not installed)", question.sql, reader.name());
        return Ok(true);
    };
    let mut rows: Vec<Entry> = rows.into_iter().map(|row| row.entry).collect();
    sort(&mut rows);
    let same = rows == answer;
    println!(
        "{} {:13} {} rows: WHERE {}",
        if same { "ok  " } else { "FAIL" },
        reader.name(),
        rows.len(),
        question.sql
    );
    if let Some((row, entry)) = rows.iter().zip(answer).find(|(row, entry)| row != entry) {
        println!("     SQL   {row:?}\n     LogQL {entry:?}");
    }
    Ok(same)
}

/// The directory below `data` that holds a Delta table.
pub(crate) fn find_table(data: &Path) -> Result<PathBuf> {
    fn search(directory: &Path, depth: usize) -> Option<PathBuf> {
        if directory.join("_delta_log").is_dir() {
            return Some(directory.to_owned());
        }
        let children = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
        children.filter(|path| depth > 0 && path.is_dir()).find_map(|path| search(&path, depth - 1))
    }
    search(data, 4).with_context(|| format!("no table with a _delta_log below {}", data.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_set_has_what_the_questions_expect_and_crosses_midnight() {
        let streams = data_set();
        let entries = || streams.iter().flat_map(|stream| &stream.entries);
        assert_eq!(entries().count(), QUESTIONS[0].expected);
        let timeouts =
            entries().filter(|e| e.line.contains("timeout") && e.line.contains("checkout")).count();
        assert_eq!(timeouts, QUESTIONS[1].expected);
        let day = |entry: &Entry| entry.timestamp / (24 * 3600 * SECOND);
        let night = &streams[3].entries;
        assert_ne!(day(&night[0]), day(&night[night.len() - 1]));
    }
}

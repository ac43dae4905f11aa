//! Deletes, as readers see them that know nothing of Skald: at each version of the table the rows of a block that a request
//! names are there or not, all of them, and no version lacks or repeats another row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{NOON, PATIENCE, SECOND, data_set};
use crate::push::Entry;
use crate::python::{self, Reader, Row};
use crate::server::Client;

/// A delete request.
struct Request {
    query: &'static str,
    /// Whether it is about a row.
    names: fn(&Key) -> bool,
}

/// Lines of three streams; what no line has, so that blocks stay and only their tags change; a stream as a whole.
const REQUESTS: [Request; 3] = [
    Request {
        query: "{app=~\"checkout|night\"} |= \"\\\"result\\\":\\\"timeout\\\"\"",
        names: |row| !row.labels.contains("gateway") && row.line.contains("timeout"),
    },
    Request { query: "{app=\"gateway\"} |= \"51d0c0de9e3779b9\"", names: |_| false },
    Request { query: "{app=\"gateway\"}", names: |row| row.labels.contains("gateway") },
];

/// Within a slice of a day all rows are in one block once they are compacted, as few as they are here.
const SLICE: i64 = 2 * 3600 * SECOND;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    timestamp: i64,
    labels: String,
    line: String,
    metadata: Vec<(String, String)>,
}

impl Key {
    fn new(labels: &serde_json::Value, entry: Entry) -> Self {
        let Entry { timestamp, line, metadata } = entry;
        Self { timestamp, labels: labels.to_string(), line, metadata }
    }

    fn slice(&self) -> i64 {
        self.timestamp.div_euclid(SLICE)
    }
}

/// What was pushed, as rows.
fn pushed() -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for stream in data_set() {
        let labels = stream.labels.into_iter().map(|(name, value)| (name, value.into())).collect();
        let labels = serde_json::Value::Object(labels);
        keys.extend(stream.entries.into_iter().map(|entry| Key::new(&labels, entry)));
    }
    keys
}

/// What a read may have: all of `pushed`, and of what the requests name, each block, what has not gone already.
struct Expected {
    pushed: BTreeSet<Key>,
    /// Requests that are open or were carried out.
    requests: usize,
}

impl Expected {
    /// The first request that names a row.
    fn request(&self, row: &Key) -> Option<usize> {
        REQUESTS[..self.requests].iter().position(|request| (request.names)(row))
    }

    /// What stays when all requests are carried out.
    fn left(&self) -> BTreeSet<Key> {
        self.pushed.iter().filter(|row| self.request(row).is_none()).cloned().collect()
    }

    /// What is wrong with the rows of a read, if something is.
    fn fault(&self, rows: Vec<Row>) -> Option<String> {
        let count = rows.len();
        let found: BTreeSet<Key> = rows.into_iter().map(|row| Key::new(&row.labels, row.entry)).collect();
        if found.len() < count {
            return Some(format!("{} of {count} rows are there twice", count - found.len()));
        }
        if let Some(row) = found.difference(&self.pushed).next() {
            return Some(format!("a row was never pushed: {row:?}"));
        }
        // By request and block: how many rows are there, and how many are not.
        let mut blocks: BTreeMap<(usize, i64), (usize, usize)> = BTreeMap::new();
        for row in &self.pushed {
            let is_there = found.contains(row);
            match self.request(row) {
                None if is_there => {}
                None => return Some(format!("a row is missing: {row:?}")),
                Some(request) => {
                    let (there, gone) = blocks.entry((request, row.slice())).or_default();
                    *(if is_there { there } else { gone }) += 1;
                }
            }
        }
        let (block, (there, gone)) = blocks.into_iter().find(|(_, (there, gone))| *there > 0 && *gone > 0)?;
        Some(format!("of request and slice {block:?} {there} rows are there and {gone} are not"))
    }
}

/// Deletes, with all readers at work. True when none of them saw anything wrong. The table has to be compacted.
pub(super) fn run(client: &Client, table: &Path) -> Result<bool> {
    let mut passed = true;
    let mut expected = Expected { pushed: pushed(), requests: 0 };
    for Request { query, .. } in REQUESTS {
        expected.requests += 1;
        let before = newest(table)?;
        let (reads, faults) = read_meanwhile(table, &expected, || request(client, query, &expected.left()))?;
        let last = newest(table)?;
        println!("{} {reads} reads while {query} was deleted", verdict(&faults));
        passed &= faults.is_empty();
        passed &= look_at_versions(table, &expected, before..=last)?;
    }
    passed &= look_at_the_end(client, table, &expected)?;
    Ok(passed)
}

fn verdict(faults: &[String]) -> &'static str {
    faults.iter().for_each(|fault| println!("     {fault}"));
    if faults.is_empty() { "ok  " } else { "FAIL" }
}

/// Reads with all readers at once while something is done, and once after that: how often, and what was wrong.
fn read_meanwhile(
    table: &Path,
    expected: &Expected,
    act: impl FnOnce() -> Result<()>,
) -> Result<(usize, Vec<String>)> {
    let done = AtomicBool::new(false);
    let read = |reader: Reader| {
        let (mut reads, mut faults) = (0, Vec::new());
        loop {
            let is_last = done.load(Ordering::Relaxed);
            let Some(rows) = python::table_rows(reader, table, "true")? else { break };
            reads += 1;
            faults.extend(expected.fault(rows).map(|fault| format!("{}: {fault}", reader.name())));
            if is_last {
                break;
            }
        }
        anyhow::Ok((reads, faults))
    };
    thread::scope(|scope| {
        let threads = Reader::ALL.map(|reader| {
            scope.spawn({
                let read = &read;
                move || read(reader)
            })
        });
        let outcome = act();
        done.store(true, Ordering::Relaxed);
        let (mut reads, mut faults) = (0, Vec::new());
        for thread in threads {
            let (count, found) = thread.join().expect("readers do not panic")?;
            reads += count;
            faults.extend(found);
        }
        outcome.map(|()| (reads, faults))
    })
}

/// Deletes, and waits until the compactor has carried it out.
fn request(client: &Client, query: &str, left: &BTreeSet<Key>) -> Result<()> {
    let start = (NOON / SECOND - 24 * 3600).to_string();
    let parameters = [("query", query), ("start", start.as_str())];
    let answer = client.post_with("/loki/api/v1/delete", &parameters)?;
    if answer.status != 204 {
        bail!("deleting {query}: status {}: {}", answer.status, answer.text());
    }
    // From now on by LogQL, later by SQL.
    let answer = super::ask(client, super::QUESTIONS[0].logql)?;
    if answer.len() != left.len() {
        bail!("{} entries are seen after {query} was deleted, {} are left", answer.len(), left.len());
    }
    let begun = Instant::now();
    loop {
        let status = client.get_json("/compactor/status")?;
        let requests = client.get_json("/loki/api/v1/delete")?;
        let is_open = |request: &serde_json::Value| request["status"] != "processed";
        let is_done = requests.as_array().is_some_and(|all| !all.iter().any(is_open));
        if is_done && status["tables"][0]["rows"].as_u64() == Some(left.len() as u64) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE.0 {
            bail!("the deletion of {query} is not carried out after {:?}: {status}", PATIENCE.0);
        }
        sleep(PATIENCE.1);
    }
}

/// The newest version of the table.
fn newest(table: &Path) -> Result<u64> {
    let log = table.join("_delta_log");
    let files = std::fs::read_dir(&log).with_context(|| format!("failed to list {}", log.display()))?;
    let mut newest = None;
    for file in files {
        let name = file.with_context(|| format!("failed to list {}", log.display()))?.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
        newest = newest.max(version);
    }
    newest.with_context(|| format!("no version in {}", log.display()))
}

/// Reads each version that was there meanwhile, however short a time.
fn look_at_versions(
    table: &Path,
    expected: &Expected,
    versions: std::ops::RangeInclusive<u64>,
) -> Result<bool> {
    let mut passed = true;
    for version in versions {
        for reader in [Reader::DuckdbFiles, Reader::Deltalake] {
            let rows = python::table_rows_at(reader, table, "true", version)?;
            let rows = rows.context("the Python packages went away")?;
            let count = rows.len();
            let faults: Vec<String> = expected.fault(rows).into_iter().collect();
            println!("{} {:13} {count} rows in version {version}", verdict(&faults), reader.name());
            passed &= faults.is_empty();
        }
    }
    Ok(passed)
}

/// All readers and LogQL have what is left and nothing else.
fn look_at_the_end(client: &Client, table: &Path, expected: &Expected) -> Result<bool> {
    let mut left: Vec<Entry> = Vec::new();
    for Key { timestamp, line, metadata, .. } in expected.left() {
        left.push(Entry { timestamp, line, metadata });
    }
    super::sort(&mut left);
    let everything = &super::QUESTIONS[0];
    let mut passed = super::ask(client, everything.logql)? == left;
    println!("{} LogQL has the {} entries that are left", if passed { "ok  " } else { "FAIL" }, left.len());
    for reader in Reader::ALL {
        passed &= super::compare(reader, table, everything, &left)?;
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(requests: usize) -> Expected {
        Expected { pushed: pushed(), requests }
    }

    fn rows(keys: impl IntoIterator<Item = Key>) -> Vec<Row> {
        let row = |Key { timestamp, labels, line, metadata }: Key| Row {
            labels: serde_json::from_str(&labels).unwrap(),
            entry: Entry { timestamp, line, metadata },
        };
        keys.into_iter().map(row).collect()
    }

    #[test]
    fn a_block_with_and_without_what_is_deleted_is_right() {
        let expected = expected(1);
        assert_eq!(expected.fault(rows(expected.pushed.clone())), None);
        assert_eq!(expected.fault(rows(expected.left())), None);
        let first = expected.pushed.iter().next().unwrap().slice();
        let blocks = expected.pushed.iter().filter(|r| expected.request(r).is_none() || r.slice() == first);
        assert_eq!(expected.fault(rows(blocks.cloned())), None);
    }

    #[test]
    fn a_part_of_what_is_deleted_in_a_block_is_a_fault() {
        let expected = expected(1);
        let mut found = expected.pushed.clone();
        found.retain(|row| !(expected.request(row).is_some() && row.line.contains("\"n\":7,")));
        assert!(expected.fault(rows(found)).unwrap().contains("rows are there and"));
    }

    #[test]
    fn rows_that_are_missing_or_there_twice_or_were_never_pushed_are_faults() {
        let expected = expected(2);
        let mut missing = expected.left();
        let row = missing.pop_first().unwrap();
        assert!(expected.fault(rows(missing)).unwrap().contains("missing"));
        let twice = expected.left().into_iter().chain([row.clone()]);
        assert!(expected.fault(rows(twice)).unwrap().contains("twice"));
        let strange = Key { line: "strange".into(), ..row };
        let strange = expected.left().into_iter().chain([strange]);
        assert!(expected.fault(rows(strange)).unwrap().contains("never pushed"));
    }
}

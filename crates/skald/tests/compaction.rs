//! Goal: small blocks become large ones, and what is deleted or has expired leaves the tables, while every query sees what
//! stays. Method: a real process that compacts all the time, its API, and its status page.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{DEADLINE, Server, now};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;

/// Everything happens as soon as it may.
const HASTE: &str = "
compactor: {compaction_interval: 100ms, min_blocks: 2, delete_request_cancel_period: 0s, retention_enabled: true}
ingester: {flush_interval: 1s, max_flush_delay: 1s, flush_grace: 100ms, takeover_after: 1s}
table: {commit_timeout: 1s}
";

fn start(data: &Path, limits: &str) -> Server {
    start_with(data, HASTE, limits)
}

fn start_with(data: &Path, haste: &str, limits: &str) -> Server {
    let path = data.join("skald.yaml");
    std::fs::write(&path, format!("{haste}{limits}")).unwrap();
    Server::start(data, &["--config.file", path.to_str().unwrap()])
}

fn encode(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}

fn flush(server: &Server) {
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
}

/// What the compactor tells of the table, once it fits.
fn await_table(server: &Server, fits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        let (status, body) = server.get_with("/compactor/status", &[("Accept", "application/json")]);
        assert_eq!(status, 200, "{body}");
        let all: Value = serde_json::from_str(&body).unwrap();
        let table = all["tables"].as_array().and_then(|t| t.first()).cloned();
        match table {
            Some(table) if fits(&table) => return table,
            table => assert!(Instant::now() < end, "{table:?} {}", server.log()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn delete_status(server: &Server) -> String {
    let (status, body) = server.get("/loki/api/v1/delete");
    assert_eq!(status, 200, "{body}");
    let all: Value = serde_json::from_str(&body).unwrap();
    all[0]["status"].as_str().unwrap().to_owned()
}

fn delete(server: &Server, query: &str, start: i64) {
    let path = format!("/loki/api/v1/delete?query={}&start={start}", encode(query));
    let (status, body) = server.post(&path, "text/plain", "");
    assert_eq!(status, 204, "{body}");
}

/// The first metric whose line begins so, once it fits.
fn await_metric(server: &Server, name: &str, fits: impl Fn(f64) -> bool) -> f64 {
    let end = Instant::now() + DEADLINE;
    loop {
        let (_, metrics) = server.get("/metrics");
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        match value {
            Some(value) if fits(value) => return value,
            _ => assert!(Instant::now() < end, "{name} is {value:?} in {metrics}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn await_processed(server: &Server) {
    let end = Instant::now() + DEADLINE;
    while delete_status(server) != "processed" {
        assert!(Instant::now() < end, "{}", delete_status(server));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_block_in_which_a_delete_finds_nothing_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "");
    server.push(&[(now(), "open")]);
    flush(&server);
    delete(&server, r#"{app="test"} |= "secret""#, (now() - HOUR) / SECOND);
    await_processed(&server);
    assert_eq!(server.lines(), ["open"]);
    await_metric(&server, "skald_compactor_blocks_unchanged_total", |n| n == 1.0);
    let (_, metrics) = server.get("/metrics");
    assert!(!metrics.contains("skald_compactor_rewrites_total{reason=\"removal\"}"), "{metrics}");
    assert!(!metrics.contains("loki_compactor_deleted_lines{"), "{metrics}");
}

#[test]
fn small_blocks_become_one_and_deleted_rows_leave_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "");
    let t = now() - 60 * SECOND;
    let mut lines = Vec::new();
    for i in 0..6 {
        let line = format!("{} {i}", if i % 3 == 0 { "secret" } else { "open" });
        server.push(&[(t + i, &line)]);
        // A push that is repeated after a flush is stored twice, until the blocks meet.
        if i == 4 {
            server.push(&[(t, "secret 0")]);
        }
        flush(&server);
        lines.push(line);
        assert_eq!(server.lines(), lines);
    }
    let table = await_table(&server, |t| t["blocks_flushed"].as_u64() < Some(2));
    // The two copies may lie in runs that do not meet before their slice closes.
    assert!(table["blocks"].as_u64() <= Some(4) && table["rows"].as_u64() <= Some(7), "{table}");
    assert_eq!(server.lines(), lines);

    let start = (now() - HOUR) / SECOND;
    delete(&server, r#"{app="test"} |= "secret""#, start);
    let left = ["open 1", "open 2", "open 4", "open 5"];
    assert_eq!(server.lines(), left);
    await_table(&server, |t| t["rows"] == 4);
    assert_eq!(server.lines(), left);
    await_processed(&server);
    let lines = await_metric(&server, "loki_compactor_deleted_lines{user=\"fake\"}", |n| n >= 2.0);
    // One of the two may have been stored twice.
    assert!(lines <= 3.0, "{lines}");
    await_metric(&server, "skald_compactor_removed_bytes_total", |n| n == 8.0 * lines);
    await_metric(&server, "loki_boltdb_shipper_retention_marker_count_total{table=", |n| n >= 1.0);
    let action = "loki_boltdb_shipper_retention_marker_table_processed_total{action=\"modified\"}";
    await_metric(&server, action, |n| n >= 1.0);
    await_metric(&server, "loki_compactor_apply_retention_operation_total{status=\"success\"}", |n| n >= 1.0);
    let loads = "loki_compactor_load_pending_requests_attempts_total{status=\"success\"}";
    await_metric(&server, loads, |n| n >= 1.0);
    await_metric(&server, "loki_compactor_pending_delete_requests_count", |n| n == 0.0);
    await_metric(&server, "loki_compactor_oldest_pending_delete_request_age_seconds", |n| n == 0.0);

    // Over a death, and with what comes later.
    server.kill();
    let server = self::start(dir.path(), "");
    assert_eq!(server.lines(), left);
    while now() / SECOND <= start + HOUR / SECOND {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.push(&[(t + 6, "secret 6")]);
    flush(&server);
    let later = ["open 1", "open 2", "open 4", "open 5", "secret 6"];
    assert_eq!(server.lines(), later);
    await_table(&server, |t| t["rows"] == 5 && t["blocks_flushed"].as_u64() < Some(2));
    assert_eq!(server.lines(), later);
}

#[test]
fn expired_blocks_go_and_streams_that_live_shorter_leave_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let limits = r#"
limits_config:
  reject_old_samples: false
  retention_period: 3d
  retention_stream: [{selector: '{app="short"}', priority: 1, period: 30h}]
"#;
    let archive = dir.path().join("archive");
    let section =
        format!(", archive: {{filesystem: {{chunks_directory: {}}}}}}}\ningester:", archive.display());
    let haste = HASTE.replace("}\ningester:", &section);
    let server = start_with(dir.path(), &haste, limits);
    let push = |app: &str, time: i64| {
        let body = format!(r#"{{"streams":[{{"stream":{{"app":"{app}"}},"values":[["{time}","x"]]}}]}}"#);
        assert_eq!(server.post("/loki/api/v1/push", "application/json", &body).0, 204);
    };
    let t = now();
    // The whole block has expired; one of two streams of a block has; nothing has.
    push("long", t - 100 * HOUR);
    flush(&server);
    push("long", t - 40 * HOUR);
    push("short", t - 40 * HOUR);
    flush(&server);
    push("long", t);
    push("short", t);
    flush(&server);
    let count = |server: &Server, app: &str| {
        let query = encode(&format!(r#"sum(count_over_time({{app=~"{app}"}}[200h]))"#));
        let (status, body) = server.get(&format!("/loki/api/v1/query?query={query}"));
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"]["result"][0]["value"][1].as_str().unwrap().to_owned()
    };
    assert_eq!(count(&server, ".+"), "3");
    await_table(&server, |t| t["rows"] == 3);
    assert_eq!(count(&server, ".+"), "3");

    // What has expired is in the archive, where another process reads it.
    let elsewhere = tempfile::tempdir().unwrap();
    let storage =
        format!("common: {{storage: {{filesystem: {{chunks_directory: {}}}}}}}\n", archive.display());
    let reader = start_with(elsewhere.path(), &storage, "");
    assert_eq!((count(&reader, ".+").as_str(), count(&reader, "long").as_str()), ("2", "1"));
}

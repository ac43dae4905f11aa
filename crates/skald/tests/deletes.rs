//! Goal: what is deleted or has expired is not seen from then on, in memory, over restarts and in the table, and what comes
//! later is. Method: a real process and Loki's API.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{DEADLINE, Server, files, now, run};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;

fn encode(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}

/// Asks to delete what a query selects from an hour ago until now.
fn delete(server: &Server, query: &str) {
    let start = (now() - HOUR) / SECOND;
    let path = format!("/loki/api/v1/delete?query={}&start={start}", encode(query));
    let (status, body) = server.post(&path, "application/x-www-form-urlencoded", "");
    assert_eq!((status, &*body), (204, ""));
}

/// The requests there are.
fn requests(server: &Server) -> Vec<Value> {
    let (status, body) = server.get("/loki/api/v1/delete");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn push(server: &Server, app: &str, entries: &[(i64, &str)]) {
    let values: Vec<_> = entries.iter().map(|(t, line)| json!([t.to_string(), line])).collect();
    let body = json!({"streams": [{"stream": {"app": app}, "values": values}]}).to_string();
    assert_eq!(server.post("/loki/api/v1/push", "application/json", &body).0, 204);
}

fn flush(server: &Server) {
    assert_eq!(server.post("/flush", "text/plain", "").0, 204);
}

/// The number of entries of `{app="test"}` by counting, and by the index.
fn counts(server: &Server) -> (String, u64) {
    let query = encode(r#"sum(count_over_time({app="test"}[5h]))"#);
    let (status, body) = server.get(&format!("/loki/api/v1/query?query={query}"));
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let counted = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0").to_owned();
    let selector = encode(r#"{app="test"}"#);
    let (status, body) = server.get(&format!("/loki/api/v1/index/stats?query={selector}&since=5h"));
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    (counted, answer["entries"].as_u64().unwrap())
}

/// The values of `app`, by the index of labels and by that of series.
fn apps(server: &Server) -> (Vec<String>, Vec<String>) {
    let (_, body) = server.get("/loki/api/v1/label/app/values?since=5h");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let labels = answer["data"].as_array().map(|a| a.iter().map(text).collect()).unwrap_or_default();
    let (_, body) = server.get("/loki/api/v1/series?since=5h");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let mut series: Vec<_> = answer["data"].as_array().unwrap().iter().map(|s| text(&s["app"])).collect();
    series.sort();
    (labels, series)
}

/// Waits until the clock shows another second: requests are about whole seconds.
fn next_second() {
    let (begin, end) = (now() / SECOND, Instant::now() + DEADLINE);
    while now() / SECOND == begin {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn blocks(data: &Path) -> Vec<(String, u64)> {
    let is_block = |(name, _): &(String, u64)| name.ends_with(".parquet") && !name.contains("_delta_log");
    files(&data.join("tables")).into_iter().filter(is_block).collect()
}

#[test]
fn deleted_entries_are_not_seen_and_later_ones_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let t = now() - 60 * SECOND;
    server.push(&[(t, "one"), (t + 1, "secret two")]);
    push(&server, "gone", &[(t, "x"), (t + 1, "y")]);
    flush(&server);
    server.push(&[(t + 2, "three"), (t + 3, "secret four")]);
    assert_eq!(server.lines(), ["one", "secret two", "three", "secret four"]);

    // In a block and in memory, at once.
    delete(&server, r#"{app="test"} |= "secret""#);
    delete(&server, r#"{app="gone"}"#);
    let left = ["one", "three"];
    let check = |server: &Server, lines: &[&str], counted: &str| {
        assert_eq!(server.lines(), lines);
        assert_eq!(counts(server).0, counted);
        assert_eq!(apps(server), (vec!["test".to_owned()], vec!["test".to_owned()]));
    };
    check(&server, &left, "2");
    let listed = requests(&server);
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["status"], &listed[1]["query"]), (&json!("received"), &json!(r#"{app="gone"}"#)));
    assert_eq!(server.get("/loki/api/v1/cache/generation_numbers").1, "\"2\"\n");

    // Over a death, from the log.
    server.kill();
    let server = Server::start(dir.path(), &[]);
    check(&server, &left, "2");

    // What comes later with older times stays: in memory, and in the block that is written of both.
    next_second();
    server.push(&[(t + 4, "secret five")]);
    let later = ["one", "three", "secret five"];
    check(&server, &later, "3");
    flush(&server);
    check(&server, &later, "3");
    assert_eq!(blocks(dir.path()).len(), 3, "what came before and after the request lies apart");
    server.kill();
    let server = Server::start(dir.path(), &[]);
    check(&server, &later, "3");

    // Taken back in time, a request has changed nothing.
    let id = listed[0]["request_id"].as_str().unwrap();
    assert_eq!(server.delete(&format!("/loki/api/v1/delete?request_id={id}")).0, 204);
    check(&server, &["one", "secret two", "three", "secret four", "secret five"], "5");
    let (status, text) = server.delete(&format!("/loki/api/v1/delete?request_id={id}"));
    assert_eq!((status, &*text), (404, "could not find delete request with given id\n"));
}

/// Who deletes something by mistake sends it again.
#[test]
fn an_exact_copy_that_comes_later_stays() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let t = now() - 60 * SECOND;
    server.push(&[(t, "one"), (t + 1, "two")]);
    delete(&server, "{}");
    next_second();
    server.push(&[(t + 1, "two")]);
    assert_eq!(server.lines(), ["two"]);
    server.kill();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.lines(), ["two"], "the log tells them apart, too");
    flush(&server);
    assert_eq!(server.lines(), ["two"]);
    assert_eq!(counts(&server).0, "1");
}

#[test]
fn what_can_no_longer_be_taken_back_is_not_written_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--set", "compactor.delete_request_cancel_period=0s"];
    let server = Server::start(dir.path(), &arguments);
    let t = now() - 60 * SECOND;
    server.push(&[(t, "one"), (t + 1, "two")]);
    delete(&server, "{}");
    assert_eq!(server.lines(), [] as [&str; 0]);
    flush(&server);
    assert_eq!(blocks(dir.path()), [], "nothing was left to write");
    // Covered all the same: nothing comes back from the log.
    server.kill();
    let server = Server::start(dir.path(), &arguments);
    assert_eq!(server.lines(), [] as [&str; 0]);

    next_second();
    server.push(&[(t + 2, "three"), (t + 3, "four")]);
    delete(&server, r#"{app="test"} |= "three""#);
    flush(&server);
    assert_eq!(server.lines(), ["four"]);
    assert_eq!(counts(&server), ("1".to_owned(), 1), "the index knows nothing of the other");
    let (status, text) = server.delete("/loki/api/v1/delete?request_id=nobody");
    assert_eq!(status, 404, "{text}");
}

#[test]
fn a_tenant_may_have_no_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "limits_config.deletion_mode=disabled"]);
    let refused = (403, "deletion is not available for this tenant\n".to_owned());
    assert_eq!(server.get("/loki/api/v1/delete"), refused);
    assert_eq!(server.get("/loki/api/v1/cache/generation_numbers"), refused);
    let path = "/loki/api/v1/delete?query=%7B%7D&start=0000000000";
    assert_eq!(server.post(path, "application/x-www-form-urlencoded", ""), refused);
}

#[test]
fn in_filter_only_mode_what_is_deleted_stays_stored() {
    let dir = tempfile::tempdir().unwrap();
    let common = ["--set", "compactor.delete_request_cancel_period=0s"];
    let filter_only = [&common[..], &["--set", "limits_config.deletion_mode=filter-only"]].concat();
    let server = Server::start(dir.path(), &filter_only);
    server.push(&[(now(), "one")]);
    delete(&server, "{}");
    flush(&server);
    assert_eq!(server.lines(), [] as [&str; 0]);
    assert_eq!(blocks(dir.path()).len(), 1);
    server.kill();
    let disabled = [&common[..], &["--set", "limits_config.deletion_mode=disabled"]].concat();
    let server = Server::start(dir.path(), &disabled);
    assert_eq!(server.lines(), ["one"], "without deletes its requests have no effect");
}

#[test]
fn expired_entries_are_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let limits = "limits_config:\n  retention_period: 2h\n  retention_stream:\n  - {selector: '{app=\"kept\"}', period: 48h}\n";
    let file = dir.path().join("skald.yaml");
    std::fs::write(&file, format!("compactor: {{retention_enabled: true}}\n{limits}")).unwrap();
    let file = file.to_str().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--config.file", file]);
    let (old, new) = (now() - 3 * HOUR, now() - HOUR / 2);
    server.push(&[(old, "old"), (new, "new")]);
    push(&server, "old", &[(old, "x")]);
    push(&server, "kept", &[(old, "y")]);
    let apps_left =
        || (vec!["kept".to_owned(), "test".to_owned()], vec!["kept".to_owned(), "test".to_owned()]);
    let lines = |server: &Server| {
        let selector = encode(r#"{app=~".+"}"#);
        let (status, body) =
            server.get(&format!("/loki/api/v1/query_range?query={selector}&since=5h&limit=5000"));
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let streams = answer["data"]["result"].as_array().unwrap().iter();
        let lines = streams.flat_map(|s| s["values"].as_array().unwrap().iter());
        let mut lines: Vec<_> = lines.map(|v| v[1].as_str().unwrap().to_owned()).collect();
        lines.sort();
        lines
    };
    for _ in 0..2 {
        assert_eq!(lines(&server), ["new", "y"]);
        assert_eq!(counts(&server).0, "1");
        assert_eq!(apps(&server), apps_left());
        flush(&server);
    }
    assert_eq!(server.terminate().0.code(), Some(0));

    let plan = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let data = data.to_str().unwrap();
    let text = plan(&["retention", "plan", "--data", data, "--config.file", file]);
    assert!(text.starts_with("tenant fake\n"), "{text}");
    assert!(text.contains("retention_period 2h: ") && text.contains(" of 2 streams"), "{text}");
    // Off, which is the default, everything is there, and the plan says what would be.
    let off = dir.path().join("off.yaml");
    std::fs::write(&off, limits).unwrap();
    let off = off.to_str().unwrap();
    let text = plan(&["retention", "plan", "--tenant", "fake", "--data", data, "--config.file", off]);
    assert!(text.starts_with("retention is off (compactor.retention_enabled)"), "{text}");
    let mut server = Server::start(Path::new(data), &["--config.file", off]);
    assert!(server.await_line("nothing expires").contains("compactor.retention_enabled"));
    assert_eq!(lines(&server), ["new", "old", "x", "y"]);
}

#[test]
fn beyond_the_size_the_oldest_blocks_are_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let t = now() - 60 * SECOND;
    for (i, line) in ["one", "two", "three"].into_iter().enumerate() {
        server.push(&[(t + i as i64, line)]);
        flush(&server);
    }
    server.push(&[(t + 3, "in memory")]);
    server.kill();
    let sizes: Vec<u64> = blocks(dir.path()).into_iter().map(|(_, size)| size).collect();
    // No more than any two of them have.
    let two_blocks = sizes.iter().sum::<u64>() - sizes.iter().max().unwrap();
    let limit = format!("limits_config.retention_bytes={two_blocks}");
    let arguments = ["--set", "compactor.retention_enabled=true", "--set", &limit];
    let server = Server::start(dir.path(), &arguments);
    assert_eq!(server.lines(), ["two", "three", "in memory"]);
    assert_eq!(counts(&server), ("3".to_owned(), 3));
}

#[test]
fn wrong_rules_do_not_start() {
    for (limits, expected) in [
        ("retention_period: -1h", "retention_period"),
        ("retention_stream: [{selector: '{app}', period: 48h}]", "invalid labels matchers"),
        ("retention_stream: [{selector: '{app=\"a\"}', period: 5h}]", "retention period must be >= 24h was"),
        ("deletion_mode: never", "deletion_mode"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skald.yaml");
        std::fs::write(&file, format!("limits_config:\n  {limits}\n")).unwrap();
        let error = support::failure(&["config", "check", file.to_str().unwrap()]);
        assert!(error.contains(expected), "{limits}: {error}");
    }
}

//! Goal: limits and tenants as a client meets them. Method: a real process with a file of overrides.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Instant;

use serde_json::{Value, json};
use support::{DEADLINE, Server, now, replace_file};

/// The body of a push of one stream.
fn stream(labels: &Value, entries: &[(i64, &str)]) -> String {
    let values: Vec<_> = entries.iter().map(|(t, line)| json!([t.to_string(), line])).collect();
    json!({"streams": [{"stream": labels, "values": values}]}).to_string()
}

fn start(config: &str, overrides: &str) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("overrides.yaml");
    std::fs::write(&file, overrides).unwrap();
    let path = dir.path().join("skald.yaml");
    let runtime = format!("runtime_config: {{file: {}, period: 50ms}}\n", file.display());
    std::fs::write(&path, format!("auth_enabled: true\n{runtime}{config}")).unwrap();
    let server = Server::start(&dir.path().join("data"), &["--config.file", path.to_str().unwrap()]);
    (dir, server)
}

/// Series with their values of an instant query.
fn vector(server: &Server, tenant: &str, query: &str) -> Vec<(String, String)> {
    let encoded: String = query.bytes().map(|b| format!("%{b:02x}")).collect();
    let (status, body, _) = server.ask(tenant, &format!("/loki/api/v1/query?query={encoded}"), None);
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let mut out: Vec<_> = answer["data"]["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["metric"].to_string(), s["value"][1].as_str().unwrap().to_owned()))
        .collect();
    out.sort();
    out
}

const PUSH: &str = "/loki/api/v1/push";

#[test]
fn levels_are_found_and_can_be_counted() {
    let (_dir, server) = start("", "");
    let t = now();
    let body = stream(
        &json!({"app": "x"}),
        &[(t, "level=warn a"), (t + 1, "ERROR b"), (t + 2, "c"), (t + 3, "WARN d")],
    );
    assert_eq!(server.ask("a", PUSH, Some(&body)).0, 204);
    let query = r#"sum by (detected_level) (count_over_time({app="x"}[5m]))"#;
    let expected = [("error", "1"), ("unknown", "1"), ("warn", "2")]
        .map(|(level, n)| (format!(r#"{{"detected_level":"{level}"}}"#), n.to_owned()));
    assert_eq!(vector(&server, "a", query), expected);
    assert_eq!(server.ask("a", "/flush", Some("")).0, 204);
    assert_eq!(vector(&server, "a", query), expected, "from the table, too");
}

#[test]
fn limits_of_tenants_change_while_the_process_runs() {
    let overrides = "overrides: {small: {ingestion_rate_mb: 0.001, ingestion_burst_size_mb: 0.001}}";
    let (dir, server) = start("", overrides);
    let line = "x".repeat(2000);
    let push =
        |tenant: &str| server.ask(tenant, PUSH, Some(&stream(&json!({"app": "x"}), &[(now(), &line)])));
    assert_eq!(push("large").0, 204);
    let (status, text, retry_after) = push("small");
    assert_eq!(status, 429, "{text}");
    assert!(
        text.starts_with("ingestion rate limit exceeded for user small (limit: 1048 bytes/sec)"),
        "{text}"
    );
    assert!(retry_after.is_some());
    let metrics = server.get("/metrics").1;
    let counted =
        r#"loki_discarded_samples_total{component="distributor",reason="rate_limited",tenant="small"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    let shown = server.ask("small", "/config/tenant/v1/limits", None).1;
    assert!(shown.contains("ingestion_rate_mb: 0.001\n") && shown.contains("query_timeout: 1m\n"), "{shown}");

    // A bad file changes nothing.
    let file = dir.path().join("overrides.yaml");
    replace_file(&file, "overrides: {small: {ingestion_rate: 1}}");
    let await_config = |wanted: &dyn Fn() -> bool| {
        let end = Instant::now() + DEADLINE;
        while !wanted() {
            assert!(Instant::now() < end, "{}", server.log());
            std::thread::yield_now();
        }
    };
    await_config(&|| server.get("/metrics").1.contains("loki_runtime_config_last_reload_successful 0"));
    assert_eq!(push("small").0, 429);
    replace_file(&file, "overrides: {small: {per_stream_rate_limit: 10, per_stream_rate_limit_burst: 10}}");
    await_config(&|| server.get("/runtime_config?mode=diff").1.contains("per_stream_rate_limit: 10"));
    let (status, text, _) = push("small");
    assert_eq!(status, 429);
    assert!(text.contains("Per stream rate limit exceeded (limit: 10 B/sec)"), "{text}");
}

#[test]
fn ingestion_can_be_blocked() {
    let overrides = "\
overrides:
  closed: {block_ingestion_until: 2200-01-01T00:00:00Z}
  silent: {block_ingestion_until: 2200-01-01T00:00:00Z, block_ingestion_status_code: 200}
  strict: {enforced_labels: [team]}
";
    let (_dir, server) = start("", overrides);
    let push = |tenant: &str, labels: Value| {
        let (status, text, _) = server.ask(tenant, PUSH, Some(&stream(&labels, &[(now(), "x")])));
        (status, text)
    };
    let text = "ingestion blocked for user closed until '2200-01-01T00:00:00Z' with status code '260'\n";
    assert_eq!(push("closed", json!({"app": "x"})), (260, text.to_owned()));
    assert_eq!(push("silent", json!({"app": "x"})).0, 204);
    let (status, text) = push("strict", json!({"app": "x"}));
    assert_eq!(status, 400);
    assert!(text.starts_with("missing required labels team for user strict for stream {app=\"x\""), "{text}");
    assert_eq!(push("strict", json!({"team": "x"})).0, 204);
}

#[test]
fn queries_may_be_for_several_tenants() {
    let (_dir, server) = start("querier: {multi_tenant_queries_enabled: true}\n", "");
    let t = now();
    for (tenant, lines) in [("a", 1), ("b", 2)] {
        let lines: Vec<_> = (0..lines).map(|i| (t + i, "line")).collect();
        assert_eq!(server.ask(tenant, PUSH, Some(&stream(&json!({"app": "x"}), &lines))).0, 204);
    }
    let count = r#"count_over_time({app="x"}[5m])"#;
    let per_tenant = format!("sum by (__tenant_id__) ({count})");
    let series = |t: &str, n: &str| (format!(r#"{{"__tenant_id__":"{t}"}}"#), n.to_owned());
    for flushed in [false, true] {
        if flushed {
            assert_eq!(server.ask("a", "/flush", Some("")).0, 204);
        }
        assert_eq!(vector(&server, "a|b", &format!("sum({count})")), [("{}".to_owned(), "3".to_owned())]);
        assert_eq!(vector(&server, "a|b", &per_tenant), [series("a", "1"), series("b", "2")]);
        let one = r#"sum by (__tenant_id__) (count_over_time({app="x", __tenant_id__=~"b|c"}[5m]))"#;
        assert_eq!(vector(&server, "a|b", one), [series("b", "2")]);
        let (status, body, _) =
            server.ask("a|b", "/loki/api/v1/query_range?query=%7Bapp%3D%22x%22%7D&limit=2", None);
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let streams = answer["data"]["result"].as_array().unwrap();
        assert!(streams.iter().all(|s| s["stream"]["__tenant_id__"].is_string()), "{body}");
        assert_eq!(streams.iter().map(|s| s["values"].as_array().unwrap().len()).sum::<usize>(), 2, "{body}");
    }
    let values = server.ask("a|b", "/loki/api/v1/label/__tenant_id__/values", None).1;
    assert!(values.contains(r#"["a","b"]"#), "{values}");
    let series = server.ask("a|b", "/loki/api/v1/series", None).1;
    assert!(
        series.contains(r#""__tenant_id__":"a""#) && series.contains(r#""__tenant_id__":"b""#),
        "{series}"
    );
    // `{app="x"}`, and the same of one tenant.
    let (all, of_b) = ("%7Bapp%3D%22x%22%7D", "%7Bapp%3D%22x%22%2C__tenant_id__%3D%22b%22%7D");
    let ask = |path: &str, query: &str| {
        let (status, body, _) =
            server.ask("a|b", &format!("/loki/api/v1/{path}?query={query}&since=1h"), None);
        assert_eq!(status, 200, "{path} {query}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    for (query, streams, entries) in [(all, 2, 3), (of_b, 1, 2)] {
        let stats = ask("index/stats", query);
        assert_eq!((&stats["streams"], &stats["entries"]), (&json!(streams), &json!(entries)), "{stats}");
        let volume = ask("index/volume", query);
        let result = volume["data"]["result"].as_array().unwrap();
        assert_eq!((result.len(), &result[0]["metric"]), (1, &json!({"app": "x"})), "{volume}");
        ask("patterns", query);
        ask("index/volume_range", query);
        ask("detected_fields", query);
    }
    let labels = ask("detected_labels", all);
    let tenants = json!({"label": "__tenant_id__", "cardinality": 2});
    assert!(labels["detectedLabels"].as_array().unwrap().contains(&tenants), "{labels}");
    let (status, text, _) = server.ask("a|b", PUSH, Some(&stream(&json!({"app": "x"}), &[(t, "x")])));
    assert_eq!((status, text.as_str()), (400, "multiple org IDs present\n"));
    assert_eq!(server.ask("a|", "/loki/api/v1/labels", None).0, 401);
}

#[test]
fn queries_are_held_to_limits_before_they_run() {
    let overrides = r#"
overrides:
  t:
    required_labels: [app]
    max_query_range: 1h
    max_querier_bytes_read: 100B
    blocked_queries: [{pattern: ".*secret.*", regex: true}]
"#;
    let (_dir, server) = start("", overrides);
    let line = "y".repeat(200);
    assert_eq!(server.ask("t", PUSH, Some(&stream(&json!({"app": "x"}), &[(now(), &line)]))).0, 204);
    let refused = |query: &str, part: &str| {
        let encoded: String = query.bytes().map(|b| format!("%{b:02x}")).collect();
        let (status, text, _) = server.ask("t", &format!("/loki/api/v1/query_range?query={encoded}"), None);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(part), "{text}");
    };
    refused(r#"{env="x"}"#, "missing required matchers [app], labels present in the query were [env]");
    refused(r#"rate({app="x"}[2h])"#, "[interval] value exceeds limit: [2h] > [1h]");
    refused(r#"{app="x"} |= "secret""#, "query blocked by policy");
    refused(r#"rate({app="x"}[1m])"#, "query too large to execute on a single querier");
    assert_eq!(server.ask("t", "/flush", Some("")).0, 204);
    refused(r#"{app="x"}"#, "query too large to execute on a single querier");
}

#[test]
fn documents_of_elasticsearch_and_lines_are_entries() {
    let (_dir, server) = start("", "");
    let bulk = "{\"create\":{\"_index\":\"web\"}}\n{\"message\":\"hello\",\"status\":500}\n";
    let (status, body, _) = server.ask("a", "/elasticsearch/_bulk", Some(bulk));
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""errors":false"#) && body.contains(r#""status":201"#), "{body}");
    assert_eq!(server.ask("a", "/insert/lines?labels=%7Bapp%3D%22l%22%7D", Some("one\ntwo\n")).0, 204);
    assert_eq!(server.ask("a", "/insert/jsonline?label_fields=app", Some("{\"app\":\"j\",\"n\":1}")).0, 204);
    let count = |selector: &str| vector(&server, "a", &format!("sum(count_over_time({selector}[5m]))"));
    let found = |n: &str| vec![("{}".to_owned(), n.to_owned())];
    assert_eq!(count(r#"{index="web"} | json | status = 500 "#), found("1"));
    assert_eq!(count(r#"{app="l"}"#), found("2"));
    assert_eq!(count(r#"{app="j"} | json | n = 1 "#), found("1"));
    assert_eq!(server.ask("a", "/_bulk", Some("x")).0, 400);
    assert_eq!(server.get("/elasticsearch").0, 200);
}

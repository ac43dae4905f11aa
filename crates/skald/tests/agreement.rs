//! An answer does not depend on where the entries lie: in memory, in one block, in many blocks that overlap, or in
//! parts of each. The same random pushes, some of them repeated, go to servers that flush at different times, and all
//! of them answer the same questions.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{Server, now};

const SECOND: i64 = 1_000_000_000;
/// Inside the out-of-order window, so that every server takes everything.
const SPAN: i64 = 45 * 60 * SECOND;
const PUSHES: usize = 24;
const ENTRIES_PER_PUSH: usize = 60;

/// A stream of numbers that depends on nothing but its seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

#[derive(Clone)]
struct Entry {
    app: &'static str,
    pod: u64,
    time: i64,
    line: String,
    trace: Option<u64>,
}

fn entry(r: &mut Random, time: i64) -> Entry {
    let level = ["debug", "info", "warn", "error"][r.below(4) as usize];
    let (app, line) = match r.below(3) {
        0 => (
            "api",
            json!({"level": level, "status": 200 + 100 * r.below(4), "latency_ms": r.below(900),
                "request": {"path": r.pick(&["/a", "/b"]), "id": format!("{:016x}", r.next())}})
            .to_string(),
        ),
        1 => (
            "billing",
            format!(
                "level={level} duration={}ms size={}KB msg=\"charge {}\"",
                r.below(1500),
                r.below(90),
                r.pick(&["accepted", "refused", "timed out"])
            ),
        ),
        _ => (
            "batch",
            format!(
                "{} Task {} {}",
                level.to_uppercase(),
                r.below(50),
                r.pick(&["finished", "OOMKilled", "retried"])
            ),
        ),
    };
    let trace = (r.below(3) == 0).then(|| r.below(5));
    Entry { app, pod: r.below(3), time, line, trace }
}

/// Pushes in order of time by and large, and some entries again later, as clients do that got no answer.
fn pushes(seed: u64, start: i64) -> Vec<Vec<Entry>> {
    let mut r = Random(seed);
    let mut all: Vec<Vec<Entry>> = Vec::new();
    let count = (PUSHES * ENTRIES_PER_PUSH) as i64;
    for p in 0..PUSHES {
        let mut push = Vec::new();
        for i in 0..ENTRIES_PER_PUSH {
            let again = p > 0 && r.below(8) == 0;
            if again {
                let earlier = &all[r.below(p as u64) as usize];
                push.push(earlier[r.below(earlier.len() as u64) as usize].clone());
                continue;
            }
            // No two new entries have one time: those would have no order.
            let nth = (p * ENTRIES_PER_PUSH + i) as i64;
            let back = r.below(5) as i64 * SPAN / 40;
            let time = start + (nth * SPAN / count - back).max(0);
            push.push(entry(&mut r, time - time % 1000 + nth % 1000));
        }
        all.push(push);
    }
    all
}

fn body(push: &[Entry]) -> String {
    let streams = push.iter().map(|e| {
        let metadata = e.trace.map_or(json!({}), |t| json!({"trace": t.to_string()}));
        json!({"stream": {"app": e.app, "pod": e.pod.to_string()}, "values": [[e.time.to_string(), e.line, metadata]]})
    });
    json!({"streams": streams.collect::<Vec<_>>()}).to_string()
}

const LOGS: &[&str] = &[
    r#"{app=~".+"}"#,
    r#"{app="api"} |= "error""#,
    r#"{app="batch"} |= "OOMKilled""#,
    r#"{app=~".+"} |~ "(?i)oomkilled|refused""#,
    r#"{app=~".+"} != "info" |~ "[0-9]{3}""#,
    r#"{app="api"} | json | status >= 400"#,
    r#"{app="api"} | json | latency_ms > 850 | line_format "{{.request_path}} {{.status}}""#,
    r#"{app="billing"} | logfmt | duration > 1s and level="error""#,
    r#"{app="billing"} | logfmt | size > 80KB | keep level, size"#,
    r#"{app=~".+"} | trace="3""#,
    r#"{app=~".+", pod="1"} | trace!="" | drop app"#,
    r#"{app="batch"} | pattern "<level> Task <task> <state>" | task > 40"#,
];

const METRICS: &[&str] = &[
    r#"sum by (app) (count_over_time({app=~".+"}[5m]))"#,
    r#"count_over_time({app=~".+"}[10m])"#,
    r#"sum(rate({app="batch"} |= "OOMKilled" [3m]))"#,
    r#"sum by (pod) (bytes_over_time({app=~".+"}[7m]))"#,
    r#"quantile_over_time(0.9, {app="api"} | json | unwrap latency_ms [10m]) by (pod)"#,
    r#"sum by (level) (count_over_time({app="billing"} | logfmt | duration > 500ms [15m]))"#,
    r#"max_over_time({app="api"} | json | unwrap latency_ms [10m]) by (status)"#,
    r#"stddev_over_time({app="api"} | json | unwrap latency_ms [20m]) by (app)"#,
    r#"first_over_time({app="billing"} | logfmt | unwrap duration(duration) [20m]) by (pod)"#,
    r#"topk(2, sum by (pod, app) (rate({app=~".+"}[30m])))"#,
    r#"sum by (trace) (count_over_time({app=~".+"} | trace!="" [15m]))"#,
    r#"sum(count_over_time({app="api"}[10m])) / sum(count_over_time({app=~".+"}[10m]))"#,
    r#"absent_over_time({app="batch"} |= "no such text" [10m])"#,
];

/// All answers of a server, by question; comparable.
fn answers(server: &Server, start: i64) -> BTreeMap<String, Value> {
    let mut answers = BTreeMap::new();
    let end = start + SPAN + 60 * SECOND;
    let mut ask = |name: String, path: String| {
        let (status, body) = server.get(&path);
        assert_eq!(status, 200, "{name}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let data = answer["data"].get("result").unwrap_or(&answer["data"]);
        answers.insert(name, comparable(data));
    };
    for query in LOGS {
        for (direction, limit) in [("backward", 5000), ("forward", 37), ("backward", 37)] {
            ask(
                format!("{query} {direction} {limit}"),
                format!(
                    "/loki/api/v1/query_range?query={}&start={start}&end={end}&direction={direction}&limit={limit}",
                    encode(query)
                ),
            );
        }
    }
    for query in METRICS {
        ask(
            format!("{query} over time"),
            format!("/loki/api/v1/query_range?query={}&start={start}&end={end}&step=120", encode(query)),
        );
        ask(query.to_string(), format!("/loki/api/v1/query?query={}&time={end}", encode(query)));
    }
    for path in ["labels?", "label/pod/values?", "series?match[]=%7Bapp%3D%22api%22%7D&"] {
        ask(path.to_owned(), format!("/loki/api/v1/{path}start={start}&end={end}"));
    }
    answers
}

/// Without what has no order, and numbers to nine digits: sums depend on the order of adding.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Array(all) => {
            let mut all: Vec<Value> = all.iter().map(comparable).collect();
            if all.iter().all(Value::is_object) {
                all.sort_by_key(Value::to_string);
            }
            Value::Array(all)
        }
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), comparable(v))).collect(),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) if text.contains('.') => json!(format!("{number:.9e}")),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

#[test]
fn answers_do_not_depend_on_where_entries_lie() {
    let start = now() - SPAN;
    for seed in [1, 2] {
        let pushes = pushes(seed, start);
        let limits = tempfile::tempdir().unwrap();
        let file = limits.path().join("limits.yaml");
        std::fs::write(&file, "limits_config:\n  discover_log_levels: false\n").unwrap();
        let config = ["--config.file", file.to_str().unwrap()];
        let mut expected: Option<BTreeMap<String, Value>> = None;
        // After which of the pushes a server flushes.
        type Flushes = fn(usize) -> bool;
        let servers: [(&str, Flushes); 4] = [
            ("memory", |_| false),
            ("one block", |p| p == PUSHES - 1),
            ("many blocks", |p| p % 3 == 2),
            ("blocks and memory", |p| p % 5 == 4 && p < PUSHES - 4),
        ];
        for (name, flushes) in servers {
            let data = tempfile::tempdir().unwrap();
            let server = Server::start(data.path(), &config);
            for (p, push) in pushes.iter().enumerate() {
                let answer = server.post("/loki/api/v1/push", "application/json", &body(push));
                assert_eq!(answer.0, 204, "{answer:?}");
                if flushes(p) {
                    let answer = server.post("/flush/tenant", "text/plain", "");
                    assert_eq!(answer.0, 204, "{answer:?}");
                }
            }
            let found = answers(&server, start);
            match &expected {
                None => {
                    let first = found[&format!("{} backward 5000", LOGS[0])].as_array().unwrap().len();
                    assert!(first > 20, "the questions have answers");
                    expected = Some(found);
                }
                Some(expected) => {
                    for (question, answer) in expected {
                        assert_eq!(&found[question], answer, "seed {seed}, {name}: {question}");
                    }
                }
            }
            server.kill();
        }
    }
}

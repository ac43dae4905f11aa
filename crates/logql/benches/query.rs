//! Parsing, pipelines and range aggregations, in bytes of raw lines per second on one core. The search for a needle
//! over the same lines calibrates the machine.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use skald_logql::{Expr, LogQuery, MetricQuery, Steps, parse};
use skald_model::{Labels, LabelsRef};

const LINES: usize = 4096;
const SECOND: i64 = 1_000_000_000;

fn json_line(i: usize) -> String {
    format!(
        r#"{{"ts":"2026-01-15T03:29:{:02}.715Z","level":"{}","logger":"mlflow.server","msg":"request completed","request":{{"method":"GET","path":"/api/2.0/mlflow/runs/search","headers":{{"user-agent":"curl/8.5.0","x-request-id":"{:012x}"}},"status":{},"remote":"10.1.3.{}"}},"duration":"{}ms","response_size":"{}B","trace_id":"{:032x}"}}"#,
        i % 60,
        ["info", "warn", "error", "debug"][i % 4],
        i * 7919,
        [200, 201, 404, 500][i % 4],
        i % 255,
        i % 900,
        i * 31,
        (i as u128) * 0x9e37_79b9_7f4a_7c15,
    )
}

fn logfmt_line(i: usize) -> String {
    format!(
        "level={} step={} epoch={} loss={}.{:05} lr=1e-4 duration={}ms size={}MB gpu_mem=77.0GiB rank={} msg=\"checkpoint saved\"",
        ["info", "warn"][i % 2],
        i,
        i / 100,
        i % 4,
        i % 99_999,
        i % 900,
        i % 200,
        i % 8
    )
}

fn access_line(i: usize) -> String {
    format!(
        r#"10.0.{}.{} - - [15/Jan/2026:01:58:16 +0000] "GET /static/app.js?v={} HTTP/2.0" {} {} "https://ml.example.com/" "python-requests/2.31.0" 0.{:03}"#,
        i % 200,
        i % 250,
        i % 10,
        [200, 304, 404, 502][i % 4],
        i * 13 % 300_000,
        i % 1000
    )
}

/// Name, lines, query.
type Case = (&'static str, fn(usize) -> String, &'static str);

fn lines(make: fn(usize) -> String) -> (Vec<Bytes>, u64) {
    let lines: Vec<Bytes> = (0..LINES).map(|i| Bytes::from(make(i))).collect();
    let bytes = lines.iter().map(|l| l.len() as u64).sum();
    (lines, bytes)
}

fn parsing(c: &mut Criterion) {
    let query = r#"sum by (pod, level) (rate({app="mlflow", env=~"prod|dev"} |= "error" | json | status >= 500 | line_format "{{.msg}}" [5m])) / on (pod) group_left sum by (pod) (rate({app="mlflow"}[5m])) > 0.1"#;
    let _ = parse(query);
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(query.len() as u64));
    group.bench_function("query", |b| b.iter(|| parse(black_box(query))));
    group.finish();
}

fn pipelines(c: &mut Criterion) {
    let stream = Labels::from_pairs([("app", "a"), ("pod", "p-0"), ("namespace", "n")]);
    let cases: &[Case] = &[
        ("json all", json_line, r#"{app="a"} | json"#),
        ("json one label", json_line, r#"{app="a"} | json | keep request_status"#),
        ("json filter", json_line, r#"{app="a"} | json | request_status >= 500"#),
        ("json path", json_line, r#"{app="a"} | json status="request.status" | status >= 500"#),
        ("logfmt all", logfmt_line, r#"{app="a"} | logfmt"#),
        ("logfmt filter", logfmt_line, r#"{app="a"} | logfmt | level="warn" | keep level"#),
        (
            "pattern",
            access_line,
            r#"{app="a"} | pattern `<ip> - - <_> "<method> <path> <_>" <status> <size> <_>`"#,
        ),
        (
            "regexp",
            access_line,
            r#"{app="a"} | regexp `^(?P<ip>\S+) .* "(?P<method>\w+) (?P<path>\S+)` | keep method"#,
        ),
        (
            "line_format",
            logfmt_line,
            r#"{app="a"} | logfmt | line_format "{{.level}} {{.msg | upper}} {{.step}}""#,
        ),
        ("needle", json_line, r#"{app="a"} |= "no such needle""#),
    ];
    let mut group = c.benchmark_group("pipeline");
    for (name, make, query) in cases {
        let (lines, bytes) = lines(*make);
        let Ok(Expr::Log(log)) = parse(query) else { continue };
        let query = LogQuery::compile(&log);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(*name, |b| {
            let mut task = query.pipeline.as_ref().map(|p| p.task());
            b.iter(|| {
                let mut found = 0usize;
                for (i, line) in lines.iter().enumerate() {
                    if query.predicate.matches(line) {
                        found += match &mut task {
                            Some(t) => {
                                t.process(i as i64, line, &stream, LabelsRef::EMPTY).is_some() as usize
                            }
                            None => 1,
                        };
                    }
                }
                black_box(found)
            });
        });
    }
    group.finish();
}

fn ranges(c: &mut Criterion) {
    let stream = Labels::from_pairs([("app", "a"), ("pod", "p-0"), ("namespace", "n")]);
    let cases: &[Case] = &[
        ("count", json_line, r#"sum by (pod) (count_over_time({app="a"}[5m]))"#),
        ("bytes_rate", json_line, r#"sum(bytes_rate({app="a"}[5m]))"#),
        ("json rate by label", json_line, r#"sum by (level) (rate({app="a"} | json [5m]))"#),
        ("json rate by nested", json_line, r#"sum by (request_status) (rate({app="a"} | json [5m]))"#),
        (
            "logfmt quantile",
            logfmt_line,
            r#"quantile_over_time(0.99, {app="a"} | logfmt | unwrap duration(duration) [5m]) by (level)"#,
        ),
        (
            "logfmt sum",
            logfmt_line,
            r#"sum by (rank) (sum_over_time({app="a"} | logfmt | unwrap bytes(size) [5m]))"#,
        ),
    ];
    let steps = Steps::range(0, 3600 * SECOND, 60 * SECOND);
    let mut group = c.benchmark_group("range");
    for (name, make, query) in cases {
        let (lines, bytes) = lines(*make);
        let Ok(Expr::Metric(metric)) = parse(query) else { continue };
        let Ok(query) = MetricQuery::compile(&metric) else { continue };
        let leaf = Arc::clone(&query.leaves()[0]);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(*name, |b| {
            b.iter(|| {
                let Ok(mut observer) = leaf.observer(steps) else { return 0 };
                for (i, line) in lines.iter().enumerate() {
                    let t = i as i64 * 3600 * SECOND / LINES as i64;
                    let _ = observer.observe(t, line, &stream, LabelsRef::EMPTY);
                }
                black_box(observer.finish().series())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parsing, pipelines, ranges);
criterion_main!(benches);

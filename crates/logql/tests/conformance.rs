//! The query cases of the conformance corpus, from text to answer in memory: parse, plan, run, evaluate, and compare as
//! the corpus' runner does. What needs HTTP (parameters, headers, other endpoints) is not covered here.
//!
//! The corpus is looked for in `$SKALD_CONFORMANCE`, or beside the workspace in `shared/conformance`.

#![expect(clippy::unwrap_used, reason = "what the corpus holds is known; a test may fail on it")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use skald_logql::metric::{QueryLimits, QueryValue};
use skald_logql::units::format_float;
use skald_logql::*;
use skald_model::{EntryLabels, Error, Kind, Labels, Limits, TenantId};

/// Categories of other endpoints and of HTTP itself.
const SKIPPED: &[&str] = &[
    "detected_fields",
    "detected_labels",
    "headers",
    "index_stats",
    "ingest_encoding",
    "ingest_json",
    "ingest_labels",
    "ingest_limits",
    "ingest_otlp",
    "ingest_protobuf",
    "labels",
    "patterns",
    "series",
    "status",
    "volume",
    "volume_range",
];

fn corpus() -> Option<PathBuf> {
    let path = match std::env::var_os("SKALD_CONFORMANCE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    path.is_dir().then_some(path)
}

/// An entry of the data set.
struct Row {
    timestamp: i64,
    line: Bytes,
    metadata: Labels,
}

/// All entries by stream, each in the order of time and then of arrival.
struct Data {
    streams: Vec<(Labels, Vec<Row>)>,
}

impl Data {
    fn load(path: &std::path::Path) -> Self {
        let file = std::fs::File::open(path.join("dataset.jsonl.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let mut streams: BTreeMap<Labels, Vec<Row>> = BTreeMap::new();
        let names = Limits::default().discover_service_name;
        for line in text.lines().filter(|l| !l.is_empty()) {
            let row: Value = serde_json::from_str(line).unwrap();
            let mut labels = pairs(&row["labels"]);
            if !labels.contains_key("service_name") {
                let found = names.iter().find_map(|n| labels.get(n).cloned());
                labels.insert("service_name".into(), found.unwrap_or("unknown_service".into()));
            }
            let labels = Labels::from_pairs(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            // Ingestion makes names of structured metadata label names.
            let name = |k: String| k.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            let metadata: BTreeMap<_, _> =
                pairs(&row["metadata"]).into_iter().map(|(k, v)| (name(k), v)).collect();
            let rows = streams.entry(labels).or_default();
            let entry = Row {
                timestamp: row["ts"].as_str().unwrap().parse().unwrap(),
                line: Bytes::from(row["line"].as_str().unwrap().to_owned()),
                metadata: Labels::from_pairs(metadata.iter().map(|(k, v)| (k.as_str(), v.as_str()))),
            };
            // An entry with the same time, line and metadata is stored once; so is one too far behind never.
            let same = |r: &Row| {
                r.timestamp == entry.timestamp && r.line == entry.line && r.metadata == entry.metadata
            };
            if !rows.iter().rev().any(same) {
                rows.push(entry);
            }
        }
        for rows in streams.values_mut() {
            rows.sort_by_key(|r| r.timestamp);
        }
        Self { streams: streams.into_iter().collect() }
    }
}

fn pairs(value: &Value) -> BTreeMap<String, String> {
    let Some(map) = value.as_object() else { return BTreeMap::new() };
    map.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect()
}

/// The parameters of a case, form before URL, the first of each name.
fn parameters(case: &Value) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for part in ["form", "params"] {
        for pair in case[part].as_array().into_iter().flatten() {
            let (k, v) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            out.entry(k.to_owned()).or_insert(v.to_owned());
        }
    }
    out
}

/// A point of time as the cases write it; `None` for what only HTTP handles.
fn time(text: &str) -> Option<i64> {
    match text.parse::<i64>() {
        Ok(n) if text.len() <= 10 => Some(n * 1_000_000_000),
        Ok(n) => Some(n),
        Err(_) => match text.parse::<f64>() {
            Ok(f) => Some((f * 1000.0).round() as i64 * 1_000_000),
            Err(_) => chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt(),
        },
    }
}

fn duration(text: &str) -> Option<i64> {
    match text.parse::<f64>() {
        Ok(seconds) => Some((seconds * 1e9) as i64),
        Err(_) => units::parse_prometheus_duration(text).ok(),
    }
}

/// Loki's default `max_query_length`.
const MAX_RANGE: i64 = 721 * 3600 * 1_000_000_000;

enum Answer {
    Body(Value),
    Error(u16, String),
    /// Not for this test.
    Skip,
}

fn failed(e: &Error) -> Answer {
    Answer::Error(if e.kind == Kind::InvalidArgument { 400 } else { 500 }, e.message.clone())
}

fn answer(case: &Value, data: &Data, strict: bool) -> Answer {
    let path = case["path"].as_str().unwrap();
    let p = parameters(case);
    let query = p.get("query").map_or("", String::as_str);
    let expr = match parse_with(query, ParseOptions { loki_strict: strict }) {
        Ok(expr) => expr,
        Err(e) if path.ends_with("format_query") => {
            return Answer::Body(json!({"status": "invalid-query", "error": e.to_string()}));
        }
        Err(e) => return Answer::Error(400, e.to_string()),
    };
    if path.ends_with("/format_query") {
        return Answer::Body(json!({"status": "success", "data": format_query(&expr)}));
    }
    let categorize = case["headers"].as_object().is_some_and(|h| {
        h.iter().any(|(k, v)| {
            k.eq_ignore_ascii_case("X-Loki-Response-Encoding-Flags") && v == "categorize-labels"
        })
    });
    let bad = |name: &str, ok: &dyn Fn(&str) -> bool| p.get(name).is_some_and(|v| !ok(v));
    if bad("step", &|v| duration(v).is_some_and(|s| s > 0 && s < i64::MAX))
        || bad("limit", &|v| v.parse().is_ok_and(|l: u32| l > 0))
    {
        return Answer::Skip;
    }
    let unusual = ["since", "interval", "regexp", "shards", "direction"].iter().any(|n| {
        p.get(*n).is_some_and(|v| {
            *n != "direction" || !matches!(v.to_lowercase().as_str(), "forward" | "backward")
        })
    });
    let other_headers = case["headers"].as_object().is_some_and(|h| !h.is_empty()) && !categorize;
    if unusual || other_headers {
        return Answer::Skip;
    }
    if path.ends_with("/query") {
        let Some(at) = p.get("time").and_then(|t| time(t)) else { return Answer::Skip };
        return match &expr {
            Expr::Log(_) => Answer::Error(
                400,
                "log queries are not supported as an instant query type, please change your query to a range query type"
                    .into(),
            ),
            Expr::Metric(m) => metric(m, Steps::instant(at), data),
        };
    }
    let bounds = p.get("start").and_then(|t| time(t)).zip(p.get("end").and_then(|t| time(t)));
    let Some((start, end)) = bounds else { return Answer::Skip };
    match &expr {
        Expr::Metric(m) => {
            let step = match p.get("step") {
                Some(s) => duration(s),
                None => Some(((end - start) / 1_000_000_000 / 250).max(1) * 1_000_000_000),
            };
            match step.filter(|s| *s > 0) {
                Some(step) if (end - start) / step <= 11_000 && end >= start && end - start <= MAX_RANGE => {
                    metric(m, Steps::aligned(start, end, step), data)
                }
                _ => Answer::Skip,
            }
        }
        Expr::Log(log) => {
            let limit = p.get("limit").map_or(Some(100), |l| l.parse::<usize>().ok());
            let Some(limit) = limit.filter(|l| (1..=5000).contains(l)) else { return Answer::Skip };
            let forward = p.get("direction").is_some_and(|d| d.eq_ignore_ascii_case("forward"));
            if end < start || end - start > MAX_RANGE {
                return Answer::Skip;
            }
            logs(log, (start, end), limit, forward, categorize, data)
        }
    }
}

fn logs(
    log: &LogExpr,
    (start, end): (i64, i64),
    limit: usize,
    forward: bool,
    categorize: bool,
    data: &Data,
) -> Answer {
    let query = LogQuery::compile(log);
    let start = query.range.map_or(start, |r| start.max(end - r));
    // An empty range still holds its one instant.
    let end = end.max(start + 1);
    let mut task = query.pipeline.as_ref().map(|p| p.task());
    let mut plain = PlainLabels::default();
    let mut found: Vec<(i64, usize, usize, Processed)> = vec![];
    for (s, (stream, rows)) in data.streams.iter().enumerate() {
        if !query.selector.matches(stream.as_ref()) {
            continue;
        }
        for (i, row) in rows.iter().enumerate() {
            if row.timestamp < start || row.timestamp >= end {
                continue;
            }
            if let Some(e) = &query.invalid {
                return Answer::Error(400, e.to_string());
            }
            if !query.predicate.matches(&row.line) {
                continue;
            }
            let processed = match &mut task {
                Some(task) => task.process(row.timestamp, &row.line, stream, row.metadata.as_ref()),
                None => Some(Processed {
                    line: row.line.clone(),
                    labels: plain.labels(stream, row.metadata.as_ref()),
                }),
            };
            found.extend(processed.map(|p| (row.timestamp, s, i, p)));
        }
    }
    found.sort_by_key(|(t, s, i, _)| (*t, *s, *i));
    if !forward {
        found.reverse();
    }
    found.truncate(limit);
    let mut streams: Vec<(Value, Vec<Value>)> = vec![];
    for (t, _, _, p) in found {
        let EntryLabels { stream, structured_metadata, parsed } = &*p.labels;
        let map =
            |l: &Labels| l.iter().map(|(k, v)| (k.to_owned(), json!(v))).collect::<serde_json::Map<_, _>>();
        let line = String::from_utf8_lossy(&p.line).into_owned();
        let (key, value) = if categorize {
            let mut groups = serde_json::Map::new();
            for (name, labels) in [("structuredMetadata", structured_metadata), ("parsed", parsed)] {
                if !labels.is_empty() {
                    groups.insert(name.into(), Value::Object(map(labels)));
                }
            }
            (map(stream), json!([t.to_string(), line, groups]))
        } else {
            let mut all = map(stream);
            all.extend(map(structured_metadata));
            all.extend(map(parsed));
            (all, json!([t.to_string(), line]))
        };
        let key = Value::Object(key);
        match streams.iter_mut().find(|(k, _)| *k == key) {
            Some((_, values)) => values.push(value),
            None => streams.push((key, vec![value])),
        }
    }
    let result: Vec<Value> = streams.into_iter().map(|(s, v)| json!({"stream": s, "values": v})).collect();
    let mut body = json!({"resultType": "streams", "result": result});
    if categorize {
        body["encodingFlags"] = json!(["categorize-labels"]);
    }
    Answer::Body(json!({"status": "success", "data": body}))
}

fn metric(expr: &MetricExpr, steps: Steps, data: &Data) -> Answer {
    let query = match MetricQuery::compile(expr) {
        Ok(query) => query,
        Err(e) => return failed(&e),
    };
    let mut partials = vec![];
    for leaf in query.leaves() {
        let times = leaf.times(steps);
        let mut observer = None;
        for (stream, rows) in &data.streams {
            if !leaf.selector.matches(stream.as_ref()) {
                continue;
            }
            for row in rows.iter().filter(|r| times.contains(r.timestamp)) {
                if observer.is_none() {
                    match leaf.observer(steps) {
                        Ok(o) => observer = Some(o),
                        Err(e) => return failed(&e),
                    }
                }
                let Some(observer) = &mut observer else { continue };
                if leaf.predicate.matches(&row.line) {
                    observer.observe(row.timestamp, &row.line, stream, row.metadata.as_ref()).unwrap();
                }
            }
        }
        partials.push(observer.map_or_else(|| leaf.empty(), RangeObserver::finish));
    }
    let value = match query.evaluate(&partials, steps, QueryLimits { max_series: 500 }) {
        Ok(value) => value,
        Err(e) => return failed(&e),
    };
    let labels = |l: &Labels| {
        Value::Object(l.iter().map(|(k, v)| (k.to_owned(), json!(v))).collect::<serde_json::Map<_, _>>())
    };
    let seconds = |t: i64| {
        if t % 1_000_000_000 == 0 { json!(t / 1_000_000_000) } else { json!((t / 1_000_000) as f64 / 1e3) }
    };
    let point = |t: i64, v: f64| json!([seconds(t), format_float(v)]);
    let (kind, result) = match value {
        QueryValue::Scalar(t, v) => ("scalar", json!([t / 1_000_000, format_float(v)])),
        QueryValue::Vector(v) => (
            "vector",
            v.iter()
                .map(|s| json!({"metric": labels(&s.labels), "value": point(s.timestamp, s.value)}))
                .collect(),
        ),
        QueryValue::Matrix(m) => (
            "matrix",
            m.iter()
                .map(|s| {
                    let points: Vec<Value> = s.points.iter().map(|(t, v)| point(*t, *v)).collect();
                    json!({"metric": labels(&s.labels), "values": points})
                })
                .collect(),
        ),
    };
    Answer::Body(json!({"status": "success", "data": {"resultType": kind, "result": result}}))
}

/// Brings an answer into the form in which answers are compared.
fn normalize(body: &mut Value, case: &Value) {
    let ordered = case["ordered"] == true;
    let Some(data) = body.get_mut("data").and_then(Value::as_object_mut) else { return };
    data.remove("stats");
    let kind = data.get("resultType").and_then(Value::as_str).unwrap_or_default().to_owned();
    if data.get("result").is_some_and(Value::is_null) {
        data.insert("result".into(), json!([]));
    }
    let Some(result) = data.get_mut("result").and_then(Value::as_array_mut) else { return };
    if kind == "streams" {
        for stream in result.iter_mut() {
            let Some(values) = stream["values"].as_array_mut() else { continue };
            let mut i = 0;
            while i < values.len() {
                let same = values[i..].iter().take_while(|v| v[0] == values[i][0]).count();
                values[i..i + same].sort_by_key(Value::to_string);
                i += same;
            }
        }
    }
    if !ordered && kind != "scalar" {
        result.sort_by_key(|r| r.get("stream").or(r.get("metric")).map(Value::to_string));
    }
}

fn number(v: &Value) -> Option<f64> {
    match v {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "+Inf" => Some(f64::INFINITY),
            "-Inf" => Some(f64::NEG_INFINITY),
            s => s.parse().ok(),
        },
        _ => None,
    }
}

/// The first difference, if there is one.
fn difference(want: &Value, got: &Value, tolerance: f64, samples: bool, path: &str) -> Option<String> {
    let differ = || Some(format!("{path}: got {got}, expected {want}"));
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            if let Some(k) = a.keys().find(|k| !b.contains_key(*k)) {
                return Some(format!("{path}: missing {k}"));
            }
            if let Some(k) = b.keys().find(|k| !a.contains_key(*k)) {
                return Some(format!("{path}: unexpected {k}={}", b[k]));
            }
            let numbers = samples
                || matches!(
                    a.get("resultType").and_then(Value::as_str),
                    Some("matrix" | "vector" | "scalar")
                );
            a.iter().find_map(|(k, v)| {
                let inside = numbers && k != "metric" && k != "stream";
                difference(v, &b[k], tolerance, inside, &format!("{path}.{k}"))
            })
        }
        (Value::Array(a), Value::Array(b)) => {
            let first = a
                .iter()
                .zip(b)
                .enumerate()
                .find_map(|(i, (x, y))| difference(x, y, tolerance, samples, &format!("{path}[{i}]")));
            first.or_else(|| {
                (a.len() != b.len()).then(|| format!("{path}: {} items, expected {}", b.len(), a.len()))
            })
        }
        _ if want == got => None,
        _ => match (number(want), number(got)) {
            (Some(a), Some(b)) if samples || (want.is_number() && got.is_number()) => {
                let close = a == b
                    || (a.is_nan() && b.is_nan())
                    || (a - b).abs() <= tolerance * a.abs().max(b.abs())
                    || (a - b).abs() < 1e-15;
                if close { None } else { differ() }
            }
            _ => differ(),
        },
    }
}

fn check(case: &Value, answer: Answer) -> Result<bool, String> {
    let expect = &case["expect"];
    let status_wanted = expect["status"].as_u64().unwrap_or(200) as u16;
    let (status, body, text) = match answer {
        Answer::Skip => return Ok(false),
        Answer::Error(status, text) => (status, Value::Null, text),
        Answer::Body(body) => {
            let status = if body["status"] == "invalid-query" { 400 } else { 200 };
            let text = body.to_string();
            (status, body, text)
        }
    };
    if status != status_wanted {
        return Err(format!("status {status}, expected {status_wanted}: {}", &text[..text.len().min(300)]));
    }
    if let Some(want) = expect["text"].as_str()
        && want.trim() != text.trim()
    {
        return Err(format!("text {text}\n   expected {want}"));
    }
    for want in expect["contains"].as_array().into_iter().flatten() {
        if !text.contains(want.as_str().unwrap()) {
            return Err(format!("{text}\n   does not contain {want}"));
        }
    }
    if let Some(want) = expect.get("body") {
        let (mut want, mut got) = (want.clone(), body);
        normalize(&mut want, case);
        normalize(&mut got, case);
        if case["compare"] == "shape" {
            return Ok(true);
        }
        let tolerance = case["tol"].as_f64().unwrap_or(if case["compare"] == "approx" { 1e-6 } else { 1e-9 });
        if let Some(difference) = difference(&want, &got, tolerance, false, "") {
            return Err(difference);
        }
    }
    Ok(true)
}

#[test]
fn queries_answer_as_recorded() {
    let Some(path) = corpus() else {
        println!("no conformance corpus; set SKALD_CONFORMANCE to its folder");
        return;
    };
    let _ = TenantId::new("fake");
    let data = Arc::new(Data::load(&path));
    let mut files: Vec<(PathBuf, bool)> =
        std::fs::read_dir(path.join("cases")).unwrap().map(|f| (f.unwrap().path(), true)).collect();
    files.push((path.join("cases_extensions.jsonl"), false));
    files.sort();
    let only = std::env::var("ONLY").ok();
    let mut failures = vec![];
    let mut by_category: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (file, strict) in files {
        for line in std::fs::read_to_string(&file).unwrap().lines().filter(|l| !l.is_empty()) {
            let case: Value = serde_json::from_str(line).unwrap();
            let (id, category) =
                (case["id"].as_str().unwrap(), case["category"].as_str().unwrap().to_owned());
            let endpoint = case["path"].as_str().unwrap();
            let query = ["query", "query_range", "format_query"]
                .iter()
                .any(|e| endpoint == format!("/loki/api/v1/{e}"));
            if SKIPPED.contains(&category.as_str())
                || !query
                || only.as_ref().is_some_and(|o| !id.contains(o.as_str()))
            {
                by_category.entry(category).or_default().1 += 1;
                continue;
            }
            let answer = answer(&case, &data, strict);
            if let (Some(_), Answer::Body(body)) = (&only, &answer) {
                println!("{id}: {body:#}");
            }
            let result = check(&case, answer);
            let counts = by_category.entry(category).or_default();
            match result {
                Ok(true) => counts.0 += 1,
                Ok(false) => counts.1 += 1,
                Err(e) => {
                    let query = parameters(&case).remove("query").unwrap_or_default();
                    failures.push(format!(
                        "{id}: {}\n   {}",
                        &query[..query.len().min(300)],
                        e.chars().take(700).collect::<String>()
                    ));
                }
            }
        }
    }
    for (category, (passed, skipped)) in &by_category {
        println!("{category:24} {passed:4} passed {skipped:4} need HTTP");
    }
    let passed: usize = by_category.values().map(|c| c.0).sum();
    println!("{passed} passed, {} failed", failures.len());
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

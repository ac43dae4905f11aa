//! Recorded requests and answers of Loki, as far as they need no storage. The corpus is looked for where
//! `SKALD_CONFORMANCE` says, else beside the workspace; without it these tests say so and pass.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use skald_model::label_text::parse_label_set;
use skald_model::labels::pack_pair;
use skald_model::{EntryHash, EntryLabels, Labels, LabelsBuilder, LogEntry, Push, PushLabels, StreamId};
use skald_rpc::frontend::{QueryData, Series};

use crate::services::{Answer, Services, send, surface};

fn cases(categories: &[&str]) -> Vec<Value> {
    let folder = std::env::var_os("SKALD_CONFORMANCE").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance")),
        PathBuf::from,
    );
    let mut out = Vec::new();
    for category in categories {
        let path = folder.join("cases").join(format!("{category}.jsonl"));
        match std::fs::read_to_string(&path) {
            Ok(text) => out.extend(text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap())),
            Err(e) => println!("skipped, no corpus at {}: {e}", path.display()),
        }
    }
    out
}

fn request(case: &Value) -> Request<Body> {
    let encode = |pairs: &Value| {
        let pairs = pairs.as_array().into_iter().flatten();
        let escaped =
            |v: &Value| -> String { v.as_str().unwrap().bytes().map(|b| format!("%{b:02X}")).collect() };
        pairs.map(|p| format!("{}={}", escaped(&p[0]), escaped(&p[1]))).collect::<Vec<_>>().join("&")
    };
    let uri = format!("{}?{}", case["path"].as_str().unwrap(), encode(&case["params"]));
    let mut request = Request::builder().method(case["method"].as_str().unwrap()).uri(uri);
    for (name, value) in case["headers"].as_object().into_iter().flatten() {
        request = request.header(name, value.as_str().unwrap());
    }
    let body = if let Some(text) = case["body"].as_str() {
        text.to_owned().into_bytes()
    } else if let Some(text) = case["body_b64"].as_str() {
        base64(text)
    } else if !case["form"].is_null() {
        request = request.header("content-type", "application/x-www-form-urlencoded");
        encode(&case["form"]).into_bytes()
    } else {
        Vec::new()
    };
    request.body(Body::from(body)).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut n) = (Vec::new(), 0u32, 0);
    for b in text.bytes().filter(|b| *b != b'=') {
        bits = bits << 6 | ALPHABET.iter().position(|a| *a == b).unwrap() as u32;
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
        }
    }
    out
}

/// What a query would show of a push: streams with the labels and metadata that Loki gives them.
fn shown(push: &Push) -> Result<Vec<Value>, String> {
    let mut streams: BTreeMap<Labels, Vec<(i64, String)>> = BTreeMap::new();
    for s in &push.streams {
        let text = match &s.labels {
            PushLabels::Text(t) => String::from_utf8(t.to_vec()).unwrap(),
            PushLabels::Set(l) => l.to_string(),
        };
        let parsed = parse_label_set(&text).map_err(|e| format!("couldn't parse labels: {e}"))?;
        let names = skald_model::Limits::default().discover_service_name;
        let names = std::iter::once("service_name").chain(names.iter().map(String::as_str));
        let service = names.into_iter().find_map(|n| parsed.get(n)).unwrap_or("unknown_service");
        for e in &push.entries.refs[s.entries.start as usize..s.entries.end as usize] {
            let mut labels = LabelsBuilder::from_labels(&parsed);
            labels.set("service_name", service);
            for (n, v) in push.entries.metadata(e).iter() {
                labels.set(n, v);
            }
            let line = String::from_utf8(push.entries.line(e).to_vec()).unwrap();
            let entries = streams.entry(labels.build()).or_default();
            if !entries.contains(&(e.timestamp, line.clone())) {
                entries.push((e.timestamp, line));
            }
        }
    }
    let streams = streams.into_iter().map(|(labels, mut entries)| {
        entries.sort_by_key(|(time, _)| *time);
        let values: Vec<_> = entries.into_iter().map(|(t, line)| json!([t.to_string(), line])).collect();
        let labels: BTreeMap<_, _> = labels.iter().collect();
        json!({"stream": labels, "values": values})
    });
    Ok(streams.collect())
}

/// Cases that the distributor decides, by limits or by what is stored already.
const LIMITS: [&str; 3] = ["ingest-labels-015", "ingest-protobuf-031", "ingest-otlp-025"];

#[tokio::test]
async fn pushes_are_taken_or_refused_as_by_loki() {
    let categories = ["ingest_json", "ingest_labels", "ingest_encoding", "ingest_protobuf", "ingest_otlp"];
    for case in cases(&categories) {
        let id = case["id"].as_str().unwrap();
        if LIMITS.contains(&id) {
            continue;
        }
        let services = Arc::new(Services::default());
        let answer = send(&surface(&services), request(&case)).await;
        let said = String::from_utf8_lossy(&answer.body);
        let stored = services.pushes.lock().unwrap().pop().map(|(_, push)| shown(&push)).transpose();
        let (status, text) = match &stored {
            Err(e) => (400, e.as_str()),
            Ok(_) => (answer.status.as_u16(), said.trim_end()),
        };
        assert_eq!(u64::from(status), case["expect"]["status"], "{id}: {text}");
        if let Some(expected) = case["expect"]["text"].as_str() {
            assert_eq!(text, expected, "{id}");
        }
        // What is asked for differs by labels that some pushes do not have; those show all there is.
        let expected = case["followup"][0]["expect"]["body"]["data"]["result"].as_array();
        if let (Ok(stored), Some(expected)) = (stored, expected) {
            let mut expected = expected.clone();
            expected.sort_by_key(|s| s["stream"].to_string());
            let mut stored = stored.unwrap_or_default();
            stored.sort_by_key(|s| s["stream"].to_string());
            if id != "ingest-encoding-021" && id != "ingest-protobuf-003" {
                assert_eq!(stored, expected, "{id}");
            }
        }
    }
}

/// How refusals begin that the parameters alone decide.
const PARAMETER_ERRORS: [&str; 10] = [
    "could not parse '",
    "strconv.",
    "limit ",
    "zero or negative query resolution",
    "cannot parse ",
    "interval must",
    "exceeded maximum resolution",
    "end timestamp must not",
    "invalid direction",
    "invalid URL escape",
];

#[tokio::test]
async fn parameters_are_read_as_by_loki() {
    let categories = [
        "errors_params",
        "api_params",
        "post_form",
        "headers",
        "labels",
        "series",
        "matchers",
        "line_filters",
        "range_boundaries",
        "categorize_labels",
        "structured_metadata",
    ];
    let known = ["/query_range", "/query", "/labels", "/label", "/values", "/series"];
    for case in cases(&categories) {
        let (id, path) = (case["id"].as_str().unwrap(), case["path"].as_str().unwrap());
        let metadata_of_other_kinds = path.contains("detected") || path.contains("index");
        if metadata_of_other_kinds || !known.iter().any(|k| path.ends_with(k)) {
            continue;
        }
        let services = Arc::new(Services::default());
        let answer = send(&surface(&services), request(&case)).await;
        let text = case["expect"]["text"].as_str().unwrap_or("");
        if PARAMETER_ERRORS.iter().any(|p| text.starts_with(p)) {
            assert_eq!(
                (u64::from(answer.status.as_u16()), answer.text()),
                (case["expect"]["status"].as_u64().unwrap(), text),
                "{id}"
            );
        } else {
            // Everything else is for the frontend to decide.
            assert_eq!(answer.status, 200, "{id}: {}", answer.text());
            assert_eq!(services.asked().len(), 1, "{id}");
        }
    }
}

/// Built by hand, because queries make labels with empty values too.
fn labels(object: &Value) -> Labels {
    let mut packed = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        pack_pair(&mut packed, name, value.as_str().unwrap());
    }
    Labels::from_packed(&packed).unwrap()
}

fn sample(pair: &Value) -> (i64, f64) {
    let time = (pair[0].as_f64().unwrap() * 1000.0).round() as i64 * 1_000_000;
    (time, pair[1].as_str().unwrap().parse().unwrap())
}

fn data(recorded: &Value) -> Option<QueryData> {
    let result = &recorded["result"];
    let all = || result.as_array().into_iter().flatten();
    Some(match recorded["resultType"].as_str()? {
        "streams" => QueryData::Streams(
            all()
                .flat_map(|s| {
                    s["values"].as_array().unwrap().iter().map(|v| LogEntry {
                        timestamp: v[0].as_str().unwrap().parse().unwrap(),
                        line: Bytes::from(v[1].as_str().unwrap().to_owned()),
                        labels: Arc::new(EntryLabels {
                            stream: labels(&s["stream"]),
                            structured_metadata: labels(&v[2]["structuredMetadata"]),
                            parsed: labels(&v[2]["parsed"]),
                        }),
                        stream: StreamId(0),
                        identity: EntryHash(0),
                    })
                })
                .collect(),
        ),
        "matrix" => QueryData::Matrix(
            all()
                .map(|s| Series {
                    labels: labels(&s["metric"]),
                    samples: s["values"].as_array().unwrap().iter().map(sample).collect(),
                })
                .collect(),
        ),
        "vector" => QueryData::Vector(
            all()
                .map(|s| Series { labels: labels(&s["metric"]), samples: vec![sample(&s["value"])] })
                .collect(),
        ),
        "scalar" => QueryData::Scalar(
            result[0].as_i64().unwrap() * 1_000_000,
            result[1].as_str().unwrap().parse().unwrap(),
        ),
        other => panic!("unknown result type {other}"),
    })
}

/// Recorded answers without statistics, streams and series sorted, values that JSON cannot hold as text.
fn normal(mut body: Value) -> Value {
    body["data"].as_object_mut().unwrap().remove("stats");
    if let Some(result) = body["data"]["result"].as_array_mut()
        && result.first().is_some_and(Value::is_object)
    {
        result.sort_by_key(|r| format!("{}{}", r["stream"], r["metric"]));
    }
    body
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn recorded_answers_are_written_alike() {
    let categories = [
        "api_params",
        "categorize_labels",
        "headers",
        "structured_metadata",
        "line_filters",
        "data_edges",
        "binary_ops",
        "range_aggregations",
        "vector_aggregations",
        "json",
        "error_label",
        "unwrap",
    ];
    for mut case in cases(&categories) {
        let id = case["id"].as_str().unwrap().to_owned();
        let expected = case["expect"]["body"].take();
        let Some(data) = data(&expected["data"]) else { continue };
        let services = Arc::new(Services::default());
        *services.data.lock().unwrap() = Some(data);
        let mut recorded = request(&case);
        recorded.headers_mut().remove("accept-encoding");
        let answer = send(&surface(&services), recorded).await;
        if case["compare"] == "exact" {
            assert_eq!(normal(body(&answer)), normal(expected), "{id}");
        }
    }
}

#[tokio::test]
async fn queries_are_printed_as_by_loki() {
    for case in cases(&["format_query"]) {
        let id = case["id"].as_str().unwrap();
        let answer = send(&surface(&Arc::new(Services::default())), request(&case)).await;
        let expected = &case["expect"];
        assert_eq!(
            (&json!(answer.status.as_u16()), &body(&answer)),
            (&expected["status"], &expected["body"]),
            "{id}"
        );
    }
}

use super::*;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skald_model::{EntryHash, EntryLabels, Labels, LogEntry, QueryStats, StreamId};
use std::sync::Arc;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn entry(timestamp: i64, line: &'static str, labels: &Arc<EntryLabels>) -> LogEntry {
    LogEntry {
        timestamp,
        line: Bytes::from_static(line.as_bytes()),
        labels: labels.clone(),
        stream: StreamId(1),
        identity: EntryHash(0),
    }
}

async fn text(data: QueryData, flags: &str, warnings: &[&str]) -> String {
    let mut headers = http::HeaderMap::new();
    if !flags.is_empty() {
        headers.insert("x-loki-response-encoding-flags", flags.parse().unwrap());
    }
    let response = QueryResponse {
        warnings: warnings.iter().map(|w| (*w).to_owned()).collect(),
        ..QueryResponse::new(data, QueryStats::default())
    };
    let response = respond(response, &Flags::of(&headers));
    assert_eq!(response.headers()["content-type"], "application/json; charset=UTF-8");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The answer without its statistics.
async fn check(data: QueryData, flags: &str, expected: &str) {
    let text = text(data, flags, &[]).await;
    let (before, stats) = text.split_once(",\"stats\":").expect("has statistics");
    assert_eq!(before, format!("{{\"status\":\"success\",\"data\":{{{expected}"));
    let _: Value = serde_json::from_str(stats.trim_end().strip_suffix("}}").unwrap()).unwrap();
    let _: Value = serde_json::from_str(&text).unwrap();
}

fn sample_entries() -> Vec<LogEntry> {
    let plain = Arc::new(EntryLabels {
        stream: labels(&[("app", "b")]),
        structured_metadata: Labels::empty(),
        parsed: Labels::empty(),
    });
    let rich = Arc::new(EntryLabels {
        stream: labels(&[("app", "b")]),
        structured_metadata: labels(&[("trace_id", "7")]),
        parsed: labels(&[("aa", "1")]),
    });
    let other = Arc::new(EntryLabels { stream: labels(&[("app", "a")]), ..(*plain).clone() });
    // The same labels in another allocation are the same stream.
    let again = Arc::new((*plain).clone());
    vec![
        entry(4, "four", &plain),
        entry(3, "three", &rich),
        entry(2, "two", &other),
        entry(1, "<one>", &again),
    ]
}

#[tokio::test]
async fn streams_are_grouped_by_all_labels() {
    check(
        QueryData::Streams(sample_entries()),
        "",
        r#""resultType":"streams","result":[{"stream":{"aa":"1","app":"b","trace_id":"7"},"values":[["3","three"]]},{"stream":{"app":"a"},"values":[["2","two"]]},{"stream":{"app":"b"},"values":[["4","four"],["1","\u003cone\u003e"]]}]"#,
    )
    .await;
    check(QueryData::Streams(vec![]), "", r#""resultType":"streams","result":[]"#).await;
}

#[tokio::test]
async fn categorized_labels_stay_apart() {
    check(
        QueryData::Streams(sample_entries()),
        "categorize-labels",
        r#""resultType":"streams","encodingFlags":["categorize-labels"],"result":[{"stream":{"app":"a"},"values":[["2","two",{}]]},{"stream":{"app":"b"},"values":[["4","four",{}],["3","three",{"structuredMetadata":{"trace_id":"7"},"parsed":{"aa":"1"}}],["1","\u003cone\u003e",{}]]}]"#,
    )
    .await;
}

#[tokio::test]
async fn unknown_flags_are_echoed_for_streams_only() {
    check(
        QueryData::Streams(vec![]),
        "bogus,x,bogus",
        r#""resultType":"streams","encodingFlags":["bogus","x"],"result":[]"#,
    )
    .await;
    check(QueryData::Matrix(vec![]), "categorize-labels", r#""resultType":"matrix","result":[]"#).await;
}

#[tokio::test]
async fn samples() {
    let series = |samples: &[(i64, f64)]| {
        vec![
            Series { labels: labels(&[("b", "1"), ("a", "2")]), samples: samples.to_vec() },
            Series { labels: Labels::empty(), samples: samples[..1].to_vec() },
        ]
    };
    check(
        QueryData::Matrix(series(&[(1_500_000_000, 1.0), (2_000_000_000, f64::NAN)])),
        "",
        r#""resultType":"matrix","result":[{"metric":{"a":"2","b":"1"},"values":[[1.5,"1"],[2,"NaN"]]},{"metric":{},"values":[[1.5,"1"]]}]"#,
    )
    .await;
    check(
        QueryData::Vector(series(&[(1_768_442_400_000_000_000, 0.5)])),
        "",
        r#""resultType":"vector","result":[{"metric":{"a":"2","b":"1"},"value":[1768442400,"0.5"]},{"metric":{},"value":[1768442400,"0.5"]}]"#,
    )
    .await;
    check(
        QueryData::Scalar(1_768_446_000_000_000_000, 512.0),
        "",
        r#""resultType":"scalar","result":[1768446000000,"512"]"#,
    )
    .await;
}

#[tokio::test]
async fn warnings_come_first() {
    let text = text(QueryData::Streams(vec![]), "", &["partial"]).await;
    assert!(text.starts_with(r#"{"status":"success","warnings":["partial"],"data":"#), "{text}");
}

#[tokio::test]
async fn large_answers_come_in_pieces() {
    let labels = Arc::new(EntryLabels {
        stream: labels(&[("a", "b")]),
        structured_metadata: Labels::empty(),
        parsed: Labels::empty(),
    });
    let line: &'static str = "0123456789".repeat(100).leak();
    let entries: Vec<_> = (0..500).map(|t| entry(t, line, &labels)).collect();
    let response = QueryResponse::new(QueryData::Streams(entries), QueryStats::default());
    let mut body = respond(response, &Flags::default()).into_body();
    let (mut pieces, mut all) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() < PIECE_BYTES + 2 * line.len() + 4096);
        pieces += 1;
        all.extend_from_slice(&data);
    }
    assert!(pieces > 5);
    let v: Value = serde_json::from_slice(&all).unwrap();
    assert_eq!(v["data"]["result"][0]["values"].as_array().unwrap().len(), 500);
    assert_eq!(v["data"]["result"][0]["values"][499], json!(["499", line]));
}

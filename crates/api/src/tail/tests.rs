use std::sync::Arc;

use skald_model::{EntryHash, EntryLabels, Labels, LogEntry, StreamId};
use skald_rpc::tail::{Dropped, TailBatch};

use super::frame::Frames;
use super::*;

fn batch(entries: i64, dropped: &[i64]) -> TailBatch {
    let labels = Arc::new(EntryLabels {
        stream: Labels::from_pairs([("app", "a")]),
        structured_metadata: Labels::from_pairs([("trace", "1")]),
        parsed: Labels::empty(),
    });
    let entry = |timestamp| LogEntry {
        timestamp,
        line: "a \"line\"".into(),
        labels: labels.clone(),
        stream: StreamId(1),
        identity: EntryHash(0),
    };
    let mut lost = Dropped::default();
    for timestamp in dropped {
        lost.add(*timestamp, &labels.stream);
    }
    TailBatch { entries: (0..entries).map(entry).collect(), dropped: lost }
}

#[track_caller]
fn check(header: Option<&str>, legacy: bool, batch: TailBatch, expected: &str) {
    let mut headers = http::HeaderMap::new();
    if let Some(flags) = header {
        headers.insert("x-loki-response-encoding-flags", flags.parse().unwrap());
    }
    let frames = Frames { flags: Flags::of(&headers), legacy }.of(batch);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].as_str(), expected);
}

#[test]
fn frames_have_the_shapes_of_loki() {
    check(
        None,
        false,
        batch(1, &[]),
        r#"{"streams":[{"stream":{"app":"a","trace":"1"},"values":[["0","a \"line\""]]}]}"#,
    );
    check(
        Some("categorize-labels"),
        false,
        batch(1, &[7, 8]),
        r#"{"streams":[{"stream":{"app":"a"},"values":[["0","a \"line\"",{"structuredMetadata":{"trace":"1"}}]]}],"dropped_entries":[{"timestamp":"7","labels":{"app":"a"}},{"timestamp":"8","labels":{"app":"a"}}],"encodingFlags":["categorize-labels"]}"#,
    );
    check(
        None,
        true,
        batch(1, &[0]),
        r#"{"streams":[{"labels":"{app=\"a\", trace=\"1\"}","entries":[{"ts":"1970-01-01T00:00:00Z","line":"a \"line\""}]}],"dropped_entries":[{"timestamp":"1970-01-01T00:00:00Z","labels":"{app=\"a\"}"}]}"#,
    );
    check(
        None,
        false,
        batch(0, &[7]),
        r#"{"streams":[],"dropped_entries":[{"timestamp":"7","labels":{"app":"a"}}]}"#,
    );
}

#[test]
fn a_frame_has_at_most_a_hundred_entries_and_tells_of_losses_once() {
    let frames = Frames { flags: Flags::default(), legacy: false }.of(batch(250, &[1]));
    let counts: Vec<_> = frames.iter().map(|f| f.matches("a \\\"line\\\"").count()).collect();
    assert_eq!(counts, [100, 100, 50]);
    assert_eq!(frames.iter().filter(|f| f.contains("dropped_entries")).count(), 1);
}

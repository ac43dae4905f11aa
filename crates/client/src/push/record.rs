//! Input lines as entries.

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;
use skald_model::label_text::is_label_name;
use skald_model::{Labels, LabelsBuilder, Timestamp};

use crate::answer::Pairs;
use crate::time;

/// What a line of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A log line; its time is the time at which it is read.
    Lines,
    /// A JSON object: timestamp, line, labels, metadata, as `skald query -o jsonl` writes it.
    Jsonl,
}

/// An entry to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) timestamp: Timestamp,
    pub(super) line: String,
    pub(super) labels: Labels,
    pub(super) metadata: Vec<(String, String)>,
}

impl Record {
    /// About how many bytes it is in a request.
    pub(super) fn bytes(&self) -> usize {
        self.line.len() + self.metadata.iter().map(|(n, v)| n.len() + v.len() + 8).sum::<usize>() + 24
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine {
    timestamp: Option<Value>,
    line: String,
    #[serde(default)]
    labels: Pairs,
    #[serde(default)]
    metadata: Pairs,
    /// What a query made of the line is not pushed.
    #[serde(default, rename = "parsed")]
    _parsed: Pairs,
}

/// Reads a line; nothing if it is empty.
pub(super) fn read(
    format: Format,
    text: &str,
    now: Timestamp,
    labels: &Labels,
    metadata: &[(String, String)],
) -> Result<Option<Record>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    match format {
        Format::Lines => Ok(Some(Record {
            timestamp: now,
            line: text.to_owned(),
            labels: labels.clone(),
            metadata: metadata.to_vec(),
        })),
        Format::Jsonl => read_json(text, now, labels, metadata).map(Some),
    }
}

fn read_json(
    text: &str,
    now: Timestamp,
    labels: &Labels,
    metadata: &[(String, String)],
) -> Result<Record, String> {
    let json: JsonLine = serde_json::from_str(text)
        .map_err(|error| format!("not an object with timestamp, line, labels and metadata: {error}"))?;
    let timestamp = match &json.timestamp {
        None | Some(Value::Null) => now,
        Some(Value::String(text)) => time::parse(text, now)?,
        Some(other) => time::parse(&other.to_string(), now)?,
    };
    let mut all = LabelsBuilder::from_labels(labels);
    for (name, value) in &json.labels {
        if !is_label_name(name) {
            return Err(format!("{name:?} is not a label name"));
        }
        all.set(name, value);
    }
    let labels = all.build();
    if labels.is_empty() {
        return Err("no labels; give some in the object, or with --label".into());
    }
    let metadata = metadata.iter().cloned().chain(json.metadata).collect();
    Ok(Record { timestamp, line: json.line, labels, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Record, String> {
        let labels = Labels::from_pairs([("job", "x")]);
        read(Format::Jsonl, text, 7, &labels, &[]).map(Option::unwrap)
    }

    #[test]
    fn plain_lines_are_kept_as_they_are() {
        let labels = Labels::from_pairs([("job", "x")]);
        let metadata = [("a".to_owned(), "b".to_owned())];
        let record = read(Format::Lines, "  {\"line\":1} ", 7, &labels, &metadata).unwrap().unwrap();
        assert_eq!((record.line.as_str(), record.timestamp), ("  {\"line\":1} ", 7));
        assert_eq!(record.metadata, metadata);
        assert_eq!(read(Format::Lines, " ", 7, &labels, &[]), Ok(None));
    }

    #[test]
    fn objects_bring_time_labels_and_metadata() {
        let record = json(
            r#"{"timestamp":"1970-01-01T00:00:01.000000002Z","line":"l","labels":{"app":"y"},"metadata":{"t":"1"},"parsed":{"p":"1"}}"#,
        )
        .unwrap();
        assert_eq!((record.timestamp, record.line.as_str()), (1_000_000_002, "l"));
        assert_eq!(record.labels.to_string(), r#"{app="y", job="x"}"#);
        assert_eq!(record.metadata, [("t".to_owned(), "1".to_owned())]);
        let time = |text: &str| json(text).unwrap().timestamp;
        assert_eq!(time(r#"{"line":"l"}"#), 7);
        assert_eq!(time(r#"{"line":"l","timestamp":1700000000123456789}"#), 1_700_000_000_123_456_789);
        assert_eq!(time(r#"{"line":"l","timestamp":"1700000000123456789"}"#), 1_700_000_000_123_456_789);
        assert_eq!(time(r#"{"line":"l","timestamp":1.5}"#), 1_500_000_000);
    }

    #[test]
    fn what_is_wrong_with_an_object_is_said() {
        let error = |text: &str| json(text).unwrap_err();
        assert!(error("plain").contains("not an object"));
        assert!(error(r#"{"msg":"x"}"#).contains("msg"));
        assert!(error(r#"{"line":"x","labels":{"a b":"c"}}"#).contains("\"a b\" is not a label name"));
        assert!(error(r#"{"line":"x","timestamp":"noon"}"#).contains("not a time"));
        let error = read(Format::Jsonl, r#"{"line":"x"}"#, 7, &Labels::empty(), &[]).unwrap_err();
        assert!(error.contains("--label"), "{error}");
    }
}

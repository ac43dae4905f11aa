//! Reads the answers of log queries.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::push::{Entry, Pairs};

/// The entries of a `streams` answer with categorised labels, each with the labels of its stream.
pub(crate) fn entries(answer: &Value) -> Result<Vec<(&Value, Entry)>> {
    let streams = answer["data"]["result"].as_array().context("the answer has no data.result")?;
    let mut entries = Vec::new();
    for stream in streams {
        let values = stream["values"].as_array().context("a stream has no values")?;
        for value in values {
            entries.push((&stream["stream"], entry(value).with_context(|| format!("bad entry: {value}"))?));
        }
    }
    Ok(entries)
}

fn entry(value: &Value) -> Result<Entry> {
    let text = |index: usize| value[index].as_str().context("not a string");
    let mut metadata: Pairs = match &value[2]["structuredMetadata"] {
        Value::Object(pairs) => pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        _ => Vec::new(),
    };
    metadata.sort();
    Ok(Entry { timestamp: text(0)?.parse().context("not a timestamp")?, line: text(1)?.to_owned(), metadata })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_entries_with_and_without_metadata() {
        let values = json!([["5", "a", {"structuredMetadata": {"k": "v"}}], ["6", "b", {}]]);
        let answer = json!({"data": {"result": [{"stream": {"app": "x"}, "values": values}]}});
        let entries = entries(&answer).unwrap();
        assert_eq!(entries[0].0, &json!({"app": "x"}));
        assert_eq!(entries[0].1.metadata, [("k".to_owned(), "v".to_owned())]);
        assert_eq!((entries[1].1.timestamp, entries[1].1.line.as_str()), (6, "b"));
    }

    #[test]
    fn refuses_what_is_not_an_answer() {
        assert!(entries(&json!({"data": {}})).is_err());
        assert!(entries(&json!({"data": {"result": [{"stream": {}, "values": [[5, "a"]]}]}})).is_err());
    }
}

//! Answers of the query endpoints.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use skald_model::Timestamp;
use xxhash_rust::xxh3::Xxh3;

/// Names and values, sorted by name.
pub(crate) type Pairs = BTreeMap<String, String>;

/// What a query endpoint answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// The result.
    pub(crate) data: Data,
    /// What the server wants to be known.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// The result of a query.
#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub(crate) enum Data {
    /// Log entries.
    Streams(Vec<Stream>),
    /// Series with points.
    Matrix(Vec<Series>),
    /// Series with one point.
    Vector(Vec<Point>),
    /// A number.
    Scalar(Sample),
}

/// Entries with the same labels.
#[derive(Debug, Deserialize)]
pub(crate) struct Stream {
    stream: Arc<Pairs>,
    values: Vec<Value>,
}

/// A series of a range query.
#[derive(Debug, Deserialize)]
pub(crate) struct Series {
    /// Its labels.
    pub(crate) metric: Pairs,
    /// Its points.
    pub(crate) values: Vec<Sample>,
}

/// A series of an instant query.
#[derive(Debug, Deserialize)]
pub(crate) struct Point {
    /// Its labels.
    pub(crate) metric: Pairs,
    /// Its point.
    pub(crate) value: Sample,
}

/// Seconds since 1970, and the value as text.
#[derive(Debug, Deserialize)]
pub(crate) struct Sample(pub(crate) f64, pub(crate) String);

impl Sample {
    /// The time. Servers send milliseconds at best.
    pub(crate) fn timestamp(&self) -> Timestamp {
        (self.0 * 1e3).round() as Timestamp * 1_000_000
    }
}

/// A log entry of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// When.
    pub(crate) timestamp: Timestamp,
    /// What.
    pub(crate) line: String,
    /// The labels of its stream; from servers that do not tell them apart all labels.
    pub(crate) labels: Arc<Pairs>,
    /// Structured metadata.
    pub(crate) metadata: Pairs,
    /// Labels that the query made.
    pub(crate) parsed: Pairs,
}

impl Entry {
    /// A fingerprint of everything but the time. Two different entries share one with a probability of 2^-128.
    pub(crate) fn identity(&self) -> u128 {
        let mut hash = Xxh3::new();
        let mut text = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        text(&self.line);
        for pairs in [&*self.labels, &self.metadata, &self.parsed] {
            text(&pairs.len().to_string());
            for (name, value) in pairs {
                text(name);
                text(value);
            }
        }
        hash.digest128()
    }

    /// All labels, whatever their origin.
    pub(crate) fn all_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        [&*self.labels, &self.metadata, &self.parsed]
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The entries of streams, one after the other.
pub(crate) fn entries(streams: Vec<Stream>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(streams.iter().map(|stream| stream.values.len()).sum());
    for stream in streams {
        entries.extend(stream.values.into_iter().map(|value| Entry {
            timestamp: value.timestamp,
            line: value.line,
            labels: stream.stream.clone(),
            metadata: value.categories.metadata,
            parsed: value.categories.parsed,
        }));
    }
    entries
}

/// `["<nanoseconds>", "<line>"]`, with a third element where labels are told apart.
#[derive(Debug)]
struct Value {
    timestamp: Timestamp,
    line: String,
    categories: Categories,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Categories {
    #[serde(rename = "structuredMetadata")]
    metadata: Pairs,
    parsed: Pairs,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tuple;
        impl<'de> Visitor<'de> for Tuple {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as a string of nanoseconds and a line")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let time: String = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let line = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
                let categories = seq.next_element()?.unwrap_or_default();
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                let timestamp = time
                    .parse()
                    .map_err(|_| A::Error::custom(format!("{time:?} is not a time in nanoseconds")))?;
                Ok(Value { timestamp, line, categories })
            }
        }
        deserializer.deserialize_seq(Tuple)
    }
}

/// What a query cost, of all its pages.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Bytes looked at.
    pub(crate) total_bytes_processed: u64,
    /// Lines looked at.
    pub(crate) total_lines_processed: u64,
    /// Lines left after filters.
    pub(crate) total_post_filter_lines: u64,
    /// Lines or samples sent.
    pub(crate) total_entries_returned: u64,
    /// Seconds of work.
    pub(crate) exec_time: f64,
    /// Seconds in a queue.
    pub(crate) queue_time: f64,
}

impl Summary {
    /// The summary in an answer; empty if there is none.
    pub(crate) fn read(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Outer {
            data: Middle,
        }
        #[derive(Deserialize)]
        struct Middle {
            stats: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            summary: Summary,
        }
        serde_json::from_slice::<Outer>(body).map(|outer| outer.data.stats.summary).unwrap_or_default()
    }

    /// Adds another page.
    pub(crate) fn add(&mut self, other: &Self) {
        self.total_bytes_processed += other.total_bytes_processed;
        self.total_lines_processed += other.total_lines_processed;
        self.total_post_filter_lines += other.total_post_filter_lines;
        self.total_entries_returned += other.total_entries_returned;
        self.exec_time += other.exec_time;
        self.queue_time += other.queue_time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_two_elements_or_three() {
        let text = r#"{"status":"success","data":{"resultType":"streams","encodingFlags":["categorize-labels"],
            "result":[{"stream":{"app":"x"},"values":[["5","a",{"structuredMetadata":{"t":"1"},"parsed":{"p":"2"}}],
            ["6","b",{}],["7","c"]]}],"stats":{"summary":{"totalBytesProcessed":12,"execTime":0.5}}}}"#;
        let Data::Streams(streams) = serde_json::from_str::<Answer>(text).unwrap().data else { panic!() };
        let entries = entries(streams);
        let short: Vec<_> = entries.iter().map(|e| (e.timestamp, e.line.as_str())).collect();
        assert_eq!(short, [(5, "a"), (6, "b"), (7, "c")]);
        assert_eq!(entries[0].all_labels().collect::<Vec<_>>(), [("app", "x"), ("t", "1"), ("p", "2")]);
        let summary = Summary::read(text.as_bytes());
        assert_eq!((summary.total_bytes_processed, summary.exec_time), (12, 0.5));
    }

    #[test]
    fn metrics_have_points_as_text() {
        let text = r#"{"data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1.5,"2"],[3,"NaN"]]}]}}"#;
        let Data::Matrix(series) = serde_json::from_str::<Answer>(text).unwrap().data else { panic!() };
        assert_eq!((series[0].values[0].timestamp(), series[0].values[1].1.as_str()), (1_500_000_000, "NaN"));
        let text = r#"{"data":{"resultType":"scalar","result":[1,"2"]}}"#;
        assert!(
            matches!(serde_json::from_str::<Answer>(text).unwrap().data, Data::Scalar(Sample(_, v)) if v == "2")
        );
    }

    #[test]
    fn identities_tell_entries_apart() {
        let pairs = |name: &str, value: &str| Pairs::from([(name.to_owned(), value.to_owned())]);
        let base = Entry {
            timestamp: 1,
            line: "x".into(),
            labels: Arc::new(pairs("a", "b")),
            metadata: Pairs::new(),
            parsed: Pairs::new(),
        };
        let others = [
            Entry { line: "y".into(), ..base.clone() },
            Entry { labels: Arc::new(pairs("a", "c")), ..base.clone() },
            Entry { metadata: pairs("a", "b"), ..base.clone() },
            Entry { parsed: pairs("a", "b"), ..base.clone() },
        ];
        let mut identities: Vec<_> = others.iter().chain([&base]).map(Entry::identity).collect();
        assert_eq!(Entry { timestamp: 2, ..base.clone() }.identity(), base.identity());
        identities.sort_unstable();
        identities.dedup();
        assert_eq!(identities.len(), 5);
    }
}

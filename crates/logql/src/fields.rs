//! The fields of entries: what somebody who explores logs could filter by.
//!
//! A field is a pair of structured metadata, a label that a stage of the query made, or what `json` finds in a line, or
//! `logfmt` where `json` does not. Names are those that the parsers would give it. Values are counted by hash: exactly,
//! but for collisions of 64 bits, in eight bytes each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashSet;
use skald_model::{EntryLabels, LabelsRef, LogEntry};
use xxhash_rust::xxh3::xxh3_64;

use crate::ast::Stage;
use crate::pipeline::{Pipeline, PipelineTask, json_paths};
use crate::units;

/// Bytes that the values of one field may take, as an answer.
const VALUES_BYTES_MAX: usize = 4 << 20;

/// A field and what was met of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name as a label.
    pub name: String,
    /// What the value that was met last looks like.
    pub kind: FieldKind,
    /// Number of different values.
    pub cardinality: u64,
    /// The parsers that find it; none for structured metadata.
    pub parsers: Vec<&'static str>,
    /// The keys that lead to it in JSON lines; empty if it is not from one.
    pub json_path: Vec<String>,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Anything else.
    String,
    /// A whole number of 64 bits.
    Int,
    /// Another number.
    Float,
    /// True or false.
    Boolean,
    /// A duration as Go writes it.
    Duration,
    /// A byte size with a unit.
    Bytes,
}

impl FieldKind {
    /// The kind of `value`.
    pub fn of(value: &str) -> Self {
        const BOOLEANS: [&str; 10] = ["t", "T", "TRUE", "true", "True", "f", "F", "FALSE", "false", "False"];
        let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
        let is_int = digits.bytes().all(|b| b.is_ascii_digit()) && value.parse::<i64>().is_ok();
        if is_int {
            Self::Int
        } else if units::parse_go_float(value).is_ok() {
            Self::Float
        } else if BOOLEANS.contains(&value) {
            Self::Boolean
        } else if units::parse_go_duration(value).is_ok() {
            Self::Duration
        } else if units::parse_bytes(value).is_ok() {
            Self::Bytes
        } else {
            Self::String
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Duration => "duration",
            Self::Bytes => "bytes",
        }
    }
}

/// Finds the fields of `entries`, sorted by name; at most `limit`, those that are met first.
pub fn detect(entries: &[LogEntry], limit: usize) -> Vec<Field> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut reader = FieldReader::default();
    for entry in in_streams(entries) {
        let (mut paths, mut names) = (None, Vec::new());
        reader.read(entry, |name, value, parser| {
            if !found.contains_key(name) {
                if found.len() >= limit {
                    return;
                }
                found.insert(name.to_owned(), Found::default());
            }
            let Some(field) = found.get_mut(name) else { return };
            field.last = value.to_owned();
            field.values.insert(xxh3_64(value.as_bytes()));
            if let Some(parser) = parser {
                if !field.parsers.contains(&parser) {
                    field.parsers.push(parser);
                }
                if parser == JSON && field.json_path.is_empty() {
                    names.push(name.to_owned());
                }
            }
        });
        // Only lines with a name that is new as one from JSON are walked again for where it lies.
        for name in names {
            let paths = paths.get_or_insert_with(|| json_paths(&entry.line));
            let base = name.strip_suffix(EXTRACTED).filter(|base| entry.labels.stream.get(base).is_some());
            let path = paths.get(&name).or_else(|| base.and_then(|base| paths.get(base)));
            if let (Some(path), Some(field)) = (path, found.get_mut(&name)) {
                field.json_path.clone_from(path);
            }
        }
    }
    found.into_iter().map(|(name, f)| f.finish(name)).collect()
}

/// The values of the field `name` in `entries`, sorted; at most `limit`, those that are met first.
pub fn values(entries: &[LogEntry], name: &str, limit: usize) -> Vec<String> {
    let mut reader = FieldReader::default();
    let (mut found, mut bytes) = (BTreeSet::new(), 0);
    for entry in entries {
        reader.read(entry, |n, value, _| {
            if n == name && found.len() < limit && bytes < VALUES_BYTES_MAX && !found.contains(value) {
                bytes += value.len();
                found.insert(value.to_owned());
            }
        });
    }
    found.into_iter().collect()
}

const JSON: &str = "json";
const LOGFMT: &str = "logfmt";
/// What a parser appends to a name that the stream has already.
const EXTRACTED: &str = "_extracted";

#[derive(Default)]
struct Found {
    values: FxHashSet<u64>,
    last: String,
    parsers: Vec<&'static str>,
    json_path: Vec<String>,
}

impl Found {
    fn finish(self, name: String) -> Field {
        let Self { values, last, parsers, json_path } = self;
        Field { name, kind: FieldKind::of(&last), cardinality: values.len() as u64, parsers, json_path }
    }
}

/// The entries stream by stream, in order of labels: Loki looks at them so, and the last value tells the kind.
fn in_streams(entries: &[LogEntry]) -> Vec<&LogEntry> {
    let mut sorted: Vec<&LogEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| match Arc::ptr_eq(&a.labels, &b.labels) {
        true => std::cmp::Ordering::Equal,
        false => a.labels.stream.cmp(&b.labels.stream),
    });
    sorted
}

/// Reads the fields of one entry after the other.
struct FieldReader {
    json: Option<PipelineTask>,
    logfmt: Option<PipelineTask>,
}

impl Default for FieldReader {
    fn default() -> Self {
        let task = |stage| Pipeline::compile(&[stage], &None).ok().map(|p| p.task());
        Self {
            json: task(Stage::Json(Vec::new())),
            logfmt: task(Stage::Logfmt { strict: false, keep_empty: false, extractions: Vec::new() }),
        }
    }
}

impl FieldReader {
    /// Calls `each` with name, value and parser of each field.
    fn read(&mut self, entry: &LogEntry, mut each: impl FnMut(&str, &str, Option<&'static str>)) {
        let EntryLabels { stream, structured_metadata, parsed } = &*entry.labels;
        structured_metadata.iter().for_each(|(name, value)| each(name, value, None));
        let (labels, parser) = match run(&mut self.json, entry) {
            Some(labels) => (Some(labels), JSON),
            None => (run(&mut self.logfmt, entry), LOGFMT),
        };
        let of_line = labels.as_ref().map_or(LabelsRef::EMPTY, |l| l.parsed.as_ref());
        for (name, value) in parsed.iter().filter(|(_, value)| !value.is_empty()) {
            each(name, value, Some(parser));
        }
        for (name, value) in of_line.iter().filter(|(_, value)| !value.is_empty()) {
            if stream.get(name).is_none() {
                each(name, value, Some(parser));
            }
        }
    }
}

/// The labels that the stage makes of an entry; `None` if it fails.
fn run(task: &mut Option<PipelineTask>, entry: &LogEntry) -> Option<Arc<EntryLabels>> {
    let task = task.as_mut()?;
    // Without the metadata: what has its name in the line, too, is one field.
    task.run(entry.timestamp, &entry.line, &entry.labels.stream, LabelsRef::EMPTY)?;
    if task.state.has_error() { None } else { Some(task.state.finish()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::Expr;
    use crate::plan::LogQuery;
    use bytes::Bytes;
    use skald_model::{EntryHash, Labels, StreamId};

    /// Pod, metadata, line.
    type Stored<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    /// The entries of `query` over what is stored, newest first.
    fn entries(query: &str, stored: &[Stored<'_>]) -> Vec<LogEntry> {
        let Expr::Log(log) = crate::parse(query).unwrap() else { panic!("a log query") };
        let query = LogQuery::compile(&log);
        let mut plain = crate::PlainLabels::default();
        let mut task = query.pipeline.as_ref().map(|p| p.task());
        let entry = |(pod, metadata, line): &Stored<'_>| {
            let stream = Labels::from_pairs([("app", "a"), ("pod", pod)]);
            let metadata = Labels::from_pairs(metadata.iter().copied());
            let line = Bytes::from((*line).to_owned());
            let (line, labels) = match &mut task {
                None => (line, plain.labels(&stream, metadata.as_ref())),
                Some(task) => {
                    let p = task.process(0, &line, &stream, metadata.as_ref())?;
                    (p.line, p.labels)
                }
            };
            let identity = EntryHash::of(0, &line, metadata.as_ref());
            Some(LogEntry { timestamp: 0, line, labels, stream: StreamId(1), identity })
        };
        stored.iter().filter_map(entry).collect()
    }

    fn shown(fields: &[Field]) -> Vec<String> {
        let show = |f: &Field| {
            let (parsers, path) = (f.parsers.join("+"), f.json_path.join("/"));
            format!("{} {} {} [{parsers}] {path}", f.name, f.kind.name(), f.cardinality)
        };
        fields.iter().map(show).collect()
    }

    const SELECTOR: &str = r#"{app="a"}"#;

    #[test]
    fn kinds_of_values() {
        for (value, kind) in [
            ("-5", FieldKind::Int),
            ("12345678901234567890", FieldKind::Float),
            ("1e5", FieldKind::Float),
            ("true", FieldKind::Boolean),
            ("1m30s", FieldKind::Duration),
            ("16GiB", FieldKind::Bytes),
            ("1.2.3.4", FieldKind::String),
            ("", FieldKind::String),
        ] {
            assert_eq!(FieldKind::of(value), kind, "{value}");
        }
    }

    #[test]
    fn lines_are_json_or_else_logfmt() {
        let stored: [Stored<'_>; 3] = [
            (
                "p",
                &[("trace", "t1"), ("pod", "q")],
                r#"{"level":"info","req":{"t y":"5ms"},"app":"x","trace":"t3"}"#,
            ),
            ("p", &[("trace", "t2")], "level=warn n=1 empty= bare"),
            ("p", &[], "just words"),
        ];
        let expected = [
            "app_extracted string 1 [json] app",
            "level string 2 [json+logfmt] level",
            "n int 1 [logfmt] ",
            "pod_extracted string 1 [] ",
            "req_t_y duration 1 [json] req/t y",
            "trace string 3 [json] trace",
        ];
        assert_eq!(shown(&detect(&entries(SELECTOR, &stored), 1000)), expected);
    }

    #[test]
    fn labels_of_the_query_are_fields_of_the_line_s_parser() {
        let stored: [Stored<'_>; 1] = [("p", &[], "10.0.0.1 GET b=2")];
        let query = r#"{app="a"} | pattern "<ip> <method> <_>""#;
        assert_eq!(
            shown(&detect(&entries(query, &stored), 1000)),
            ["b int 1 [logfmt] ", "ip string 1 [logfmt] ", "method string 1 [logfmt] "]
        );
    }

    #[test]
    fn the_last_value_of_the_last_stream_tells_the_kind() {
        let stored: [Stored<'_>; 3] = [("p2", &[], "v=1"), ("p1", &[], "v=x"), ("p2", &[], "v=2.5")];
        assert_eq!(shown(&detect(&entries(SELECTOR, &stored), 1000)), ["v float 3 [logfmt] "]);
    }

    #[test]
    fn fields_and_values_are_limited_to_those_met_first() {
        let stored: [Stored<'_>; 3] = [("p", &[], "v=3 a=1"), ("p", &[], "v=1 b=1"), ("p", &[], "v=2 c=1")];
        let entries = entries(SELECTOR, &stored);
        let names: Vec<String> = detect(&entries, 2).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["a", "v"]);
        assert_eq!(values(&entries, "v", 2), ["1", "3"]);
        assert_eq!(values(&entries, "v", 100), ["1", "2", "3"]);
        assert!(values(&entries, "app", 100).is_empty(), "a label of the stream is no field");
    }
}

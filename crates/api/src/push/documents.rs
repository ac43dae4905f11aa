//! Pushes in the forms of others, for convenience: Elasticsearch's `_bulk`, JSON documents line by line, plain lines.
//!
//! A document is stored as it came: it is the line, so `| json` sees all of its fields. Its time is taken from a field,
//! its labels from fields that the request names. Lines stay where they are in the body; nothing of them is copied.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use skald_model::batch::Entries;
use skald_model::label_text::{is_label_name, parse_label_set};
use skald_model::{EntryRef, Error, Labels, LabelsBuilder, Push, PushLabels, PushStream, Timestamp};

use super::encoding::{self, Compression};
use super::{PushState, no_content, no_streams};
use crate::error::{ApiError, status_of};
use crate::query::params::Params;
use crate::rfc3339;
use crate::tenant::tenant;

type Answer = Result<Response, ApiError>;

/// How the documents of a request become entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mapping {
    /// The field with the time; dots go into objects.
    time_field: String,
    /// Fields that become labels.
    label_fields: Vec<String>,
    /// Labels of all entries.
    labels: Pairs,
}

/// Names and values of labels.
type Pairs = Vec<(String, String)>;

impl Mapping {
    /// Reads `time_field`, `label_fields` (with commas) and `labels` (`{a="b"}`), or VictoriaLogs' names for the former.
    fn of(params: &Params) -> Result<Self, Error> {
        let first = |names: [&str; 2]| {
            names.iter().map(|n| params.first(n)).find(|v| !v.is_empty()).unwrap_or_default().to_owned()
        };
        let fields = first(["label_fields", "_stream_fields"]);
        let time_field = first(["time_field", "_time_field"]);
        let labels = parse_label_set(params.first("labels"))
            .map_err(|e| Error::invalid(format!("couldn't parse labels: {e}")))?;
        Ok(Self {
            time_field: if time_field.is_empty() { "@timestamp".to_owned() } else { time_field },
            label_fields: fields
                .split(',')
                .map(str::trim)
                .filter(|f| !f.is_empty())
                .map(str::to_owned)
                .collect(),
            labels: labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        })
    }
}

/// `POST /elasticsearch/_bulk` and `/_bulk`: entries get the label `index`.
pub(crate) async fn bulk(state: State<PushState>, request: Request) -> Answer {
    let mut items = Vec::new();
    let (push, charge) = read(&state, request, decode_bulk).await?;
    let (tenant, (push, documents)) = push;
    let outcome = if documents.is_empty() { Ok(()) } else { state.distributor.push(&tenant, push).await };
    drop(charge);
    let (status, error) = match &outcome {
        Ok(()) => (StatusCode::CREATED, None),
        // Too much at once is said for the whole request: shippers slow down and send it again.
        Err(e) if status_of(e.kind).is_server_error() || e.retry_after.is_some() => {
            return Err(e.clone().into());
        }
        Err(e) => (status_of(e.kind), Some(json!({ "type": "rejected", "reason": e.message }))),
    };
    for (action, index) in documents {
        let mut item = json!({ "_index": index, "status": status.as_u16() });
        if let (Some(error), Some(item)) = (&error, item.as_object_mut()) {
            item.insert("error".to_owned(), error.clone());
        }
        items.push(Value::Object(Map::from_iter([(action, item)])));
    }
    let answer = json!({ "took": 0, "errors": error.is_some(), "items": items });
    let mut response = Response::new(Body::from(answer.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Clients of Elasticsearch refuse to talk to anything else.
    headers.insert("x-elastic-product", HeaderValue::from_static("Elasticsearch"));
    Ok(response)
}

/// `GET /elasticsearch`: what shippers ask for before they send.
pub(crate) async fn about() -> Response {
    let answer = json!({
        "cluster_name": "skald",
        "version": { "number": "8.9.0", "build_flavor": "default" },
        "tagline": "You Know, for Search",
    });
    let mut response = Response::new(Body::from(answer.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-elastic-product", HeaderValue::from_static("Elasticsearch"));
    response
}

/// `POST /insert/jsonline`: one JSON object a line.
pub(crate) async fn json_lines(state: State<PushState>, request: Request) -> Answer {
    store(state, request, |body, mapping, now| decode_lines(body, mapping, now, true)).await
}

/// `POST /insert/lines`: plain lines, which have come now; the parameter `labels` names their stream.
pub(crate) async fn plain_lines(state: State<PushState>, request: Request) -> Answer {
    store(state, request, |body, mapping, now| decode_lines(body, mapping, now, false)).await
}

async fn store(
    state: State<PushState>,
    request: Request,
    decode: impl FnOnce(Bytes, &Mapping, Timestamp) -> Result<Push, Error> + Send + 'static,
) -> Answer {
    let ((tenant, push), _charge) = read(&state, request, decode).await?;
    if push.streams.is_empty() {
        return Err(no_streams().into());
    }
    state.distributor.push(&tenant, push).await?;
    Ok(no_content())
}

/// Reads and decodes the body of a request, with its share of the memory.
async fn read<T: Send + 'static>(
    state: &PushState,
    request: Request,
    decode: impl FnOnce(Bytes, &Mapping, Timestamp) -> Result<T, Error> + Send + 'static,
) -> Result<((skald_model::TenantId, T), super::budget::Charge), ApiError> {
    let (parts, body) = request.into_parts();
    let tenant = tenant(&parts.headers, &state.config)?;
    // Of the URL only: the body is not a form, whatever its type says.
    let mapping = Mapping::of(&Params::of_url(&parts.uri)?)?;
    let (body, charge) = state.read(&parts.headers, body).await?;
    let (limit, now) = (state.config.max_decompressed_size, state.clock.now());
    let work = move || decode(encoding::inflate(body, compression(&parts.headers)?, limit)?, &mapping, now);
    let decoded = charge.decode(work).await?;
    Ok(((tenant, decoded), charge))
}

fn compression(headers: &HeaderMap) -> Result<Compression, Error> {
    match headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |v| v.as_bytes()) {
        b"" | b"identity" => Ok(Compression::None),
        b"gzip" => Ok(Compression::Gzip),
        b"deflate" => Ok(Compression::Deflate),
        b"zstd" => Ok(Compression::Zstd),
        other => {
            let other = String::from_utf8_lossy(other);
            Err(Error::invalid(format!("Content-Encoding \"{other}\" not supported")))
        }
    }
}

/// Action and index of each document of a bulk request.
type Documents = Vec<(String, String)>;

fn decode_bulk(body: Bytes, mapping: &Mapping, now: Timestamp) -> Result<(Push, Documents), Error> {
    let mut builder = Builder::new(mapping, now);
    let mut documents = Vec::new();
    let mut lines = lines_of(&body);
    while let Some((number, range)) = lines.next() {
        let fail = |text: String| Error::invalid(format!("line {number} of the bulk request: {text}"));
        let action: Map<String, Value> =
            serde_json::from_slice(&body[range]).map_err(|e| fail(format!("not an action: {e}")))?;
        let Some((name, about)) = action.into_iter().next() else {
            return Err(fail("an empty action".into()));
        };
        if !matches!(name.as_str(), "index" | "create") {
            return Err(fail(format!(
                "action {name} is not supported; logs are only ever added (index, create)"
            )));
        }
        let (number, range) = lines.next().ok_or_else(|| fail("the document is missing".into()))?;
        let index = about.get("_index").and_then(Value::as_str).unwrap_or("default").to_owned();
        builder.document(&body, range, number, Some(("index", &index)))?;
        documents.push((name, index));
        builder.check_overhead(body.len())?;
    }
    drop(lines);
    Ok((builder.finish(body), documents))
}

fn decode_lines(body: Bytes, mapping: &Mapping, now: Timestamp, documents: bool) -> Result<Push, Error> {
    let mut builder = Builder::new(mapping, now);
    for (number, range) in lines_of(&body) {
        if documents {
            builder.document(&body, range, number, None)?;
        } else {
            if std::str::from_utf8(&body[range.clone()]).is_err() {
                return Err(Error::invalid(format!("line {number} is not UTF-8")));
            }
            builder.entry(&mapping.labels, now, range);
        }
        builder.check_overhead(body.len())?;
    }
    Ok(builder.finish(body))
}

/// The lines of a body that are not empty, each with its number from 1 and its place.
fn lines_of(body: &[u8]) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let ends = memchr::memchr_iter(b'\n', body).chain(std::iter::once(body.len()));
    let mut start = 0;
    ends.enumerate().filter_map(move |(number, newline)| {
        let end = if newline > start && body[newline - 1] == b'\r' { newline - 1 } else { newline };
        let range = start..end.max(start);
        start = newline + 1;
        (!body[range.clone()].trim_ascii().is_empty()).then_some((number + 1, range))
    })
}

struct Builder<'a> {
    mapping: &'a Mapping,
    now: Timestamp,
    streams: Vec<(Labels, Vec<EntryRef>)>,
    by_labels: HashMap<Labels, usize>,
    entries: usize,
}

impl<'a> Builder<'a> {
    fn new(mapping: &'a Mapping, now: Timestamp) -> Self {
        Self { mapping, now, streams: Vec::new(), by_labels: HashMap::new(), entries: 0 }
    }

    fn document(
        &mut self,
        body: &[u8],
        range: std::ops::Range<usize>,
        number: usize,
        label: Option<(&str, &str)>,
    ) -> Result<(), Error> {
        let fail = |text: String| Error::invalid(format!("line {number}: {text}"));
        let document: Map<String, Value> = serde_json::from_slice(&body[range.clone()])
            .map_err(|e| fail(format!("not a JSON object: {e}")))?;
        let time = match field(&document, &self.mapping.time_field) {
            None | Some(Value::Null) => self.now,
            Some(value) => time_of(value).ok_or_else(|| {
                fail(format!(
                    "{} is {value}; expected RFC 3339 or a number of s, ms, us or ns",
                    self.mapping.time_field
                ))
            })?,
        };
        let mut labels = self.mapping.labels.clone();
        labels.extend(label.map(|(n, v)| (n.to_owned(), v.to_owned())));
        for name in &self.mapping.label_fields {
            let value = match field(&document, name) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => continue,
                Some(other) => other.to_string(),
            };
            let label = name.replace(['.', '-', '@'], "_");
            if !is_label_name(&label) {
                return Err(fail(format!("field {name} cannot become a label")));
            }
            labels.push((label, value));
        }
        self.entry(&labels, time, range);
        Ok(())
    }

    fn entry(&mut self, pairs: &Pairs, timestamp: Timestamp, range: std::ops::Range<usize>) {
        let mut labels = LabelsBuilder::default();
        for (name, value) in pairs {
            labels.set(name, value);
        }
        let labels = labels.build();
        self.entries += 1;
        let at = *self.by_labels.entry(labels).or_insert_with_key(|labels| {
            self.streams.push((labels.clone(), Vec::new()));
            self.streams.len() - 1
        });
        self.streams[at].1.push(EntryRef {
            timestamp,
            line_start: range.start as u32,
            line_len: range.len() as u32,
            metadata_start: 0,
            metadata_len: 0,
        });
    }

    /// Entries of a byte or two would take many times the size of the body.
    fn check_overhead(&self, body_bytes: usize) -> Result<(), Error> {
        if super::overhead_bytes(self.entries, self.streams.len()) > super::overhead_bytes_max(body_bytes) {
            return Err(Error::invalid("too many entries or streams for the size of the push"));
        }
        Ok(())
    }

    fn finish(self, body: Bytes) -> Push {
        let mut push = Push { entries: Entries { body, ..Entries::default() }, ..Push::default() };
        for (labels, entries) in self.streams {
            let first = push.entries.refs.len() as u32;
            push.entries.refs.extend(entries);
            let entries = first..push.entries.refs.len() as u32;
            push.streams.push(PushStream { labels: PushLabels::Set(labels), entries });
        }
        push
    }
}

/// The value of a field: by its name, or by the names of objects with dots between.
fn field<'a>(document: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    document.get(name).or_else(|| {
        let (object, rest) = name.split_once('.')?;
        field(document.get(object)?.as_object()?, rest)
    })
}

/// A time as RFC 3339, or as a number whose size tells its unit.
fn time_of(value: &Value) -> Option<Timestamp> {
    let number = match value {
        Value::String(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return rfc3339::parse(text),
        },
        Value::Number(number) => match number.as_i64() {
            Some(number) => number,
            // Seconds with a fraction.
            None => return number.as_f64().map(|s| (s * 1e9) as i64),
        },
        _ => return None,
    };
    Some(match number.unsigned_abs() {
        0..100_000_000_000 => number.saturating_mul(1_000_000_000),
        100_000_000_000..100_000_000_000_000 => number.saturating_mul(1_000_000),
        100_000_000_000_000..100_000_000_000_000_000 => number.saturating_mul(1_000),
        _ => number,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 77;

    fn plain(push: &Push) -> Vec<String> {
        let mut out = Vec::new();
        for s in &push.streams {
            let PushLabels::Set(labels) = &s.labels else { panic!("labels are a set") };
            for r in &push.entries.refs[s.entries.start as usize..s.entries.end as usize] {
                let line = String::from_utf8_lossy(push.entries.line(r)).into_owned();
                out.push(format!("{labels} {} {line}", r.timestamp));
            }
        }
        out
    }

    fn mapping(fields: &[&str]) -> Mapping {
        Mapping {
            time_field: "@timestamp".into(),
            label_fields: fields.iter().map(|f| (*f).to_owned()).collect(),
            labels: vec![],
        }
    }

    #[test]
    fn documents_of_a_bulk_request_are_entries() {
        let body = "{\"create\":{\"_index\":\"web\"}}\n{\"@timestamp\":\"1970-01-01T00:00:01Z\",\"host\":{\"name\":\"h\"}}\r\n\n\
                    {\"index\":{}}\n{\"message\":\"x\",\"host.name\":\"i\"}";
        let (push, documents) = decode_bulk(Bytes::from(body), &mapping(&["host.name"]), NOW).unwrap();
        assert_eq!(documents, [("create".into(), "web".into()), ("index".to_owned(), "default".to_owned())]);
        assert_eq!(
            plain(&push),
            [
                r#"{host_name="h", index="web"} 1000000000 {"@timestamp":"1970-01-01T00:00:01Z","host":{"name":"h"}}"#,
                r#"{host_name="i", index="default"} 77 {"message":"x","host.name":"i"}"#,
            ]
        );
        for (wrong, part) in [
            ("{\"delete\":{}}\n", "delete is not supported"),
            ("{\"index\":{}}\n", "document is missing"),
            ("x\n", "line 1"),
            ("{\"index\":{}}\n[1]", "line 2: not a JSON object"),
            ("{\"index\":{}}\n{\"@timestamp\":true}", "@timestamp is true"),
        ] {
            let error = decode_bulk(Bytes::from(wrong), &mapping(&[]), NOW).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn lines_are_entries() {
        let mut all = mapping(&[]);
        all.labels = vec![("app".into(), "x".into())];
        let push = decode_lines(Bytes::from("a\n\nb b\r\n"), &all, NOW, false).unwrap();
        assert_eq!(plain(&push), [r#"{app="x"} 77 a"#, r#"{app="x"} 77 b b"#]);
        let push = decode_lines(Bytes::from("{\"a\":1}\n{\"a\":2}"), &mapping(&["a"]), NOW, true).unwrap();
        assert_eq!(plain(&push), [r#"{a="1"} 77 {"a":1}"#, r#"{a="2"} 77 {"a":2}"#]);
        assert!(decode_lines(Bytes::from_static(b"\xff"), &all, NOW, false).is_err());
        assert!(decode_lines(Bytes::new(), &all, NOW, false).unwrap().streams.is_empty());
    }

    #[test]
    fn the_size_of_a_number_tells_its_unit() {
        for (value, expected) in [
            (json!(1_768_608_000), 1_768_608_000_000_000_000),
            (json!(1_768_608_000_123i64), 1_768_608_000_123_000_000),
            (json!("1768608000123456"), 1_768_608_000_123_456_000),
            (json!(1_768_608_000_123_456_789i64), 1_768_608_000_123_456_789),
            (json!(1.5), 1_500_000_000),
        ] {
            assert_eq!(time_of(&value), Some(expected), "{value}");
        }
        assert_eq!(time_of(&json!("soon")), None);
    }
}

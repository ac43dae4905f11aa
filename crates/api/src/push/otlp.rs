//! Logs of OpenTelemetry, `POST /otlp/v1/logs`, turned into a push as Loki turns them.
//!
//! Some attributes of the resource become labels, all others of resource, scope and record become structured
//! metadata, unless the tenant's `otlp_config` says otherwise; the body becomes the line. Refusals are `google.rpc.Status` messages, and what may be tried again has a
//! status code that exporters try again.

pub mod message;
mod rules;
mod value;
mod weight;

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message as _;
use skald_model::batch::Entries;
use skald_model::label_text::is_label_name;
use skald_model::limits::OtlpAction;
use skald_model::{EntryRef, Error, Kind, LabelsBuilder, Push, PushLabels, PushStream, Timestamp};

use self::message::{InstrumentationScope, KeyValue, LogRecord, LogsRequest, Resource, ResourceLogs};
pub use self::rules::OtlpRules;
pub(crate) use self::rules::RuleCache;
use super::encoding::{self, Compression};
use super::metadata::Packer;
use super::{PushState, no_streams};
use crate::error::ApiError;
use crate::tenant::tenant;

/// `POST /otlp/v1/logs`
pub(crate) async fn push_otlp(State(state): State<PushState>, request: Request) -> Response {
    match push(&state, request).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(e) => refusal(e),
    }
}

async fn push(state: &PushState, request: Request) -> Result<(), Error> {
    let (parts, body) = request.into_parts();
    let tenant = tenant(&parts.headers, &state.config)?;
    let (body, mut charge) = state.read(&parts.headers, body).await?;
    let rules = state.otlp_rules.of(&state.limits.of(&tenant));
    let (now, limit) = (state.clock.now(), state.config.max_decompressed_size);
    let decode = move || decode(&parts.headers, body, limit, now, &rules);
    let push = charge.decode(decode).await?;
    charge.grow_to(super::memory_bytes(&push)).await?;
    if push.entries.refs.is_empty() {
        // Only records that show nothing.
        return Ok(());
    }
    state.distributor.push(&tenant, push).await
}

/// The refusal in the form of the protocol. Exporters try 429 and 503 again and take 500 for final.
fn refusal(e: Error) -> Response {
    let mut error = ApiError::from(e);
    if error.status == StatusCode::INTERNAL_SERVER_ERROR {
        error.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    let message = std::mem::take(&mut error.message);
    let status = message::Status { code: i32::from(error.status.as_u16()), message };
    let mut response = error.into_response();
    *response.body_mut() = Body::from(status.encode_to_vec());
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Decodes the body of a request as its headers say.
///
/// # Errors
/// `InvalidArgument` for what is malformed, `TooLarge` over `limit` bytes when decompressed, `Unprocessable` without
/// any record.
pub fn decode(
    headers: &HeaderMap,
    body: Bytes,
    limit: usize,
    now: Timestamp,
    rules: &OtlpRules,
) -> Result<Push, Error> {
    let media_type = encoding::media_type(headers)?;
    let compression = match headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |v| v.as_bytes()) {
        b"" => Compression::None,
        b"gzip" => Compression::Gzip,
        b"zstd" => Compression::Zstd,
        b"lz4" => Compression::Lz4,
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Error::invalid(format!("Content-Encoding \"{other}\" not supported")));
        }
    };
    let message = || encoding::inflate(body, compression, limit);
    let request = match media_type.as_str() {
        "application/json" => from_json(&message()?)?,
        "application/x-protobuf" => {
            let message = message()?;
            weight::check_protobuf(&message)?;
            LogsRequest::decode(message)
                .map_err(|e| Error::invalid(format!("failed to decode the OTLP request: {e}")))?
        }
        other => {
            let text = format!(
                "content type: {other} is not supported, expected application/json or application/x-protobuf"
            );
            return Err(Error::invalid(text));
        }
    };
    convert(request, now, rules)
}

fn from_json(message: &[u8]) -> Result<LogsRequest, Error> {
    let fail = |e: String| Error::invalid(format!("failed to decode the OTLP request from JSON: {e}"));
    // The derived decoder would take an array for the fields in order.
    if message.trim_ascii_start().first() != Some(&b'{') {
        return Err(fail("expected an object".to_owned()));
    }
    weight::check_json(message)?;
    serde_json::from_slice(message).map_err(|e| fail(e.to_string()))
}

/// Turns a request into a push. Records without a time have come `now`.
///
/// # Errors
/// `Unprocessable` when there is no record.
pub fn convert(request: LogsRequest, now: Timestamp, rules: &OtlpRules) -> Result<Push, Error> {
    let mut builder = Builder {
        now,
        rules,
        lines: Vec::new(),
        refs: Vec::new(),
        streams: Vec::new(),
        metadata: Packer::default(),
    };
    let mut records = 0;
    for resource in request.resource_logs {
        records += builder.resource(resource);
    }
    if records == 0 {
        return Err(no_streams());
    }
    if builder.lines.len().max(builder.metadata.len()) > u32::MAX as usize {
        return Err(Error::new(Kind::TooLarge, "the records of the request take more than 4 GiB"));
    }
    Ok(Push {
        streams: builder.streams,
        entries: Entries {
            body: Bytes::from(builder.lines),
            compressed: None,
            metadata: Bytes::from(builder.metadata.into_packed()),
            refs: builder.refs,
        },
    })
}

struct Builder<'a> {
    now: Timestamp,
    rules: &'a OtlpRules,
    lines: Vec<u8>,
    refs: Vec<EntryRef>,
    streams: Vec<PushStream>,
    metadata: Packer,
}

/// Names and values that all entries of a resource or a scope have.
type Common = Vec<(String, String)>;

impl Builder<'_> {
    /// Adds a resource's records and returns how many it has.
    fn resource(&mut self, logs: ResourceLogs) -> usize {
        let (mut labels, mut common) = (LabelsBuilder::default(), Common::new());
        self.split_resource(&logs.resource.unwrap_or_default(), &mut labels, &mut common);
        let of_resource = common.len();
        let mut streams = Streams::default();
        let mut records = 0;
        for scope in logs.scope_logs {
            let mut scope_labels = Vec::new();
            self.split_scope(scope.scope.unwrap_or_default(), &mut scope_labels, &mut common);
            records += scope.log_records.len();
            for record in &scope.log_records {
                for (name, value) in &common {
                    self.metadata.add(name.as_bytes(), value.as_bytes());
                }
                let mut extra = scope_labels.clone();
                if let Some(entry) = self.record(record, &mut extra) {
                    streams.add(extra, entry);
                }
            }
            common.truncate(of_resource);
        }
        for (extra, entries) in streams.streams {
            let first = self.refs.len() as u32;
            self.refs.extend(entries);
            let mut labels = labels.clone();
            for (name, value) in &extra {
                labels.set(name, value);
            }
            let labels = PushLabels::Set(labels.build());
            self.streams.push(PushStream { labels, entries: first..self.refs.len() as u32 });
        }
        records
    }

    /// Adds a record's line and metadata; what becomes labels goes to `labels`. `None` if there is nothing to show.
    fn record(&mut self, record: &LogRecord, labels: &mut Common) -> Option<EntryRef> {
        let time = match (record.time_unix_nano, record.observed_time_unix_nano) {
            (0, 0) => self.now,
            (0, observed) => observed as Timestamp,
            (time, _) => time as Timestamp,
        };
        let start = self.lines.len();
        value::write_text(&mut self.lines, record.body.as_ref());
        self.record_metadata(record, labels);
        let (metadata_start, metadata_len) = self.metadata.finish();
        let shows = self.lines.len() > start || metadata_len > 0;
        shows.then(|| EntryRef {
            timestamp: time,
            line_start: start as u32,
            line_len: (self.lines.len() - start) as u32,
            metadata_start,
            metadata_len,
        })
    }

    fn record_metadata(&mut self, record: &LogRecord, labels: &mut Common) {
        for attribute in &record.attributes {
            let one = std::slice::from_ref(attribute);
            match self.rules.of_record(&attribute.key) {
                OtlpAction::Drop => {}
                OtlpAction::IndexLabel => {
                    value::flatten(one, &mut |name, text| add_label(labels, name, text))
                }
                OtlpAction::StructuredMetadata => {
                    value::flatten(one, &mut |name, text| {
                        self.metadata.add(name.as_bytes(), text.as_bytes())
                    });
                }
            }
        }
        let mut add = |name: &str, value: String| self.metadata.add(name.as_bytes(), value.as_bytes());
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        add("observed_timestamp", number(record.observed_time_unix_nano));
        add("severity_number", number(u64::from(record.severity_number.unsigned_abs())));
        if self.rules.severity_text_as_label {
            add_label(labels, "severity_text", &record.severity_text);
        } else {
            add("severity_text", record.severity_text.clone());
        }
        add("dropped_attributes_count", number(u64::from(record.dropped_attributes_count)));
        add("flags", number(u64::from(record.flags)));
        add("trace_id", value::hex(&record.trace_id));
        add("span_id", value::hex(&record.span_id));
        add("event_name", record.event_name.clone());
    }

    /// Divides the attributes of a resource among labels and metadata.
    fn split_resource(&self, resource: &Resource, labels: &mut LabelsBuilder, common: &mut Common) {
        let mut found = Vec::new();
        split(&resource.attributes, |key| self.rules.of_resource(key), &mut found, common);
        for (name, value) in found {
            labels.set(&name, &value);
        }
        if resource.dropped_attributes_count > 0 {
            let count = resource.dropped_attributes_count.to_string();
            common.push(("resource_dropped_attributes_count".to_owned(), count));
        }
    }

    /// The same for a scope.
    fn split_scope(&self, scope: InstrumentationScope, labels: &mut Common, common: &mut Common) {
        split(&scope.attributes, |key| self.rules.of_scope(key), labels, common);
        common.push(("scope_name".to_owned(), scope.name));
        common.push(("scope_version".to_owned(), scope.version));
        if scope.dropped_attributes_count > 0 {
            let count = scope.dropped_attributes_count.to_string();
            common.push(("scope_dropped_attributes_count".to_owned(), count));
        }
    }
}

/// The entries of a resource by the labels that they have besides those of the resource; mostly there are none.
#[derive(Default)]
struct Streams {
    streams: Vec<(Common, Vec<EntryRef>)>,
    by_labels: HashMap<Common, usize>,
}

impl Streams {
    fn add(&mut self, mut labels: Common, entry: EntryRef) {
        if !labels.is_empty() {
            labels.sort();
        }
        let at = match self.streams.last() {
            // Entries with the same labels tend to come one after the other.
            Some((last, _)) if *last == labels => self.streams.len() - 1,
            _ => *self.by_labels.entry(labels).or_insert_with_key(|labels| {
                self.streams.push((labels.clone(), Vec::new()));
                self.streams.len() - 1
            }),
        };
        self.streams[at].1.push(entry);
    }
}

fn split(
    attributes: &[KeyValue],
    action: impl Fn(&str) -> OtlpAction,
    labels: &mut Common,
    metadata: &mut Common,
) {
    for attribute in attributes {
        let one = std::slice::from_ref(attribute);
        match action(&attribute.key) {
            OtlpAction::Drop => {}
            OtlpAction::IndexLabel => value::flatten(one, &mut |name, text| add_label(labels, name, text)),
            OtlpAction::StructuredMetadata => {
                value::flatten(one, &mut |name, text| metadata.push((name.to_owned(), text.to_owned())));
            }
        }
    }
}

/// Adds a label, if its name can be made one.
fn add_label(labels: &mut Common, name: &str, text: &str) {
    let name = name.replace(['.', '-'], "_");
    if is_label_name(&name) && !text.is_empty() {
        labels.push((name, text.to_owned()));
    }
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;

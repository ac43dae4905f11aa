//! Logs of OpenTelemetry, `POST /otlp/v1/logs`, turned into a push as Loki turns them.
//!
//! Some attributes of the resource become labels, all others of resource, scope and record become structured
//! metadata; the body becomes the line. Refusals are `google.rpc.Status` messages, and what may be tried again has a
//! status code that exporters try again.

pub mod message;
mod value;
mod weight;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message as _;
use skald_model::batch::Entries;
use skald_model::label_text::is_label_name;
use skald_model::{EntryRef, Error, Kind, LabelsBuilder, Push, PushLabels, PushStream, Timestamp};
use skald_runtime::Clock;

use self::message::{InstrumentationScope, KeyValue, LogRecord, LogsRequest, Resource, ResourceLogs};
use super::encoding::{self, Compression};
use super::metadata::Packer;
use super::{PushState, no_streams};
use crate::body;
use crate::error::ApiError;
use crate::tenant::tenant;

/// The attributes of a resource that become labels, Loki's default.
const LABELS: [&str; 18] = [
    "service.name",
    "service.namespace",
    "service.instance.id",
    "deployment.environment",
    "deployment.environment.name",
    "cloud.region",
    "cloud.availability_zone",
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.container.name",
    "container.name",
    "k8s.replicaset.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.cronjob.name",
    "k8s.job.name",
];

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
    let body = body::read(&parts.headers, body, state.config.max_recv_msg_size, "max_recv_msg_size").await?;
    let push = decode(&parts.headers, body, state.config.max_decompressed_size, &*state.clock)?;
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
pub fn decode(headers: &HeaderMap, body: Bytes, limit: usize, clock: &dyn Clock) -> Result<Push, Error> {
    let media_type = encoding::media_type(headers)?;
    let compression = match headers.get(header::CONTENT_ENCODING).map_or(&b""[..], |v| v.as_bytes()) {
        b"" => Compression::None,
        b"gzip" => Compression::Gzip,
        b"zstd" => Compression::Zstd,
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
    convert(request, clock.now())
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
pub fn convert(request: LogsRequest, now: Timestamp) -> Result<Push, Error> {
    let mut builder = Builder {
        now,
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

struct Builder {
    now: Timestamp,
    lines: Vec<u8>,
    refs: Vec<EntryRef>,
    streams: Vec<PushStream>,
    metadata: Packer,
}

/// Names and values that all entries of a resource or a scope have.
type Common = Vec<(String, String)>;

impl Builder {
    /// Adds a resource's records and returns how many it has.
    fn resource(&mut self, logs: ResourceLogs) -> usize {
        let (labels, common) = split_resource(logs.resource.unwrap_or_default());
        let first = self.refs.len() as u32;
        let mut records = 0;
        for scope in logs.scope_logs {
            let scoped = scope_metadata(scope.scope.unwrap_or_default());
            records += scope.log_records.len();
            for record in &scope.log_records {
                for (name, value) in common.iter().chain(&scoped) {
                    self.metadata.add(name.as_bytes(), value.as_bytes());
                }
                self.record(record);
            }
        }
        let last = self.refs.len() as u32;
        if last > first {
            self.streams.push(PushStream { labels, entries: first..last });
        }
        records
    }

    fn record(&mut self, record: &LogRecord) {
        let time = match (record.time_unix_nano, record.observed_time_unix_nano) {
            (0, 0) => self.now,
            (0, observed) => observed as Timestamp,
            (time, _) => time as Timestamp,
        };
        let start = self.lines.len();
        value::write_text(&mut self.lines, record.body.as_ref());
        self.record_metadata(record);
        let (metadata_start, metadata_len) = self.metadata.finish();
        if self.lines.len() == start && metadata_len == 0 {
            // Neither line nor metadata: there is nothing to show.
            return;
        }
        self.refs.push(EntryRef {
            timestamp: time,
            line_start: start as u32,
            line_len: (self.lines.len() - start) as u32,
            metadata_start,
            metadata_len,
        });
    }

    fn record_metadata(&mut self, record: &LogRecord) {
        value::flatten(&record.attributes, &mut |name, text| {
            self.metadata.add(name.as_bytes(), text.as_bytes())
        });
        let mut add = |name: &str, value: String| self.metadata.add(name.as_bytes(), value.as_bytes());
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        add("observed_timestamp", number(record.observed_time_unix_nano));
        add("severity_number", number(u64::from(record.severity_number.unsigned_abs())));
        add("severity_text", record.severity_text.clone());
        add("dropped_attributes_count", number(u64::from(record.dropped_attributes_count)));
        add("flags", number(u64::from(record.flags)));
        add("trace_id", value::hex(&record.trace_id));
        add("span_id", value::hex(&record.span_id));
        add("event_name", record.event_name.clone());
    }
}

/// The labels of a resource, and its other attributes.
fn split_resource(resource: Resource) -> (PushLabels, Common) {
    let mut labels = LabelsBuilder::default();
    let mut common = Vec::new();
    let (indexed, others): (Vec<KeyValue>, Vec<KeyValue>) =
        resource.attributes.into_iter().partition(|a| LABELS.contains(&a.key.as_str()));
    value::flatten(&indexed, &mut |name, text| {
        let name = name.replace(['.', '-'], "_");
        if is_label_name(&name) {
            labels.set(&name, text);
        }
    });
    value::flatten(&others, &mut |name, text| common.push((name.to_owned(), text.to_owned())));
    if resource.dropped_attributes_count > 0 {
        common.push((
            "resource_dropped_attributes_count".to_owned(),
            resource.dropped_attributes_count.to_string(),
        ));
    }
    (PushLabels::Set(labels.build()), common)
}

fn scope_metadata(scope: InstrumentationScope) -> Common {
    let mut common = Vec::new();
    value::flatten(&scope.attributes, &mut |name, text| common.push((name.to_owned(), text.to_owned())));
    common.push(("scope_name".to_owned(), scope.name));
    common.push(("scope_version".to_owned(), scope.version));
    if scope.dropped_attributes_count > 0 {
        common
            .push(("scope_dropped_attributes_count".to_owned(), scope.dropped_attributes_count.to_string()));
    }
    common
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;

//! Pushes: from a request to [`Distributor::push`](skald_rpc::Distributor::push).

pub(crate) mod budget;
pub(crate) mod documents;
pub mod encoding;
pub mod json;
mod metadata;
pub mod otlp;
pub mod protobuf;
mod utf8;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use skald_model::{EntryRef, Error, Kind, Push, PushStream, TenantLimits, Timestamp};
use skald_rpc::Distributor;
use skald_runtime::Clock;

use self::budget::{Budget, Charge};
use self::encoding::Format;
use crate::body;
use crate::config::Config;
use crate::error::ApiError;
use crate::tenant::tenant;

/// What an entry without a time has in Loki: Go's zero time, 0001-01-01, which wraps around in 64 bits of nanoseconds
/// to some day of 1754.
pub const NO_TIMESTAMP: Timestamp = -6_795_364_578_871_345_152;

/// What the handlers of pushes work with.
#[derive(Clone)]
pub(crate) struct PushState {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<dyn TenantLimits>,
    pub(crate) distributor: Arc<dyn Distributor>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) otlp_rules: Arc<otlp::RuleCache>,
}

impl PushState {
    /// Reads a body and takes its share of the memory for it, decoded form included.
    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, Charge), Error> {
        let mut charge = self.budget.charge();
        let limit = self.config.max_recv_msg_size;
        let body =
            body::read_charged(headers, body, limit, "distributor.max_recv_msg_size", Some(&mut charge))
                .await?;
        let decoded = encoding::decoded_len(headers, &body, self.config.max_decompressed_size);
        charge.grow_to(body.len().saturating_add(decoded)).await?;
        Ok((body, charge))
    }
}

/// `POST /loki/api/v1/push`
pub(crate) async fn push_v1(state: State<PushState>, request: Request) -> Result<Response, ApiError> {
    push(state, request, json::Form::V1).await
}

/// `POST /api/prom/push`
pub(crate) async fn push_legacy(state: State<PushState>, request: Request) -> Result<Response, ApiError> {
    push(state, request, json::Form::Legacy).await
}

async fn push(
    State(state): State<PushState>,
    request: Request,
    form: json::Form,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let tenant = tenant(&parts.headers, &state.config)?;
    let (body, mut charge) = state.read(&parts.headers, body).await?;
    let limit = state.config.max_decompressed_size;
    let push = charge.decode(move || decode(&parts.headers, body, form, limit)).await?;
    charge.grow_to(memory_bytes(&push)).await?;
    if push.streams.is_empty() {
        return Err(no_streams().into());
    }
    state.distributor.push(&tenant, push).await?;
    Ok(no_content())
}

/// Decodes the body of a push as its headers say.
///
/// # Errors
/// `InvalidArgument` for what is malformed, `TooLarge` for what is over `limit` bytes when decompressed.
pub fn decode(headers: &HeaderMap, body: Bytes, form: json::Form, limit: usize) -> Result<Push, Error> {
    let (format, compression) = encoding::of_headers(headers)?;
    let message = encoding::inflate(body, compression, limit)?;
    match format {
        Format::Json => json::decode(&message, form),
        Format::SnappyProtobuf => {
            let decoded = encoding::unsnap(&message, limit)?;
            protobuf::decode(decoded, Some(message))
        }
    }
}

/// Bytes of memory that a decoded push takes.
fn memory_bytes(push: &Push) -> usize {
    push.entries.memory_bytes() + push.streams.len() * size_of::<PushStream>()
}

/// Bytes of memory that so many entries and streams of a push take besides its body.
fn overhead_bytes(entries: usize, streams: usize) -> usize {
    entries * size_of::<EntryRef>() + streams * size_of::<PushStream>()
}

/// The most of that for a body of this size. Entries that anyone would send stay far below: a time alone takes
/// twelve bytes. Without a bound a body of nothing but empty entries would take a dozen times its size.
fn overhead_bytes_max(body_bytes: usize) -> usize {
    body_bytes * 4 + (1 << 20)
}

/// The refusal of a push without streams.
pub(crate) fn no_streams() -> Error {
    Error::new(Kind::Unprocessable, "error at least one valid stream is required for ingestion")
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

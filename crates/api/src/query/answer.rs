//! Answers of queries as JSON, row by row, so that a large one is on its way to the client before it is all written.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, header};
use skald_rpc::frontend::{QueryData, QueryResponse, Series};
use skald_rpc::memory::QueryShare;

use super::json;
use super::stats;
use super::streams::{Flags, StreamRows};

/// Answers up to this many bytes are sent in one piece, larger ones in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

/// What an answer consists of between its head and its tail.
pub(crate) trait Rows: Send + 'static {
    /// Appends the next row; `false` when there was none left.
    fn next(&mut self, out: &mut Vec<u8>) -> bool;
}

/// The response to a query. `flags` are those of the request; they count for streams only.
pub(crate) fn respond(response: QueryResponse, flags: &Flags) -> Response {
    let mut head = b"{\"status\":\"success\",".to_vec();
    if !response.warnings.is_empty() {
        head.extend_from_slice(b"\"warnings\":");
        json::strings(&mut head, response.warnings.iter().map(String::as_str));
        head.push(b',');
    }
    head.extend_from_slice(b"\"data\":{\"resultType\":");
    let mut tail = Vec::new();
    let rows: Box<dyn Rows> = match response.data {
        QueryData::Streams(entries) => {
            head.extend_from_slice(b"\"streams\",");
            flags.write(&mut head);
            head.extend_from_slice(b"\"result\":[");
            tail.extend_from_slice(b"],");
            Box::new(StreamRows::new(entries, flags.categorize()))
        }
        QueryData::Matrix(series) => {
            head.extend_from_slice(b"\"matrix\",\"result\":[");
            tail.extend_from_slice(b"],");
            Box::new(SeriesRows::new(series, true))
        }
        QueryData::Vector(series) => {
            head.extend_from_slice(b"\"vector\",\"result\":[");
            tail.extend_from_slice(b"],");
            Box::new(SeriesRows::new(series, false))
        }
        QueryData::Scalar(time, value) => {
            head.extend_from_slice(b"\"scalar\",\"result\":[");
            // Milliseconds, unlike all other samples; that is how Loki has it.
            json::integer(&mut head, time.div_euclid(1_000_000));
            head.push(b',');
            json::float_text(&mut head, value);
            head.extend_from_slice(b"],");
            Box::new(SeriesRows::new(Vec::new(), false))
        }
    };
    stats::write(&mut tail, &response.stats);
    tail.extend_from_slice(b"}}\n");
    in_pieces(Pieces { buffer: head, rows: Some(rows), tail, memory: response.memory })
}

/// A whole answer that is already written.
pub(crate) fn json_response(body: Vec<u8>) -> Response {
    with_json_type(Body::from(body))
}

pub(super) fn in_pieces(mut pieces: Pieces) -> Response {
    let first = pieces.next().unwrap_or_default();
    if pieces.rows.is_none() {
        return with_json_type(Body::from(first));
    }
    let all = std::iter::once(first).chain(pieces).map(Ok::<_, std::convert::Infallible>);
    with_json_type(Body::from_stream(stream::iter(all)))
}

fn with_json_type(body: Body) -> Response {
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// An answer in pieces.
pub(super) struct Pieces {
    /// What is written and not sent.
    pub(super) buffer: Vec<u8>,
    /// What is not written yet.
    pub(super) rows: Option<Box<dyn Rows>>,
    /// What comes after the rows.
    pub(super) tail: Vec<u8>,
    /// What the rows hold of the memory for queries.
    pub(super) memory: Option<Arc<QueryShare>>,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let rows = self.rows.as_mut()?;
        while self.buffer.len() < PIECE_BYTES {
            if !rows.next(&mut self.buffer) {
                self.buffer.append(&mut self.tail);
                (self.rows, self.memory) = (None, None);
                break;
            }
        }
        Some(Bytes::from(std::mem::take(&mut self.buffer)))
    }
}

struct SeriesRows {
    series: std::vec::IntoIter<Series>,
    matrix: bool,
    first: bool,
}

impl SeriesRows {
    fn new(series: Vec<Series>, matrix: bool) -> Self {
        Self { series: series.into_iter(), matrix, first: true }
    }
}

impl Rows for SeriesRows {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(series) = self.series.next() else { return false };
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"metric\":");
        json::labels(out, series.labels.as_ref());
        if self.matrix {
            out.extend_from_slice(b",\"values\":[");
            for (i, (time, value)) in series.samples.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                sample(out, *time, *value);
            }
            out.push(b']');
        } else if let Some((time, value)) = series.samples.first() {
            out.extend_from_slice(b",\"value\":");
            sample(out, *time, *value);
        }
        out.push(b'}');
        true
    }
}

fn sample(out: &mut Vec<u8>, time: i64, value: f64) {
    out.push(b'[');
    json::seconds(out, time);
    out.push(b',');
    json::float_text(out, value);
    out.push(b']');
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

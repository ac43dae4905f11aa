//! The answers of `/api/prom`, for clients from before version 1 of the API.

use axum::response::Response;
use skald_model::LogEntry;
use skald_rpc::frontend::{QueryData, QueryResponse};

use super::answer::{self, Pieces, Rows};
use super::streams::{Group, group};
use super::{json, stats};
use crate::error::ApiError;
use crate::rfc3339;

/// `{"streams":[{"labels":"{…}","entries":[{"ts":"…","line":"…"}]}],"stats":{…}}`
///
/// # Errors
/// 400 for metric queries, which this form cannot answer.
pub(super) fn respond(response: QueryResponse) -> Result<Response, ApiError> {
    let QueryData::Streams(entries) = response.data else {
        return Err(ApiError::bad_request("legacy endpoints only support streams result type"));
    };
    let mut tail = b"],".to_vec();
    stats::write(&mut tail, &response.stats);
    tail.extend_from_slice(b"}\n");
    let rows: Box<dyn Rows> = Box::new(LegacyRows::new(entries));
    let buffer = b"{\"streams\":[".to_vec();
    Ok(answer::in_pieces(Pieces { buffer, rows: Some(rows), tail, memory: response.memory }))
}

/// `{"values":[…]}`
pub(super) fn values(values: &[String]) -> Response {
    let mut out = b"{".to_vec();
    if !values.is_empty() {
        out.extend_from_slice(b"\"values\":");
        json::strings(&mut out, values.iter().map(String::as_str));
    }
    out.extend_from_slice(b"}\n");
    answer::json_response(out)
}

/// Writes streams one by one.
pub(crate) struct LegacyRows {
    entries: Vec<LogEntry>,
    groups: std::vec::IntoIter<Group>,
    first: bool,
}

impl LegacyRows {
    pub(crate) fn new(entries: Vec<LogEntry>) -> Self {
        let groups = group(&entries, false).into_iter();
        Self { entries, groups, first: true }
    }
}

impl Rows for LegacyRows {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(group) = self.groups.next() else { return false };
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"labels\":");
        json::string(out, &group.labels.to_string());
        out.extend_from_slice(b",\"entries\":[");
        for (i, at) in group.entries.iter().enumerate() {
            let entry = &self.entries[*at as usize];
            out.extend_from_slice(if i > 0 { b",{\"ts\":" } else { b"{\"ts\":" });
            json::string(out, &rfc3339::format(entry.timestamp));
            out.extend_from_slice(b",\"line\":");
            json::line(out, &entry.line);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
        true
    }
}

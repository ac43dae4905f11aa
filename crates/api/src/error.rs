//! Errors as Loki's clients see them: a status code and plain text.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use skald_model::{Error, Kind};

/// A refusal of a request. It becomes a response with the bare message, as Go's `http.Error` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The status code.
    pub status: StatusCode,
    /// What went wrong, in Loki's words where Loki has some.
    pub message: String,
    /// When to try again; sent as `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error with `status`.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// 400: the request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

/// The status code of each kind of error: the one place where they are chosen.
pub fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::InvalidArgument => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Blocked(status) => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
        Kind::LimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        // nginx' code for a client that has gone away; `http` has no name for it.
        Kind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Kind::Unavailable | Kind::SnapshotTooOld => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        Self { status: status_of(e.kind), message: e.message, retry_after: e.retry_after }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut message = self.message;
        if !message.ends_with('\n') {
            message.push('\n');
        }
        let mut response = Response::new(Body::from(message));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let retryable =
            matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if retryable || self.retry_after.is_some() {
            headers.insert(header::RETRY_AFTER, retry_after(self.retry_after));
        }
        response
    }
}

/// Whole seconds, rounded up, at least one: a client that reads 0 comes back at once.
fn retry_after(after: Option<Duration>) -> HeaderValue {
    let seconds = after.map_or(1, |d| d.as_millis().div_ceil(1000).max(1));
    HeaderValue::from_str(&seconds.to_string()).unwrap_or(HeaderValue::from_static("1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up() {
        assert_eq!(retry_after(None), "1");
        assert_eq!(retry_after(Some(Duration::ZERO)), "1");
        assert_eq!(retry_after(Some(Duration::from_millis(1001))), "2");
    }

    #[test]
    fn refusals_are_plain_text_with_retry_after() {
        let r = ApiError::from(Error::limit("slow down", Duration::from_secs(3))).into_response();
        assert_eq!(r.status(), 429);
        assert_eq!(r.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(r.headers()["x-content-type-options"], "nosniff");
        assert_eq!(r.headers()["retry-after"], "3");
        let r = ApiError::bad_request("no").into_response();
        assert!(!r.headers().contains_key("retry-after"));
    }
}

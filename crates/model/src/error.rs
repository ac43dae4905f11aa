//! The error that crosses service boundaries: a kind that says what the caller should do, and a message.

use std::time::Duration;

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong; sending it again will not help (HTTP 400).
    InvalidArgument,
    /// No tenant or no credentials (HTTP 401).
    Unauthenticated,
    /// Nothing by that name (HTTP 404).
    NotFound,
    /// The body is larger than a limit allows (HTTP 413).
    TooLarge,
    /// The request is well formed but holds nothing to do (HTTP 422).
    Unprocessable,
    /// Pushes are blocked by the tenant's settings, which name this HTTP status.
    Blocked(u16),
    /// A rate or memory limit is reached; try again later (HTTP 429).
    LimitExceeded,
    /// The caller has gone away (HTTP 499).
    Cancelled,
    /// The table version asked for is older than what the ingester still remembers: take a newer snapshot.
    SnapshotTooOld,
    /// A part of the system is not there right now; try again (HTTP 503).
    Unavailable,
    /// The deadline has passed (HTTP 504).
    Timeout,
    /// A fault of Skald or of its environment (HTTP 500).
    Internal,
}

/// An error as services hand it to each other and to the HTTP surface.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What to do about it.
    pub kind: Kind,
    /// What went wrong, in words a user can act on.
    pub message: String,
    /// When to try again, where that is known.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }
    /// A fault on our side.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// Something needed is not there right now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }
    /// A limit is reached; `after` says when to come back.
    pub fn limit(message: impl Into<String>, after: Duration) -> Self {
        Self { kind: Kind::LimitExceeded, message: message.into(), retry_after: Some(after) }
    }
    /// The same error with `context: ` before the message.
    #[must_use]
    pub fn context(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

/// A result with the service error.
pub type Result<T> = std::result::Result<T, Error>;

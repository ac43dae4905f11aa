//! Errors across the wire: the kind as a status code and, exactly, as metadata.

use std::time::Duration;

use skald_model::{Error, Kind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, TimeoutExpired};

/// The kind's name. A status without it is not from Skald but from what lies between.
const KIND: &str = "skald-error-kind";
/// Nanoseconds to wait before trying again.
const RETRY_AFTER: &str = "skald-retry-after-ns";
/// The HTTP status of [`Kind::Blocked`].
const HTTP_STATUS: &str = "skald-http-status";
/// The name of [`Kind::Blocked`].
const BLOCKED: &str = "blocked";
/// Longest message in bytes. It travels percent-encoded in a header, for which the limit is
/// [`skald_runtime::grpc::MAX_HEADER_BYTES`].
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Kinds with their code for the world and their name for Skald.
const KINDS: [(Kind, Code, &str); 11] = [
    (Kind::InvalidArgument, Code::InvalidArgument, "invalid_argument"),
    (Kind::Unauthenticated, Code::Unauthenticated, "unauthenticated"),
    (Kind::NotFound, Code::NotFound, "not_found"),
    (Kind::TooLarge, Code::OutOfRange, "too_large"),
    (Kind::Unprocessable, Code::FailedPrecondition, "unprocessable"),
    (Kind::LimitExceeded, Code::ResourceExhausted, "limit_exceeded"),
    (Kind::Cancelled, Code::Cancelled, "cancelled"),
    (Kind::SnapshotTooOld, Code::Aborted, "snapshot_too_old"),
    (Kind::Unavailable, Code::Unavailable, "unavailable"),
    (Kind::Timeout, Code::DeadlineExceeded, "timeout"),
    (Kind::Internal, Code::Internal, "internal"),
];

/// An error as it is sent.
pub(super) fn to_status(error: Error) -> Status {
    let Error { kind, mut message, retry_after } = error;
    let blocked = match kind {
        Kind::Blocked(http_status) => Some(http_status),
        _ => None,
    };
    let (_, code, name) = match blocked {
        Some(_) => (kind, Code::FailedPrecondition, BLOCKED),
        None => KINDS.iter().find(|(k, ..)| *k == kind).copied().unwrap_or(KINDS[10]),
    };
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(KIND, MetadataValue::from_static(name));
    if let Some(http_status) = blocked {
        status.metadata_mut().insert(HTTP_STATUS, MetadataValue::from(http_status));
    }
    if let Some(after) = retry_after {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(nanos));
    }
    status
}

/// The error that `peer` sent, as it was; or, when the call failed on the way, one that names the peer.
pub(super) fn from_status(status: &Status, peer: &str) -> Error {
    let text = |key| status.metadata().get(key).and_then(|v| v.to_str().ok());
    let http_status = || text(HTTP_STATUS).and_then(|v| v.parse().ok()).unwrap_or(260);
    let sent = match text(KIND) {
        Some(BLOCKED) => Some(Kind::Blocked(http_status())),
        name => name.and_then(|name| KINDS.iter().find(|(.., n)| *n == name)).map(|(kind, ..)| *kind),
    };
    if let Some(kind) = sent {
        return Error {
            kind,
            message: status.message().to_owned(),
            retry_after: text(RETRY_AFTER).and_then(|v| v.parse().ok()).map(Duration::from_nanos),
        };
    }
    let (kind, advice) = match status.code() {
        Code::DeadlineExceeded => (Kind::Timeout, ""),
        // How tonic says that the deadline of [`super::request`] has passed.
        Code::Cancelled if status.message() == TimeoutExpired(()).to_string() => (Kind::Timeout, ""),
        Code::OutOfRange => (
            Kind::TooLarge,
            "; see server.grpc_server_max_recv_msg_size and server.grpc_server_max_send_msg_size",
        ),
        Code::Unimplemented => {
            (Kind::Internal, "; the peer does not run this service or is of another version")
        }
        Code::Internal | Code::DataLoss => (Kind::Internal, ""),
        // A connection that broke or was never made. Whether the call took place is not known.
        _ => (Kind::Unavailable, ""),
    };
    let mut cause = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        cause = format!("{cause}: {error}");
        source = error.source();
    }
    Error::new(kind, format!("call to {peer} failed: {cause}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn errors_survive(kind in 0..KINDS.len(), message in ".{0,80}", after in proptest::option::of(any::<u64>())) {
            let error = Error { kind: KINDS[kind].0, message, retry_after: after.map(Duration::from_nanos) };
            let back = from_status(&to_status(error.clone()), "peer");
            prop_assert_eq!(back.kind, error.kind);
            prop_assert_eq!(back.message, error.message);
            prop_assert_eq!(back.retry_after, error.retry_after);
        }
    }

    #[test]
    fn what_is_not_ours_names_the_peer() {
        let error = from_status(&Status::unavailable("connection refused"), "10.0.0.7:9095");
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(error.message, "call to 10.0.0.7:9095 failed: connection refused");
        assert_eq!(from_status(&Status::cancelled("Timeout expired"), "p").kind, Kind::Timeout);
        assert_eq!(from_status(&Status::cancelled("connection reset"), "p").kind, Kind::Unavailable);
        let large = from_status(&Status::out_of_range("message length too large"), "p");
        assert!(large.message.contains("grpc_server_max_recv_msg_size"));
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let status = to_status(Error::internal("ä".repeat(MESSAGE_BYTES_MAX)));
        assert!(status.message().len() <= MESSAGE_BYTES_MAX + 3 && status.message().ends_with("ä…"));
    }
}

//! gRPC on the server shell of [`crate::http`].

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tonic::service::Routes;
use tracing::Instrument as _;

/// Loki's port for gRPC.
pub const DEFAULT_PORT: u16 = 9095;

/// Most bytes of headers and trailers of one message, both ways. An error travels in them, so they get more room than
/// HTTP/2 usually gives.
pub const MAX_HEADER_BYTES: u32 = 1 << 20;

/// How large messages may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Largest message that is accepted, in bytes.
    pub receive: usize,
    /// Largest message that is sent, in bytes.
    pub send: usize,
}

impl Default for MessageLimits {
    /// 100 MiB both ways. (Loki's 4 MiB is the first thing that large installations raise.)
    fn default() -> Self {
        Self { receive: 100 << 20, send: 100 << 20 }
    }
}

/// The services of `routes` as a router for [`crate::http::Server::serve`]. Each call has a span.
pub fn router(routes: Routes) -> Router {
    routes.prepare().into_axum_router().layer(from_fn(in_span))
}

async fn in_span(request: Request, next: Next) -> Response {
    let span = tracing::info_span!("call", method = request.uri().path());
    next.run(request).instrument(span).await
}

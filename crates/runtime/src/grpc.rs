//! gRPC on the server shell of [`crate::http`].

use axum::Router;
use tonic::service::Routes;

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

/// The services of `routes` as a router for [`crate::http::Server::serve`].
pub fn router(routes: Routes) -> Router {
    routes.prepare().into_axum_router()
}

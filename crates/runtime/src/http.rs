//! The server shell: listens, limits connections, serves a router, and drains.
//!
//! The same shell serves HTTP and gRPC (see [`crate::grpc`]); it knows nothing of what it serves.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Registry};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::Instruments;
use crate::telemetry::propagation::remote_parent;
use crate::tls::ServerTls;

/// What connections may do.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Most connections at a time; further ones wait in the kernel's queue. 0 is no limit.
    pub connections: usize,
    /// How long a new connection may stay silent.
    pub first_byte: Duration,
    /// How long the handshake of TLS may take.
    pub handshake: Duration,
    /// How long the head of a request may take, counted from the end of the last one, so also how long a connection
    /// may lie idle.
    pub head: Duration,
    /// Most concurrent streams of one HTTP/2 connection; 0 is no limit.
    pub streams: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            first_byte: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(120),
            streams: 1_000,
        }
    }
}

/// Instruments that all servers of a process share.
#[derive(Clone)]
pub struct ServerMetrics {
    panics: IntCounter,
    connections: IntGaugeVec,
    connections_max: IntGaugeVec,
    handshakes_failed: IntCounterVec,
}

impl ServerMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When metrics of these names are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let (r, label) = (Instruments(registry), &["protocol"]);
        Ok(Self {
            panics: r.counter("loki_panic_total", "Panics of request handlers.")?,
            connections: r.gauges(
                "loki_tcp_connections",
                "Accepted TCP connections that are open.",
                label,
            )?,
            connections_max: r.gauges(
                "loki_tcp_connections_limit",
                "Most TCP connections that may be open; 0 is no limit.",
                label,
            )?,
            handshakes_failed: r.counters(
                "skald_tls_handshakes_failed_total",
                "Connections that did not get through TLS.",
                label,
            )?,
        })
    }
}

/// Why a server cannot listen.
#[derive(Debug)]
pub struct BindError {
    address: String,
    setting: &'static str,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, setting, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: the port is in use by another process; choose another with {setting}"
                )
            }
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "cannot listen on {address}: permission denied; choose a port above 1023 with {setting}"
                )
            }
            _ => write!(f, "cannot listen on {address} ({setting}): {source}"),
        }
    }
}

impl std::error::Error for BindError {}

/// A bound listener, not yet serving.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    protocol: &'static str,
    tls: Option<ServerTls>,
}

impl Server {
    /// Listens on `host:port`; port 0 takes a free one. An empty host is every interface. `protocol` labels metrics
    /// and logs, `setting` names what to change when the address cannot be had.
    ///
    /// # Errors
    /// When the host cannot be resolved or the port not be bound.
    pub async fn bind(
        protocol: &'static str,
        host: &str,
        port: u16,
        setting: &'static str,
    ) -> Result<Self, BindError> {
        let error = |source| BindError { address: format!("{host}:{port}"), setting, source };
        let listener = listen(host, port).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address, protocol, tls: None })
    }

    /// Speaks TLS only, if there is any.
    pub fn with_tls(self, tls: Option<ServerTls>) -> Self {
        Self { tls, ..self }
    }

    /// Whether it speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it serves, as labelled.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Serves `router` until `token` is cancelled, then stops accepting and waits up to `drain` for open requests.
    /// Returns whether all of them ended in time.
    pub async fn serve(
        self,
        router: Router,
        limits: ConnectionLimits,
        metrics: ServerMetrics,
        token: CancellationToken,
        drain: Duration,
    ) -> bool {
        let Self { listener, address, protocol, tls } = self;
        let limit = if limits.connections == 0 { Semaphore::MAX_PERMITS } else { limits.connections };
        metrics.connections_max.with_label_values(&[protocol]).set(limits.connections as i64);
        let slots = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let tasks = TaskTracker::new();
        let shared = Arc::new(Connections {
            builder: connection_builder(&limits),
            router,
            open: metrics.connections.with_label_values(&[protocol]),
            panics: metrics.panics,
            handshakes_failed: metrics.handshakes_failed.with_label_values(&[protocol]),
            tls,
            first_byte: limits.first_byte,
            handshake: limits.handshake,
            stop: token,
            kill: CancellationToken::new(),
        });
        while let Some(slot) = shared.unless_stopped(slots.clone().acquire_owned()).await {
            let Some(accepted) = shared.unless_stopped(listener.accept()).await else { break };
            match accepted {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    tasks.spawn(async move {
                        shared.serve(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => pause_after(&error, protocol).await,
            }
        }
        drop(listener);
        tasks.close();
        let in_time = tokio::time::timeout(drain, tasks.wait()).await.is_ok();
        if !in_time {
            let open = tasks.len();
            tracing::warn!(protocol, %address, open, ?drain, "connections were still busy at the end of the grace period");
            shared.kill.cancel();
            tasks.wait().await;
        }
        in_time
    }
}

/// What the tasks of all connections share.
struct Connections {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    open: prometheus::IntGauge,
    panics: IntCounter,
    handshakes_failed: IntCounter,
    tls: Option<ServerTls>,
    first_byte: Duration,
    handshake: Duration,
    /// Finish what is open, take nothing new.
    stop: CancellationToken,
    /// Drop what is open.
    kill: CancellationToken,
}

impl Connections {
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            done = work => Some(done),
        }
    }

    async fn serve(&self, stream: TcpStream) {
        self.open.inc();
        let open = self.open.clone();
        let _closed = OnDrop(move || open.dec());
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // Peek rather than wait for readiness, which may be announced without a byte to read.
        let mut first = [0];
        let spoke = self.unless_stopped(tokio::time::timeout(self.first_byte, stream.peek(&mut first))).await;
        if !matches!(spoke, Some(Ok(Ok(1)))) {
            return;
        }
        match &self.tls {
            None => self.speak(stream).await,
            Some(tls) => Box::pin(self.serve_tls(tls, stream, first[0])).await,
        }
    }

    async fn serve_tls(&self, tls: &ServerTls, stream: TcpStream, first: u8) {
        let peer = stream.peer_addr().ok();
        let handshake = tokio::time::timeout(self.handshake, tls.accept(stream, first));
        let Some(done) = self.unless_stopped(handshake).await else { return };
        let mut stream = match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => {
                self.handshakes_failed.inc();
                tracing::debug!(%error, peer = peer.map(tracing::field::display), "the handshake of TLS failed");
                return;
            }
        };
        // Those who are silent after the handshake are as silent as those before it.
        let spoke = self.unless_stopped(tokio::time::timeout(self.first_byte, stream.fill_buf())).await;
        if matches!(spoke, Some(Ok(Ok(bytes))) if !bytes.is_empty()) {
            self.speak(stream).await;
        }
    }

    /// Serves HTTP over a connection on which the client has begun to speak.
    async fn speak<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            handle(self.router.clone(), self.panics.clone(), request.map(Body::new))
        });
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.kill.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended with an error");
        }
    }
}

/// Runs the router; a panic becomes the answer 500 (or gRPC's `internal`).
async fn handle(router: Router, panics: IntCounter, request: Request) -> Result<Response, Infallible> {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let parent = remote_parent(request.headers());
    let mut answer = pin!(router.oneshot(request));
    let caught = poll_fn(|cx| {
        // Spans that begin in here continue the caller's trace.
        let _attached = parent.clone().map(opentelemetry::Context::attach);
        match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(response)) => Poll::Ready(Some(response)),
            Err(_) => Poll::Ready(None),
        }
    })
    .await;
    match caught {
        Some(response) => response,
        None => {
            panics.inc();
            Ok(after_panic(grpc))
        }
    }
}

fn after_panic(grpc: bool) -> Response {
    const TEXT: &str = "internal error: the request handler panicked; the log says where";
    if !grpc {
        return (StatusCode::INTERNAL_SERVER_ERROR, TEXT).into_response();
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("13"));
    headers.insert("grpc-message", HeaderValue::from_static(TEXT));
    response
}

fn connection_builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams((limits.streams > 0).then_some(limits.streams))
        // Large windows: a batch of some megabytes should not wait for round trips.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_header_list_size(crate::grpc::MAX_HEADER_BYTES);
    builder
}

async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let addresses: Vec<SocketAddr> =
        tokio::task::spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect))
            .await
            .map_err(io::Error::other)??;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// An error of one connection is its own affair; being out of descriptors is not cured by trying again at once.
async fn pause_after(error: &io::Error, protocol: &str) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset) {
        return;
    }
    tracing::error!(%error, protocol, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

struct OnDrop<F: FnMut()>(F);
impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    struct Running {
        address: SocketAddr,
        stop: CancellationToken,
        served: JoinHandle<bool>,
        metrics: ServerMetrics,
    }

    async fn start(router: Router, limits: ConnectionLimits, drain: Duration) -> Running {
        let server = Server::bind("http", "127.0.0.1", 0, "--listen").await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let metrics = ServerMetrics::new(&Registry::new()).unwrap();
        let served = tokio::spawn(server.serve(router, limits, metrics.clone(), stop.clone(), drain));
        Running { address, stop, served, metrics }
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_panic_is_a_500_and_is_counted() {
        async fn broken() {
            panic!("on purpose")
        }
        let router = Router::new().route("/broken", get(broken)).route("/fine", get(|| async { "fine" }));
        let running = start(router, ConnectionLimits::default(), Duration::from_secs(5)).await;
        assert!(ask(running.address, "/broken").await.starts_with("HTTP/1.1 500"));
        assert!(ask(running.address, "/fine").await.ends_with("fine"));
        assert_eq!(running.metrics.panics.get(), 1);
        running.stop.cancel();
        assert!(running.served.await.unwrap());
    }

    #[tokio::test]
    async fn open_requests_are_answered_before_the_end() {
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (e, g) = (entered.clone(), go.clone());
        let handler = move || async move {
            e.notify_one();
            g.notified().await;
            "late but complete"
        };
        let running = start(
            Router::new().route("/", get(handler)),
            ConnectionLimits::default(),
            Duration::from_secs(30),
        )
        .await;
        let answer = tokio::spawn(async move { ask(running.address, "/").await });
        entered.notified().await;
        running.stop.cancel();
        // Once nobody listens any more, draining has begun.
        while TcpStream::connect(running.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        assert!(answer.await.unwrap().ends_with("late but complete"));
        assert!(running.served.await.unwrap());
    }

    #[tokio::test]
    async fn the_grace_period_ends() {
        let entered = Arc::new(Notify::new());
        let e = entered.clone();
        let handler = move || async move {
            e.notify_one();
            std::future::pending::<()>().await;
        };
        let router = Router::new().route("/", get(handler));
        let running = start(router, ConnectionLimits::default(), Duration::from_millis(20)).await;
        let asking = tokio::spawn(async move { ask(running.address, "/").await });
        entered.notified().await;
        running.stop.cancel();
        assert!(!running.served.await.unwrap());
        assert_eq!(asking.await.unwrap(), "");
    }

    #[tokio::test]
    async fn silent_connections_are_closed_and_free_their_slot() {
        let limits = ConnectionLimits {
            connections: 1,
            first_byte: Duration::from_millis(20),
            ..ConnectionLimits::default()
        };
        let router = Router::new().route("/", get(|| async { "fine" }));
        let running = start(router, limits, Duration::from_secs(5)).await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        assert!(ask(running.address, "/").await.ends_with("fine"));
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_setting() {
        let first = Server::bind("http", "127.0.0.1", 0, "--listen").await.unwrap();
        let port = first.address().port();
        let error = Server::bind("http", "127.0.0.1", port, "--listen").await.err().unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on 127.0.0.1:{port}: the port is in use by another process; choose another with --listen"
            )
        );
    }
}

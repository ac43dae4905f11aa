//! The life of a process: listen, start the roles, serve, and stop in order.
//!
//! In one process the roles call each other through their traits by `Arc`; no socket lies between them.

mod process;
mod roles;
mod target;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use prometheus::Registry;
use skald_api::auth::Auth;
use skald_runtime::http::{ConnectionLimits, Server, ServerMetrics};
use skald_runtime::telemetry::{LogConfig, Telemetry};
use skald_runtime::{CancellationToken, Tasks};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

use crate::build_info;
use crate::config::{self, Config, Loaded};
use process::{Process, Stage};
use roles::Roles;
use target::Targets;
pub(crate) use target::names as target_names;

/// How long the last traces may take to be sent.
const TRACES_DEADLINE: Duration = Duration::from_secs(5);
/// How long background tasks may take to end.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);
/// How long the ingester may take to bring its log, or what it holds, to rest.
const INGESTER_DEADLINE: Duration = Duration::from_secs(120);

/// Runs the server until a signal ends it.
///
/// # Errors
/// When it cannot start; nothing stored has been changed then.
pub(crate) async fn run(loaded: Loaded) -> Result<()> {
    let started = Instant::now();
    let mut signals = Signals::new().context("failed to listen for signals")?;
    let registry = Registry::new();
    let log =
        LogConfig { level: loaded.config.server.log_level.clone(), format: loaded.config.server.log_format };
    let telemetry = Telemetry::start(&log, &loaded.config.tracing, &registry)?;
    skald_runtime::metrics::register(&registry, &build_info::INFO)?;
    announce(&loaded);
    let process = Arc::new(Process::new(&loaded.config, telemetry.level()));

    let mut node = Box::pin(Node::listen(&loaded.config, &registry, process)).await?;
    let outcome = tokio::select! {
        begun = Box::pin(node.start_roles(loaded.config, registry)) => match begun {
            Ok(()) => {
                tracing::info!(after = ?started.elapsed(), "ready");
                Ok(signals.next().await)
            }
            Err(error) => Err(error),
        },
        // Whatever start-up was doing can be dropped at any point.
        name = signals.next() => Ok(name),
    };
    if let Ok(signal) = &outcome {
        tracing::info!(signal, "shutting down; a second signal ends the process at once");
        tokio::spawn(async move {
            let signal = signals.next().await;
            tracing::error!(signal, "ended before the shutdown was complete");
            std::process::exit(1);
        });
    }
    node.stop().await;
    tracing::info!("stopped");
    telemetry.shutdown(TRACES_DEADLINE).await;
    outcome.map(drop)
}

/// Says once what this process is and how it is configured.
fn announce(loaded: &Loaded) {
    let Loaded { config, unused, file } = loaded;
    tracing::info!(
        version = build_info::VERSION,
        revision = build_info::INFO.revision,
        target = config.target,
        config_file = file.as_ref().map(|f| f.display().to_string()),
        pid = std::process::id(),
        "starting skald"
    );
    tracing::info!(changed = config.diff_to_line(), "configuration, where it differs from the defaults");
    if !unused.is_empty() {
        tracing::warn!(
            keys = unused.join(", "),
            "these keys of Loki's configuration have no effect in Skald"
        );
    }
    if config.common.replication_factor > 1 {
        tracing::warn!(
            replication_factor = config.common.replication_factor,
            "one process keeps one copy, whatever common.replication_factor says"
        );
    }
}

/// A process that listens, and its roles once they run.
struct Node {
    process: Arc<Process>,
    metrics: ServerMetrics,
    tasks: Tasks,
    /// Where HTTP listens.
    address: SocketAddr,
    http: Serving,
    grpc: Option<Server>,
    grpc_serving: Option<Serving>,
    /// Filled in when the roles have started; until then only readiness is answered.
    router: Arc<OnceLock<Router>>,
    roles: Option<Roles>,
    drain: Duration,
}

/// A server at work.
struct Serving {
    stop: CancellationToken,
    done: JoinHandle<bool>,
}

impl Node {
    /// Takes the ports, before anything on disk is touched, and answers that the process is starting.
    async fn listen(config: &Config, registry: &Registry, process: Arc<Process>) -> Result<Self> {
        let server = &config.server;
        let targets = Targets::parse(&config.target)?;
        let http = Server::bind(
            "http",
            &server.http_listen_address,
            server.http_listen_port,
            "--listen or server.http_listen_port",
        )
        .await?;
        let mut grpc = None;
        if !targets.is_all() {
            let setting = "server.grpc_listen_port";
            grpc = Some(
                Server::bind("grpc", &server.grpc_listen_address, server.grpc_listen_port, setting).await?,
            );
        }
        let metrics = ServerMetrics::new(registry)?;
        let router = Arc::new(OnceLock::new());
        let gate = Router::new()
            .fallback(dispatch)
            .with_state(Gate { router: router.clone(), process: process.clone() });
        let limits = ConnectionLimits {
            connections: server.http_listen_conn_limit,
            first_byte: server.http_server_read_timeout,
            head: server.http_server_idle_timeout,
            ..ConnectionLimits::default()
        };
        let drain = server.graceful_shutdown_timeout;
        let address = http.address();
        let http = serve(http, gate, limits, &metrics, drain);
        let (tasks, roles, grpc_serving) = (Tasks::new(), None, None);
        Ok(Self { process, metrics, tasks, address, http, grpc, grpc_serving, router, roles, drain })
    }

    /// Starts the roles, which replays the write-ahead log, and opens the gate.
    async fn start_roles(&mut self, config: Config, registry: Registry) -> Result<()> {
        let server = config.server.clone();
        let limits = config::Overrides::load(config.limits_config.clone(), &config.runtime_config, &registry)
            .context("runtime_config.file")?;
        self.process.set_limits(limits.clone());
        let auth = Auth::load(&config.auth).context("auth.file")?;
        match &auth {
            Some(auth) => auth.clone().watch(&self.tasks),
            None if !self.address.ip().is_loopback() => tracing::warn!(
                address = %self.address,
                "everybody who reaches this address may read and write; set auth.file, or put a proxy before it"
            ),
            None => {}
        }
        limits.clone().watch(&self.tasks, config.runtime_config.period);
        let roles = Roles::start(&config, limits.clone(), &registry).await?;
        if let Some(ingester) = &roles.ingester {
            self.process.set_ingester(ingester.clone());
        }
        let router = roles.http(&config, self.process.clone(), limits, registry, auth, self.tasks.clone())?;
        let router = match server.http_path_prefix.as_str() {
            "" => router,
            prefix => Router::new().nest(prefix, router),
        };
        if let Some(grpc) = self.grpc.take() {
            let connections = ConnectionLimits {
                connections: server.grpc_listen_conn_limit,
                streams: server.grpc_server_max_concurrent_streams,
                ..ConnectionLimits::default()
            };
            let router = roles.grpc(&server);
            self.grpc_serving = Some(serve(grpc, router, connections, &self.metrics, self.drain));
        }
        self.roles = Some(roles);
        self.process.set(Stage::Running);
        // Nobody else sets it.
        let _ = self.router.set(router);
        Ok(())
    }

    /// Stops in the order in which work flows: no new requests, the open ones answered, then what they wrote brought
    /// to rest, then the rest.
    async fn stop(self) {
        self.process.set(Stage::Stopping);
        let Serving { stop, done } = self.http;
        stop.cancel();
        if let Some(grpc) = &self.grpc_serving {
            grpc.stop.cancel();
        }
        if let Some(ingester) = self.roles.as_ref().and_then(|r| r.ingester.as_ref()) {
            ingester.end_tails();
        }
        tracing::debug!("waiting for open requests");
        let _ = done.await;
        if let Some(Serving { done, .. }) = self.grpc_serving {
            let _ = done.await;
        }
        if let Some(distributor) = self.roles.as_ref().and_then(|r| r.distributor.as_ref()) {
            distributor.shutdown().await;
        }
        if let Some(ingester) = self.roles.and_then(|r| r.ingester) {
            tracing::debug!("waiting for the ingester");
            if tokio::time::timeout(INGESTER_DEADLINE, ingester.shutdown()).await.is_err() {
                tracing::error!(deadline = ?INGESTER_DEADLINE, "the ingester did not stop in time; its log is replayed at the next start");
            }
        }
        self.tasks.shutdown(TASKS_DEADLINE).await;
    }
}

fn serve(
    server: Server,
    router: Router,
    limits: ConnectionLimits,
    metrics: &ServerMetrics,
    drain: Duration,
) -> Serving {
    let address: SocketAddr = server.address();
    tracing::info!(protocol = server.protocol(), %address, "listening");
    let stop = CancellationToken::new();
    let done = tokio::spawn(server.serve(router, limits, metrics.clone(), stop.clone(), drain));
    Serving { stop, done }
}

/// What a request meets first.
#[derive(Clone)]
struct Gate {
    router: Arc<OnceLock<Router>>,
    process: Arc<Process>,
}

/// Hands requests to the roles, once they run.
async fn dispatch(State(gate): State<Gate>, request: Request) -> Response {
    match gate.router.get() {
        Some(router) => match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => {
            let reason = skald_api::Node::unready(&*gate.process).unwrap_or_default();
            (http::StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

//! The life of a process: listen, start the roles, serve, and stop in order.
//!
//! In one process the roles call each other through their traits by `Arc`; no socket lies between them. In a cluster the
//! same traits are called across processes.

mod alone;
mod cluster;
mod lifecycle;
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
use skald_runtime::tls::{ClientTls, ServerTls};
use skald_runtime::{CancellationToken, Tasks};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

use crate::config::{self, Config, Loaded};
use crate::{allocator, build_info};
use lifecycle::Ending;
use process::{Process, Stage};
use roles::{Roles, Surface};
use target::Targets;
pub(crate) use target::{is_all, names as target_names};

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

    let terminate = Arc::new(Notify::new());
    let mut node = Box::pin(Node::listen(&loaded.config, &registry, process)).await?;
    let outcome = tokio::select! {
        begun = Box::pin(node.start_roles(loaded.config, registry, terminate.clone())) => match begun {
            Ok(()) => {
                tracing::info!(after = ?started.elapsed(), "ready");
                tokio::select! {
                    name = signals.next() => Ok(name),
                    () = terminate.notified() => Ok("a request"),
                }
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
    let limits = &config.limits_config.0;
    let expires =
        limits.retention_period > 0 || limits.retention_bytes > 0 || !limits.retention_stream.is_empty();
    if expires && !config.compactor.removal.retention_enabled {
        tracing::warn!("nothing expires, whatever limits_config says: compactor.retention_enabled is off");
    }
    if config.common.replication_factor > 1 && !config.is_clustered() {
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
    ending: Option<Arc<Ending>>,
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
        let tasks = Tasks::new();
        tasks.spawn_every("allocator", allocator::SWEEP_EVERY, || async { allocator::sweep() });
        let load_tls = |section, config| -> Result<Option<ServerTls>> {
            let tls = ServerTls::load(section, config, &server.tls_policy())?;
            if let Some(tls) = &tls {
                tls.watch(&tasks, server.tls_reload_period);
            }
            Ok(tls)
        };
        let http = Server::bind(
            "http",
            &server.http_listen_address,
            server.http_listen_port,
            "--listen or server.http_listen_port",
        )
        .await?
        .with_tls(load_tls(config::HTTP_TLS, &server.http_tls_config)?);
        let mut grpc = None;
        if !targets.is_all() || config.is_clustered() {
            let setting = "server.grpc_listen_port";
            let bound =
                Server::bind("grpc", &server.grpc_listen_address, server.grpc_listen_port, setting).await?;
            grpc = Some(bound.with_tls(load_tls(config::GRPC_TLS, &server.grpc_tls_config)?));
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
        let (roles, ending, grpc_serving) = (None, None, None);
        Ok(Self { process, metrics, tasks, address, http, grpc, grpc_serving, router, roles, ending, drain })
    }

    /// Starts the roles, which replays the write-ahead log, and opens the gate.
    async fn start_roles(
        &mut self,
        config: Config,
        registry: Registry,
        terminate: Arc<Notify>,
    ) -> Result<()> {
        let server = config.server.clone();
        let limits = config::Overrides::load(config.limits_config.clone(), &config.runtime_config, &registry)
            .context("runtime_config.file")?;
        self.process.set_limits(limits.clone());
        let auth = Auth::load(&config.auth).context("auth.file")?;
        match &auth {
            Some(auth) => auth.watch(&self.tasks),
            None if !self.address.ip().is_loopback() && !server.http_tls_config.requires_certificates() => {
                tracing::warn!(
                    address = %self.address,
                    "everybody who reaches this address may read and write; set auth.file, or put a proxy before it"
                )
            }
            None => {}
        }
        let client_tls = ClientTls::load(config::CLIENT_TLS, &config.ingester_client.grpc_client_config)?;
        if let Some(tls) = &client_tls {
            tls.watch(&self.tasks, server.tls_reload_period);
        }
        limits.watch(&self.tasks, config.runtime_config.period);
        let http_port = self.address.port();
        let roles =
            Roles::start(&config, http_port, client_tls, limits.clone(), &registry, &self.tasks).await?;
        if let Some(ingester) = &roles.ingester {
            self.process.set_ingester(ingester.clone());
        }
        let cluster = roles.cluster.clone();
        if let Some(cluster) = &cluster {
            self.process.set_cluster(cluster.clone());
        }
        let ending =
            Arc::new(Ending::new(roles.ingester.clone(), cluster.clone(), &config.ingester, terminate));
        self.ending = Some(ending.clone());
        let (process, tasks) = (self.process.clone(), self.tasks.clone());
        let surface = Surface { node: process, address: self.address, limits, registry, auth, tasks, ending };
        let router = roles.http(&config, surface)?;
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
            let port = grpc.address().port();
            self.grpc_serving = Some(serve(grpc, router, connections, &self.metrics, self.drain));
            if let Some(cluster) = cluster {
                self.tasks.spawn("cluster-activate", move |token| cluster.activate(port, token));
            }
        }
        self.roles = Some(roles);
        self.process.set(Stage::Running);
        // Nobody else sets it.
        let _ = self.router.set(router);
        Ok(())
    }

    /// Stops in the order in which work flows: the cluster knows, no new requests, the open ones answered, then what they
    /// wrote brought to rest, then the rest.
    async fn stop(self) {
        self.process.set(Stage::Stopping);
        if let Some(ending) = &self.ending {
            ending.at_end().await;
        }
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
        let (ingester, cluster) = self.roles.map(|r| (r.ingester, r.cluster)).unwrap_or_default();
        if let Some(ingester) = ingester {
            tracing::debug!("waiting for the ingester");
            if tokio::time::timeout(INGESTER_DEADLINE, ingester.shutdown()).await.is_err() {
                tracing::error!(deadline = ?INGESTER_DEADLINE, "the ingester did not stop in time; its log is replayed at the next start");
            }
        }
        if let Some(cluster) = cluster {
            cluster.stop();
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
    tracing::info!(protocol = server.protocol(), tls = server.has_tls().then_some(true), %address, "listening");
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

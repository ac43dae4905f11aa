//! The routes: which handler answers which path, for the roles that run in this process.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use http::StatusCode;
use prometheus::Registry;
use skald_model::TenantLimits;
use skald_rpc::{Compaction, Distributor, QueryFrontend};
use skald_runtime::{Clock, Tasks};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use crate::auth::{self, Auth};
use crate::cluster::{self, ClusterState, Lifecycle, LifecycleState, Members};
use crate::compactor::{self, CompactionState};
use crate::config::Config;
use crate::deletes::{self, DeleteState, Deletes};
use crate::drilldown;
use crate::error::ApiError;
use crate::metrics::{Metrics, Route, observe};
use crate::push::budget::Budget;
use crate::push::{self, PushState};
use crate::query::{self, QueryState, detected, volume};
use crate::status::{self, Flush, FlushState, Node, StatusState};
use crate::tail::{self, TailState};

/// What the HTTP surface stands on. A role that does not run here is `None`, and its routes are not found.
pub struct ApiDeps {
    /// Settings.
    pub config: Config,
    /// The time for requests that do not name one.
    pub clock: Arc<dyn Clock>,
    /// Where the crate's own metrics go and what `/metrics` shows.
    pub registry: Registry,
    /// What the process tells about itself.
    pub node: Arc<dyn Node>,
    /// The limits of tenants, to be shown.
    pub limits: Arc<dyn TenantLimits>,
    /// Takes pushes.
    pub distributor: Option<Arc<dyn Distributor>>,
    /// Answers queries.
    pub frontend: Option<Arc<dyn QueryFrontend>>,
    /// Takes delete requests.
    pub deletes: Option<Deletes>,
    /// Flushes on request.
    pub flush: Option<Arc<dyn Flush>>,
    /// The members of the cluster, to be shown.
    pub members: Option<Arc<dyn Members>>,
    /// The end of the ingester of this process.
    pub lifecycle: Option<Arc<dyn Lifecycle>>,
    /// The compactor of this process, to be shown.
    pub compaction: Option<Arc<dyn Compaction>>,
    /// Who may do what; `None` asks nobody.
    pub auth: Option<Arc<Auth>>,
    /// Owns the live tails, whose connections outlive their requests.
    pub tasks: Tasks,
}

/// Answers shorter than this are not worth compressing, in bytes. Loki's threshold.
const COMPRESS_ABOVE: u16 = 1400;

/// The router over `deps`.
///
/// # Errors
/// When the registry holds metrics of the same names already.
pub fn router(deps: ApiDeps) -> prometheus::Result<Router> {
    let ApiDeps {
        config,
        clock,
        registry,
        node,
        limits,
        distributor,
        frontend,
        deletes,
        flush,
        members,
        lifecycle,
        compaction,
        auth,
        tasks,
    } = deps;
    let config = Arc::new(config);
    let routes = Routes { router: Router::new(), metrics: Metrics::new(&registry)?, config: config.clone() };
    let budget = Budget::new(config.inflight_bytes_max, config.inflight_wait, &registry)?;
    let status = StatusState { config: config.clone(), node, limits: limits.clone(), registry };
    let mut routes = with_status(routes, &status);
    if let Some(compaction) = compaction {
        routes = with_compaction(routes, CompactionState { compaction, clock: clock.clone() });
    }
    if let Some(distributor) = distributor {
        let push = PushState {
            config: config.clone(),
            clock: clock.clone(),
            limits: limits.clone(),
            distributor,
            budget,
            otlp_rules: Arc::default(),
        };
        routes = with_push(routes, &push);
    }
    if let Some(deletes) = deletes {
        let (config, clock, limits) = (config.clone(), clock.clone(), limits.clone());
        routes = with_deletes(routes, &DeleteState { config, clock, limits, deletes });
    }
    if let Some(frontend) = frontend {
        let (config, clock) = (config.clone(), clock.clone());
        let tail = TailState {
            config: config.clone(),
            clock: clock.clone(),
            limits,
            frontend: frontend.clone(),
            tasks,
        };
        routes = with_tails(routes, &tail);
        let state = QueryState { config: config.clone(), clock, frontend };
        routes = with_exploring(with_patterns(with_queries(routes, &state), &state), &state);
    }
    if let Some(flush) = flush {
        routes = with_flush(routes, FlushState { config: config.clone(), flush });
    }
    if let Some(members) = members {
        routes = with_cluster(routes, &ClusterState { members, clock });
    }
    if let Some(lifecycle) = lifecycle {
        routes = with_lifecycle(routes, LifecycleState { lifecycle });
    }
    let mut router = routes.router.fallback(not_found).method_not_allowed_fallback(method_not_allowed);
    if let Some(auth) = auth {
        router = router.layer(from_fn_with_state(auth, auth::check));
    }
    if config.compress_responses {
        let compression = CompressionLayer::new()
            .quality(CompressionLevel::Fastest)
            .compress_when(SizeAbove::new(COMPRESS_ABOVE));
        router = router.layer(compression);
    }
    Ok(router)
}

fn with_status(routes: Routes, state: &StatusState) -> Routes {
    let s = || state.clone();
    routes
        .add("/ready", "ready", get(status::ready).with_state(s()))
        .add("/metrics", "metrics", get(status::metrics).with_state(s()))
        .add("/services", "services", get(status::services).with_state(s()))
        .add("/config", "config", get(status::config).with_state(s()))
        .add(
            "/config/tenant/v1/limits",
            "config_tenant_v1_limits",
            get(status::tenant_limits).with_state(s()),
        )
        .add("/runtime_config", "runtime_config", get(status::runtime_config).with_state(s()))
        .add("/log_level", "log_level", get(status::log_level).post(status::log_level).with_state(s()))
        .add(
            "/loki/api/v1/status/buildinfo",
            "loki_api_v1_status_buildinfo",
            get(status::build_info).with_state(s()),
        )
        .add(
            "/loki/api/v1/format_query",
            "loki_api_v1_format_query",
            get(status::format_query).post(status::format_query).with_state(s()),
        )
        .add(
            "/loki/api/v1/drilldown-limits",
            "loki_api_v1_drilldown_limits",
            get(drilldown::limits).with_state(s()),
        )
}

fn with_push(routes: Routes, state: &PushState) -> Routes {
    let s = || state.clone();
    routes
        .add("/loki/api/v1/push", "loki_api_v1_push", post(push::push_v1).with_state(s()))
        .add("/api/prom/push", "api_prom_push", post(push::push_legacy).with_state(s()))
        .add("/elasticsearch/_bulk", "elasticsearch_bulk", post(push::documents::bulk).with_state(s()))
        .add("/_bulk", "elasticsearch_bulk", post(push::documents::bulk).with_state(s()))
        .add("/elasticsearch", "elasticsearch", get(push::documents::about))
        .add("/elasticsearch/", "elasticsearch", get(push::documents::about))
        .add("/insert/jsonline", "insert_jsonline", post(push::documents::json_lines).with_state(s()))
        .add("/insert/lines", "insert_lines", post(push::documents::plain_lines).with_state(s()))
        .add("/otlp/v1/logs", "otlp_v1_logs", post(push::otlp::push_otlp).with_state(s()))
}

fn with_queries(routes: Routes, state: &QueryState) -> Routes {
    let s = || state.clone();
    routes
        .add(
            "/loki/api/v1/query_range",
            "loki_api_v1_query_range",
            get(query::query_range).post(query::query_range).with_state(s()),
        )
        .add("/loki/api/v1/query", "loki_api_v1_query", get(query::query).post(query::query).with_state(s()))
        .add(
            "/loki/api/v1/labels",
            "loki_api_v1_labels",
            get(query::labels).post(query::labels).with_state(s()),
        )
        .add(
            "/loki/api/v1/label",
            "loki_api_v1_label",
            get(query::labels).post(query::labels).with_state(s()),
        )
        .add(
            "/loki/api/v1/label/{name}/values",
            "loki_api_v1_label_name_values",
            get(query::label_values).post(query::label_values).with_state(s()),
        )
        .add(
            "/loki/api/v1/series",
            "loki_api_v1_series",
            get(query::series).post(query::series).with_state(s()),
        )
        .add(
            "/api/prom/query",
            "api_prom_query",
            get(query::legacy_query).post(query::legacy_query).with_state(s()),
        )
        .add(
            "/api/prom/label",
            "api_prom_label",
            get(query::legacy_labels).post(query::legacy_labels).with_state(s()),
        )
        .add(
            "/api/prom/label/{name}/values",
            "api_prom_label_name_values",
            get(query::legacy_label_values).post(query::legacy_label_values).with_state(s()),
        )
        .add("/api/prom/series", "api_prom_series", get(query::series).post(query::series).with_state(s()))
}

fn with_patterns(routes: Routes, state: &QueryState) -> Routes {
    let methods = get(query::patterns::patterns).post(query::patterns::patterns);
    routes.add("/loki/api/v1/patterns", "loki_api_v1_patterns", methods.with_state(state.clone()))
}

fn with_tails(routes: Routes, state: &TailState) -> Routes {
    let s = || state.clone();
    routes.add("/loki/api/v1/tail", "loki_api_v1_tail", get(tail::tail).with_state(s())).add(
        "/api/prom/tail",
        "api_prom_tail",
        get(tail::legacy_tail).with_state(s()),
    )
}

/// What is answered from indexes and samples of entries, for Grafana's explorers.
fn with_exploring(routes: Routes, state: &QueryState) -> Routes {
    let s = || state.clone();
    routes
        .add(
            "/loki/api/v1/index/stats",
            "loki_api_v1_index_stats",
            get(volume::stats).post(volume::stats).with_state(s()),
        )
        .add(
            "/loki/api/v1/index/shards",
            "loki_api_v1_index_shards",
            get(volume::shards).post(volume::shards).with_state(s()),
        )
        .add(
            "/loki/api/v1/index/volume",
            "loki_api_v1_index_volume",
            get(volume::volume).post(volume::volume).with_state(s()),
        )
        .add(
            "/loki/api/v1/index/volume_range",
            "loki_api_v1_index_volume_range",
            get(volume::volume_range).post(volume::volume_range).with_state(s()),
        )
        .add(
            "/loki/api/v1/detected_labels",
            "loki_api_v1_detected_labels",
            get(detected::labels).post(detected::labels).with_state(s()),
        )
        .add(
            "/loki/api/v1/detected_fields",
            "loki_api_v1_detected_fields",
            get(detected::fields).post(detected::fields).with_state(s()),
        )
        .add(
            "/loki/api/v1/detected_field/{name}/values",
            "loki_api_v1_detected_field_name_values",
            get(detected::field_values).post(detected::field_values).with_state(s()),
        )
}

fn with_deletes(routes: Routes, state: &DeleteState) -> Routes {
    let s = || state.clone();
    let methods = get(deletes::list).post(deletes::add).put(deletes::add).delete(deletes::cancel);
    routes.add("/loki/api/v1/delete", "loki_api_v1_delete", methods.with_state(s())).add(
        "/loki/api/v1/cache/generation_numbers",
        "loki_api_v1_cache_generation_numbers",
        get(deletes::generation).with_state(s()),
    )
}

fn with_flush(routes: Routes, state: FlushState) -> Routes {
    routes.add("/flush", "flush", get(status::flush).post(status::flush).with_state(state.clone())).add(
        "/flush/tenant",
        "flush_tenant",
        post(status::flush_tenant).with_state(state),
    )
}

fn with_cluster(routes: Routes, state: &ClusterState) -> Routes {
    let s = || state.clone();
    routes
        .add("/ring", "ring", get(cluster::ring).post(cluster::ring).with_state(s()))
        .add("/compactor/ring", "compactor_ring", get(compactor::ring).with_state(s()))
        .add("/memberlist", "memberlist", get(cluster::memberlist).with_state(s()))
}

fn with_compaction(routes: Routes, state: CompactionState) -> Routes {
    routes.add("/compactor/status", "compactor_status", get(compactor::status).with_state(state))
}

fn with_lifecycle(routes: Routes, state: LifecycleState) -> Routes {
    let prepare = get(cluster::prepare_shutdown)
        .post(cluster::prepare_shutdown)
        .delete(cluster::prepare_shutdown)
        .with_state(state.clone());
    routes.add("/ingester/prepare_shutdown", "ingester_prepare_shutdown", prepare).add(
        "/ingester/shutdown",
        "ingester_shutdown",
        get(cluster::shutdown).post(cluster::shutdown).with_state(state),
    )
}

/// Collects routes and observes each.
struct Routes {
    router: Router,
    metrics: Metrics,
    config: Arc<Config>,
}

impl Routes {
    /// Adds a route; `name` is Loki's name of it in metrics.
    fn add(mut self, path: &str, name: &'static str, methods: MethodRouter) -> Self {
        let route = Route { metrics: self.metrics.clone(), config: self.config.clone(), name };
        self.router = self.router.route(path, methods.layer(from_fn_with_state(route, observe)));
        self
    }
}

async fn not_found() -> impl IntoResponse {
    ApiError::new(StatusCode::NOT_FOUND, "404 page not found")
}

async fn method_not_allowed() -> impl IntoResponse {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}

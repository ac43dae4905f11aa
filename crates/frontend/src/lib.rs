//! The query frontend: answers queries by cutting them into tasks over blocks and over what ingesters hold.
//!
//! It reads the table's snapshot, never a block; it knows LogQL only as far as it must to plan. Every answer is made
//! at one table version V: blocks of V, and from each ingester what V does not hold. An ingester that has already let
//! go of entries that a newer version covers says so, and the query starts over at a newer version.

mod admission;
mod config;
#[cfg(test)]
mod fakes;
mod fields;
mod log_query;
mod metadata;
mod metric_query;
mod metrics;
mod patterns;
mod queriers;
mod queue;
mod remembered;
mod removals;
mod replicas;
mod tail;
mod tenants;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use skald_cluster::{Topology, View};
use skald_logql::ast::Expr;
use skald_logql::syntax::{ParseOptions, canonical, parse_with};
use skald_model::{Error, Kind, Limits, Result, TenantId, TenantLimits};
use skald_removal::Resolver;
use skald_rpc::frontend::{
    DetectedField, DetectedFieldsQuery, DetectedLabel, IndexStats, InstantQuery, MetadataRequest, QueryData,
    QueryResponse, RangeQuery, VolumeQuery,
};
use skald_rpc::ingester::StreamInfo;
use skald_rpc::memory::QueryMemory;
use skald_rpc::patterns::{PatternSeries, PatternsQuery};
use skald_rpc::tail::{TailQuery, TailStream};
use skald_runtime::Clock;
use skald_storage::table::{Catalog, Snapshot};

pub use crate::config::Config;
use crate::metrics::Metrics;
use crate::queriers::Queriers;
use crate::queue::Queue;
use crate::remembered::Cache;
use crate::removals::Rules;
use crate::replicas::{Manner, Replicas, Warnings};

/// How often a query starts over because its snapshot has become too old. Each time the newest version is taken, so a
/// second round is rare and a third one hardly happens.
const SNAPSHOT_ATTEMPTS: usize = 8;

/// The service. See the crate's documentation. Clones share everything.
#[derive(Clone)]
pub struct Frontend {
    topology: Arc<Topology>,
    catalog: Arc<Catalog>,
    limits: Arc<dyn TenantLimits>,
    clock: Arc<dyn Clock>,
    memory: QueryMemory,
    remembered: Cache,
    resolver: Arc<Resolver>,
    metrics: Metrics,
    tail: tail::Settings,
    ingester_timeout: Duration,
    queriers: Queriers,
}

impl Frontend {
    /// A frontend over the members of `topology` and the tables of `catalog`. What it merges is held against `memory`.
    pub fn new(
        config: &Config,
        memory: QueryMemory,
        clock: Arc<dyn Clock>,
        limits: Arc<dyn TenantLimits>,
        catalog: Arc<Catalog>,
        topology: Arc<Topology>,
        registry: &Registry,
    ) -> std::result::Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry)?;
        let queue = Queue::new(config.max_outstanding_per_tenant, metrics.queue_length.clone());
        Ok(Self {
            topology,
            resolver: Arc::new(Resolver::new(catalog.clone(), limits.clone(), config.retention_enabled)),
            catalog,
            limits,
            clock,
            memory,
            remembered: Cache::new(config.metadata_cache_bytes),
            metrics,
            queriers: Queriers::new(queue, config.max_tasks_per_querier),
            tail: tail::Settings {
                duration_max: config.tail_max_duration,
                held_bytes_max: config.tail_buffer_bytes as usize,
            },
            ingester_timeout: config.ingester_timeout,
        })
    }

    fn parse(query: &str, limits: &Limits) -> Result<Expr> {
        parse_with(query, ParseOptions { loki_strict: limits.loki_strict })
            .map_err(|e| Error::invalid(e.to_string()))
    }

    /// The table of `tenant` as it is now.
    async fn snapshot(&self, tenant: &TenantId) -> Result<Arc<Snapshot>> {
        if tenant.is_joined() {
            return Err(Error::invalid(format!(
                "this request is for one tenant, not for several ({tenant})"
            )));
        }
        self.catalog.snapshot(tenant).await.map_err(|e| Error::unavailable(e.to_string()))
    }

    /// Runs `attempt` at the newest table version, again while an ingester says that the version is too old.
    ///
    /// The members are taken before the snapshot and asked after it: whatever they let go of in between is in a
    /// version that they then insist on.
    async fn at_one_version<T, F>(
        &self,
        tenant: &TenantId,
        warnings: &Warnings,
        mut attempt: impl FnMut(Arc<Replicas>, Arc<Snapshot>, Rules) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut outcome = Err(Error::internal("a query was not attempted"));
        for _ in 0..SNAPSHOT_ATTEMPTS {
            let replicas = self.replicas(tenant, self.topology.view(), warnings);
            let snapshot = self.snapshot(tenant).await?;
            // With every version come the requests that count at it.
            let rules = self.resolver.at(tenant, &snapshot, self.clock.now()).await?;
            outcome = attempt(replicas, snapshot, rules).await;
            match &outcome {
                Err(e) if e.kind == Kind::SnapshotTooOld => self.metrics.snapshot_too_old.inc(),
                _ => return outcome,
            }
        }
        outcome.map_err(|e| {
            Error::unavailable(format!("the table changes faster than the query can read it: {e}"))
        })
    }

    /// The ingesters of `view`, as a query of `tenant` asks them.
    fn replicas(&self, tenant: &TenantId, view: Arc<View>, warnings: &Warnings) -> Arc<Replicas> {
        let manner = Manner {
            timeout: self.ingester_timeout,
            partial: self.limits.of(tenant).query_partial_data,
            warnings: warnings.clone(),
            lacked: self.metrics.ingesters_lacking.clone(),
        };
        Arc::new(Replicas::new(view, manner))
    }

    /// Bounds a query by the tenant's `query_timeout`.
    async fn timed<T>(&self, limits: &Limits, work: impl Future<Output = Result<T>>) -> Result<T> {
        if limits.query_timeout <= 0 {
            return work.await;
        }
        let limit = Duration::from_nanos(limits.query_timeout as u64);
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Timeout,
                format!("the query ran longer than {limit:?} (limits_config.query_timeout)"),
            ))
        })
    }
}

#[async_trait]
impl skald_rpc::QueryFrontend for Frontend {
    async fn query_range(&self, query: RangeQuery) -> Result<QueryResponse> {
        let started = std::time::Instant::now();
        let limits = self.limits.of_query(&query.tenant);
        let expr = Self::parse(&query.query, &limits)?;
        self.admit(&query.tenant, &query.query, &expr, &limits)?;
        let text = canonical(&expr);
        let answer = match &expr {
            Expr::Log(log) if query.tenant.is_joined() => {
                self.timed(&limits, tenants::log(self, &query, log, &limits)).await
            }
            Expr::Log(log) => self.timed(&limits, log_query::run(self, &query, log, &text, &limits)).await,
            Expr::Metric(metric) => {
                self.timed(&limits, metric_query::range(self, &query, metric, &text, &limits)).await
            }
        };
        self.finish(answer, started, (&query.query, &query.tags), "range")
    }

    async fn query(&self, query: InstantQuery) -> Result<QueryResponse> {
        let started = std::time::Instant::now();
        let limits = self.limits.of_query(&query.tenant);
        let expr = Self::parse(&query.query, &limits)?;
        self.admit(&query.tenant, &query.query, &expr, &limits)?;
        let text = canonical(&expr);
        let Expr::Metric(metric) = expr else {
            return Err(Error::invalid(
                "log queries are not supported as an instant query type, please change your query to a range query type",
            ));
        };
        let answer = self.timed(&limits, metric_query::instant(self, &query, &metric, &text, &limits)).await;
        self.finish(answer, started, (&query.query, &query.tags), "instant")
    }

    async fn label_names(&self, request: MetadataRequest) -> Result<Vec<String>> {
        if request.tenant.is_joined() {
            return tenants::label_names(self, &request).await;
        }
        metadata::label_names(self, request).await
    }

    async fn label_values(&self, request: MetadataRequest, name: &str) -> Result<Vec<String>> {
        if request.tenant.is_joined() {
            return tenants::label_values(self, &request, name).await;
        }
        metadata::label_values(self, request, name).await
    }

    async fn series(&self, request: MetadataRequest) -> Result<Vec<StreamInfo>> {
        if request.tenant.is_joined() {
            return tenants::series(self, &request).await;
        }
        metadata::series(self, request).await
    }

    async fn patterns(&self, query: PatternsQuery) -> Result<Vec<PatternSeries>> {
        if query.tenant.is_joined() {
            return tenants::patterns(self, &query).await;
        }
        patterns::run(self, query).await
    }

    async fn tail(&self, query: TailQuery) -> Result<TailStream> {
        tail::begin(self.clone(), query).await
    }

    async fn index_stats(&self, request: MetadataRequest) -> Result<IndexStats> {
        if request.tenant.is_joined() {
            return tenants::index_stats(self, &request).await;
        }
        volume::index_stats(self, request).await
    }

    async fn volume(&self, query: VolumeQuery) -> Result<QueryResponse> {
        volume::volume(self, query).await
    }

    async fn detected_labels(&self, request: MetadataRequest) -> Result<Vec<DetectedLabel>> {
        if request.tenant.is_joined() {
            return tenants::detected_labels(self, &request).await;
        }
        metadata::detected_labels(self, request).await
    }

    async fn detected_fields(&self, query: DetectedFieldsQuery) -> Result<Vec<DetectedField>> {
        fields::detected_fields(self, query).await
    }

    async fn detected_field_values(&self, query: DetectedFieldsQuery, name: &str) -> Result<Vec<String>> {
        fields::values(self, query, name).await
    }
}

impl Frontend {
    /// Fills in what is known only at the end, and writes the one line per query that operators grep for.
    fn finish(
        &self,
        answer: Result<QueryResponse>,
        started: std::time::Instant,
        (query, tags): (&str, &str),
        range_type: &'static str,
    ) -> Result<QueryResponse> {
        let seconds = started.elapsed().as_secs_f64();
        let (kind, status) = match &answer {
            Ok(r) if matches!(r.data, QueryData::Streams(_)) => ("filter", "200"),
            Ok(_) => ("metric", "200"),
            Err(e) if matches!(e.kind, Kind::Internal | Kind::Unavailable) => ("unknown", "500"),
            Err(e) if e.kind == Kind::Timeout => ("unknown", "504"),
            Err(_) => ("unknown", "400"),
        };
        self.metrics.query_seconds.with_label_values(&[kind, range_type, status]).observe(seconds);
        let mut answer = answer.inspect_err(|e| {
            tracing::info!(query, status, latency_seconds = seconds, error = %e, "query failed");
        })?;
        answer.stats.exec_seconds = seconds;
        // The span around the request has the tenant.
        tracing::info!(
            query,
            tags,
            status,
            query_type = kind,
            latency_seconds = seconds,
            total_bytes = answer.stats.block_bytes + answer.stats.head_bytes,
            total_lines = answer.stats.block_lines + answer.stats.head_lines,
            blocks = answer.stats.blocks,
            entries = answer.stats.entries_returned,
            "query done"
        );
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;

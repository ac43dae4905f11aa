//! The roles, put together: an `Option` of each.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use futures::stream::{self, StreamExt as _};
use prometheus::Registry;
use skald_api::auth::Auth;
use skald_cluster::topology::Member;
use skald_cluster::{Topology, View};
use skald_ingester::Ingester;
use skald_ingester::delta::DeltaTable;
use skald_model::TenantLimits;
use skald_model::ring::RingMember;
use skald_rpc::grpc::Services;
use skald_rpc::{Distributor, Querier, QueryFrontend};
use skald_runtime::grpc::MessageLimits;
use skald_runtime::{Clock, SystemClock, Tasks};
use skald_storage::block::BlockOptions;
use skald_storage::cache::CacheMetrics;
use skald_storage::store::{self, StoreConfig};
use skald_storage::table::{self, Catalog};

use super::process::Process;
use super::target::{Role, Targets};
use crate::config::{Config, DistributorSection, FrontendSection, QuerierSection, Server};

/// Tables that are looked at when the process starts on a local directory.
const TABLES_CHECKED_MAX: usize = 64;

/// What runs in this process.
pub(super) struct Roles {
    pub(super) distributor: Option<Arc<skald_distributor::Distributor>>,
    pub(super) ingester: Option<Arc<Ingester>>,
    querier: Option<Arc<dyn Querier>>,
    frontend: Option<Arc<dyn QueryFrontend>>,
    clock: Arc<dyn Clock>,
}

impl Roles {
    /// Starts the roles that `config.target` names. Returns when the write-ahead log has been replayed.
    pub(super) async fn start(
        config: &Config,
        limits: Arc<dyn TenantLimits>,
        registry: &Registry,
    ) -> Result<Self> {
        // Every section is taken apart here by name, so that one that nobody wires does not compile.
        let Config {
            target,
            auth_enabled: _,
            no_auth_tenant: _,
            auth: _,
            server: _,
            common,
            limits_config: _,
            runtime_config: _,
            distributor:
                DistributorSection {
                    max_recv_msg_size: _,
                    max_decompressed_size: _,
                    inflight_bytes_max: _,
                    inflight_wait: _,
                    stream_cache_bytes,
                    spare_after,
                    background_bytes_max,
                },
            ingester: mut ingester_config,
            pattern_ingester,
            querier: querier_config,
            frontend:
                FrontendSection {
                    compress_responses: _,
                    metadata_cache_bytes,
                    ingester_timeout,
                    max_outstanding_per_tenant,
                    max_tasks_per_querier,
                },
            table: table_config,
            tracing: _,
        } = config.clone();
        ingester_config.patterns = pattern_ingester;
        let targets = Targets::parse(&target)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);

        let faults = store::fault::FaultConfig::from_env().map_err(anyhow::Error::msg)?;
        let store_config = StoreConfig { faults, ..common.storage.store() };
        let store = store::open(&store_config, registry).await?;
        let catalog = Arc::new(Catalog::new(&table_config, store, "", registry)?);
        if store_config.filesystem.is_some() {
            refuse_foreign_tables(&catalog).await?;
        }
        tracing::info!(
            tables = common.storage.place(),
            wal = %ingester_config.wal.dir.display(),
            wal_enabled = ingester_config.wal.enabled,
            "storing"
        );

        let mut ingester = None;
        if targets.has(Role::Ingester) {
            let open_table = |instance: &skald_ingester::Instance| -> Arc<dyn skald_ingester::table::Table> {
                Arc::new(DeltaTable::new(catalog.clone(), BlockOptions::default(), instance))
            };
            let starting =
                Ingester::start(ingester_config, clock.clone(), limits.clone(), registry, open_table, |_| {
                    None
                });
            ingester = Some(Box::pin(starting).await?);
        }
        let QuerierSection { tail_max_duration, tail_buffer_bytes, .. } = querier_config;
        let mut querier: Option<Arc<dyn Querier>> = None;
        if targets.has(Role::Querier) {
            let caches = CacheMetrics::new(registry)?;
            let service =
                skald_querier::Querier::new(&querier_config.into(), catalog.clone(), &caches, registry)?;
            querier = Some(Arc::new(service));
        }
        let topology = Topology::new(view(ingester.as_ref(), querier.as_ref()));
        let mut distributor = None;
        if targets.has(Role::Distributor) {
            let config = skald_distributor::Config { stream_cache_bytes, spare_after, background_bytes_max };
            let (clock, limits) = (clock.clone(), limits.clone());
            let service =
                skald_distributor::Distributor::new(&config, clock, limits, topology.clone(), registry)?;
            distributor = Some(Arc::new(service));
        }
        let mut frontend: Option<Arc<dyn QueryFrontend>> = None;
        if targets.has(Role::QueryFrontend) {
            let config = skald_frontend::Config {
                metadata_cache_bytes,
                tail_max_duration,
                tail_buffer_bytes,
                ingester_timeout,
                max_outstanding_per_tenant,
                max_tasks_per_querier,
            };
            let service =
                skald_frontend::Frontend::new(&config, clock.clone(), limits, catalog, topology, registry)?;
            frontend = Some(Arc::new(service));
        }
        Ok(Self { distributor, ingester, querier, frontend, clock })
    }

    /// The HTTP surface over the roles.
    pub(super) fn http(
        &self,
        config: &Config,
        node: Arc<Process>,
        limits: Arc<dyn TenantLimits>,
        registry: Registry,
        auth: Option<Arc<Auth>>,
        tasks: Tasks,
    ) -> Result<Router> {
        let deps = skald_api::ApiDeps {
            config: skald_api::Config {
                // Who is asked who they are acts for a tenant.
                auth_enabled: config.auth_enabled || auth.is_some(),
                no_auth_tenant: config.no_auth_tenant.clone(),
                max_recv_msg_size: config.distributor.max_recv_msg_size,
                max_decompressed_size: config.distributor.max_decompressed_size,
                inflight_bytes_max: config.distributor.inflight_bytes_max,
                inflight_wait: config.distributor.inflight_wait,
                multi_tenant_queries_enabled: config.querier.multi_tenant_queries_enabled,
                per_request_limits_enabled: config.querier.per_request_limits_enabled,
                compress_responses: config.frontend.compress_responses,
                patterns_enabled: config.pattern_ingester.enabled,
            },
            clock: self.clock.clone(),
            registry,
            node,
            limits,
            distributor: self.distributor.clone().map(|d| d as Arc<dyn Distributor>),
            frontend: self.frontend.clone(),
            ingester: self.ingester.clone().map(|i| i as Arc<dyn skald_rpc::Ingester>),
            auth,
            tasks,
        };
        skald_api::router(deps).context("failed to register the metrics of the HTTP surface")
    }

    /// The roles for other processes.
    pub(super) fn grpc(&self, server: &Server) -> Router {
        let services = Services {
            distributor: self.distributor.clone().map(|d| d as Arc<dyn Distributor>),
            ingester: self.ingester.clone().map(|i| i as Arc<dyn skald_rpc::Ingester>),
            querier: self.querier.clone(),
            frontend: self.frontend.clone(),
        };
        let limits = MessageLimits {
            receive: server.grpc_server_max_recv_msg_size,
            send: server.grpc_server_max_send_msg_size,
        };
        skald_runtime::grpc::router(services.into_routes(limits))
    }
}

/// The members of a process that is alone.
fn view(ingester: Option<&Arc<Ingester>>, querier: Option<&Arc<dyn Querier>>) -> View {
    let ingesters = ingester.map(|i| {
        let place = RingMember { name: i.instance().id.clone(), zone: String::new(), tokens: vec![0] };
        (place, i.clone() as Arc<dyn skald_rpc::Ingester>)
    });
    let queriers = querier.map(|q| Member { name: "local".into(), service: q.clone() });
    View::new(ingesters.into_iter().collect(), queriers.into_iter().collect(), 1)
}

/// Finds tables that something else has written before entries are taken in that could never be flushed. On a bucket
/// this waits for the first use of a table: looking at all of them would make every start slow.
async fn refuse_foreign_tables(catalog: &Catalog) -> Result<()> {
    let tenants = catalog.tenants().await.context("failed to list the tables")?;
    let looks = tenants.iter().take(TABLES_CHECKED_MAX).map(|tenant| catalog.snapshot(tenant));
    let mut outcomes = stream::iter(looks).buffer_unordered(8);
    while let Some(outcome) = outcomes.next().await {
        // Other errors may pass; they come up again where the table is used.
        if let Err(error @ table::Error::Foreign { .. }) = outcome {
            return Err(error.into());
        }
    }
    Ok(())
}

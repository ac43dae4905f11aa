//! The roles, put together: an `Option` of each.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use axum::Router;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use prometheus::Registry;
use skald_api::auth::Auth;
use skald_api::cluster::{Lifecycle, Members};
use skald_api::{Deletes, Flush};
use skald_cluster::topology::Member;
use skald_cluster::{Topology, View};
use skald_compactor::Compactor;
use skald_compactor::ownership::Spread;
use skald_ingester::delta::{DeltaTable, FlushDeletes};
use skald_ingester::replicas::{RingWriters, Writers};
use skald_ingester::{Ingester, Instance};
use skald_model::ring::RingMember;
use skald_model::{TenantId, TenantLimits};
use skald_removal::DeleteLists;
use skald_rpc::grpc::Services;
use skald_rpc::memory::QueryMemory;
use skald_rpc::{Compaction, Distributor, Querier, QueryFrontend};
use skald_runtime::grpc::MessageLimits;
use skald_runtime::tls::ClientTls;
use skald_runtime::{Clock, SystemClock, Tasks};
use skald_storage::block::BlockOptions;
use skald_storage::cache::CacheMetrics;
use skald_storage::store::{self, StoreConfig};
use skald_storage::table::{self, Catalog, CatalogConfig};

use super::alone::Alone;
use super::cluster::Cluster;
use super::lifecycle::Ending;
use super::process::Process;
use super::target::{Role, Targets};
use crate::config::{
    CompactorSection, Config, DistributorSection, FrontendSection, QuerierSection, Server, Storage,
};

/// Tables that are looked at when the process starts on a local directory.
const TABLES_CHECKED_MAX: usize = 64;

/// What runs in this process.
pub(super) struct Roles {
    pub(super) distributor: Option<Arc<skald_distributor::Distributor>>,
    pub(super) ingester: Option<Arc<Ingester>>,
    querier: Option<Arc<dyn Querier>>,
    frontend: Option<Arc<dyn QueryFrontend>>,
    compactor: Option<Arc<Compactor>>,
    /// `None` of a process that is alone.
    pub(super) cluster: Option<Arc<Cluster>>,
    topology: Arc<Topology>,
    clock: Arc<dyn Clock>,
    deletes: Deletes,
}

/// What the HTTP surface needs beside the roles.
pub(super) struct Surface {
    pub(super) node: Arc<Process>,
    /// Where it is served.
    pub(super) address: SocketAddr,
    pub(super) limits: Arc<dyn TenantLimits>,
    pub(super) registry: Registry,
    pub(super) auth: Option<Arc<Auth>>,
    pub(super) tasks: Tasks,
    pub(super) ending: Arc<Ending>,
}

impl Roles {
    /// Starts the roles that `config.target` names. Returns when the write-ahead log has been replayed.
    pub(super) async fn start(
        config: &Config,
        http_port: u16,
        client_tls: Option<ClientTls>,
        limits: Arc<dyn TenantLimits>,
        registry: &Registry,
        tasks: &Tasks,
    ) -> Result<Self> {
        // Every section is taken apart here by name, so that one that nobody wires does not compile.
        let Config {
            target,
            auth_enabled: _,
            no_auth_tenant: _,
            auth: _,
            server: _,
            common,
            memberlist,
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
            ingester_client: _,
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
            compactor: CompactorSection { compaction: compactor_config, removal, archive: _ },
            table: table_config,
            tracing: _,
        } = config.clone();
        ingester_config.patterns = pattern_ingester;
        let targets = Targets::parse(&target)?;
        if !config.is_clustered() {
            targets.check_alone(&target)?;
        }
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

        if ingester_config.instance_id.is_empty() {
            ingester_config.instance_id = memberlist.node_name;
        }
        let mut cluster = None;
        if config.is_clustered() {
            let mut name = None;
            if targets.has(Role::Ingester) {
                // The name comes from the log, which the ingester opens; from here on it keeps it.
                ingester_config.instance_id = ingester_name(&ingester_config)?;
                name = Some(ingester_config.instance_id.clone());
            }
            let register = skald_storage::registry::Registry::new(catalog.store().clone());
            let starting =
                Cluster::start(config, name, http_port, register, client_tls, clock.clone(), registry, tasks);
            cluster = Some(starting.await?);
        }
        let topology = match &cluster {
            Some(cluster) => cluster.topology.clone(),
            None => Topology::new(View::new(Vec::new(), Vec::new(), 1)),
        };

        let settle_after = skald_compactor::settle_after(
            ingester_config.flush_interval,
            ingester_config.max_flush_delay,
            ingester_config.flush_grace,
            ingester_config.takeover_after,
        );
        let memory = QueryMemory::new(&querier_config.query_memory());
        let lists = Arc::new(DeleteLists::new(catalog.clone()));
        let deletes = Deletes {
            requests: Arc::new(skald_removal::Service::new(
                lists.clone(),
                clock.clone(),
                removal.delete_request_cancel_period,
                registry,
            )?),
            max_interval: removal.delete_max_interval,
        };
        let mut ingester = None;
        if targets.has(Role::Ingester) {
            let open_table = |instance: &skald_ingester::Instance| -> Arc<dyn skald_ingester::table::Table> {
                let deletes = FlushDeletes {
                    lists: lists.clone(),
                    limits: limits.clone(),
                    clock: clock.clone(),
                    cancel_period: removal.delete_request_cancel_period,
                };
                let table = DeltaTable::new(catalog.clone(), BlockOptions::default(), instance);
                Arc::new(table.with_deletes(deletes).with_compactors_of(topology.clone()))
            };
            // Where others keep the same streams, the ring says who writes which.
            let shared = cluster.is_some() && common.replication_factor > 1;
            let writers = |instance: &skald_ingester::Instance| -> Option<Arc<dyn Writers>> {
                let ring = RingWriters {
                    topology: topology.clone(),
                    limits: limits.clone(),
                    name: instance.id.clone(),
                };
                shared.then(|| Arc::new(ring) as Arc<dyn Writers>)
            };
            let (clock, limits) = (clock.clone(), limits.clone());
            let starting = Ingester::start(
                ingester_config,
                memory.clone(),
                clock,
                limits,
                registry,
                open_table,
                writers,
            );
            ingester = Some(Box::pin(starting).await?);
        }
        let QuerierSection { tail_max_duration, tail_buffer_bytes, .. } = querier_config;
        let mut querier: Option<Arc<dyn Querier>> = None;
        if targets.has(Role::Querier) {
            let caches = CacheMetrics::new(registry)?;
            let (config, memory) = (querier_config.into(), memory.clone());
            let service = skald_querier::Querier::new(&config, memory, catalog.clone(), &caches, registry)?;
            querier = Some(Arc::new(service));
        }
        match &cluster {
            Some(cluster) => cluster.set_local(ingester.clone().map(|i| i as _), querier.clone()),
            None => {
                let compactors = targets.has(Role::Compactor).then(|| ALONE.to_owned());
                let view = view(ingester.as_ref(), querier.as_ref());
                topology.publish(view.with_compactors(compactors.into_iter().collect()));
            }
        }
        let mut compactor = None;
        if targets.has(Role::Compactor) {
            let name = match &cluster {
                Some(cluster) => cluster.name().to_owned(),
                None => ALONE.to_owned(),
            };
            let archive = match config.compactor.archive() {
                Some(place) => Some(open_archive(place, &table_config).await?),
                None => None,
            };
            let parts = skald_compactor::Parts {
                name: file_name(&name),
                clock: clock.clone(),
                catalog: catalog.clone(),
                ownership: Arc::new(Spread { topology: topology.clone(), name }),
                keep: Arc::new(skald_compactor::Rules::new(
                    catalog.clone(),
                    limits.clone(),
                    clock.clone(),
                    &removal,
                    // Whoever flushes without knowing of a request has looked at the table before that.
                    settle_after + table_config.commit_timeout * 2,
                )),
                archive,
                settle_after,
            };
            let service = Compactor::new(&compactor_config, parts, registry)?;
            service.start(tasks);
            compactor = Some(service);
        }
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
                retention_enabled: removal.retention_enabled,
            };
            let service = skald_frontend::Frontend::new(
                &config,
                memory,
                clock.clone(),
                limits,
                catalog,
                topology.clone(),
                registry,
            )?;
            frontend = Some(Arc::new(service));
        }
        Ok(Self { distributor, ingester, querier, frontend, compactor, cluster, topology, clock, deletes })
    }

    /// The HTTP surface over the roles.
    pub(super) fn http(&self, config: &Config, surface: Surface) -> Result<Router> {
        let Surface { node, address, limits, registry, auth, tasks, ending } = surface;
        let members: Arc<dyn Members> = match &self.cluster {
            Some(cluster) => cluster.clone(),
            None => Arc::new(Alone {
                topology: self.topology.clone(),
                roles: Targets::parse(&config.target)?.roles(),
                http: address,
                clock: self.clock.clone(),
            }),
        };
        let ends_apart = self.ingester.is_some();
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
            deletes: Some(self.deletes.clone()),
            flush: self.flush(),
            members: Some(members),
            lifecycle: ends_apart.then_some(ending as Arc<dyn Lifecycle>),
            compaction: self.compactor.clone().map(|c| c as Arc<dyn Compaction>),
            auth,
            tasks,
        };
        skald_api::router(deps).context("failed to register the metrics of the HTTP surface")
    }

    /// Who flushes on request: the ingester of this process, or all of them where pushes or queries come in.
    fn flush(&self) -> Option<Arc<dyn Flush>> {
        let is_door = self.distributor.is_some() || self.frontend.is_some();
        match &self.ingester {
            _ if is_door && self.cluster.is_some() => Some(Arc::new(FlushAll(self.topology.clone()))),
            Some(ingester) => Some(ingester.clone()),
            None => None,
        }
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

/// The name of the members of a process that is alone.
const ALONE: &str = "local";

/// A name with only what names of files allow.
fn file_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().map(allowed).collect()
}

/// Flushes every ingester of the cluster.
struct FlushAll(Arc<Topology>);

#[async_trait]
impl Flush for FlushAll {
    async fn flush(&self, tenant: Option<TenantId>) -> skald_model::Result<()> {
        let view = self.0.view();
        if view.ingesters().is_empty() {
            return Err(skald_model::Error::unavailable("no ingester is known yet"));
        }
        let flushes = view
            .ingesters()
            .iter()
            .map(|m| async { m.service.flush(tenant.clone()).await.map_err(|e| e.context(&m.name)) });
        // All of them, also when one fails.
        join_all(flushes).await.into_iter().collect()
    }
}

/// The name under which the ingester with this configuration has worked or will work.
fn ingester_name(config: &skald_ingester::Config) -> Result<String> {
    if !config.wal.enabled {
        return Ok(Instance::without_log(&config.instance_id).id);
    }
    // Decides it for good, if that has not been done, and gives the directory free again.
    Ok(Instance::open(&config.wal.dir, &config.instance_id)?.id)
}

/// The members of a process that is alone.
fn view(ingester: Option<&Arc<Ingester>>, querier: Option<&Arc<dyn Querier>>) -> View {
    let ingesters = ingester.map(|i| {
        let place = RingMember { name: i.instance().id.clone(), zone: String::new(), tokens: vec![0] };
        (place, i.clone() as Arc<dyn skald_rpc::Ingester>)
    });
    let queriers = querier.map(|q| Member { name: ALONE.into(), service: q.clone() });
    View::new(ingesters.into_iter().collect(), queriers.into_iter().collect(), 1)
}

/// The tables of the archive. Their store is not in the metrics: its instruments would have the names of the other one's.
async fn open_archive(place: &Storage, config: &CatalogConfig) -> Result<Arc<Catalog>> {
    let registry = Registry::new();
    let store = store::open(&place.store(), &registry).await.context("compactor.archive")?;
    tracing::info!(place = place.place(), "archiving what expires");
    Ok(Arc::new(Catalog::new(config, store, "", &registry)?))
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

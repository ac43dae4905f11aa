//! The cluster: the network, the store, and who stands beside the ingesters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use parking_lot::Mutex;
use prometheus::Registry;
use skald_cluster::topology::{Absent, Member as ViewMember};
use skald_cluster::{Topology, View};
use skald_distributor::Distributor;
use skald_frontend::Frontend;
use skald_model::ring::RingMember;
use skald_model::{Limits, TenantId, TenantLimits, Timestamp};
use skald_querier::Querier;
use skald_removal::DeleteLists;
use skald_rpc::memory::QueryMemory;
use skald_runtime::Clock as _;
use skald_storage::cache::CacheMetrics;
use skald_storage::store::fault::{FaultConfig, FaultHandle, FaultStore};
use skald_storage::store::retry::{RetryPolicy, RetryStore};
use skald_storage::table::{Catalog, CatalogConfig};
use tokio_util::task::TaskTracker;

use crate::clock::SimClock;
use crate::history::History;
use crate::link::Link;
use crate::members::{Member, tokens};
use crate::network::{Network, Weather};
use crate::store::SimStore;
use crate::trace::{Trace, note};

/// How long a request to delete can be taken back.
pub(crate) const CANCEL_PERIOD: Duration = Duration::from_secs(30);
/// Copies of each entry.
const REPLICATION_FACTOR: usize = 3;
/// The processes beside the ingesters.
const DISTRIBUTORS: [&str; 2] = ["distributor-0", "distributor-1"];
const READER: &str = "reader";

/// How a cluster begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The first moment.
    pub start: Timestamp,
    /// The names of the ingesters at first.
    pub members: Vec<&'static str>,
    /// Bytes of memory that each ingester has for entries.
    pub memory_budget: u64,
    /// After how long entries expire; zero for never.
    pub retention: Duration,
    /// How often what is written to the object store is under way for seconds.
    pub slow_puts: f64,
    /// What goes wrong in the object store while its faults are on.
    pub faults: FaultConfig,
    /// Print events while they happen.
    pub prints: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            start: 1_768_608_000_000_000_000,
            members: vec!["a", "b", "c"],
            memory_budget: 8 << 20,
            retention: Duration::ZERO,
            slow_puts: 0.0,
            faults: FaultConfig {
                error: 0.06,
                lost: 0.06,
                torn: 0.03,
                slow: 0.06,
                slow_max: Duration::from_secs(3),
                ..FaultConfig::default()
            },
            prints: false,
        }
    }
}

/// A cluster. Clones are the same one.
#[derive(Clone)]
pub struct Cluster(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) setup: Setup,
    pub(crate) trace: Trace,
    pub(crate) clock: SimClock,
    pub(crate) store: Arc<InMemory>,
    pub(crate) network: Network,
    pub(crate) tenant: TenantId,
    pub(crate) limits: Arc<Limits>,
    pub(crate) members: Mutex<BTreeMap<String, Member>>,
    /// What each process outside of the ingesters knows of the members.
    views: Vec<(&'static str, Arc<Topology>)>,
    pub(crate) distributors: Vec<Distributor>,
    distributor_clock: SimClock,
    pub(crate) frontend: Frontend,
    pub(crate) deletes: skald_removal::Service,
    querier: Arc<Querier>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) faults: Arc<Mutex<Faults>>,
    pub(crate) history: Mutex<History>,
    pub(crate) broken: Mutex<Vec<String>>,
    pub(crate) tasks: TaskTracker,
    /// What clients and operators do.
    pub(crate) clients: TaskTracker,
    /// Queries that were answered, and that failed.
    pub(crate) queries: Mutex<(u64, u64)>,
}

#[derive(Default)]
pub(crate) struct Faults {
    are_on: bool,
    handles: Vec<FaultHandle>,
}

impl Cluster {
    /// The tables on a process's own way to the store.
    pub(crate) fn catalog_of(&self, process: &str, registry: &Registry) -> Arc<Catalog> {
        let way = SimStore {
            inner: self.0.store.clone(),
            network: self.0.network.clone(),
            trace: self.0.trace.clone(),
            process: process.to_owned(),
            slow_puts: self.0.setup.slow_puts,
        };
        catalog(way, &self.0.setup.faults, &self.0.faults, registry)
    }

    /// Starts all members; they know each other.
    pub async fn start(setup: Setup) -> Self {
        let trace = Trace::new(setup.prints);
        let clock = SimClock::new(setup.start);
        let network = Network::new(trace.clone());
        let store = Arc::new(InMemory::new());
        let limits = Limits {
            max_entries_limit_per_query: 1 << 20,
            retention_period: i64::try_from(setup.retention.as_nanos()).unwrap_or(i64::MAX),
            // Out of order entries are refused by some and taken by others: see the ingester's configuration.
            ..Limits::default()
        };
        let limits = Arc::new(limits);
        let faults = Arc::default();
        let views: Vec<_> = DISTRIBUTORS.into_iter().chain([READER]).map(|name| (name, nobody())).collect();
        let registry = Registry::new();
        let way = |process: &str| SimStore {
            inner: store.clone(),
            network: network.clone(),
            trace: trace.clone(),
            process: process.to_owned(),
            slow_puts: setup.slow_puts,
        };
        let catalog = catalog(way(READER), &setup.faults, &faults, &registry);
        let caches = CacheMetrics::new(&registry).expect("a new registry");
        let config = skald_querier::Config { max_concurrent: 4, ..Default::default() };
        let memory = QueryMemory::default();
        let querier = Querier::new(&config, memory.clone(), catalog.clone(), &caches, &registry)
            .expect("a new registry");
        let dyn_limits: Arc<dyn TenantLimits> = Arc::new(limits.clone());
        let config = skald_frontend::Config {
            ingester_timeout: Duration::from_secs(4),
            retention_enabled: !setup.retention.is_zero(),
            ..Default::default()
        };
        let (reader_clock, view) = (Arc::new(clock.beside()), views[DISTRIBUTORS.len()].1.clone());
        let frontend = Frontend::new(
            &config,
            memory,
            reader_clock,
            dyn_limits.clone(),
            catalog.clone(),
            view,
            &registry,
        )
        .expect("a new registry");
        let lists = Arc::new(DeleteLists::new(catalog.clone()));
        let deletes_clock = Arc::new(clock.beside());
        let deletes = skald_removal::Service::new(lists, deletes_clock, CANCEL_PERIOD, &Registry::new())
            .expect("a new registry");
        let distributor_clock = clock.beside();
        let distributors = views.iter().take(DISTRIBUTORS.len()).map(|(_, view)| {
            let (config, clock) = (skald_distributor::Config::default(), Arc::new(distributor_clock.clone()));
            Distributor::new(&config, clock, dyn_limits.clone(), view.clone(), &Registry::new())
                .expect("a new registry")
        });
        let distributors = distributors.collect();
        let cluster = Self(Arc::new(Inner {
            trace,
            clock,
            store,
            network,
            tenant: TenantId::new("t").expect("a good name"),
            limits,
            members: Mutex::default(),
            views,
            distributors,
            distributor_clock,
            frontend,
            deletes,
            querier: Arc::new(querier),
            catalog,
            faults,
            history: Mutex::default(),
            broken: Mutex::default(),
            tasks: TaskTracker::new(),
            clients: TaskTracker::new(),
            queries: Mutex::default(),
            setup: setup.clone(),
        }));
        for name in &setup.members {
            cluster.register(name);
            cluster.restart(name).await;
            cluster.change(name, |m| m.is_on_ring = true);
        }
        for (name, topology) in cluster.topologies() {
            topology.publish(cluster.view_of(&name));
        }
        cluster
    }

    /// The clock that all members go by, as long as theirs are right.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The clock of both distributors.
    pub fn distributor_clock(&self) -> &SimClock {
        &self.0.distributor_clock
    }

    /// The clock of an ingester.
    pub fn clock_of(&self, name: &str) -> SimClock {
        self.0.members.lock()[name].clock.clone()
    }

    /// The network's manners from now on.
    pub fn set_weather(&self, weather: Weather) {
        note!(self.0.trace, "weather {weather:?}");
        self.0.network.set_weather(weather);
    }

    /// Nothing passes any more between a caller (`distributor-0`, `distributor-1`, `reader`) and an ingester.
    pub fn cut(&self, caller: &str, ingester: &str) {
        note!(self.0.trace, "cut {caller} {ingester}");
        self.0.network.cut(caller, ingester);
    }

    /// An ingester, or the reader, gets no time any more, or gets it again.
    pub fn freeze(&self, name: &str, frozen: bool) {
        note!(self.0.trace, "{} {name}", if frozen { "freeze" } else { "thaw" });
        self.0.network.freeze(name, frozen);
    }

    /// The network is well again, nobody is frozen, all clocks are right.
    pub fn heal(&self) {
        note!(self.0.trace, "heal");
        self.0.network.heal();
        self.0.distributor_clock.deviate(0);
        self.0.members.lock().values().for_each(|m| m.clock.deviate(0));
    }

    /// Switches the faults of the object store on or off.
    pub fn set_faults(&self, are_on: bool) {
        note!(self.0.trace, "faults of the store {are_on}");
        let mut faults = self.0.faults.lock();
        faults.are_on = are_on;
        faults.handles.iter().for_each(|h| h.set_enabled(are_on));
    }

    /// The steering wheels of the faults of all ways to the store.
    pub fn fault_handles(&self) -> Vec<FaultHandle> {
        self.0.faults.lock().handles.clone()
    }

    /// What each process knows of the members, with its name.
    pub(crate) fn topologies(&self) -> Vec<(String, Arc<Topology>)> {
        let members = self.0.members.lock();
        let of_members = members.iter().map(|(name, m)| (name.clone(), m.topology.clone()));
        let others = self.0.views.iter().map(|(name, view)| ((*name).to_owned(), view.clone()));
        others.chain(of_members).collect()
    }

    /// The members as they are, for `caller`.
    pub(crate) fn view_of(&self, caller: &str) -> View {
        let members = self.0.members.lock();
        let (mut ingesters, mut absent) = (Vec::new(), Vec::new());
        for (name, member) in members.iter() {
            if member.running.is_none() {
                absent.push(Absent { name: name.clone(), zone: String::new() });
                continue;
            }
            let link =
                Link { network: self.0.network.clone(), caller: caller.to_owned(), ingester: name.clone() };
            let tokens = if member.is_on_ring { tokens(name) } else { Vec::new() };
            let place = RingMember { name: name.clone(), zone: String::new(), tokens };
            ingesters.push((place, Arc::new(link) as Arc<dyn skald_rpc::Ingester>));
        }
        let queriers = vec![ViewMember {
            name: READER.to_owned(),
            service: self.0.querier.clone() as Arc<dyn skald_rpc::Querier>,
        }];
        View::new(ingesters, queriers, REPLICATION_FACTOR).with_absent(absent)
    }
}

/// When ingesters write.
pub(crate) fn ingester_times() -> skald_ingester::Config {
    skald_ingester::Config {
        flush_interval: Duration::from_secs(30),
        flush_grace: Duration::from_secs(2),
        max_flush_delay: Duration::from_secs(60),
        takeover_after: Duration::from_secs(10),
        ..skald_ingester::Config::default()
    }
}

/// A view of no member.
pub(crate) fn nobody() -> Arc<Topology> {
    Topology::new(View::new(Vec::new(), Vec::new(), REPLICATION_FACTOR))
}

/// A process's tables, over a way to the store with faults of its own.
fn catalog(way: SimStore, faults: &FaultConfig, all: &Mutex<Faults>, registry: &Registry) -> Arc<Catalog> {
    let faulty = FaultStore::new(way, FaultConfig { seed: skald_runtime::random(), ..faults.clone() });
    let handle = faulty.handle();
    let mut all = all.lock();
    handle.set_enabled(all.are_on);
    all.handles.push(handle);
    let store = RetryStore::new(faulty, RetryPolicy::default(), skald_runtime::random());
    let config = CatalogConfig {
        commit_timeout: Duration::from_secs(15),
        // Checkpoints are the Delta library's own work, which is not part of this.
        checkpoint_interval: 1 << 40,
        ..CatalogConfig::default()
    };
    Arc::new(Catalog::new(&config, Arc::new(store), "", registry).expect("a new registry"))
}

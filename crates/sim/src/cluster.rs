//! The members and what they stand on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use parking_lot::Mutex;
use prometheus::Registry;
use skald_cluster::topology::{Absent, Member as ViewMember};
use skald_cluster::{Topology, View};
use skald_distributor::Distributor;
use skald_frontend::Frontend;
use skald_ingester::delta::{DeltaTable, FlushDeletes};
use skald_ingester::replicas::{RingWriters, Writers};
use skald_ingester::wal::WalConfig;
use skald_ingester::{Ingester, Instance};
use skald_model::ring::RingMember;
use skald_model::{Error, Limits, Result, TenantId, TenantLimits, Timestamp};
use skald_querier::Querier;
use skald_removal::DeleteLists;
use skald_rpc::Ingester as _;
use skald_rpc::memory::QueryMemory;
use skald_runtime::Clock as _;
use skald_storage::block::BlockOptions;
use skald_storage::cache::CacheMetrics;
use skald_storage::store::fault::{FaultConfig, FaultHandle, FaultStore};
use skald_storage::store::retry::{RetryPolicy, RetryStore};
use skald_storage::table::{Catalog, CatalogConfig};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::SimClock;
use crate::dice;
use crate::history::History;
use crate::link::Link;
use crate::network::{Network, Weather};
use crate::store::SimStore;
use crate::trace::{Trace, note};

/// How long a request to delete can be taken back.
pub(crate) const CANCEL_PERIOD: Duration = Duration::from_secs(30);
/// Copies of each entry.
const REPLICATION_FACTOR: usize = 3;
/// How long it may take until everybody knows of a member that comes or goes by itself, and of one that died.
const NEWS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(6));
/// Places of a member on the ring.
const TOKENS: u64 = 8;
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
    members: Mutex<BTreeMap<String, Member>>,
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

/// An ingester, alive or not.
struct Member {
    dir: TempDir,
    clock: SimClock,
    topology: Arc<Topology>,
    running: Option<Running>,
    is_starting: bool,
    is_flushing: bool,
    /// Whether it takes new streams.
    is_on_ring: bool,
    /// Whether its disk is gone.
    is_lost: bool,
    starts: u64,
}

#[derive(Clone)]
struct Running {
    ingester: Arc<Ingester>,
    registry: Registry,
    /// The end of the process.
    end: CancellationToken,
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

    /// The names of those that run.
    pub fn running(&self) -> Vec<String> {
        self.named(|m| m.running.is_some())
    }

    /// The names of those that do not.
    pub fn dead(&self) -> Vec<String> {
        self.named(|m| m.running.is_none())
    }

    /// The names of those that do not run but could.
    pub fn dead_with_disk(&self) -> Vec<String> {
        self.named(|m| m.running.is_none() && !m.is_starting && !m.is_lost)
    }

    /// The names of those that take new streams.
    pub fn on_ring(&self) -> Vec<String> {
        self.named(|m| m.is_on_ring)
    }

    fn named(&self, which: impl Fn(&Member) -> bool) -> Vec<String> {
        let members = self.0.members.lock();
        members.iter().filter(|(_, m)| which(m)).map(|(name, _)| name.clone()).collect()
    }

    fn change<R>(&self, name: &str, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        self.0.members.lock().get_mut(name).map(change)
    }

    /// The service of an ingester that runs.
    pub fn ingester(&self, name: &str) -> Option<Arc<Ingester>> {
        Some(self.0.members.lock().get(name)?.running.as_ref()?.ingester.clone())
    }

    /// Seals and flushes what an ingester holds, as long as it runs. One flush of an ingester at a time.
    pub async fn flush(&self, name: &str) -> Result<()> {
        let begun = self.change(name, |m| {
            let running = m.running.clone().filter(|_| !m.is_flushing)?;
            m.is_flushing = true;
            Some(running)
        });
        let Some(Some(Running { ingester, end, .. })) = begun else {
            return Err(Error::unavailable(format!("{name} does not run, or is at it")));
        };
        note!(self.0.trace, "flush {name}");
        let _flushing = Flushing { cluster: self, name };
        let outcome = tokio::select! {
            biased;
            () = end.cancelled() => Err(Error::unavailable(format!("{name} was killed"))),
            outcome = ingester.flush(None) => outcome,
        };
        note!(self.0.trace, "flushed {name}: {outcome:?}");
        outcome
    }

    /// The metrics of an ingester that runs.
    pub(crate) fn gauge(&self, name: &str, metric: &str) -> Option<f64> {
        let registry = self.0.members.lock().get(name)?.running.as_ref()?.registry.clone();
        let families = registry.gather();
        let family = families.iter().find(|f| f.name() == metric)?;
        let metric = family.get_metric().first()?;
        Some(metric.get_gauge().get_value())
    }

    /// Kills an ingester, at whatever it is. Its log stays.
    pub async fn crash(&self, name: &str) {
        let Some(Some(running)) = self.change(name, |m| m.running.take()) else { return };
        note!(self.0.trace, "crash {name}");
        self.0.network.close(name);
        self.0.network.freeze(name, false);
        // Without a flush this ends everything at once; no simulated time passes.
        running.ingester.shutdown().await;
        self.tell_everybody();
    }

    /// Kills an ingester, and its disk with it. Its record goes when the others have covered what it took part in.
    pub async fn lose(&self, name: &str) {
        self.crash(name).await;
        let died = self.now() / 1_000_000_000;
        self.change(name, |m| (m.is_on_ring, m.is_lost) = (false, true));
        note!(self.0.trace, "{name} has lost its disk");
        let (cluster, name) = (self.clone(), name.to_owned());
        let forget = async move {
            while !cluster.others_have_covered(&name, died + 30).await {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            cluster.deregister(&name);
        };
        self.0.tasks.spawn(forget);
    }

    async fn others_have_covered(&self, name: &str, second: i64) -> bool {
        if self.now() / 1_000_000_000 < second {
            return false;
        }
        let others = self.named(|_| true).into_iter().filter(|other| other != name);
        for other in others.collect::<Vec<_>>() {
            let Some(ingester) = self.ingester(&other) else { return false };
            let Ok(holding) = ingester.holding().await else { return false };
            if holding.oldest_stamp.is_some_and(|oldest| oldest <= second) {
                return false;
            }
        }
        true
    }

    /// Starts an ingester on what its log holds; tries again until it comes up.
    pub async fn restart(&self, name: &str) {
        let begun = self.change(name, |m| {
            if m.running.is_some() || m.is_starting {
                return None;
            }
            m.starts += 1;
            m.is_starting = true;
            Some((m.dir.path().to_owned(), m.clock.clone(), m.topology.clone(), m.starts))
        });
        let Some(Some((dir, clock, topology, starts))) = begun else { return };
        note!(self.0.trace, "start {name}, for the {starts}. time");
        loop {
            let registry = Registry::new();
            let catalog = self.catalog_of(name, &registry);
            let deletes = FlushDeletes {
                lists: Arc::new(DeleteLists::new(catalog.clone())),
                limits: Arc::new(self.0.limits.clone()),
                clock: Arc::new(clock.clone()),
                cancel_period: CANCEL_PERIOD,
            };
            let open_table = move |instance: &Instance| -> Arc<dyn skald_ingester::table::Table> {
                let table = DeltaTable::new(catalog, BlockOptions::default(), instance);
                Arc::new(table.with_deletes(deletes))
            };
            let writers: Arc<dyn Writers> = Arc::new(RingWriters {
                topology: topology.clone(),
                limits: Arc::new(self.0.limits.clone()),
                name: name.to_owned(),
            });
            let config = self.config(name, &dir);
            let limits: Arc<dyn TenantLimits> = Arc::new(self.0.limits.clone());
            let start = Ingester::start(
                config,
                QueryMemory::default(),
                Arc::new(clock.clone()),
                limits,
                &registry,
                open_table,
                |_| Some(writers),
            );
            match Box::pin(start).await {
                Ok(ingester) => {
                    let end = CancellationToken::new();
                    self.0.network.open(name, ingester.clone(), end.clone());
                    self.change(name, |m| {
                        m.running = Some(Running { ingester, registry, end });
                        m.is_starting = false;
                    });
                    note!(self.0.trace, "{name} is up");
                    self.tell_everybody();
                    return;
                }
                Err(error) => note!(self.0.trace, "{name} did not start: {error}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn config(&self, name: &str, dir: &Path) -> skald_ingester::Config {
        skald_ingester::Config {
            instance_id: name.to_owned(),
            // A crash of a process keeps what the system has been given.
            wal: WalConfig {
                dir: dir.to_owned(),
                fsync: false,
                segment_bytes: 32 << 10,
                ..WalConfig::default()
            },
            min_flush_bytes: 0,
            memory_budget: self.0.setup.memory_budget,
            flush_op_backoff_max: Duration::from_secs(3),
            flush_abandon_after: Duration::from_secs(90),
            // Entries may come two minutes late.
            max_chunk_age: Duration::from_secs(240),
            patterns: skald_ingester::patterns::Config { enabled: false, ..Default::default() },
            ..ingester_times()
        }
    }

    /// A new ingester registers itself, waits until every reader knows that, and takes its place on the ring.
    pub async fn join(&self, name: &str) {
        note!(self.0.trace, "{name} joins");
        self.register(name);
        self.restart(name).await;
        tokio::time::sleep(NEWS.0 + Duration::from_secs(1)).await;
        self.change(name, |m| m.is_on_ring = true);
        self.tell_everybody();
    }

    /// An ingester gives its place up, writes out what it holds, and goes. Gives up if it dies meanwhile.
    pub async fn leave(&self, name: &str) {
        note!(self.0.trace, "{name} leaves");
        self.give_up_place(name);
        // Whoever pushes must have heard of it, and pushes under way must have ended.
        tokio::time::sleep(NEWS.0 + Duration::from_secs(12)).await;
        loop {
            if self.ingester(name).is_none() {
                return;
            }
            let flushed = self.flush(name).await;
            let Some(ingester) = self.ingester(name) else { return };
            if flushed.is_ok() && ingester.holding().await.is_ok_and(|h| h.oldest_stamp.is_none()) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.crash(name).await;
        self.deregister(name);
    }

    /// An ingester takes no new streams any more, and nothing else changes.
    pub fn give_up_place(&self, name: &str) {
        self.change(name, |m| m.is_on_ring = false);
        self.tell_everybody();
    }

    fn register(&self, name: &str) {
        let member = Member {
            dir: tempfile::tempdir().expect("a directory for the log"),
            clock: self.0.clock.beside(),
            topology: nobody(),
            running: None,
            is_starting: false,
            is_flushing: false,
            is_on_ring: false,
            is_lost: false,
            starts: 0,
        };
        self.0.members.lock().insert(name.to_owned(), member);
        self.tell_everybody();
    }

    fn deregister(&self, name: &str) {
        note!(self.0.trace, "{name} is gone");
        self.0.members.lock().remove(name);
        self.tell_everybody();
    }

    /// Everybody hears of how things are, sooner or later; those who start just now at once.
    fn tell_everybody(&self) {
        let some_are_dead = !self.dead().is_empty();
        for (name, topology) in self.topologies() {
            if topology.view().ingesters().is_empty() {
                topology.publish(self.view_of(&name));
            }
            let longest = if some_are_dead { NEWS.1 } else { NEWS.0 };
            let delay = dice::between(10, longest.as_millis() as u64);
            let cluster = self.clone();
            self.0.tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                topology.publish(cluster.view_of(&name));
            });
        }
    }

    /// What each process knows of the members, with its name.
    fn topologies(&self) -> Vec<(String, Arc<Topology>)> {
        let members = self.0.members.lock();
        let of_members = members.iter().map(|(name, m)| (name.clone(), m.topology.clone()));
        let others = self.0.views.iter().map(|(name, view)| ((*name).to_owned(), view.clone()));
        others.chain(of_members).collect()
    }

    /// The members as they are, for `caller`.
    fn view_of(&self, caller: &str) -> View {
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

/// A flush, until it is dropped.
struct Flushing<'a> {
    cluster: &'a Cluster,
    name: &'a str,
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.cluster.change(self.name, |m| m.is_flushing = false);
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
fn nobody() -> Arc<Topology> {
    Topology::new(View::new(Vec::new(), Vec::new(), REPLICATION_FACTOR))
}

/// Places on the ring, always the same for a name.
fn tokens(name: &str) -> Vec<u32> {
    let place = |n: u64| xxhash_rust::xxh3::xxh3_64(format!("{name}/{n}").as_bytes()) as u32;
    (0..TOKENS).map(place).collect()
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

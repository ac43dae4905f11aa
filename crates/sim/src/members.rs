//! The ingesters: they start, flush, die, lose their disks, come and go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use skald_cluster::Topology;
use skald_ingester::delta::{DeltaTable, FlushDeletes};
use skald_ingester::replicas::{RingWriters, Writers};
use skald_ingester::wal::WalConfig;
use skald_ingester::{Ingester, Instance};
use skald_model::{Error, Result, TenantLimits};
use skald_removal::DeleteLists;
use skald_rpc::Ingester as _;
use skald_rpc::memory::QueryMemory;
use skald_storage::block::BlockOptions;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::clock::SimClock;
use crate::cluster::{CANCEL_PERIOD, Cluster, ingester_times, nobody};
use crate::dice;
use crate::trace::note;

/// How long it may take until everybody knows of a member that comes or goes by itself, and of one that died.
const NEWS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(6));
/// Places of a member on the ring.
const TOKENS: u64 = 8;

/// An ingester, alive or not.
pub(crate) struct Member {
    pub(crate) dir: TempDir,
    pub(crate) clock: SimClock,
    pub(crate) topology: Arc<Topology>,
    pub(crate) running: Option<Running>,
    pub(crate) is_starting: bool,
    pub(crate) is_flushing: bool,
    /// Whether it takes new streams.
    pub(crate) is_on_ring: bool,
    /// Whether its disk is gone.
    pub(crate) is_lost: bool,
    pub(crate) starts: u64,
}

#[derive(Clone)]
pub(crate) struct Running {
    ingester: Arc<Ingester>,
    registry: Registry,
    /// The end of the process.
    end: CancellationToken,
}

impl Cluster {
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

    pub(crate) fn change<R>(&self, name: &str, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
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

    pub(crate) fn register(&self, name: &str) {
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

/// Places on the ring, always the same for a name.
pub(crate) fn tokens(name: &str) -> Vec<u32> {
    let place = |n: u64| xxhash_rust::xxh3::xxh3_64(format!("{name}/{n}").as_bytes()) as u32;
    (0..TOKENS).map(place).collect()
}

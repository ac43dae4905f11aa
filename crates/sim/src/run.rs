//! A run that the seed makes: clients push and ask while members and everything between them fail.

use std::time::Duration;

use futures::future::join_all;
use skald_model::{Direction, Kind};
use skald_rpc::Ingester as _;

use crate::cluster::{Cluster, Setup};
use crate::compaction::{SLICE, settle_after};
use crate::history::{APPS, Entry};
use crate::network::Weather;
use crate::promises::{
    compacted_stores_each_entry_once, deletes_are_carried_out, promise_1_acknowledged_is_never_lost,
    promise_3_what_is_stored_is_open, promise_4_memory_is_bounded, steady_state_stores_one_copy,
};
use crate::trace::note;
use crate::{NO_LIMIT, dice, simulate};

const SECOND: i64 = 1_000_000_000;
/// A minute before midnight of a day, so that a run goes on into the next.
const NEARLY_MIDNIGHT: i64 = (1_768_608_000 - 60) * SECOND;
/// Events from this number on are compactions.
const COMPACTION: u64 = 112;
/// Events from this number on are deletes.
const DELETION: u64 = 119;
/// Simulated time after which a run hangs.
const LONGEST: Duration = Duration::from_secs(4 * 3600);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The invariants that do not hold, the first one first.
    pub broken: Vec<String>,
    /// A sum over all events, and their number.
    pub sum: (u64, u64),
    /// The last events.
    pub tail: Vec<String>,
    /// Entries that were acknowledged.
    pub acknowledged: usize,
    /// Queries that were answered, and that failed.
    pub queries: (u64, u64),
}

/// Runs what `seed` says.
pub fn run(seed: u64, prints: bool) -> Outcome {
    simulate(seed, || async move {
        let character = Character::draw();
        let setup = Setup {
            start: character.start,
            memory_budget: character.memory_budget,
            slow_puts: if character.is_calm { 0.0 } else { 0.02 },
            prints,
            ..Setup::default()
        };
        let cluster = Box::pin(Cluster::start(setup)).await;
        note!(cluster.0.trace, "{character:?}");
        if character.clocks_lie {
            cluster.0.history.lock().clocks_lie();
        }
        let driver = Driver { cluster: cluster.clone(), character };
        let work = Box::pin(async {
            driver.live().await;
            driver.come_to_rest().await;
        });
        if tokio::time::timeout(LONGEST, work).await.is_err() {
            cluster.check(Err("the cluster does not come to rest".to_owned()));
        }
        let outcome = Outcome {
            broken: cluster.broken(),
            sum: cluster.0.trace.sum(),
            tail: cluster.0.trace.tail(),
            acknowledged: cluster.history().acknowledged().len(),
            queries: cluster.queries(),
        };
        for name in cluster.running() {
            cluster.crash(&name).await;
        }
        outcome
    })
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug)]
struct Character {
    start: i64,
    memory_budget: u64,
    steps: u64,
    /// Nothing fails: then the table must have one copy of each entry.
    is_calm: bool,
    /// Whether a disk may be lost.
    may_lose: bool,
    /// Whether the clocks of distributors may be wrong.
    clocks_lie: bool,
}

impl Character {
    fn draw() -> Self {
        Self {
            start: if dice::chance(0.25) { NEARLY_MIDNIGHT } else { Setup::default().start },
            memory_budget: if dice::chance(0.15) { 64 << 10 } else { 8 << 20 },
            steps: 25 + dice::below(35),
            is_calm: dice::chance(0.12),
            may_lose: dice::chance(0.3),
            clocks_lie: dice::chance(0.4),
        }
    }
}

struct Driver {
    cluster: Cluster,
    character: Character,
}

impl Driver {
    async fn live(&self) {
        let (mut has_joined, mut has_left, mut has_lost) = (false, false, false);
        for _ in 0..self.character.steps {
            let pause =
                if dice::chance(0.12) { dice::between(15_000, 40_000) } else { dice::between(20, 2500) };
            tokio::time::sleep(pause).await;
            let cluster = self.cluster.clone();
            let what = if self.character.is_calm { dice::below(70) } else { dice::below(122) };
            let what = if self.character.is_calm && what >= 66 { COMPACTION } else { what };
            match what {
                0..=43 => self.push(),
                44..=58 => self.spawn(|cluster| async move {
                    let direction = if dice::chance(0.5) { Direction::Forward } else { Direction::Backward };
                    let limit = if dice::chance(0.3) { 1 + dice::below(20) as usize } else { NO_LIMIT };
                    // Whether it may fail is checked where it does.
                    drop(cluster.query(direction, limit).await);
                }),
                59..=65 => self.spawn(|cluster| async move { drop(cluster.count().await) }),
                66..=69 => self.with_some(cluster.running(), |cluster, name| async move {
                    drop(cluster.flush(&name).await);
                }),
                70..=76 => {
                    let victim = some(cluster.running());
                    if let Some(name) = victim.filter(|_| cluster.dead().is_empty() || dice::chance(0.15)) {
                        cluster.crash(&name).await;
                    }
                }
                77..=84 => self.with_some(cluster.dead_with_disk(), |cluster, name| async move {
                    cluster.restart(&name).await;
                }),
                85..=87 => {
                    let caller = ["distributor-0", "distributor-1", "reader"][dice::index(3)];
                    if let Some(name) = some(cluster.running()) {
                        cluster.cut(caller, &name);
                    }
                }
                88..=92 => cluster.heal(),
                93..=95 => self.with_some(cluster.running(), |cluster, name| async move {
                    cluster.freeze(&name, true);
                    tokio::time::sleep(dice::between(500, 20_000)).await;
                    cluster.freeze(&name, false);
                }),
                96..=98 => cluster.set_faults(true),
                99..=101 => cluster.set_faults(false),
                102..=103 => cluster.set_weather(Weather {
                    lost_requests: dice::below(15) as f64 / 100.0,
                    lost_answers: dice::below(15) as f64 / 100.0,
                    slow: dice::below(20) as f64 / 100.0,
                }),
                104..=105 if self.character.clocks_lie => {
                    let deviation = dice::below(50 * SECOND as u64) as i64 - 25 * SECOND;
                    note!(
                        cluster.0.trace,
                        "clocks of distributors are wrong by {} ms",
                        deviation / 1_000_000
                    );
                    cluster.distributor_clock().deviate(deviation);
                }
                106..=107 if !has_joined => {
                    has_joined = true;
                    self.spawn(|cluster| async move { cluster.join("d").await });
                }
                108..=109 if !has_left && cluster.on_ring().len() > 3 => {
                    has_left = true;
                    self.with_some(cluster.on_ring(), |cluster, name| async move {
                        cluster.leave(&name).await;
                    });
                }
                110 if self.character.may_lose && !has_lost && cluster.on_ring().len() > 3 => {
                    if let Some(name) = some(cluster.running()).filter(|_| !has_left) {
                        has_lost = true;
                        has_left = true;
                        cluster.lose(&name).await;
                    }
                }
                DELETION.. => self.spawn(|cluster| async move {
                    // Whoever is refused may try again; what it was about is unsure then.
                    if dice::chance(0.3) {
                        // Every block has to be looked at, and stays.
                        drop(cluster.delete("{app=~\".+\"} |= \"no line has this\"").await);
                    } else {
                        drop(cluster.delete_app(dice::index(APPS.len())).await);
                    }
                }),
                COMPACTION.. => self.spawn(|cluster| async move {
                    let name = ["compactor-0", "compactor-1"][dice::index(2)];
                    let patience = if dice::chance(0.5) { dice::between(50, 3000) } else { LONGEST };
                    cluster.compact(name, settle_after(), patience).await;
                }),
                _ => {}
            }
            self.look_at_memory(false);
        }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Cluster) -> F) {
        self.cluster.0.clients.spawn(work(self.cluster.clone()));
    }

    fn with_some<F: Future<Output = ()> + Send + 'static>(
        &self,
        names: Vec<String>,
        work: impl FnOnce(Cluster, String) -> F,
    ) {
        if let Some(name) = some(names) {
            self.spawn(|cluster| work(cluster, name));
        }
    }

    /// A client pushes, and tries again when it is told so.
    fn push(&self) {
        let entries = self.choose_entries();
        let distributor = dice::index(2);
        self.spawn(|cluster| async move {
            for _ in 0..3 {
                match cluster.push(distributor, &entries).await {
                    Err(e) if e.kind != Kind::InvalidArgument => {
                        tokio::time::sleep(dice::between(100, 3000)).await;
                    }
                    _ => break,
                }
            }
        });
    }

    fn choose_entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for app in dice::shuffled((0..APPS.len()).collect()).into_iter().take(1 + dice::index(4)) {
            entries.extend(self.cluster.new_entries(app, 1 + dice::index(3)));
            if !self.character.is_calm && dice::chance(0.1) {
                // So late that some refuse it, those that have newer ones. What is left of such a push is not listed in
                // blocks, so each replica writes it.
                let late = dice::below(200) as i64 * SECOND;
                entries.push(self.cluster.new_entry_at(app, self.cluster.now() - late));
            }
        }
        if !self.character.is_calm && dice::chance(0.2) {
            let history = self.cluster.history();
            let known = history.entries();
            entries.push(known[dice::index(known.len())].entry);
            entries.dedup();
        }
        entries
    }

    fn look_at_memory(&self, all_is_stored: bool) {
        for name in self.cluster.running() {
            if let Some(used) = self.cluster.gauge(&name, "skald_ingester_memory_bytes") {
                let budget = self.character.memory_budget;
                let verdict = promise_4_memory_is_bounded(&name, used as u64, budget, all_is_stored);
                self.cluster.check(verdict);
            }
        }
    }

    /// Everything is well again; then the promises hold without exception.
    async fn come_to_rest(&self) {
        let cluster = &self.cluster;
        note!(cluster.0.trace, "coming to rest");
        cluster.set_faults(false);
        cluster.heal();
        cluster.0.clients.close();
        cluster.0.clients.wait().await;
        cluster.heal();
        for name in cluster.dead_with_disk() {
            cluster.restart(&name).await;
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
        self.must_answer("all members are there").await;
        self.flush_all().await;
        // Housekeeping has looked at the memory then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.look_at_memory(true);
        self.must_answer("everything is stored").await;
        let stored = cluster.stored().await;
        let history = cluster.history();
        cluster.check(promise_3_what_is_stored_is_open(&history, &stored));
        let stored = stored.unwrap_or_default();
        cluster.check(promise_1_acknowledged_is_never_lost(&history, &stored));
        if self.character.is_calm {
            cluster.check(steady_state_stores_one_copy(&history, &stored));
        }
        self.compact_all().await;
    }

    /// Everything is compacted; then the table has each entry once, whatever has failed before.
    async fn compact_all(&self) {
        let cluster = &self.cluster;
        for _ in 0..2 {
            // The slice ends, and closes.
            tokio::time::sleep(settle_after() + SLICE).await;
            if !cluster.compact("compactor-0", settle_after(), LONGEST).await {
                cluster.check(Err("compaction fails although nothing fails".to_owned()));
            }
        }
        let (stored, history) = (cluster.stored().await, cluster.history());
        cluster.check(promise_3_what_is_stored_is_open(&history, &stored));
        let stored = stored.unwrap_or_default();
        cluster.check(promise_1_acknowledged_is_never_lost(&history, &stored));
        cluster.check(compacted_stores_each_entry_once(&stored));
        cluster.check(deletes_are_carried_out(&history, &stored));
    }

    async fn must_answer(&self, when: &str) {
        if let Err(error) = self.cluster.query(Direction::Forward, NO_LIMIT).await {
            self.cluster.check(Err(format!("a query fails although {when}: {error}")));
        }
        if let Err(error) = self.cluster.count().await {
            self.cluster.check(Err(format!("a count fails although {when}: {error}")));
        }
    }

    async fn flush_all(&self) {
        for _ in 0..20 {
            let names = self.cluster.running();
            let flushed = join_all(names.iter().map(|name| self.cluster.flush(name))).await;
            let mut holds = false;
            for name in &names {
                let Some(ingester) = self.cluster.ingester(name) else { continue };
                holds |= ingester.holding().await.is_ok_and(|h| h.oldest_stamp.is_some());
            }
            if flushed.iter().all(Result::is_ok) && !holds {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.cluster.check(Err("flushes do not end although nothing fails".to_owned()));
    }
}

fn some(names: Vec<String>) -> Option<String> {
    let mut names = names;
    (!names.is_empty()).then(|| names.swap_remove(dice::index(names.len())))
}

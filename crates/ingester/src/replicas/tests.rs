//! Several ingesters over one table in memory: nothing is lost, nothing is let go that the table lacks, and in steady
//! state the table has each entry once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use skald_model::time::SECOND;
use skald_model::{Limits, PushStamp, StreamId, TenantId};
use skald_rpc::Ingester as _;
use skald_rpc::ingester::IngesterPush;
use skald_runtime::Clock as _;
use skald_runtime::clock::ManualClock;
use tempfile::TempDir;

use super::Writers;
use crate::Config;
use crate::samples::{Sample, batch, entries, tenant};
use crate::tests::{Entry, Fault, MemoryTable, Node, START, config};

/// The replicas of a stream are all members, beginning at one that the stream's id chooses.
struct Turns {
    own: usize,
    members: usize,
}

impl Writers for Turns {
    fn ranks(&self, _: &TenantId) -> Box<dyn Fn(StreamId) -> usize + Send> {
        let (own, members) = (self.own, self.members);
        Box::new(move |stream| (own + members - stream.0 as usize % members) % members)
    }
}

struct Cluster {
    table: Arc<MemoryTable>,
    clock: ManualClock,
    dirs: Vec<TempDir>,
    nodes: Vec<Option<Node>>,
    sequence: u64,
    pushed: BTreeSet<Entry>,
    /// How far the clock goes on in five milliseconds, while members flush.
    pace: i64,
}

/// So fast that a replica which is kept from its work for a moment may find that another one has taken it over.
const FAST: i64 = SECOND / 4;
/// So slow that nobody takes over from a replica that lives.
const SLOW: i64 = SECOND / 50;

impl Cluster {
    async fn start(members: usize, pace: i64) -> Self {
        let mut cluster = Self {
            pace,
            table: Arc::default(),
            clock: ManualClock::new(START),
            dirs: (0..members).map(|_| tempfile::tempdir().unwrap()).collect(),
            nodes: (0..members).map(|_| None).collect(),
            sequence: 0,
            pushed: BTreeSet::new(),
        };
        for member in 0..members {
            cluster.restart(member).await;
        }
        cluster
    }

    async fn restart(&mut self, member: usize) {
        let config = Config {
            // Housekeeping comes often; the clock of the test says when something is due.
            flush_interval: Duration::from_secs(1),
            ..config(self.dirs[member].path())
        };
        let writers: Arc<dyn Writers> = Arc::new(Turns { own: member, members: self.nodes.len() });
        let (clock, limits) = (self.clock.clone(), Limits::default());
        self.nodes[member] = Some(Node::start_as(config, &self.table, limits, clock, Some(writers)).await);
    }

    async fn crash(&mut self, member: usize) {
        if let Some(node) = self.nodes[member].take() {
            node.crash().await;
        }
    }

    /// Pushes to some of the members that live; it counts as acknowledged.
    async fn push(&mut self, to: &[usize], streams: &[(&str, &[Sample<'_>])]) {
        self.sequence += 1;
        let id = tenant("t");
        let second = self.clock.now() / SECOND;
        let stamp = PushStamp { origin: 9, sequence: self.sequence, second, partial: false };
        let batch = Arc::new(batch(&id, streams));
        self.pushed.extend(entries(&batch));
        for member in to {
            let Some(node) = &self.nodes[*member] else { continue };
            let push = IngesterPush { tenant: id.clone(), stamp, batch: batch.clone() };
            node.ingester.push(push).await.unwrap();
        }
    }

    /// Flushes some members at a time until all have succeeded, while time goes on.
    async fn flush(&self, members: &[usize]) {
        let flushes = members
            .iter()
            .filter_map(|m| self.nodes[*m].as_ref())
            .map(|node| async move { while node.ingester.flush(None).await.is_err() {} });
        let time = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.clock.set(self.clock.now() + self.pace);
            }
        };
        tokio::select! {
            _ = futures::future::join_all(flushes) => {}
            () = time => {}
        }
    }

    /// What queries of all living members see, with how often; at one version of the table.
    async fn seen(&self) -> BTreeMap<Entry, usize> {
        'again: loop {
            let version = self.table.version(&tenant("t"));
            let mut seen: BTreeMap<Entry, usize> = BTreeMap::new();
            let mut add = |entries: Vec<Entry>| {
                entries.into_iter().for_each(|e| *seen.entry(e).or_default() += 1);
            };
            add(self.table.at(&tenant("t"), version));
            for node in self.nodes.iter().flatten() {
                match node.held("t", version).await {
                    Some(held) => add(held),
                    None => continue 'again,
                }
            }
            return seen;
        }
    }

    /// Entries in the table, with repetitions.
    fn stored(&self) -> Vec<Entry> {
        let id: TenantId = tenant("t");
        self.table.at(&id, self.table.version(&id))
    }

    async fn assert_all_are_seen(&self, when: &str) {
        let seen: BTreeSet<_> = self.seen().await.into_keys().collect();
        assert_eq!(seen, self.pushed, "{when}");
    }

    async fn end(mut self) {
        for member in 0..self.nodes.len() {
            self.crash(member).await;
        }
    }
}

const ALL: [usize; 3] = [0, 1, 2];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A push of one entry to each stream.
async fn push_to_each(cluster: &mut Cluster, to: &[usize], n: i64) {
    let line = format!("line {n}");
    let entry = [(START + n, line.as_str(), "")];
    let streams: Vec<_> = NAMES.iter().map(|name| (*name, &entry[..])).collect();
    cluster.push(to, &streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_copies_in_memory_are_one_in_the_table() {
    let mut cluster = Cluster::start(3, SLOW).await;
    for n in 0..20 {
        push_to_each(&mut cluster, &ALL, n).await;
    }
    cluster.assert_all_are_seen("in memory").await;
    cluster.flush(&ALL).await;
    assert_eq!(cluster.stored().len(), cluster.pushed.len(), "one copy");
    cluster.assert_all_are_seen("in the table").await;
    for node in cluster.nodes.iter().flatten() {
        assert_eq!(node.ingester.core.memory.used(), 0);
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_did_not_write_others_do() {
    let mut cluster = Cluster::start(3, SLOW).await;
    for n in 0..10 {
        push_to_each(&mut cluster, &ALL, n).await;
    }
    cluster.crash(1).await;
    cluster.flush(&[0, 2]).await;
    assert_eq!(cluster.stored().len(), cluster.pushed.len());
    // It comes back with its log, finds everything in the table, and writes nothing.
    cluster.restart(1).await;
    cluster.assert_all_are_seen("after the restart").await;
    cluster.flush(&ALL).await;
    assert_eq!(cluster.stored().len(), cluster.pushed.len());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_writer_did_not_get_is_written_by_those_who_did() {
    let mut cluster = Cluster::start(3, SLOW).await;
    push_to_each(&mut cluster, &ALL, 0).await;
    push_to_each(&mut cluster, &[0, 2], 1).await;
    push_to_each(&mut cluster, &[1, 2], 2).await;
    push_to_each(&mut cluster, &[0, 1], 3).await;
    cluster.flush(&ALL).await;
    let stored: BTreeSet<_> = cluster.stored().into_iter().collect();
    assert_eq!(stored, cluster.pushed);
    assert_eq!(cluster.stored().len(), cluster.pushed.len(), "and by one of them");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_does_not_let_go_before_the_table_has_what_it_holds() {
    let mut cluster = Cluster::start(3, FAST).await;
    push_to_each(&mut cluster, &ALL, 0).await;
    // Time stands still, so nobody takes over.
    let node = cluster.nodes[0].as_ref().unwrap();
    let core = node.ingester.core.clone();
    let known = core.tenant(&tenant("t"));
    core.seal_and_schedule(&known, crate::tenant::SealReason::Epoch);
    while cluster.table.version(&tenant("t")) < 0 {
        tokio::task::yield_now().await;
    }
    let written: BTreeSet<_> = cluster.stored().into_iter().collect();
    assert!(!written.is_empty() && written.len() < NAMES.len(), "only its own: {written:?}");
    cluster.crash(1).await;
    cluster.crash(2).await;
    cluster.assert_all_are_seen("of one replica and the table").await;
    // Its own copies are shown by the table alone.
    loop {
        let seen = cluster.seen().await;
        if seen.values().all(|n| *n == 1) {
            break;
        }
        tokio::task::yield_now().await;
    }
    cluster.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Pushes reach any two or three of three, in any order; commits fail or lose their answers; members crash and come
    /// back. Queries see everything all the time, and in the end the table has everything.
    #[test]
    fn any_history_keeps_everything(
        steps in proptest::collection::vec((0u8..8, 0usize..3, proptest::sample::subsequence(vec![0usize, 1, 2, 3, 4], 1..4)), 5..25),
        faults in proptest::collection::vec(prop_oneof![Just(Fault::Refused), Just(Fault::Lost)], 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut cluster = Cluster::start(3, FAST).await;
            for (n, (what, member, streams)) in steps.into_iter().enumerate() {
                match what {
                    0..=4 => {
                        let line = format!("line {n}");
                        // Some pushes repeat what was pushed before.
                        let entry = [(START + n as i64 / 2, line.as_str(), ""), (START, "again", "")];
                        let streams: Vec<_> = streams.iter().map(|s| (NAMES[*s], &entry[..])).collect();
                        // Two at least are alive, and a push is acknowledged by two.
                        let to: Vec<usize> =
                            if what < 3 { ALL.into_iter().filter(|m| *m != member).collect() } else { ALL.to_vec() };
                        let dead = to.iter().filter(|m| cluster.nodes[**m].is_none()).count();
                        if to.len() - dead < 2 {
                            continue;
                        }
                        cluster.push(&to, &streams).await;
                    }
                    5 => cluster.flush(&[member]).await,
                    6 => {
                        let dead = (0..3).find(|m| cluster.nodes[*m].is_none());
                        match dead {
                            Some(dead) => cluster.restart(dead).await,
                            None => cluster.crash(member).await,
                        }
                    }
                    _ => cluster.table.fail(faults.iter().copied()),
                }
                cluster.assert_all_are_seen(&format!("after step {n}")).await;
            }
            for member in ALL {
                if cluster.nodes[member].is_none() {
                    cluster.restart(member).await;
                }
            }
            cluster.flush(&ALL).await;
            let stored: BTreeSet<_> = cluster.stored().into_iter().collect();
            assert_eq!(stored, cluster.pushed);
            cluster.end().await;
        });
    }
}

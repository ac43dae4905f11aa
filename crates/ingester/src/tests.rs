//! The ingester over a table in memory: what queries see while entries move from log and memory to the table.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use skald_model::time::SECOND;
use skald_model::{Batch, Error, Kind, Limits, PushStamp, Result, TenantId};
use skald_rpc::Ingester as _;
use skald_rpc::ingester::IngesterPush;
use skald_rpc::memory::QueryMemory;
use skald_runtime::clock::ManualClock;
use skald_storage::block::PushList;
use tokio::sync::Notify;

use crate::replicas::{Copies, Lists, Writers};
use crate::samples::{Sample, batch, tenant};
use crate::table::{Part, Standing, Table};
use crate::wal::{Lsn, WalConfig};
use crate::{Config, Ingester};

/// A table in memory that can be told to fail.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    tenants: Mutex<BTreeMap<TenantId, Stored>>,
    faults: Mutex<VecDeque<Fault>>,
    /// While set, commits stop before they begin.
    stalled: Mutex<Option<Arc<Notify>>>,
    /// Until when delete requests are forgotten, seconds.
    forgotten: Mutex<i64>,
}

#[derive(Clone, Debug, Default)]
struct Stored {
    commits: Vec<Vec<Entry>>,
    committed: Option<Lsn>,
    /// What blocks of copies list, by name, with the version that brought them.
    copies: BTreeMap<String, (i64, PushList, i64)>,
}

pub(crate) type Entry = (String, i64, String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing happens, and an error.
    Refused,
    /// It happens, and an error.
    Lost,
}

impl MemoryTable {
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().extend(faults);
    }

    pub(crate) fn version(&self, id: &TenantId) -> i64 {
        self.tenants.lock().get(id).map_or(-1, |s| s.commits.len() as i64 - 1)
    }

    pub(crate) fn at(&self, id: &TenantId, version: i64) -> Vec<Entry> {
        let tenants = self.tenants.lock();
        let commits = tenants.get(id).map_or(&[][..], |s| &s.commits[..]);
        commits.iter().take((version + 1) as usize).flatten().cloned().collect()
    }
}

fn broken() -> Error {
    Error::unavailable("the store is broken on purpose")
}

#[async_trait]
impl Table for MemoryTable {
    async fn standing(&self, id: &TenantId) -> Result<Standing> {
        let tenants = self.tenants.lock();
        let stored = tenants.get(id);
        let version = stored.map_or(-1, |s| s.commits.len() as i64 - 1);
        Ok(Standing { version, committed: stored.and_then(|s| s.committed) })
    }

    async fn forgotten(&self, _: &TenantId) -> Result<i64> {
        Ok(*self.forgotten.lock())
    }

    async fn commit(&self, id: &TenantId, part: &Part, committing: &(dyn Fn() + Sync)) -> Result<i64> {
        let stalled = self.stalled.lock().clone();
        committing();
        if let Some(stalled) = stalled {
            stalled.notified().await;
        }
        let fault = self.faults.lock().pop_front();
        if fault == Some(Fault::Refused) {
            return Err(broken());
        }
        let version = {
            let mut tenants = self.tenants.lock();
            let stored = tenants.entry(id.clone()).or_default();
            let (_, last) = part.segment.lsns().expect("nothing empty is flushed");
            assert!(stored.committed < Some(last), "written twice");
            stored.committed = Some(last);
            stored.commits.push(entries_of(&part.segment));
            stored.commits.len() as i64 - 1
        };
        if fault == Some(Fault::Lost) { Err(broken()) } else { Ok(version) }
    }

    async fn listed(&self, id: &TenantId, lists: &mut Lists, since: i64) -> Result<i64> {
        let tenants = self.tenants.lock();
        let Some(stored) = tenants.get(id) else { return Ok(-1) };
        for (name, (received_max, list, _)) in &stored.copies {
            if *received_max >= since && !lists.has(name) {
                lists.add(name, *received_max, list.clone());
            }
        }
        Ok(stored.commits.len() as i64 - 1)
    }

    async fn commit_copies(&self, id: &TenantId, copies: &Copies, _: Option<Lsn>) -> Result<i64> {
        self.commit_copies_of("somebody", id, copies)
    }
}

impl MemoryTable {
    /// Names of blocks tell who wrote them: the numbers of log records, of which the rest of a name is made, are the same
    /// for different entries in different ingesters.
    fn commit_copies_of(&self, writer: &str, id: &TenantId, copies: &Copies) -> Result<i64> {
        let fault = self.faults.lock().pop_front();
        if fault == Some(Fault::Refused) {
            return Err(broken());
        }
        let version = {
            let mut tenants = self.tenants.lock();
            let stored = tenants.entry(id.clone()).or_default();
            let name = format!("{writer}-{:x}-{}", copies.name, copies.attempt);
            match stored.copies.get(&name) {
                Some((_, _, version)) => *version,
                None => {
                    stored.commits.push(entries_of(&copies.segment));
                    let version = stored.commits.len() as i64 - 1;
                    let received_max = copies.segment.seconds().map_or(0, |s| s.1);
                    stored.copies.insert(name, (received_max, copies.pushes.clone(), version));
                    version
                }
            }
        };
        if fault == Some(Fault::Lost) { Err(broken()) } else { Ok(version) }
    }
}

/// The table as one of several ingesters writes to it.
struct TableOf {
    table: Arc<MemoryTable>,
    writer: String,
}

#[async_trait]
impl Table for TableOf {
    async fn standing(&self, id: &TenantId) -> Result<Standing> {
        self.table.standing(id).await
    }

    async fn forgotten(&self, id: &TenantId) -> Result<i64> {
        self.table.forgotten(id).await
    }

    async fn commit(&self, id: &TenantId, part: &Part, committing: &(dyn Fn() + Sync)) -> Result<i64> {
        self.table.commit(id, part, committing).await
    }

    async fn listed(&self, id: &TenantId, lists: &mut Lists, since: i64) -> Result<i64> {
        self.table.listed(id, lists, since).await
    }

    async fn commit_copies(&self, id: &TenantId, copies: &Copies, _: Option<Lsn>) -> Result<i64> {
        self.table.commit_copies_of(&self.writer, id, copies)
    }
}

fn entries_of(segment: &crate::segment::Segment) -> Vec<Entry> {
    let mut out = Vec::new();
    for stream in segment.streams() {
        for row in stream.rows.iter() {
            let line = String::from_utf8(segment.batches().line(row).to_vec()).unwrap();
            let value = segment.batches().metadata(row).get("k").unwrap_or("").to_owned();
            out.push((stream.labels.get("app").unwrap_or("").to_owned(), row.timestamp, line, value));
        }
    }
    out
}

/// One ingester with its surroundings.
pub(crate) struct Node {
    pub(crate) ingester: Arc<Ingester>,
    pub(crate) table: Arc<MemoryTable>,
    pub(crate) clock: ManualClock,
}

pub(crate) const START: i64 = 1_768_608_000 * SECOND;

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        wal: WalConfig { dir: dir.to_owned(), ..WalConfig::default() },
        flush_op_backoff_max: Duration::from_millis(10),
        ..Config::default()
    }
}

impl Node {
    async fn start(config: Config, table: &Arc<MemoryTable>) -> Self {
        Self::start_with(config, table, Limits::default()).await
    }

    /// A node over a table of its own.
    pub(crate) async fn alone(config: Config, limits: Limits) -> Self {
        Self::start_with(config, &Arc::default(), limits).await
    }

    async fn start_with(config: Config, table: &Arc<MemoryTable>, limits: Limits) -> Self {
        Self::start_as(config, table, limits, ManualClock::new(START), None).await
    }

    /// A node beside others.
    pub(crate) async fn start_as(
        config: Config,
        table: &Arc<MemoryTable>,
        limits: Limits,
        clock: ManualClock,
        writers: Option<Arc<dyn Writers>>,
    ) -> Self {
        let of_node = table.clone();
        let ingester = Ingester::start(
            config,
            QueryMemory::default(),
            Arc::new(clock.clone()),
            Arc::new(Arc::new(limits)),
            &prometheus::Registry::new(),
            |instance| Arc::new(TableOf { table: of_node, writer: instance.id.clone() }),
            |_| writers,
        )
        .await
        .unwrap();
        Self { ingester, table: table.clone(), clock }
    }

    async fn push_batch(&self, id: &TenantId, batch: Batch) -> Result<()> {
        use skald_runtime::Clock as _;
        let stamp = PushStamp::unnumbered(self.clock.now().div_euclid(SECOND));
        self.ingester.push(IngesterPush { tenant: id.clone(), stamp, batch: Arc::new(batch) }).await
    }

    pub(crate) async fn push(&self, who: &str, streams: &[(&str, &[Sample<'_>])]) -> Result<()> {
        let id = tenant(who);
        self.push_batch(&id, batch(&id, streams)).await
    }

    /// Memory and table as a query sees them at the table's present version, sorted.
    async fn visible(&self, who: &str) -> Vec<Entry> {
        let id = tenant(who);
        loop {
            let version = self.table.version(&id);
            if let Some(held) = self.held(who, version).await {
                let mut all = self.table.at(&id, version);
                all.extend(held);
                all.sort();
                return all;
            }
        }
    }

    /// What memory has beside a version of the table; `None` if that is too old.
    pub(crate) async fn held(&self, who: &str, version: i64) -> Option<Vec<Entry>> {
        match self.ingester.core.cut(&tenant(who), version).await {
            Ok(segments) => Some(segments.iter().flat_map(|s| entries_of(s)).collect()),
            Err(e) if e.kind == Kind::SnapshotTooOld => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// Ends without a flush, as after a crash all of whose pushes were acknowledged.
    pub(crate) async fn crash(self) {
        self.ingester.stop().await;
    }
}

fn entry(app: &str, time: i64, line: &str) -> Entry {
    (app.to_owned(), time, line.to_owned(), String::new())
}

/// What a forgotten request may have deleted does not come back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_older_than_what_deletes_are_remembered_of_is_laid_aside() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::<MemoryTable>::default();
    let node = Node::start(config(dir.path()), &table).await;
    node.push("t", &[("a", &[(START, "old", "")])]).await.unwrap();
    node.clock.set(START + SECOND);
    node.push("t", &[("a", &[(START + 1, "new", "")])]).await.unwrap();
    node.crash().await;
    *table.forgotten.lock() = START / SECOND;
    let node = Node::start(config(dir.path()), &table).await;
    assert_eq!(node.visible("t").await, [entry("a", START + 1, "new")]);
    let folder = dir.path().join("quarantine/t");
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert!(std::fs::read_to_string(&files[0]).unwrap().contains(r#""line":"old""#));
    node.ingester.flush(None).await.unwrap();
    assert_eq!(node.visible("t").await, [entry("a", START + 1, "new")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_seen_once_from_the_push_over_flush_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let node = Node::start(config(dir.path()), &table).await;
    node.push("t", &[("a", &[(START, "one", ""), (START + 1, "two", "")])]).await.unwrap();
    node.push("t", &[("a", &[(START, "one", "")]), ("b", &[(START, "three", "")])]).await.unwrap();
    let all = [entry("a", START, "one"), entry("a", START + 1, "two"), entry("b", START, "three")];
    assert_eq!(node.visible("t").await, all);
    node.crash().await;

    let node = Node::start(config(dir.path()), &table).await;
    assert_eq!(node.visible("t").await, all, "replayed");
    node.ingester.flush(None).await.unwrap();
    assert_eq!((node.visible("t").await, table.version(&tenant("t"))), (all.to_vec(), 0));
    let metrics = &node.ingester.core.metrics;
    assert_eq!(metrics.memory_chunks.get(), 0, "nothing is left in memory");
    assert_eq!(node.ingester.core.memory.used(), 0);
    node.push("t", &[("b", &[(START + 2, "four", "")])]).await.unwrap();
    node.crash().await;

    let node = Node::start(config(dir.path()), &table).await;
    let mut all = all.to_vec();
    all.push(entry("b", START + 2, "four"));
    assert_eq!(node.visible("t").await, all);
    node.ingester.flush(Some(tenant("t"))).await.unwrap();
    assert_eq!((node.visible("t").await, table.version(&tenant("t"))), (all, 1));
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_neither_repeated_nor_seen_twice() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    // Whoever looks for patterns holds batches until it has come to them.
    let patterns = crate::patterns::Config { enabled: false, ..Default::default() };
    let node = Node::start(Config { patterns, ..config(dir.path()) }, &table).await;
    node.push("t", &[("a", &[(START, "one", "")])]).await.unwrap();
    table.fail([Fault::Lost]);
    // An error, unless the next try has settled it already.
    drop(node.ingester.flush(None).await);
    assert!(table.faults.lock().is_empty());
    // The table has it, the ingester does not know. A query settles it.
    assert_eq!(node.visible("t").await, [entry("a", START, "one")]);
    node.ingester.flush(None).await.unwrap();
    assert_eq!(table.version(&tenant("t")), 0);
    assert_eq!(node.ingester.core.memory.used(), 0);

    node.push("t", &[("a", &[(START, "two", "")])]).await.unwrap();
    table.fail([Fault::Lost]);
    drop(node.ingester.flush(None).await);
    node.crash().await;
    let node = Node::start(config(dir.path()), &table).await;
    assert_eq!(node.visible("t").await, [entry("a", START, "one"), entry("a", START, "two")]);
    assert_eq!(node.ingester.core.memory.used(), 0, "the replay left out what was committed");
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_flushes_keep_everything_and_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let node = Node::start(config(dir.path()), &table).await;
    node.push("t", &[("a", &[(START, "one", "")])]).await.unwrap();
    // More failures than tries happen before the answer is looked at.
    table.fail([Fault::Refused; 500]);
    let error = node.ingester.flush(None).await.unwrap_err();
    assert!(error.message.contains("failed to flush tenant t: the store is broken"), "{error}");
    assert_eq!(node.visible("t").await, [entry("a", START, "one")]);
    assert_eq!(node.ingester.status().failing_flushes.len(), 1);
    *table.faults.lock() = [Fault::Refused, Fault::Refused].into();
    let mut progress = node.ingester.core.tenant(&tenant("t")).progress();
    // Housekeeping brings it in without being asked again.
    progress.wait_for(|p| p.covered > 0).await.unwrap();
    assert_eq!(node.visible("t").await, [entry("a", START, "one")]);
    assert_eq!(table.version(&tenant("t")), 0);
    assert!(node.ingester.status().failing_flushes.is_empty());
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_older_than_a_release_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let node = Node::start(config(dir.path()), &table).await;
    let id = tenant("t");
    node.push("t", &[("a", &[(START, "one", "")])]).await.unwrap();
    assert_eq!(node.ingester.core.cut(&id, -1).await.unwrap().len(), 1);
    node.ingester.flush(None).await.unwrap();
    let error = node.ingester.core.cut(&id, -1).await.unwrap_err();
    assert_eq!(error.kind, Kind::SnapshotTooOld);
    node.crash().await;

    let node = Node::start(config(dir.path()), &table).await;
    let error = node.ingester.core.cut(&id, -1).await.unwrap_err();
    assert_eq!(error.kind, Kind::SnapshotTooOld, "also after a restart that found nothing to replay");
    assert!(node.ingester.core.cut(&id, 0).await.unwrap().is_empty());
    assert!(node.ingester.core.cut(&tenant("nobody"), -1).await.unwrap().is_empty());
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_seal_by_the_clock_and_stamps_far_off_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let node = Node::start(Config { min_flush_bytes: 0, ..config(dir.path()) }, &table).await;
    node.push("t", &[("a", &[(START, "one", "")])]).await.unwrap();
    let mut progress = node.ingester.core.tenant(&tenant("t")).progress();
    node.clock.set(START + 700 * SECOND);
    progress.wait_for(|p| p.covered > 0).await.unwrap();
    assert_eq!(table.version(&tenant("t")), 0);
    let push = IngesterPush {
        tenant: tenant("t"),
        stamp: PushStamp::unnumbered(START / SECOND),
        batch: Arc::new(batch(&tenant("t"), &[("a", &[(START, "late", "")])])),
    };
    let error = node.ingester.push(push).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_stays_full_refuses_with_the_settings_name_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let config =
        Config { memory_budget: 32 << 10, memory_wait: Duration::from_millis(20), ..config(dir.path()) };
    let node = Node::start(config, &table).await;
    let gate = Arc::new(Notify::new());
    *table.stalled.lock() = Some(gate.clone());
    let line = "x".repeat(4 << 10);
    let mut sent = 0;
    let error = loop {
        match node.push("t", &[("a", &[(START + sent, &line, "")])]).await {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
        assert!(sent < 100, "the budget has an end");
    };
    assert_eq!(error.kind, Kind::LimitExceeded);
    assert!(error.retry_after.is_some());
    assert!(error.message.contains("ingester.memory_budget"), "{error}");
    *table.stalled.lock() = None;
    gate.notify_waiters();
    node.ingester.flush(None).await.unwrap();
    node.push("t", &[("a", &[(START + sent, &line, "")])]).await.unwrap();
    assert_eq!(node.visible("t").await.len() as i64, sent + 1);
    let error = node.push("t", &[("a", &[(0, &"y".repeat(64 << 10), "")])]).await.unwrap_err();
    assert_eq!(error.kind, Kind::LimitExceeded);
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_larger_than_memory_is_replayed_through_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let node = Node::start(config(dir.path()), &table).await;
    let line = "x".repeat(1 << 10);
    for i in 0..100 {
        node.push(["t", "u"][i % 2], &[("a", &[(START + i as i64, &line, "")])]).await.unwrap();
    }
    node.crash().await;
    let small = Config { memory_budget: 32 << 10, ..config(dir.path()) };
    let node = Node::start(small, &table).await;
    assert_eq!((node.visible("t").await.len(), node.visible("u").await.len()), (50, 50));
    assert!(table.version(&tenant("t")) >= 0, "some went to the table on the way");
    node.ingester.flush(None).await.unwrap();
    assert_eq!((node.visible("t").await.len(), node.visible("u").await.len()), (50, 50));
    let wal = node.ingester.core.log.wal().unwrap();
    assert!(wal.bytes() < 1000, "the old files are gone: {}", wal.bytes());
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_keep_the_rest_and_are_not_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let limits = Limits { max_global_streams_per_user: 2, ..Limits::default() };
    let node = Node::start_with(config(dir.path()), &table, limits.clone()).await;
    let old = START - 3601 * SECOND;
    let error = node.push("t", &[("a", &[(START, "new", ""), (old, "old", "")])]).await.unwrap_err();
    assert!(error.message.contains("too far behind"), "{error}");
    let error = node.push("t", &[("a", &[(old, "old", "")])]).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidArgument);
    let streams: &[(&str, &[Sample<'_>])] = &[("b", &[(START, "b", "")]), ("c", &[(START, "c", "")])];
    let error = node.push("t", streams).await.unwrap_err();
    assert_eq!(error.kind, Kind::LimitExceeded);
    let kept = [entry("a", START, "new"), entry("b", START, "b")];
    assert_eq!(node.visible("t").await, kept);
    node.crash().await;
    let node = Node::start_with(config(dir.path()), &table, limits).await;
    assert_eq!(node.visible("t").await, kept);
    let error = node.push("t", &[("a", &[(old, "old", "")])]).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidArgument, "the newest times are known from the replay");
    node.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_refuses_pushes_and_flushes_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let mut config = config(dir.path());
    config.wal.flush_on_shutdown = true;
    let node = Node::start(config, &table).await;
    node.push("t", &[("a", &[(START, "one", "")])]).await.unwrap();
    node.ingester.shutdown().await;
    assert_eq!(table.at(&tenant("t"), 0), [entry("a", START, "one")]);
    let error = node.push("t", &[("a", &[(START, "two", "")])]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(node.ingester.status().refusing.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_everything_works_but_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let mut config = config(dir.path());
    config.wal.enabled = false;
    let node = Node::start(config, &table).await;
    node.push("t", &[("a", &[(START, "one", "")])]).await.unwrap();
    assert_eq!(node.visible("t").await.len(), 1);
    node.ingester.shutdown().await;
    assert_eq!(table.at(&tenant("t"), 0).len(), 1, "shutdown flushes what no log keeps");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_beside_pushes_and_flushes_see_each_acknowledged_entry_once() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(MemoryTable::default());
    let mut config = config(dir.path());
    config.wal.segment_bytes = 4 << 10;
    config.segment_target_bytes = 8 << 10;
    let node = Arc::new(Node::start(config, &table).await);
    let acknowledged = Arc::new(std::sync::atomic::AtomicI64::new(0));
    const PUSHES: i64 = 400;
    let pusher = {
        let (node, acknowledged) = (node.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for i in 0..PUSHES {
                let line = format!("{i:05}");
                let entries = [(START + i, line.as_str(), ""), (START - i, line.as_str(), "m")];
                node.push("t", &[("a", &entries)]).await.unwrap();
                acknowledged.store(i + 1, std::sync::atomic::Ordering::SeqCst);
            }
        })
    };
    let flusher = {
        let node = node.clone();
        tokio::spawn(async move {
            for i in 0..40 {
                if i % 3 == 0 {
                    node.table.fail([[Fault::Lost, Fault::Refused][i % 2]]);
                }
                // A refusal on purpose is an error here and comes again by itself.
                let _ = node.ingester.flush(None).await;
            }
        })
    };
    let mut reads = 0;
    while !pusher.is_finished() || !flusher.is_finished() || reads == 0 {
        let before = acknowledged.load(std::sync::atomic::Ordering::SeqCst);
        let seen = node.visible("t").await;
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "nothing twice");
        assert!(seen.len() as i64 >= 2 * before, "{} seen of {before} pushes acknowledged", seen.len());
        reads += 1;
    }
    pusher.await.unwrap();
    flusher.await.unwrap();
    assert_eq!(node.visible("t").await.len() as i64, 2 * PUSHES);
    node.ingester.stop().await;
}

/// What may happen to a node.
#[derive(Clone, Debug)]
enum Step {
    Push(u8, i64),
    Flush,
    Fault(bool),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0u8..3, 0i64..30).prop_map(|(s, t)| Step::Push(s, t)),
        2 => Just(Step::Flush),
        1 => any::<bool>().prop_map(Step::Fault),
        2 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_history_of_pushes_flushes_faults_and_crashes_shows_each_entry_once(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let table = Arc::new(MemoryTable::default());
            let mut node = Node::start(config(dir.path()), &table).await;
            let mut expected = std::collections::BTreeSet::new();
            for (n, step) in steps.iter().enumerate() {
                match step {
                    Step::Push(stream, time) => {
                        let (app, line) = (format!("s{stream}"), format!("l{n}"));
                        node.push("t", &[(&app, &[(START + time, &line, "")])]).await.unwrap();
                        expected.insert(entry(&app, START + time, &line));
                    }
                    Step::Flush => drop(node.ingester.flush(None).await),
                    Step::Fault(lost) => table.fail([if *lost { Fault::Lost } else { Fault::Refused }]),
                    Step::Crash => {
                        node.crash().await;
                        node = Node::start(config(dir.path()), &table).await;
                    }
                }
                let seen = node.visible("t").await;
                assert_eq!(seen, expected.iter().cloned().collect::<Vec<_>>(), "after step {n}");
            }
            node.crash().await;
        });
    }
}

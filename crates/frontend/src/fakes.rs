//! A cluster in memory: ingesters with logs, what each has seen covered by the table, and one table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use skald_cluster::topology::{Absent, Member};
use skald_cluster::{Topology, View};
use skald_logql::ast::{Expr, LogExpr};
use skald_logql::metric::{MetricQuery, Steps};
use skald_model::ring::RingMember;
use skald_model::{
    Chunk, Digest, EntryHash, EntryLabels, Error, GroupVolume, Labels, LabelsRef, Limits, LogEntry,
    LogMerger, RemovalSpec, Result, Selector, StreamId, TenantId, TimeRange, VolumeCollector,
};
use skald_rpc::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamInfo, StreamsRequest, VolumesRequest,
};
use skald_rpc::memory::QueryMemory;
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{
    BlockIdentitiesRequest, BlockRef, BlockStreamsRequest, BlockVolumesRequest, LogResult, LogTask,
    MetricResult, MetricTask,
};
use skald_rpc::tail::{TailStream, TailTask};
use skald_rpc::{Ingester, Querier};
use skald_runtime::SystemClock;
use skald_storage::table::{
    BlockOrigin, BlockSummary, Catalog, CatalogConfig, FlushCommit, NewBlock, block_path,
};

use crate::{Config, Frontend};

/// An entry: its stream, time and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Item {
    pub(crate) stream: u8,
    pub(crate) time: i64,
    pub(crate) number: u8,
}

impl Item {
    pub(crate) fn line(&self) -> String {
        format!("{}-{}-{}", self.stream, self.time, self.number)
    }

    fn labels(&self) -> Labels {
        Labels::from_pairs([("app", self.stream.to_string().as_str())])
    }

    pub(crate) fn id(&self) -> StreamId {
        StreamId(u64::from(self.stream) + 1)
    }

    fn hash(&self) -> EntryHash {
        EntryHash::of(self.time, self.line().as_bytes(), LabelsRef::EMPTY)
    }

    fn entry(&self) -> LogEntry {
        let labels = EntryLabels {
            stream: self.labels(),
            structured_metadata: Labels::empty(),
            parsed: Labels::empty(),
        };
        LogEntry {
            timestamp: self.time,
            line: self.line().into(),
            labels: Arc::new(labels),
            stream: self.id(),
            identity: self.hash(),
        }
    }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn selectors(texts: &[String]) -> Vec<Selector> {
    let options = skald_logql::ParseOptions { loki_strict: false };
    texts.iter().map(|t| skald_logql::parse_selector(t, options, true).unwrap()).collect()
}

/// Streams of these items, which are sorted and each once.
fn streams(items: &BTreeSet<Item>, range: TimeRange, texts: &[String], tells: bool) -> Vec<StreamInfo> {
    let selectors = selectors(texts);
    let mut by_stream: BTreeMap<Labels, (StreamInfo, Digest)> = BTreeMap::new();
    for item in items {
        let labels = item.labels();
        if !selectors.is_empty() && !selectors.iter().any(|s| s.matches(labels.as_ref())) {
            continue;
        }
        let one = StreamInfo {
            id: item.id(),
            labels: labels.clone(),
            min_ts: item.time,
            max_ts: item.time,
            entries: 1,
            bytes: item.line().len() as u64,
            digest: Digest::default(),
        };
        let none = StreamInfo { entries: 0, bytes: 0, min_ts: i64::MAX, max_ts: i64::MIN, ..one.clone() };
        let (info, digest) = by_stream.entry(labels).or_insert((none, Digest::default()));
        digest.add(item.hash());
        if range.contains(item.time) {
            info.merge(&one);
        }
    }
    let told = |(info, digest): (StreamInfo, Digest)| StreamInfo {
        digest: if tells { digest } else { Digest::default() },
        ..info
    };
    by_stream.into_values().filter(|(info, _)| info.entries > 0).map(told).collect()
}

fn evaluate(items: impl Fn() -> Vec<Item>, task: &MetricTask) -> MetricResult {
    let Expr::Metric(expr) = skald_logql::parse(&task.query).unwrap() else { panic!("{}", task.query) };
    let query = MetricQuery::compile(&expr).unwrap();
    let steps = Steps::range(task.start, task.end, task.step);
    let states = query.leaves().iter().map(|leaf| {
        let mut observer = leaf.observer(steps).unwrap();
        for item in items() {
            let (labels, times) = (item.labels(), leaf.times(steps));
            if leaf.selector.matches(labels.as_ref()) && times.contains(item.time) {
                observer.observe(item.time, item.line().as_bytes(), &labels, LabelsRef::EMPTY).unwrap();
            }
        }
        observer.finish().encode()
    });
    MetricResult { partials: MetricResult::pack(&states.collect::<Vec<_>>()), ..MetricResult::default() }
}

fn first(items: impl IntoIterator<Item = Item>, task: &LogTask) -> LogResult {
    let Expr::Log(LogExpr { selector, .. }) = skald_logql::parse(&task.query).unwrap() else {
        panic!("{}", task.query)
    };
    let wanted = |i: &Item| task.range.contains(i.time) && selector.matches(i.labels().as_ref());
    let mut merger = LogMerger::new(task.direction, task.limit);
    merger.add(items.into_iter().filter(wanted).map(|i| i.entry()).collect());
    LogResult { entries: merger.finish().0, ..LogResult::default() }
}

/// What a member was told beside a question: which blocks, and what must not be seen.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) blocks: usize,
    pub(crate) removals: Option<Arc<RemovalSpec>>,
}

impl Told {
    /// How many blocks, and the generations of the deletes.
    pub(crate) fn summary(&self) -> (usize, Vec<u64>) {
        let deletes = self.removals.iter().flat_map(|r| &r.deletes);
        (self.blocks, deletes.map(|d| d.generation).collect())
    }
}

/// An ingester.
#[derive(Default)]
pub(crate) struct Node {
    /// What was appended, in this order, repeated pushes included.
    pub(crate) log: Mutex<Vec<Item>>,
    /// Of these it knows that the table has them.
    pub(crate) covered: Mutex<BTreeSet<Item>>,
    /// What arrives right after the next question was answered.
    pub(crate) arriving: Mutex<Vec<Item>>,
    /// What it learns to be covered right after the next question was answered.
    pub(crate) settling: Mutex<BTreeSet<Item>>,
    /// How many questions it still answers; `None` is any number.
    pub(crate) answers_left: Mutex<Option<usize>>,
    /// Whether it does not answer at all, not even with an error.
    pub(crate) hangs: Mutex<bool>,
    /// The questions that it was asked.
    pub(crate) asked: Mutex<Vec<&'static str>>,
    /// Whether it does not tell digests.
    pub(crate) is_silent: bool,
    /// What it was told with them.
    pub(crate) told: Mutex<Vec<Told>>,
}

impl Node {
    pub(crate) fn with(items: impl IntoIterator<Item = Item>) -> Arc<Self> {
        Arc::new(Self { log: Mutex::new(items.into_iter().collect()), ..Self::default() })
    }

    async fn asked(&self, question: &'static str) -> Result<()> {
        let hangs = *self.hangs.lock();
        if hangs {
            std::future::pending::<()>().await;
        }
        self.asked.lock().push(question);
        if let Some(left) = &mut *self.answers_left.lock() {
            if *left == 0 {
                return Err(Error::unavailable("connection refused"));
            }
            *left -= 1;
        }
        Ok(())
    }

    /// What it holds that is not covered, of the first `cut` of its log.
    fn held(&self, cut: u64) -> BTreeSet<Item> {
        let covered = self.covered.lock();
        let log = self.log.lock();
        log.iter().take(cut as usize).filter(|i| !covered.contains(i)).copied().collect()
    }

    fn told(&self, removals: &Option<Arc<RemovalSpec>>) {
        self.told.lock().push(Told { blocks: 0, removals: removals.clone() });
    }

    fn answered(&self) {
        self.log.lock().append(&mut self.arriving.lock());
        self.covered.lock().append(&mut self.settling.lock());
    }
}

#[async_trait]
impl Ingester for Node {
    async fn push(&self, _: IngesterPush) -> Result<()> {
        Err(Error::internal("not asked for"))
    }
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        self.asked("logs").await?;
        self.told(&task.removals);
        let result = first(self.held(u64::MAX), &task);
        self.answered();
        Ok(result)
    }
    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        self.asked("metric").await?;
        self.told(&task.removals);
        let kept = |i: &Item| !task.skip.contains(&i.id()) && !task.exclude.contains(&(i.id(), i.hash()));
        let cut = task.cut.unwrap_or(u64::MAX);
        let result = evaluate(|| self.held(cut).into_iter().filter(kept).collect(), &task);
        self.answered();
        Ok(result)
    }
    async fn streams(&self, request: StreamsRequest) -> Result<HeldStreams> {
        self.asked("streams").await?;
        self.told(&request.removals);
        let held = self.held(u64::MAX);
        let cut = self.log.lock().len() as u64;
        let streams = streams(&held, request.range, &request.selectors, !self.is_silent);
        self.answered();
        Ok(HeldStreams { cut, streams })
    }
    async fn identities(&self, request: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        self.asked("identities").await?;
        self.told(&request.removals);
        let wanted = |i: &&Item| request.streams.contains(&i.id()) && request.range.contains(i.time);
        let held = self.held(request.cut);
        let found = held.iter().filter(wanted).map(|i| (i.id(), i.hash())).collect();
        self.answered();
        Ok(found)
    }
    async fn holding(&self) -> Result<Holding> {
        self.asked("holding").await?;
        Ok(Holding { name: String::new(), oldest_stamp: None })
    }
    async fn pattern_streams(&self, _: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        Err(Error::internal("not asked for"))
    }
    async fn patterns(&self, _: PatternsRequest) -> Result<Vec<PatternSeries>> {
        Err(Error::internal("not asked for"))
    }
    async fn tail(&self, _: TailTask) -> Result<TailStream> {
        Err(Error::internal("not asked for"))
    }
    async fn volumes(&self, request: VolumesRequest) -> Result<Vec<GroupVolume>> {
        self.asked("volumes").await?;
        let mut all = VolumeCollector::new(request.spec, request.streams.range);
        let held = self.held(u64::MAX);
        for s in streams(&held, request.streams.range, &request.streams.selectors, false) {
            if !request.skip.contains(&s.id) {
                let (min_ts, max_ts, entries, bytes) = (s.min_ts, s.max_ts, s.entries, s.bytes);
                all.add_chunk(&s.labels, &Chunk { min_ts, max_ts, entries, bytes })?;
            }
        }
        Ok(all.finish())
    }
    async fn flush(&self, _: Option<TenantId>) -> Result<()> {
        Err(Error::internal("not asked for"))
    }
}

/// A querier over blocks.
#[derive(Default)]
pub(crate) struct Blocks {
    pub(crate) blocks: Arc<Vec<(String, Vec<Item>)>>,
    /// Whether it cannot be reached.
    pub(crate) is_down: Mutex<bool>,
    /// The questions that it was asked.
    pub(crate) asked: Mutex<Vec<&'static str>>,
    /// Every question waits for a permit of it, if there is one.
    pub(crate) gate: Option<Arc<tokio::sync::Semaphore>>,
    /// What it was told with them.
    pub(crate) told: Mutex<Vec<Told>>,
}

impl Blocks {
    async fn asked(&self, question: &'static str) -> Result<()> {
        self.asked.lock().push(question);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let is_down = *self.is_down.lock();
        if is_down { Err(Error::unavailable("connection refused")) } else { Ok(()) }
    }

    fn told(&self, blocks: &[BlockRef], removals: &Option<Arc<RemovalSpec>>) {
        self.told.lock().push(Told { blocks: blocks.len(), removals: removals.clone() });
    }

    fn of(&self, blocks: &[BlockRef]) -> BTreeSet<Item> {
        let named = |(path, _): &&(String, Vec<Item>)| blocks.iter().any(|b| *b.path == **path);
        self.blocks.iter().filter(named).flat_map(|(_, items)| items).copied().collect()
    }
}

#[async_trait]
impl Querier for Blocks {
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        self.asked("logs").await?;
        self.told(&task.blocks, &task.removals);
        Ok(first(self.of(&task.blocks), &task))
    }
    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        self.asked("metric").await?;
        self.told(&task.blocks, &task.removals);
        let (own, shards) = (u64::from(task.shard.0), u64::from(task.shard.1));
        let mine = |i: &Item| i.id().0 % shards == own;
        Ok(evaluate(|| self.of(&task.blocks).into_iter().filter(mine).collect(), &task))
    }
    async fn streams(&self, request: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        self.asked("streams").await?;
        self.told(&request.blocks, &request.removals);
        Ok(streams(&self.of(&request.blocks), request.range, &request.selectors, false))
    }
    async fn identities(&self, request: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        self.asked("identities").await?;
        self.told(&request.blocks, &request.removals);
        let wanted = |i: &&Item| request.streams.contains(&i.id()) && request.range.contains(i.time);
        Ok(self.of(&request.blocks).iter().filter(wanted).map(|i| (i.id(), i.hash())).collect())
    }
    async fn volumes(&self, request: BlockVolumesRequest) -> Result<Vec<GroupVolume>> {
        self.asked("volumes").await?;
        Ok(VolumeCollector::new(request.spec, request.streams.range).finish())
    }
}

/// Commits blocks of these items to a new table.
pub(crate) async fn table(blocks: &[Vec<Item>]) -> (Catalog, Arc<Vec<(String, Vec<Item>)>>) {
    let registry = prometheus::Registry::new();
    let catalog = Catalog::new(&CatalogConfig::default(), Arc::new(InMemory::new()), "", &registry).unwrap();
    let mut out = Vec::new();
    for (n, items) in blocks.iter().enumerate().filter(|(_, items)| !items.is_empty()) {
        let times = items.iter().map(|i| i.time);
        let (min_ts, max_ts) = times.clone().min().zip(times.max()).unwrap();
        let path = block_path(skald_model::time::day_of(min_ts), &format!("b{n}"));
        let summary = BlockSummary {
            rows: items.len() as u64,
            streams: 1,
            min_ts,
            max_ts,
            file_size: 10,
            // As if they were long.
            raw_bytes: (items.len() as u64) << 28,
            label_values: BTreeMap::from([("app".to_owned(), None)]),
            ..BlockSummary::default()
        };
        catalog.put_block(&tenant(), &path, bytes::Bytes::from_static(b"0123456789")).await.unwrap();
        let block = NewBlock {
            path: path.clone(),
            date: 0,
            summary,
            origin: BlockOrigin::default(),
            stream_ids: None,
        };
        let commit = FlushCommit { blocks: vec![block], app_id: "i".into(), app_version: n as i64 };
        catalog.commit_flush(&tenant(), &commit).await.unwrap();
        out.push((path, items.clone()));
    }
    (catalog, Arc::new(out))
}

/// A view of these members.
pub(crate) fn view(nodes: &[Arc<Node>], queriers: &[Arc<Blocks>], rf: usize, absent: &[&str]) -> View {
    let ingesters = nodes.iter().enumerate().map(|(n, node)| {
        let place = RingMember { name: format!("i{n}"), zone: String::new(), tokens: vec![n as u32] };
        (place, node.clone() as Arc<dyn Ingester>)
    });
    let queriers = queriers
        .iter()
        .enumerate()
        .map(|(n, querier)| Member { name: format!("q{n}"), service: querier.clone() as Arc<dyn Querier> });
    let absent = absent.iter().map(|name| Absent { name: (*name).into(), zone: String::new() });
    View::new(ingesters.collect(), queriers.collect(), rf).with_absent(absent.collect())
}

/// A frontend over these ingesters, and the querier of these blocks.
pub(crate) async fn cluster(nodes: &[Arc<Node>], blocks: &[Vec<Item>], rf: usize) -> (Frontend, Arc<Blocks>) {
    let (catalog, blocks) = table(blocks).await;
    let querier = Arc::new(Blocks { blocks, ..Blocks::default() });
    let view = view(nodes, std::slice::from_ref(&querier), rf, &[]);
    (frontend(&Config::default(), catalog, Topology::new(view), Limits::default()), querier)
}

pub(crate) fn frontend(
    config: &Config,
    catalog: Catalog,
    topology: Arc<Topology>,
    limits: Limits,
) -> Frontend {
    let (catalog, limits) = (Arc::new(catalog), Arc::new(Arc::new(limits)));
    let registry = prometheus::Registry::new();
    Frontend::new(config, QueryMemory::default(), Arc::new(SystemClock), limits, catalog, topology, &registry)
        .unwrap()
}

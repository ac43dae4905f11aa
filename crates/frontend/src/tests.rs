//! The frontend between a table in memory and members that answer from lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use proptest::prelude::*;
use skald_cluster::Topology;
use skald_model::{
    Chunk, Digest, Direction, EntryHash, EntryLabels, Error, GroupVolume, Kind, Labels, LabelsRef, Limits,
    LogEntry, LogMerger, Result, StreamId, TenantId, TimeRange, VolumeCollector,
};
use skald_rpc::frontend::{DetectedLabel, IndexStats, MetadataRequest, QueryData, RangeQuery, VolumeQuery};
use skald_rpc::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamInfo, StreamsRequest, VolumesRequest,
};
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{
    BlockIdentitiesRequest, BlockStreamsRequest, BlockVolumesRequest, LogResult, LogTask, MetricResult,
    MetricTask,
};
use skald_rpc::tail::{TailStream, TailTask};
use skald_rpc::{Ingester, Querier, QueryFrontend};
use skald_runtime::SystemClock;
use skald_storage::table::{
    BlockOrigin, BlockSummary, Catalog, CatalogConfig, FlushCommit, NewBlock, block_path,
};

use crate::{Config, Frontend};

/// One entry: time and number. All are of one stream.
pub(crate) type Item = (i64, u32);

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn labels() -> Labels {
    Labels::from_pairs([("app", "a")])
}

pub(crate) fn entry(&(timestamp, number): &Item) -> LogEntry {
    let line = number.to_string();
    let labels =
        EntryLabels { stream: labels(), structured_metadata: Labels::empty(), parsed: Labels::empty() };
    LogEntry {
        timestamp,
        identity: EntryHash::of(timestamp, line.as_bytes(), LabelsRef::EMPTY),
        line: line.into(),
        labels: Arc::new(labels),
        stream: StreamId(1),
    }
}

pub(crate) fn first(items: &[Item], task: &LogTask) -> LogResult {
    let mut merger = LogMerger::new(task.direction, task.limit);
    merger.add(items.iter().filter(|i| task.range.contains(i.0)).map(entry).collect());
    LogResult { entries: merger.finish().0, ..LogResult::default() }
}

fn info(items: &[Item]) -> Vec<StreamInfo> {
    let times = items.iter().map(|i| i.0);
    let Some((min_ts, max_ts)) = times.clone().min().zip(times.max()) else { return vec![] };
    vec![StreamInfo {
        id: StreamId(1),
        labels: labels(),
        min_ts,
        max_ts,
        entries: items.len() as u64,
        bytes: 1,
        digest: Digest::default(),
    }]
}

/// Adds a chunk of ten bytes per entry.
fn count(all: &mut VolumeCollector, items: &[Item]) -> Result<()> {
    info(items).iter().try_for_each(|s| {
        let (min_ts, max_ts, entries) = (s.min_ts, s.max_ts, s.entries);
        all.add_chunk(&s.labels, &Chunk { min_ts, max_ts, entries, bytes: entries * 10 })
    })
}

/// Memory that forgets what the table holds once a newer version is asked for.
#[derive(Default)]
struct Memory {
    items: Vec<Item>,
    released_version: i64,
}

#[async_trait]
impl Ingester for Memory {
    async fn push(&self, _: IngesterPush) -> Result<()> {
        Ok(())
    }
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        if task.version < self.released_version {
            return Err(Error::new(Kind::SnapshotTooOld, "older than what is remembered"));
        }
        Ok(first(&self.items, &task))
    }
    async fn query_metric(&self, _: MetricTask) -> Result<MetricResult> {
        Ok(MetricResult::default())
    }
    async fn streams(&self, _: StreamsRequest) -> Result<HeldStreams> {
        Ok(HeldStreams { cut: 0, streams: info(&self.items) })
    }
    async fn identities(&self, _: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        Err(Error::internal("not asked for"))
    }
    async fn holding(&self) -> Result<Holding> {
        Err(Error::internal("not asked for"))
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
        let mut all = VolumeCollector::new(request.spec, request.streams.range);
        count(&mut all, &self.items)?;
        Ok(all.finish())
    }
    async fn flush(&self, _: Option<TenantId>) -> Result<()> {
        Ok(())
    }
}

/// Blocks by path, and which of them were read.
#[derive(Default)]
struct Blocks {
    blocks: Vec<(String, Vec<Item>)>,
    read: Mutex<Vec<String>>,
}

#[async_trait]
impl Querier for Blocks {
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        let mut items = Vec::new();
        for b in &task.blocks {
            self.read.lock().push(b.path.to_string());
            items.extend(self.blocks.iter().filter(|(p, _)| **p == *b.path).flat_map(|(_, i)| i.clone()));
        }
        Ok(first(&items, &task))
    }
    async fn query_metric(&self, _: MetricTask) -> Result<MetricResult> {
        Ok(MetricResult::default())
    }
    async fn identities(&self, _: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        Err(Error::internal("not asked for"))
    }
    async fn streams(&self, request: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        let asked = |p: &str| request.blocks.iter().any(|b| &*b.path == p);
        Ok(StreamInfo::join(self.blocks.iter().filter(|(p, _)| asked(p)).flat_map(|(_, i)| info(i))))
    }
    async fn volumes(&self, request: BlockVolumesRequest) -> Result<Vec<GroupVolume>> {
        let BlockStreamsRequest { blocks, range, .. } = request.streams;
        let asked = |p: &str| blocks.iter().any(|b| &*b.path == p);
        let mut all = VolumeCollector::new(request.spec, range);
        for (path, items) in self.blocks.iter().filter(|(p, _)| asked(p)) {
            self.read.lock().push(path.clone());
            count(&mut all, items)?;
        }
        Ok(all.finish())
    }
}

/// A frontend over blocks with these items (each a commit) and a memory with those.
async fn frontend(blocks: &[Vec<Item>], memory: Memory, limits: Limits) -> (Frontend, Arc<Blocks>) {
    let registry = prometheus::Registry::new();
    let catalog = Catalog::new(&CatalogConfig::default(), Arc::new(InMemory::new()), "", &registry).unwrap();
    let mut querier = Blocks::default();
    for (n, items) in blocks.iter().enumerate() {
        let times = items.iter().map(|i| i.0);
        let (min_ts, max_ts) = times.clone().min().zip(times.max()).unwrap();
        let path = block_path(skald_model::time::day_of(min_ts), &format!("b{n}"));
        let label_values = BTreeMap::from([("app".to_owned(), Some(BTreeSet::from(["a".to_owned()])))]);
        let summary = BlockSummary {
            rows: 1,
            streams: 1,
            min_ts,
            max_ts,
            file_size: 10,
            label_values,
            ..BlockSummary::default()
        };
        catalog.put_block(&tenant(), &path, bytes::Bytes::from_static(b"0123456789")).await.unwrap();
        let new = NewBlock {
            path: path.clone(),
            date: 0,
            summary,
            origin: BlockOrigin::default(),
            stream_ids: None,
        };
        let commit = FlushCommit { blocks: vec![new], app_id: "i".into(), app_version: n as i64 };
        catalog.commit_flush(&tenant(), &commit).await.unwrap();
        querier.blocks.push((path, items.clone()));
    }
    let querier = Arc::new(querier);
    let topology = Topology::single(Arc::new(memory), querier.clone());
    (over(&Config::default(), catalog, topology, limits), querier)
}

/// A frontend over these members without blocks.
pub(crate) fn over_members(config: &Config, topology: Arc<Topology>) -> Frontend {
    let registry = prometheus::Registry::new();
    let catalog = Catalog::new(&CatalogConfig::default(), Arc::new(InMemory::new()), "", &registry).unwrap();
    over(config, catalog, topology, Limits::default())
}

fn over(config: &Config, catalog: Catalog, topology: Arc<Topology>, limits: Limits) -> Frontend {
    let (catalog, limits) = (Arc::new(catalog), Arc::new(Arc::new(limits)));
    let registry = prometheus::Registry::new();
    Frontend::new(config, Arc::new(SystemClock), limits, catalog, topology, &registry).unwrap()
}

fn query(range: TimeRange, limit: usize, direction: Direction) -> RangeQuery {
    RangeQuery {
        tenant: tenant(),
        query: r#"{app="a"}"#.into(),
        start: range.start,
        end: range.end,
        step: 1,
        interval: 0,
        limit,
        direction,
        tags: String::new(),
    }
}

async fn ask(f: &Frontend, q: RangeQuery) -> Result<Vec<i64>> {
    match f.query_range(q).await?.data {
        QueryData::Streams(entries) => Ok(entries.iter().map(|e| e.timestamp).collect()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_blocks_that_can_change_the_answer_are_read() {
    let blocks: Vec<Vec<Item>> = (0..8).map(|b| (0..10).map(|i| (b * 10 + i, i as u32)).collect()).collect();
    let (f, querier) = frontend(&blocks, Memory::default(), Limits::default()).await;
    let all = TimeRange::new(0, 1000);
    assert_eq!(ask(&f, query(all, 3, Direction::Backward)).await.unwrap(), [79, 78, 77]);
    assert_eq!(querier.read.lock().len(), 1);
    assert_eq!(ask(&f, query(all, 3, Direction::Forward)).await.unwrap(), [0, 1, 2]);
    assert_eq!(querier.read.lock().len(), 2);
    assert_eq!(ask(&f, query(TimeRange::new(35, 37), 9, Direction::Forward)).await.unwrap(), [35, 36]);
    assert_eq!(querier.read.lock().len(), 3);
}

#[tokio::test]
async fn a_snapshot_that_stays_too_old_is_an_error_that_may_be_retried() {
    let memory = Memory { released_version: 7, ..Memory::default() };
    let (f, _) = frontend(&[vec![(1, 1)]], memory, Limits::default()).await;
    let e = ask(&f, query(TimeRange::ALL, 1, Direction::Forward)).await.unwrap_err();
    assert_eq!(e.kind, Kind::InvalidArgument, "the range is too long: {e}");
    let e = ask(&f, query(TimeRange::new(0, 9), 1, Direction::Forward)).await.unwrap_err();
    assert_eq!(e.kind, Kind::Unavailable);
}

#[tokio::test]
async fn limits_are_named_with_their_values() {
    let limits = Limits { max_query_length: 3_600_000_000_000, ..Limits::default() };
    let (f, _) = frontend(&[], Memory::default(), limits).await;
    let e = ask(&f, query(TimeRange::new(0, 7_200_000_000_000), 1, Direction::Forward)).await.unwrap_err();
    assert_eq!(e.message, "the query time range exceeds the limit (query length: 2h0m0s, limit: 1h)");
    let e = ask(&f, query(TimeRange::new(0, 1), 5001, Direction::Forward)).await.unwrap_err();
    assert!(e.message.ends_with("(5001 > 5000)"), "{e}");
}

#[tokio::test]
async fn an_interval_thins_out_the_merged_answer() {
    let memory = Memory { items: (0..20).map(|t| (t, t as u32)).collect(), ..Memory::default() };
    let (f, _) = frontend(&[(20..40).map(|t| (t, 0)).collect()], memory, Limits::default()).await;
    let q = RangeQuery { interval: 8, ..query(TimeRange::new(0, 100), 4, Direction::Forward) };
    assert_eq!(ask(&f, q).await.unwrap(), [0, 8, 16, 24]);
    let q = RangeQuery { interval: 15, ..query(TimeRange::new(0, 100), 9, Direction::Backward) };
    assert_eq!(ask(&f, q).await.unwrap(), [39, 24, 9]);
}

#[tokio::test]
async fn an_interval_reads_on_page_by_page() {
    let memory = Memory { items: (0..5000).map(|t| (t, 0)).collect(), released_version: -1 };
    let (f, _) = frontend(&[], memory, Limits::default()).await;
    let q = RangeQuery { interval: 999, ..query(TimeRange::new(0, 5000), 4, Direction::Forward) };
    assert_eq!(ask(&f, q).await.unwrap(), [0, 999, 1998, 2997]);
    let q = RangeQuery { interval: 2, ..query(TimeRange::new(0, 5000), 2000, Direction::Backward) };
    assert_eq!(ask(&f, q).await.unwrap(), (0..2000).map(|i| 4999 - 2 * i).collect::<Vec<_>>());
}

#[tokio::test]
async fn metadata_joins_table_and_memory() {
    let memory = Memory { items: vec![(5, 1)], ..Memory::default() };
    let (f, _) = frontend(&[vec![(1, 1)], vec![(9, 1)]], memory, Limits::default()).await;
    let request = |range| MetadataRequest { tenant: tenant(), range, selectors: vec![] };
    for _ in 0..2 {
        let all = request(TimeRange::new(0, 100));
        assert_eq!(f.label_names(all.clone()).await.unwrap(), ["app"]);
        assert_eq!(f.label_values(all.clone(), "app").await.unwrap(), ["a"]);
        assert!(f.label_values(all.clone(), "nosuch").await.unwrap().is_empty());
        // Names and values are those of the day, series those of the range.
        let later = request(TimeRange::new(50, 60));
        assert_eq!(f.label_values(later.clone(), "app").await.unwrap(), ["a"]);
        let backwards = f.label_names(request(TimeRange::new(9, 3))).await.unwrap_err();
        assert!(backwards.message.starts_with("this data is no longer available"), "{backwards}");
        let series = f.series(all).await.unwrap();
        assert_eq!((series.len(), series[0].entries, series[0].min_ts, series[0].max_ts), (1, 3, 1, 9));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However entries (some of them twice) lie in blocks and memory, the answer is that of one list.
    #[test]
    fn any_layout_gives_the_answer_of_one_list(
        items in prop::collection::btree_map(0i64..60, 0u32..4, 1..40),
        places in prop::collection::vec((0usize..5, 0usize..5), 40),
        range in (0i64..30, 30i64..61), limit in 1usize..12, backward in any::<bool>(),
    ) {
        let items: Vec<Item> = items.into_iter().collect();
        let mut places_of = vec![Vec::new(); 5];
        for (item, (a, b)) in items.iter().zip(&places) {
            places_of[*a].push(*item);
            if a != b {
                places_of[*b].push(*item);
            }
        }
        let memory = Memory { items: places_of.pop().unwrap_or_default(), ..Memory::default() };
        places_of.retain(|p| !p.is_empty());
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let range = TimeRange::new(range.0, range.1);
        let mut expected: Vec<i64> = items.iter().map(|i| i.0).filter(|t| range.contains(*t)).collect();
        if backward {
            expected.reverse();
        }
        expected.truncate(limit);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async {
            let (f, _) = frontend(&places_of, memory, Limits::default()).await;
            ask(&f, query(range, limit, direction)).await
        });
        prop_assert_eq!(got.unwrap(), expected);
    }
}

fn metadata(start: i64, end: i64) -> MetadataRequest {
    let selectors = vec![r#"{app="a"}"#.into()];
    MetadataRequest { tenant: tenant(), range: TimeRange::new(start, end), selectors }
}

#[tokio::test]
async fn statistics_count_memory_and_each_block_once_and_remember_the_table() {
    let memory = Memory { items: vec![(50, 1)], ..Memory::default() };
    let (f, blocks) = frontend(&[vec![(1, 1), (9, 2)], vec![(20, 3)]], memory, Limits::default()).await;
    let expected = IndexStats { streams: 1, chunks: 3, bytes: 40, entries: 4 };
    assert_eq!(f.index_stats(metadata(0, 100)).await.unwrap(), expected);
    assert_eq!(std::mem::take(&mut *blocks.read.lock()).len(), 2);
    // The same part of the table under another end of the range.
    assert_eq!(f.index_stats(metadata(0, 1000)).await.unwrap(), expected);
    assert!(blocks.read.lock().is_empty(), "remembered");
    let nothing = f.index_stats(metadata(100, 200)).await.unwrap();
    assert_eq!(nothing, IndexStats::default());
    let all = MetadataRequest { selectors: vec![r#"{app="a"} |= "x""#.into()], ..metadata(0, 100) };
    assert_eq!(f.index_stats(all).await.unwrap_err().message, "only label matchers are supported");
}

fn volume_query(step: i64) -> VolumeQuery {
    VolumeQuery {
        tenant: tenant(),
        query: r#"{app="a"}"#.into(),
        start: 0,
        end: 60_000_000,
        step,
        limit: 0,
        target_labels: vec![],
        by_name: false,
    }
}

#[tokio::test]
async fn volumes_are_a_vector_or_points_at_the_end_of_each_step() {
    let memory = Memory { items: vec![(50_000_000, 1)], ..Memory::default() };
    let blocks = [vec![(1, 1), (9, 2)], vec![(20_000_000, 3)]];
    let (f, _) = frontend(&blocks, memory, Limits::default()).await;
    let ask = async |q: VolumeQuery| f.volume(q).await.map(|r| r.data);
    let QueryData::Vector(series) = ask(volume_query(0)).await.unwrap() else { panic!("a vector") };
    assert_eq!(series.len(), 1);
    assert_eq!(
        (series[0].labels.to_string(), series[0].samples.clone()),
        (labels().to_string(), vec![(60_000_000, 40.0)])
    );
    let QueryData::Matrix(series) = ask(volume_query(20_000_000)).await.unwrap() else { panic!("a matrix") };
    assert_eq!(series[0].samples, [(19_000_000, 20.0), (39_000_000, 10.0), (60_000_000, 10.0)]);
    let by_name = VolumeQuery { by_name: true, ..volume_query(0) };
    let QueryData::Vector(series) = ask(by_name).await.unwrap() else { panic!("a vector") };
    assert_eq!(series[0].labels.to_string(), r#"{app=""}"#);
    let off = Limits { volume_enabled: false, ..Limits::default() };
    let (f, _) = frontend(&[], Memory::default(), off).await;
    assert!(f.volume(volume_query(0)).await.unwrap_err().message.contains("volume_enabled"));
}

#[tokio::test]
async fn detected_labels_count_values() {
    let memory = Memory { items: vec![(50, 1)], ..Memory::default() };
    let (f, _) = frontend(&[vec![(1, 1)]], memory, Limits::default()).await;
    let found = f.detected_labels(metadata(0, 100)).await.unwrap();
    assert_eq!(found, [DetectedLabel { name: "app".into(), cardinality: 1 }]);
}

#[tokio::test]
async fn statistics_count_what_replicas_hold_once() {
    use crate::fakes::{self, Node};
    let item = |time, number| fakes::Item { stream: 0, time, number };
    let all = [item(1, 0), item(2, 0), item(3, 0)];
    let nodes = [Node::with(all), Node::with(all[..2].to_vec()), Node::with(all)];
    let (f, _) = fakes::cluster(&nodes, &[], 3).await;
    let request = MetadataRequest {
        tenant: tenant(),
        range: TimeRange::new(0, 100),
        selectors: vec![r#"{app="0"}"#.into()],
    };
    let stats = f.index_stats(request.clone()).await.unwrap();
    assert_eq!((stats.streams, stats.entries), (1, 3));
    let series = f.series(request).await.unwrap();
    assert_eq!((series.len(), series[0].entries), (1, 3));
}

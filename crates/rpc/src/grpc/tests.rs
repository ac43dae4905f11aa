//! Goal: a service answers the same across the wire as in process. Method: a fake of each service behind a real
//! server on a loopback socket; conversions are covered by properties.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use prometheus::Registry;
use proptest::prelude::*;
use prost::Message as _;
use skald_model::batch::Entries;
use skald_model::removal::{CutoffRule, DeleteRule, RemovalSpec};
use skald_model::{
    Batch, BatchStream, Digest, Direction, EntryHash, EntryLabels, EntryRef, Error, GroupVolume, Kind,
    Labels, LabelsRef, LogEntry, Push, PushLabels, PushStamp, PushStream, QueryStats, Result, StepVolume,
    StreamId, TenantId, TimeRange, VolumeGroups, VolumeSpec,
};
use skald_runtime::CancellationToken;
use skald_runtime::http::{ConnectionLimits, Server, ServerMetrics};

use super::entries::{CHUNK_BYTES, EntryReader, EntryWriter};
use super::*;
use crate::frontend::{
    DetectedField, DetectedFieldsQuery, DetectedLabel, IndexStats, InstantQuery, MetadataRequest, QueryData,
    QueryResponse, RangeQuery, Series, VolumeQuery,
};
use crate::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamInfo, StreamsRequest, VolumesRequest,
};
use crate::patterns::{PatternSeries, PatternsQuery, PatternsRequest};
use crate::querier::{
    BlockIdentitiesRequest, BlockRef, BlockStreamsRequest, BlockVolumesRequest, LogResult, LogTask,
    MetricResult, MetricTask,
};
use crate::tail::{Dropped, DroppedEntry, TailBatch, TailQuery, TailStream, TailTask};
use crate::{Distributor, Ingester, Querier, QueryFrontend};

/// Remembers what it was asked as text and gives what it was told to.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    error: Mutex<Option<Error>>,
    entries: usize,
}

impl Fake {
    fn answer<T>(&self, question: &dyn std::fmt::Debug, answer: impl FnOnce() -> T) -> Result<T> {
        self.asked.lock().push(format!("{question:?}"));
        match self.error.lock().clone() {
            Some(error) => Err(error),
            None => Ok(answer()),
        }
    }

    fn log_result(&self) -> LogResult {
        LogResult { entries: entries(self.entries), stats: stats() }
    }

    fn metric_result(&self) -> MetricResult {
        let partials = (0..3 * CHUNK_BYTES + 5).map(|i| i as u8).collect::<Vec<_>>().into();
        MetricResult { partials, stats: stats() }
    }

    fn streams(&self) -> Vec<StreamInfo> {
        let stream = |i: usize| StreamInfo {
            id: StreamId(i as u64),
            labels: Labels::from_pairs([("app", format!("app-{i}").as_str())]),
            min_ts: i as i64 - 5,
            max_ts: i64::MAX,
            entries: 1,
            bytes: 2,
            digest: Digest { count: i as u64, sum: u128::from(i > 0) << 90 },
        };
        (0..40_000).map(stream).collect()
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

/// `n` entries of two label sets, with lines long enough that some thousand take several chunks.
fn entries(n: usize) -> Vec<LogEntry> {
    let sets = [("a", ""), ("b", "x")].map(|(app, trace)| {
        Arc::new(EntryLabels {
            stream: labels(&[("app", app)]),
            structured_metadata: labels(&[("trace", trace)]),
            parsed: labels(&[("status", "500")]),
        })
    });
    let entry = |i: usize| LogEntry {
        timestamp: 1_700_000_000_000_000_000 - i as i64,
        line: Bytes::from(format!("line {i} {}", "x".repeat(600))),
        labels: sets[i % 2].clone(),
        stream: StreamId(i as u64 % 2),
        identity: EntryHash::of(i as i64, b"line", LabelsRef::EMPTY),
    };
    (0..n).map(entry).collect()
}

fn identities() -> Vec<(StreamId, EntryHash)> {
    (0..60_000).map(|i| (StreamId(i), EntryHash(u128::from(i) << 70 | 5))).collect()
}

fn stats() -> QueryStats {
    QueryStats {
        blocks: 1,
        head_lines: 7,
        streams: 13,
        exec_seconds: 0.25,
        queue_seconds: 1e-9,
        ..Default::default()
    }
}

#[async_trait]
impl Distributor for Fake {
    async fn push(&self, tenant: &TenantId, push: Push) -> Result<()> {
        self.answer(&(tenant, push), || ())
    }
}

#[async_trait]
impl Ingester for Fake {
    async fn push(&self, push: IngesterPush) -> Result<()> {
        self.answer(&push, || ())
    }
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        self.answer(&task, || self.log_result())
    }
    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        self.answer(&task, || self.metric_result())
    }
    async fn streams(&self, request: StreamsRequest) -> Result<HeldStreams> {
        self.answer(&request, || HeldStreams { cut: u64::MAX, streams: self.streams() })
    }
    async fn identities(&self, request: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        self.answer(&request, identities)
    }
    async fn holding(&self) -> Result<Holding> {
        self.answer(&(), || Holding { name: "i".into(), oldest_stamp: Some(-1) })
    }
    async fn pattern_streams(&self, request: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        self.answer(&request, || (0..200_000).map(|i| (StreamId(i), i * 3)).collect())
    }
    async fn patterns(&self, request: PatternsRequest) -> Result<Vec<PatternSeries>> {
        self.answer(&request, patterns)
    }
    async fn tail(&self, task: TailTask) -> Result<TailStream> {
        self.answer(&task, tail_stream)
    }
    async fn volumes(&self, request: VolumesRequest) -> Result<Vec<GroupVolume>> {
        self.answer(&request, volumes)
    }
    async fn flush(&self, tenant: Option<TenantId>) -> Result<()> {
        self.answer(&tenant, || ())
    }
}

#[async_trait]
impl Querier for Fake {
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        self.answer(&task, || self.log_result())
    }
    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        self.answer(&task, || self.metric_result())
    }
    async fn streams(&self, request: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        self.answer(&request, || self.streams())
    }
    async fn identities(&self, request: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        self.answer(&request, identities)
    }
    async fn volumes(&self, request: BlockVolumesRequest) -> Result<Vec<GroupVolume>> {
        self.answer(&request, volumes)
    }
}

#[async_trait]
impl QueryFrontend for Fake {
    async fn query_range(&self, query: RangeQuery) -> Result<QueryResponse> {
        let data = match query.query.as_str() {
            "matrix" => QueryData::Matrix(series(2000)),
            "empty" => QueryData::Matrix(vec![]),
            _ => QueryData::Streams(entries(self.entries)),
        };
        self.answer(&query, || QueryResponse {
            warnings: vec!["partial".into()],
            ..QueryResponse::new(data, stats())
        })
    }
    async fn query(&self, query: InstantQuery) -> Result<QueryResponse> {
        let data = match query.query.as_str() {
            "scalar" => QueryData::Scalar(-5, 0.1),
            _ => QueryData::Vector(series(1)),
        };
        self.answer(&query, || QueryResponse::new(data, stats()))
    }
    async fn label_names(&self, request: MetadataRequest) -> Result<Vec<String>> {
        self.answer(&request, || vec!["app".into(), "ümlaut".into()])
    }
    async fn label_values(&self, request: MetadataRequest, name: &str) -> Result<Vec<String>> {
        self.answer(&(request, name), || (0..200_000).map(|i| format!("value-{i}")).collect())
    }
    async fn series(&self, request: MetadataRequest) -> Result<Vec<StreamInfo>> {
        self.answer(&request, || self.streams())
    }
    async fn patterns(&self, query: PatternsQuery) -> Result<Vec<PatternSeries>> {
        self.answer(&query, patterns)
    }
    async fn tail(&self, query: TailQuery) -> Result<TailStream> {
        self.answer(&query, tail_stream)
    }
    async fn index_stats(&self, request: MetadataRequest) -> Result<IndexStats> {
        self.answer(&request, || IndexStats { streams: 1, chunks: 2, bytes: u64::MAX, entries: 4 })
    }
    async fn volume(&self, query: VolumeQuery) -> Result<QueryResponse> {
        let data = QueryData::Matrix(series(3));
        self.answer(&query, || QueryResponse::new(data, stats()))
    }
    async fn detected_labels(&self, request: MetadataRequest) -> Result<Vec<DetectedLabel>> {
        let label = |i: u64| DetectedLabel { name: format!("label-{i}"), cardinality: i };
        self.answer(&request, || (0..30_000).map(label).collect())
    }
    async fn detected_fields(&self, query: DetectedFieldsQuery) -> Result<Vec<DetectedField>> {
        let field = |i: u64| DetectedField {
            name: format!("field-{i}"),
            kind: "int".into(),
            cardinality: i,
            parsers: vec!["json".into(); i as usize % 3],
            json_path: vec!["a".into(), "b".into()],
        };
        self.answer(&query, || (0..10).map(field).collect())
    }
    async fn detected_field_values(&self, query: DetectedFieldsQuery, name: &str) -> Result<Vec<String>> {
        self.answer(&(query, name), || vec!["200".into(), String::new()])
    }
}

fn patterns() -> Vec<PatternSeries> {
    let series = |i: i64| PatternSeries {
        pattern: format!("took <_> of {i}"),
        level: "info".into(),
        samples: (0..300).map(|s| (s * 10 - i, i as u64)).collect(),
    };
    (0..500).map(series).collect()
}

/// A tail that loses something, and fails.
fn tail_stream() -> TailStream {
    let listed = vec![DroppedEntry { timestamp: -7, labels: labels(&[("app", "a")]) }];
    let dropped = Dropped { entries: 9, listed };
    let batches = [
        Ok(TailBatch { entries: entries(3), ..TailBatch::default() }),
        Ok(TailBatch { entries: entries(5000), dropped }),
        Err(Error::new(Kind::Timeout, "reached tail max duration limit")),
    ];
    stream::iter(batches).boxed()
}

async fn all(tail: Result<TailStream>) -> Result<Vec<Result<TailBatch>>> {
    Ok(tail?.collect().await)
}

fn volumes() -> Vec<GroupVolume> {
    let step =
        |n: i64| StepVolume { step: n * 3 - 5, chunks: 1, entries: n as u64, bytes: u64::MAX - n as u64 };
    let group = |i: usize| GroupVolume {
        labels: Labels::from_pairs([("app", format!("app-{i}").as_str())]),
        steps: (0..20).map(step).collect(),
    };
    (0..10_000).map(group).collect()
}

fn spec(groups: VolumeGroups) -> VolumeSpec {
    VolumeSpec { step: 60, groups, whole_kib: true }
}

fn volume_query() -> VolumeQuery {
    VolumeQuery {
        tenant: tenant(),
        query: "{app=\"a\"}".into(),
        start: -1,
        end: 7,
        step: 2,
        limit: 3,
        target_labels: vec!["app".into(), "pod".into()],
        by_name: true,
    }
}

fn fields_query() -> DetectedFieldsQuery {
    let query = "{app=\"a\"} | json".into();
    DetectedFieldsQuery { tenant: tenant(), query, start: -1, end: 7, line_limit: 100, limit: 1000 }
}

fn series(points: usize) -> Vec<Series> {
    let series = |i: i64| Series {
        labels: Labels::from_pairs([("i", i.to_string().as_str())]),
        samples: (0..points as i64).map(|t| (t * 1_000_000_000 * i, t as f64 / 3.0)).collect(),
    };
    (0..100).map(series).collect()
}

fn tenant() -> TenantId {
    TenantId::new("team-a").unwrap()
}

fn batch() -> Batch {
    let body = Bytes::from_static(b"line one|line two");
    let meta = labels(&[("trace", "1")]);
    let entry = |timestamp, line_start, metadata: std::ops::Range<usize>| EntryRef {
        timestamp,
        line_start,
        line_len: 8,
        metadata_start: metadata.start as u32,
        metadata_len: metadata.len() as u32,
    };
    let end = meta.packed().len();
    let refs = vec![entry(5, 0, 0..end), entry(-5, 9, end..end)];
    let compressed = Some(snap::raw::Encoder::new().compress_vec(&body).unwrap().into());
    Batch {
        streams: vec![BatchStream { id: StreamId(7), labels: labels(&[("app", "a")]), entries: 0..2 }],
        entries: Entries { body, compressed, metadata: Bytes::copy_from_slice(meta.packed()), refs },
    }
}

fn removals() -> Arc<RemovalSpec> {
    let delete = |generation, accepted, range, query: &str| DeleteRule {
        generation,
        accepted,
        range,
        query: query.into(),
    };
    Arc::new(RemovalSpec {
        generation: u64::MAX,
        deletes: vec![
            delete(1, -5, TimeRange::new(i64::MIN, 0), "{app=\"a\"} |= `x`"),
            delete(2, i64::MAX, TimeRange::ALL, "{}"),
        ],
        cutoffs: vec![CutoffRule { selector: "{a=\"b\"}".into(), cutoff: -9 }],
        cutoff: i64::MIN,
    })
}

fn log_task() -> LogTask {
    LogTask {
        tenant: tenant(),
        query: "{app=\"a\"} |= `x`".into(),
        range: TimeRange::new(-3, i64::MAX),
        direction: Direction::Forward,
        limit: 17,
        version: -1,
        blocks: vec![BlockRef {
            path: "date=2024-01-01/x.parquet".into(),
            size: 9,
            tail_offset: 4,
            received_min: -3,
            deletes: 7,
        }],
        max_bytes: u64::MAX,
        removals: Some(removals()),
    }
}

fn metric_task() -> MetricTask {
    MetricTask {
        tenant: tenant(),
        query: "count_over_time({app=\"a\"}[5m])".into(),
        start: 1,
        end: 2,
        step: 3,
        version: 4,
        blocks: vec![],
        shard: (1, 2),
        max_bytes: 0,
        cut: Some(0),
        skip: Arc::new(HashSet::from([StreamId(9)])),
        exclude: Arc::new(HashSet::from([(StreamId(3), EntryHash(u128::MAX - 5))])),
        removals: Some(removals()),
    }
}

fn metadata() -> MetadataRequest {
    MetadataRequest {
        tenant: tenant(),
        range: TimeRange::ALL,
        selectors: vec!["{a=\"1\"}".into(), String::new()],
    }
}

fn range_query(query: &str) -> RangeQuery {
    RangeQuery {
        tenant: tenant(),
        query: query.into(),
        start: 1,
        end: 2,
        step: 3,
        interval: 4,
        limit: 5,
        direction: Direction::Backward,
        tags: "Source=logvolhist".into(),
    }
}

fn instant_query(query: &str) -> InstantQuery {
    InstantQuery {
        tenant: tenant(),
        query: query.into(),
        time: 9,
        limit: 5,
        direction: Direction::Forward,
        tags: "a=b".into(),
    }
}

/// Serves the fake until the returned token is dropped, and gives a connection to it.
async fn serve(fake: Arc<Fake>, config: &ClientConfig) -> (Connection, tokio_util::sync::DropGuard) {
    let server = Server::bind("grpc", "127.0.0.1", 0, "server.grpc_listen_port").await.unwrap();
    let connection =
        Connection::new(&server.address().to_string(), config, MessageLimits::default(), None).unwrap();
    let services = Services {
        distributor: Some(fake.clone()),
        ingester: Some(fake.clone()),
        querier: Some(fake.clone()),
        frontend: Some(fake),
    };
    let router = skald_runtime::grpc::router(services.into_routes(MessageLimits::default()));
    let metrics = ServerMetrics::new(&Registry::new()).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server.serve(
        router,
        ConnectionLimits::default(),
        metrics,
        stop.clone(),
        Duration::from_secs(1),
    ));
    (connection, stop.drop_guard())
}

/// Asks the fake by `$ask` in process and across the wire, and compares answers and errors by their text, which for
/// these types shows everything but buffers.
macro_rules! same {
    ($fake:expr, $client:expr, $service:ident, |$s:ident| $ask:expr) => {{
        for error in [
            None,
            Some(Error::invalid("line one\nline two: 100 % \"wrong\" ü")),
            Some(Error::limit("slow down", Duration::new(3, 7))),
            Some(Error::new(Kind::SnapshotTooOld, "")),
            Some(Error::internal("x".repeat(60_000))),
        ] {
            *$fake.error.lock() = error;
            $fake.asked.lock().clear();
            let here = {
                let $s: &dyn $service = &*$fake;
                format!("{:?}", $ask.await)
            };
            let there = {
                let $s: &dyn $service = &$client;
                format!("{:?}", $ask.await)
            };
            assert!(here == there, "here {:.2000}\nthere {:.2000}", here, there);
            let asked = $fake.asked.lock();
            assert_eq!(asked[0], asked[1]);
        }
        *$fake.error.lock() = None;
    }};
}

#[tokio::test]
async fn the_distributor_answers_the_same_across_the_wire() {
    let fake = Arc::new(Fake::default());
    let (connection, _serving) = serve(fake.clone(), &ClientConfig::default()).await;
    let client = DistributorClient::new(connection);
    let Batch { streams, entries } = batch();
    let text = PushStream { labels: PushLabels::Text(Bytes::from_static(b"{app=\"a\"}")), entries: 0..1 };
    let set = PushStream { labels: PushLabels::Set(streams[0].labels.clone()), entries: 1..2 };
    let push = Push { streams: vec![text, set], entries };
    same!(fake, client, Distributor, |s| s.push(&tenant(), push.clone()));
    let plain = Push { entries: Entries { compressed: None, ..push.entries.clone() }, ..push };
    same!(fake, client, Distributor, |s| s.push(&tenant(), plain.clone()));
}

#[tokio::test]
async fn the_ingester_answers_the_same_across_the_wire() {
    let fake = Arc::new(Fake { entries: 4000, ..Fake::default() });
    let (connection, _serving) = serve(fake.clone(), &ClientConfig::default()).await;
    let client = IngesterClient::new(connection);
    let push = IngesterPush {
        tenant: tenant(),
        stamp: PushStamp { origin: u64::MAX, sequence: 1, second: -3, partial: false },
        batch: Arc::new(batch()),
    };
    let streams = StreamsRequest {
        tenant: tenant(),
        version: 5,
        range: TimeRange::ALL,
        selectors: vec![],
        removals: Some(removals()),
    };
    same!(fake, client, Ingester, |s| s.push(push.clone()));
    same!(fake, client, Ingester, |s| s.query_logs(log_task()));
    same!(fake, client, Ingester, |s| s.query_metric(metric_task()));
    same!(fake, client, Ingester, |s| s.streams(streams.clone()));
    let asked = IdentitiesRequest {
        tenant: tenant(),
        version: 5,
        cut: 7,
        range: TimeRange::ALL,
        streams: vec![StreamId(u64::MAX)],
        removals: Some(removals()),
    };
    same!(fake, client, Ingester, |s| s.identities(asked.clone()));
    same!(fake, client, Ingester, |s| s.holding());
    let request = PatternsRequest {
        tenant: tenant(),
        selector: "{a=\"b\"}".into(),
        range: TimeRange::new(-4, 9),
        step: 7,
        exclude: vec![StreamId(u64::MAX)],
    };
    same!(fake, client, Ingester, |s| s.pattern_streams(request.clone()));
    same!(fake, client, Ingester, |s| s.patterns(request.clone()));
    let task = TailTask { tenant: tenant(), query: "{app=\"a\"}".into() };
    same!(fake, client, Ingester, |s| async { all(s.tail(task.clone()).await).await });
    let of = |groups| VolumesRequest {
        streams: streams.clone(),
        spec: spec(groups),
        skip: Arc::new(HashSet::from([StreamId(3)])),
    };
    same!(fake, client, Ingester, |s| s.volumes(of(VolumeGroups::Names(vec!["app".into()]))));
    same!(fake, client, Ingester, |s| s.flush(None));
    same!(fake, client, Ingester, |s| s.flush(Some(tenant())));
}

#[tokio::test]
async fn the_querier_answers_the_same_across_the_wire() {
    let fake = Arc::new(Fake { entries: 1, ..Fake::default() });
    let (connection, _serving) = serve(fake.clone(), &ClientConfig::default()).await;
    let client = QuerierClient::new(connection);
    let streams = BlockStreamsRequest {
        tenant: tenant(),
        blocks: log_task().blocks,
        range: TimeRange::ALL,
        selectors: vec!["{}".into()],
        removals: Some(removals()),
    };
    same!(fake, client, Querier, |s| s.query_logs(log_task()));
    same!(fake, client, Querier, |s| s.query_metric(metric_task()));
    same!(fake, client, Querier, |s| s.streams(streams.clone()));
    let asked = BlockIdentitiesRequest {
        tenant: tenant(),
        blocks: log_task().blocks,
        range: TimeRange::new(1, 2),
        streams: vec![StreamId(7)],
        removals: None,
    };
    same!(fake, client, Querier, |s| s.identities(asked.clone()));
    for groups in [VolumeGroups::Streams, VolumeGroups::Labels(vec!["app".into()])] {
        let volumes = BlockVolumesRequest { streams: streams.clone(), spec: spec(groups) };
        same!(fake, client, Querier, |s| s.volumes(volumes.clone()));
    }
}

#[tokio::test]
async fn the_query_frontend_answers_the_same_across_the_wire() {
    let fake = Arc::new(Fake { entries: 3000, ..Fake::default() });
    let (connection, _serving) = serve(fake.clone(), &ClientConfig::default()).await;
    let client = QueryFrontendClient::new(connection);
    for query in ["streams", "matrix", "empty"] {
        same!(fake, client, QueryFrontend, |s| s.query_range(range_query(query)));
    }
    for query in ["scalar", "vector"] {
        same!(fake, client, QueryFrontend, |s| s.query(instant_query(query)));
    }
    same!(fake, client, QueryFrontend, |s| s.label_names(metadata()));
    same!(fake, client, QueryFrontend, |s| s.label_values(metadata(), "app"));
    same!(fake, client, QueryFrontend, |s| s.series(metadata()));
    let query = PatternsQuery { tenant: tenant(), query: "{a=\"b\"}".into(), start: -3, end: 4, step: 7 };
    same!(fake, client, QueryFrontend, |s| s.patterns(query.clone()));
    let query = TailQuery {
        tenant: tenant(),
        query: "{app=\"a\"}".into(),
        start: -5,
        limit: 10,
        delay: Duration::from_millis(1500),
    };
    same!(fake, client, QueryFrontend, |s| async { all(s.tail(query.clone()).await).await });
    same!(fake, client, QueryFrontend, |s| s.index_stats(metadata()));
    same!(fake, client, QueryFrontend, |s| s.volume(volume_query()));
    same!(fake, client, QueryFrontend, |s| s.detected_labels(metadata()));
    same!(fake, client, QueryFrontend, |s| s.detected_fields(fields_query()));
    same!(fake, client, QueryFrontend, |s| s.detected_field_values(fields_query(), "status"));
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unavailable_and_named() {
    // The port was free a moment ago, and nobody listens on it.
    let server = Server::bind("grpc", "127.0.0.1", 0, "x").await.unwrap();
    let peer = server.address().to_string();
    drop(server);
    let connection =
        Connection::new(&peer, &ClientConfig::default(), MessageLimits::default(), None).unwrap();
    let error = Ingester::flush(&IngesterClient::new(connection), None).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains(&peer), "{error}");
}

#[tokio::test]
async fn calls_end_at_their_deadline() {
    struct Stuck;
    #[async_trait]
    impl Distributor for Stuck {
        async fn push(&self, _: &TenantId, _: Push) -> Result<()> {
            std::future::pending().await
        }
    }
    let server = Server::bind("grpc", "127.0.0.1", 0, "x").await.unwrap();
    let config = ClientConfig { remote_timeout: Duration::from_millis(30), ..ClientConfig::default() };
    let connection =
        Connection::new(&server.address().to_string(), &config, MessageLimits::default(), None).unwrap();
    let services = Services { distributor: Some(Arc::new(Stuck)), ..Services::default() };
    let router = skald_runtime::grpc::router(services.into_routes(MessageLimits::default()));
    let metrics = ServerMetrics::new(&Registry::new()).unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(server.serve(router, ConnectionLimits::default(), metrics, stop, Duration::ZERO));
    let error = DistributorClient::new(connection).push(&tenant(), Push::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
}

#[tokio::test]
async fn a_message_over_the_limit_names_the_setting() {
    let fake = Arc::new(Fake { entries: 100, ..Fake::default() });
    let (mut connection, _serving) = serve(fake, &ClientConfig::default()).await;
    connection.limits.receive = 1000;
    let error = Querier::query_logs(&QuerierClient::new(connection), log_task()).await.unwrap_err();
    assert!(error.message.contains("server.grpc_server_max_recv_msg_size"), "{error}");
}

#[test]
fn label_sets_are_sent_once_and_chunks_are_bounded() {
    let mut writer = EntryWriter::new(entries(5000));
    let (mut chunks, mut sets) = (0, 0);
    loop {
        let (chunk, last) = writer.next_chunk();
        chunks += 1;
        sets += chunk.labels.len();
        assert!(chunk.encoded_len() < CHUNK_BYTES + (64 << 10));
        if last {
            break;
        }
    }
    assert_eq!(sets, 2);
    assert!(chunks > 2);
}

#[test]
fn malformed_entries_are_refused() {
    let chunk = || EntryWriter::new(entries(3)).next_chunk().0;
    let broken: [fn(&mut proto::EntryChunk); 4] = [
        |c| c.label_rows[0] = 99,
        |c| c.identities = c.identities.slice(1..),
        |c| drop(c.lines.pop()),
        |c| c.labels[0].parsed = Bytes::from_static(&[9]),
    ];
    for breaking in broken {
        let mut chunk = chunk();
        breaking(&mut chunk);
        assert!(EntryReader::default().add(chunk).is_err());
    }
}

#[test]
fn a_batch_that_is_cut_or_lies_about_its_size_is_refused() {
    let whole = EncodedBatch::of_batch(&batch()).encode_to_vec();
    assert!(EncodedBatch::decode(&whole[..]).unwrap().into_batch().is_ok());
    let inner = &whole[2..];
    for cut in 0..inner.len() {
        let mut message = vec![whole[0], cut as u8];
        message.extend_from_slice(&inner[..cut]);
        assert!(EncodedBatch::decode(&message[..]).unwrap().into_batch().is_err(), "{cut}");
    }
}

fn any_labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map("[a-z]{1,4}", ".{1,6}", 0..3)
        .prop_map(|m| Labels::from_pairs(m.iter().map(|(k, v)| (k.as_str(), v.as_str()))))
}

fn any_entry() -> impl Strategy<Value = LogEntry> {
    let set = (any_labels(), any_labels(), any_labels());
    (any::<i64>(), proptest::collection::vec(any::<u8>(), 0..40), set, any::<u64>(), any::<u128>()).prop_map(
        |(timestamp, line, (stream, structured_metadata, parsed), id, identity)| LogEntry {
            timestamp,
            line: line.into(),
            labels: Arc::new(EntryLabels { stream, structured_metadata, parsed }),
            stream: StreamId(id),
            identity: EntryHash(identity),
        },
    )
}

proptest! {
    #[test]
    fn entries_round_trip(entries in proptest::collection::vec(any_entry(), 0..20)) {
        let mut writer = EntryWriter::new(entries.clone());
        let mut reader = EntryReader::default();
        loop {
            let (chunk, last) = writer.next_chunk();
            reader.add(proto::EntryChunk::decode(chunk.encode_to_vec().as_slice()).unwrap()).unwrap();
            if last {
                break;
            }
        }
        prop_assert_eq!(format!("{:?}", reader.finish()), format!("{entries:?}"));
    }

    #[test]
    fn series_round_trip(labels in any_labels(), samples in proptest::collection::vec((any::<i64>(), any::<f64>()), 0..9)) {
        let series = Series { labels, samples };
        let back = convert::series_from(&convert::series_to(&series)).unwrap();
        prop_assert_eq!(format!("{back:?}"), format!("{series:?}"));
    }

    #[test]
    fn streams_round_trip(labels in any_labels(), n in any::<[u64; 3]>(), t in any::<[i64; 2]>(), sum in any::<u128>()) {
        let info = StreamInfo { id: StreamId(n[0]), labels, min_ts: t[0], max_ts: t[1], entries: n[1], bytes: n[2],
            digest: if sum % 2 == 0 { Digest::default() } else { Digest { count: n[1].max(1), sum } } };
        prop_assert_eq!(convert::stream_from(&convert::stream_to(&info)).unwrap(), info);
    }

    #[test]
    fn stats_round_trip(n in any::<[u64; 14]>(), seconds in any::<[f32; 2]>()) {
        let stats = QueryStats {
            blocks: n[0], blocks_pruned: n[1], block_bytes: n[2], block_lines: n[3], compressed_bytes: n[4],
            head_bytes: n[5], head_lines: n[6], structured_metadata_bytes: n[7], post_filter_lines: n[8],
            duplicates: n[9], entries_returned: n[10], ingesters: n[11], streams: n[12], subqueries: n[13],
            exec_seconds: f64::from(seconds[0]), queue_seconds: f64::from(seconds[1]),
        };
        prop_assert_eq!(convert::stats_from(&convert::stats_to(&stats)), stats);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(batch) = EncodedBatch::decode(&bytes[..]) {
            let _ = batch.into_batch();
        }
        if let Ok(chunk) = proto::EntryChunk::decode(&bytes[..]) {
            let _ = EntryReader::default().add(chunk);
        }
    }
}

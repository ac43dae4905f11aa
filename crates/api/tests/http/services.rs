//! Services that write down what they are asked and answer what a test has set, and a client without a socket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use prometheus::Registry;
use skald_api::status::ConfigView;
use skald_api::{ApiDeps, Config, Deletes, Node, router};
use skald_model::{
    EntryHash, Error, GroupVolume, Kind, Limits, Push, QueryStats, Result, StreamId, TenantId,
};
use skald_rpc::deletes::{DeleteProgress, DeleteStatus, NewDelete};
use skald_rpc::frontend::{
    DetectedField, DetectedFieldsQuery, DetectedLabel, IndexStats, InstantQuery, MetadataRequest, QueryData,
    QueryResponse, RangeQuery, VolumeQuery,
};
use skald_rpc::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamInfo, StreamsRequest, VolumesRequest,
};
use skald_rpc::patterns::{PatternSeries, PatternsQuery, PatternsRequest};
use skald_rpc::querier::{LogResult, LogTask, MetricResult, MetricTask};
use skald_rpc::tail::{TailQuery, TailStream, TailTask};
use skald_rpc::{DeleteRequests, Distributor, Ingester, QueryFrontend};
use skald_runtime::Tasks;
use skald_runtime::clock::ManualClock;
use skald_runtime::metrics::BuildInfo;

/// 2026-01-15T06:00:00Z
pub const NOW: i64 = 1_768_456_800_000_000_000;

/// What the services were asked, and what they are to answer.
#[derive(Default)]
pub struct Services {
    pub pushes: Mutex<Vec<(TenantId, Push)>>,
    pub refusal: Mutex<Option<Error>>,
    pub asked: Mutex<Vec<String>>,
    pub data: Mutex<Option<QueryData>>,
    pub names: Mutex<Vec<String>>,
    pub series: Mutex<Vec<StreamInfo>>,
    pub unready: Mutex<Option<String>>,
    pub level: Mutex<String>,
}

impl Services {
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn ask<T>(&self, question: String, answer: T) -> Result<T> {
        self.asked.lock().unwrap().push(question);
        self.refusal.lock().unwrap().clone().map_or(Ok(answer), Err)
    }

    fn response(&self) -> QueryResponse {
        let data = self.data.lock().unwrap().clone().unwrap_or(QueryData::Streams(vec![]));
        QueryResponse::new(data, QueryStats::default())
    }
}

fn metadata(what: &str, r: &MetadataRequest) -> String {
    format!(
        "{what} tenant={} start={} end={} selectors={:?}",
        r.tenant, r.range.start, r.range.end, r.selectors
    )
}

fn fields(what: &str, q: &DetectedFieldsQuery) -> String {
    format!(
        "{what} tenant={} query={} start={} end={} line_limit={} limit={}",
        q.tenant, q.query, q.start, q.end, q.line_limit, q.limit
    )
}

#[async_trait]
impl DeleteRequests for Services {
    async fn add(&self, r: NewDelete) -> Result<String> {
        let text = format!("add tenant={} query={} start={} end={}", r.tenant, r.query, r.start, r.end);
        self.ask(text, "0123".to_owned())
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<DeleteStatus>> {
        let status = |id: &str, progress| DeleteStatus {
            id: id.into(),
            start: NOW - 3_600_000_000_000,
            end: NOW - 500_000_000,
            query: "{app=\"a\"} |= \"x\"".into(),
            progress,
            created: NOW,
        };
        let all = [DeleteProgress::Received, DeleteProgress::Percent(42), DeleteProgress::Processed];
        let all = all.into_iter().zip(["a", "b", "c"]).map(|(progress, id)| status(id, progress));
        self.ask(format!("list tenant={tenant}"), all.collect())
    }

    async fn cancel(&self, tenant: &TenantId, id: &str, force: bool) -> Result<()> {
        self.ask(format!("cancel tenant={tenant} id={id} force={force}"), ())
    }

    async fn generation(&self, tenant: &TenantId) -> Result<u64> {
        self.ask(format!("generation tenant={tenant}"), 7)
    }
}

#[async_trait]
impl Distributor for Services {
    async fn push(&self, tenant: &TenantId, push: Push) -> Result<()> {
        self.pushes.lock().unwrap().push((tenant.clone(), push));
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl QueryFrontend for Services {
    async fn query_range(&self, q: RangeQuery) -> Result<QueryResponse> {
        let question = format!(
            "range tenant={} query={} start={} end={} step={} interval={} limit={} {:?}",
            q.tenant, q.query, q.start, q.end, q.step, q.interval, q.limit, q.direction
        );
        self.ask(question, self.response())
    }

    async fn query(&self, q: InstantQuery) -> Result<QueryResponse> {
        let question = format!(
            "instant tenant={} query={} time={} limit={} {:?}",
            q.tenant, q.query, q.time, q.limit, q.direction
        );
        self.ask(question, self.response())
    }

    async fn label_names(&self, r: MetadataRequest) -> Result<Vec<String>> {
        self.ask(metadata("names", &r), self.names.lock().unwrap().clone())
    }

    async fn label_values(&self, r: MetadataRequest, name: &str) -> Result<Vec<String>> {
        self.ask(metadata(&format!("values of {name}"), &r), self.names.lock().unwrap().clone())
    }

    async fn series(&self, r: MetadataRequest) -> Result<Vec<StreamInfo>> {
        self.ask(metadata("series", &r), self.series.lock().unwrap().clone())
    }

    async fn patterns(&self, q: PatternsQuery) -> Result<Vec<PatternSeries>> {
        let question = format!(
            "patterns tenant={} query={} start={} end={} step={}",
            q.tenant, q.query, q.start, q.end, q.step
        );
        let series = PatternSeries {
            pattern: "took <_>".to_owned(),
            level: "info".to_owned(),
            samples: vec![(10, 1), (20, 3)],
        };
        self.ask(question, vec![series])
    }

    async fn tail(&self, _: TailQuery) -> Result<TailStream> {
        Err(unused())
    }
    async fn index_stats(&self, r: MetadataRequest) -> Result<IndexStats> {
        self.ask(metadata("stats", &r), IndexStats { streams: 1, chunks: 2, bytes: 3, entries: 4 })
    }

    async fn volume(&self, q: VolumeQuery) -> Result<QueryResponse> {
        let question = format!(
            "volume tenant={} query={} start={} end={} step={} limit={} labels={:?} by_name={}",
            q.tenant, q.query, q.start, q.end, q.step, q.limit, q.target_labels, q.by_name
        );
        self.ask(question, self.response())
    }

    async fn detected_labels(&self, r: MetadataRequest) -> Result<Vec<DetectedLabel>> {
        let names = self.names.lock().unwrap().clone();
        let label = |name| DetectedLabel { name, cardinality: 2 };
        self.ask(metadata("labels", &r), names.into_iter().map(label).collect())
    }

    async fn detected_fields(&self, q: DetectedFieldsQuery) -> Result<Vec<DetectedField>> {
        let names = self.names.lock().unwrap().clone();
        let field = |(i, name): (usize, String)| DetectedField {
            json_path: if i == 0 { vec![] } else { vec![name.clone(), "x".into()] },
            parsers: vec!["json".into(); i],
            name,
            kind: "int".into(),
            cardinality: 7,
        };
        self.ask(fields("fields", &q), names.into_iter().enumerate().map(field).collect())
    }

    async fn detected_field_values(&self, q: DetectedFieldsQuery, name: &str) -> Result<Vec<String>> {
        self.ask(fields(&format!("values of {name}"), &q), self.names.lock().unwrap().clone())
    }
}

#[async_trait]
impl Ingester for Services {
    async fn push(&self, _: IngesterPush) -> Result<()> {
        Err(unused())
    }
    async fn query_logs(&self, _: LogTask) -> Result<LogResult> {
        Err(unused())
    }
    async fn query_metric(&self, _: MetricTask) -> Result<MetricResult> {
        Err(unused())
    }
    async fn streams(&self, _: StreamsRequest) -> Result<HeldStreams> {
        Err(unused())
    }
    async fn identities(&self, _: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        Err(unused())
    }
    async fn holding(&self) -> Result<Holding> {
        Err(unused())
    }
    async fn pattern_streams(&self, _: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        Err(unused())
    }
    async fn patterns(&self, _: PatternsRequest) -> Result<Vec<PatternSeries>> {
        Err(unused())
    }
    async fn tail(&self, _: TailTask) -> Result<TailStream> {
        Err(unused())
    }
    async fn volumes(&self, _: VolumesRequest) -> Result<Vec<GroupVolume>> {
        Err(unused())
    }
    async fn flush(&self, tenant: Option<TenantId>) -> Result<()> {
        self.ask(format!("flush {tenant:?}"), ())
    }
}

fn unused() -> Error {
    Error::new(Kind::Internal, "the HTTP surface does not call this")
}

impl Node for Services {
    fn unready(&self) -> Option<String> {
        self.unready.lock().unwrap().clone()
    }
    fn services(&self) -> Vec<(String, String)> {
        vec![("ingester".to_owned(), "Running".to_owned())]
    }
    fn config(&self, view: ConfigView) -> String {
        format!("view: {view:?}\n")
    }
    fn tenant_limits(&self, tenant: &TenantId) -> String {
        format!("of: {tenant}\n")
    }
    fn runtime_config(&self, own: bool) -> String {
        format!("overrides: {{}}\nown: {own}\n")
    }
    fn log_level(&self) -> String {
        self.level.lock().unwrap().clone()
    }
    fn set_log_level(&self, level: &str) -> std::result::Result<(), String> {
        if level == "debug" {
            *self.level.lock().unwrap() = level.to_owned();
            return Ok(());
        }
        Err(format!("unrecognized log level {level:?}"))
    }
    fn build(&self) -> BuildInfo {
        BuildInfo { version: "0.1.0", revision: "abc", branch: "main", date: "today" }
    }
}

/// The surface over `services`, without authentication.
pub fn surface(services: &Arc<Services>) -> Router {
    surface_with(services, Config { auth_enabled: false, ..Config::default() })
}

pub fn surface_with(services: &Arc<Services>, config: Config) -> Router {
    router(ApiDeps {
        config,
        clock: Arc::new(ManualClock::new(NOW)),
        registry: Registry::new(),
        node: services.clone(),
        limits: Arc::new(Arc::new(Limits { loki_strict: true, ..Limits::default() })),
        distributor: Some(services.clone()),
        frontend: Some(services.clone()),
        deletes: Some(Deletes { requests: services.clone(), max_interval: Duration::from_secs(3600) }),
        flush: Some(services.clone()),
        members: None,
        lifecycle: None,
        compaction: None,
        auth: None,
        tasks: Tasks::new(),
    })
    .unwrap()
}

/// A response that has been read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap().trim_end()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response: Response<Body> = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

pub async fn get(router: &Router, uri: &str) -> Answer {
    send(router, Request::get(uri).body(Body::empty()).unwrap()).await
}

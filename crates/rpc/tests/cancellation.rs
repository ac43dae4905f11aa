//! A call whose caller goes away ends on the other side, too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use skald_model::{EntryHash, GroupVolume, Result, StreamId, TenantId};
use skald_rpc::Querier;
use skald_rpc::grpc::{ClientConfig, Connection, QuerierClient, Services};
use skald_rpc::ingester::StreamInfo;
use skald_rpc::querier::{
    BlockIdentitiesRequest, BlockStreamsRequest, BlockVolumesRequest, LogResult, LogTask, MetricResult,
    MetricTask,
};
use skald_runtime::CancellationToken;
use skald_runtime::grpc::MessageLimits;
use skald_runtime::http::{ConnectionLimits, Server, ServerMetrics};
use tokio::sync::mpsc;

/// Says when a question came, and when its work was dropped; never answers.
struct Endless(mpsc::UnboundedSender<&'static str>);

struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

impl Endless {
    async fn work<T>(&self) -> T {
        let _dropped = Dropped(self.0.clone());
        self.0.send("asked").unwrap();
        std::future::pending().await
    }
}

#[async_trait]
impl Querier for Endless {
    async fn query_logs(&self, _: LogTask) -> Result<LogResult> {
        self.work().await
    }
    async fn query_metric(&self, _: MetricTask) -> Result<MetricResult> {
        self.work().await
    }
    async fn streams(&self, _: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        self.work().await
    }
    async fn identities(&self, _: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        self.work().await
    }
    async fn volumes(&self, _: BlockVolumesRequest) -> Result<Vec<GroupVolume>> {
        self.work().await
    }
}

#[tokio::test]
async fn a_task_whose_caller_goes_away_ends_at_the_querier() {
    let (said, mut heard) = mpsc::unbounded_channel();
    let server = Server::bind("grpc", "127.0.0.1", 0, "server.grpc_listen_port").await.unwrap();
    let peer = server.address().to_string();
    let connection =
        Connection::new(&peer, &ClientConfig::default(), MessageLimits::default(), None).unwrap();
    let services = Services { querier: Some(Arc::new(Endless(said))), ..Services::default() };
    let router = skald_runtime::grpc::router(services.into_routes(MessageLimits::default()));
    let metrics = ServerMetrics::new(&Registry::new()).unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(server.serve(router, ConnectionLimits::default(), metrics, stop, Duration::ZERO));

    let client = QuerierClient::new(connection);
    let task = MetricTask {
        tenant: TenantId::new("t").unwrap(),
        query: r#"count_over_time({a="b"}[1m])"#.into(),
        start: 0,
        end: 0,
        step: 0,
        version: 1,
        blocks: Vec::new(),
        shard: (0, 1),
        max_bytes: u64::MAX,
        exclude: Arc::default(),
        cut: None,
        skip: Arc::default(),
        removals: None,
    };
    let call = client.query_metric(task);
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        said = heard.recv() => assert_eq!(said, Some("asked")),
    }
    // The call was dropped with the select.
    assert_eq!(heard.recv().await, Some("dropped"));
}

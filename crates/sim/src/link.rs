//! An ingester as somebody else reaches it.

use async_trait::async_trait;
use skald_model::{EntryHash, GroupVolume, Result, StreamId, TenantId};
use skald_rpc::Ingester;
use skald_rpc::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamsRequest, VolumesRequest,
};
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{LogResult, LogTask, MetricResult, MetricTask};
use skald_rpc::tail::{TailStream, TailTask};

use crate::network::Network;

/// The way of one caller to one ingester.
pub(crate) struct Link {
    pub(crate) network: Network,
    pub(crate) caller: String,
    pub(crate) ingester: String,
}

impl Link {
    fn way(&self) -> (&str, &str) {
        (&self.caller, &self.ingester)
    }
}

#[async_trait]
impl Ingester for Link {
    async fn push(&self, push: IngesterPush) -> Result<()> {
        let what = format!("push {}", push.stamp.sequence);
        self.network.call(self.way(), &what, |i| async move { i.push(push).await }).await
    }

    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        self.network.call(self.way(), "query_logs", |i| async move { i.query_logs(task).await }).await
    }

    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        self.network.call(self.way(), "query_metric", |i| async move { i.query_metric(task).await }).await
    }

    async fn streams(&self, request: StreamsRequest) -> Result<HeldStreams> {
        self.network.call(self.way(), "streams", |i| async move { i.streams(request).await }).await
    }

    async fn identities(&self, request: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        self.network.call(self.way(), "identities", |i| async move { i.identities(request).await }).await
    }

    async fn holding(&self) -> Result<Holding> {
        self.network.call(self.way(), "holding", |i| async move { i.holding().await }).await
    }

    async fn tail(&self, task: TailTask) -> Result<TailStream> {
        self.network.call(self.way(), "tail", |i| async move { i.tail(task).await }).await
    }

    async fn volumes(&self, request: VolumesRequest) -> Result<Vec<GroupVolume>> {
        self.network.call(self.way(), "volumes", |i| async move { i.volumes(request).await }).await
    }

    async fn pattern_streams(&self, request: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        self.network
            .call(self.way(), "pattern_streams", |i| async move { i.pattern_streams(request).await })
            .await
    }

    async fn patterns(&self, request: PatternsRequest) -> Result<Vec<PatternSeries>> {
        self.network.call(self.way(), "patterns", |i| async move { i.patterns(request).await }).await
    }

    async fn flush(&self, tenant: Option<TenantId>) -> Result<()> {
        self.network.call(self.way(), "flush", |i| async move { i.flush(tenant).await }).await
    }
}

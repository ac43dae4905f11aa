//! The ingester across the wire.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{EntryHash, Error, GroupVolume, PushStamp, Result, StreamId, TenantId};
use skald_runtime::grpc::MessageLimits;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::chunks::{self, Chunks};
use super::error::to_status;
use super::proto::ingester_client::IngesterClient as Generated;
use super::proto::ingester_server::{self, IngesterServer};
use super::{Connection, EncodedBatch, convert, patterns, proto, request, tail, volumes};
use crate::Ingester;
use crate::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamsRequest, VolumesRequest,
};
use crate::patterns::{PatternSeries, PatternsRequest};
use crate::querier::{LogResult, LogTask, MetricResult, MetricTask};
use crate::tail::{TailStream, TailTask};

/// An ingester in another process.
#[derive(Clone, Debug)]
pub struct IngesterClient {
    connection: Connection,
    client: Generated<Channel>,
}

impl IngesterClient {
    /// Calls the ingester at the other end of `connection`.
    pub fn new(connection: Connection) -> Self {
        let client = Generated::new(connection.channel.clone())
            .max_decoding_message_size(connection.limits.receive)
            .max_encoding_message_size(connection.limits.send);
        Self { connection, client }
    }
}

#[async_trait]
impl Ingester for IngesterClient {
    async fn push(&self, push: IngesterPush) -> Result<()> {
        let deadline = self.connection.config.remote_timeout;
        let IngesterPush { tenant, stamp: PushStamp { origin, sequence, second, partial: _ }, batch } = push;
        let message = proto::IngesterPushRequest {
            tenant: tenant.as_str().to_owned(),
            stamp: Some(proto::PushStamp { origin, sequence, second }),
            batch: Some(EncodedBatch::of_batch(&batch)),
        };
        let mut client = self.client.clone();
        self.connection.call("push", deadline, client.push(request(message, deadline))).await?;
        Ok(())
    }

    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::log_task_to(task), deadline);
        let answer = async { chunks::receive_logs(client.query_logs(message).await?.into_inner()).await };
        self.connection.call("log query of an ingester", deadline, answer).await
    }

    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::metric_task_to(task), deadline);
        let answer = async { chunks::receive_metric(client.query_metric(message).await?.into_inner()).await };
        self.connection.call("metric query of an ingester", deadline, answer).await
    }

    async fn streams(&self, streams: StreamsRequest) -> Result<HeldStreams> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::ingester_streams_to(streams), deadline);
        let answer = async { chunks::receive_held(client.streams(message).await?.into_inner()).await };
        self.connection.call("streams of an ingester", deadline, answer).await
    }

    async fn identities(&self, asked: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::identities_request_to(asked), deadline);
        let answer =
            async { chunks::receive_identities(client.identities(message).await?.into_inner()).await };
        self.connection.call("identities of an ingester", deadline, answer).await
    }

    async fn holding(&self) -> Result<Holding> {
        let deadline = self.connection.config.remote_timeout;
        let mut client = self.client.clone();
        let answer = client.holding(request(proto::HoldingRequest {}, deadline));
        let answer = self.connection.call("holding of an ingester", deadline, answer).await?;
        let proto::HoldingResponse { name, oldest_stamp } = answer.into_inner();
        Ok(Holding { name, oldest_stamp })
    }

    async fn pattern_streams(&self, asked: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(patterns::request_to(asked), deadline);
        let answer = async {
            patterns::receive_streams(client.count_pattern_streams(message).await?.into_inner()).await
        };
        self.connection.call("streams with patterns", deadline, answer).await
    }

    async fn patterns(&self, asked: PatternsRequest) -> Result<Vec<PatternSeries>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(patterns::request_to(asked), deadline);
        let answer = async { patterns::receive_patterns(client.patterns(message).await?.into_inner()).await };
        self.connection.call("patterns of an ingester", deadline, answer).await
    }

    async fn tail(&self, task: TailTask) -> Result<TailStream> {
        let mut client = self.client.clone();
        let message = tail::request(tail::task_to(task));
        tail::open(&self.connection, client.tail(message)).await
    }

    async fn volumes(&self, volumes: VolumesRequest) -> Result<Vec<GroupVolume>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(volumes::ingester_volumes_to(volumes), deadline);
        let answer = async { chunks::receive_volumes(client.volumes(message).await?.into_inner()).await };
        self.connection.call("volumes of an ingester", deadline, answer).await
    }

    async fn flush(&self, tenant: Option<TenantId>) -> Result<()> {
        let deadline = self.connection.config.flush_timeout;
        let tenant = tenant.map(|t| t.as_str().to_owned()).unwrap_or_default();
        let mut client = self.client.clone();
        let message = request(proto::FlushRequest { tenant }, deadline);
        self.connection.call("flush", deadline, client.flush(message)).await?;
        Ok(())
    }
}

pub(super) fn server(service: Arc<dyn Ingester>, limits: MessageLimits) -> IngesterServer<Adapter> {
    IngesterServer::new(Adapter(service))
        .max_decoding_message_size(limits.receive)
        .max_encoding_message_size(limits.send)
}

pub(super) struct Adapter(Arc<dyn Ingester>);

type Answer<T> = std::result::Result<Response<T>, Status>;

#[async_trait]
impl ingester_server::Ingester for Adapter {
    type QueryLogsStream = Chunks<proto::LogChunk>;
    type QueryMetricStream = Chunks<proto::MetricChunk>;
    type StreamsStream = Chunks<proto::HeldStreamChunk>;
    type IdentitiesStream = Chunks<proto::IdentityChunk>;
    type CountPatternStreamsStream = Chunks<proto::PatternStreams>;
    type PatternsStream = Chunks<proto::PatternChunk>;
    type TailStream = tail::Chunks;
    type VolumesStream = Chunks<proto::VolumeChunk>;

    async fn push(
        &self,
        request: Request<proto::IngesterPushRequest>,
    ) -> Answer<proto::IngesterPushResponse> {
        let proto::IngesterPushRequest { tenant, stamp, batch } = request.into_inner();
        let stored = async {
            let tenant = convert::tenant(&tenant)?;
            let batch = batch.ok_or_else(|| Error::invalid("the request has no batch"))?.into_batch()?;
            let proto::PushStamp { origin, sequence, second } =
                stamp.ok_or_else(|| Error::invalid("the request has no stamp"))?;
            let stamp = PushStamp { origin, sequence, second, partial: false };
            self.0.push(IngesterPush { tenant, stamp, batch: Arc::new(batch) }).await
        };
        stored.await.map(|()| Response::new(proto::IngesterPushResponse {})).map_err(to_status)
    }

    async fn query_logs(&self, request: Request<proto::LogTask>) -> Answer<Self::QueryLogsStream> {
        let task = convert::log_task_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.query_logs(task).await, chunks::cut_logs)
    }

    async fn query_metric(&self, request: Request<proto::MetricTask>) -> Answer<Self::QueryMetricStream> {
        let task = convert::metric_task_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.query_metric(task).await, chunks::cut_metric)
    }

    async fn streams(&self, request: Request<proto::IngesterStreamsRequest>) -> Answer<Self::StreamsStream> {
        let streams = convert::ingester_streams_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.streams(streams).await, chunks::cut_held)
    }

    async fn identities(
        &self,
        request: Request<proto::IngesterIdentitiesRequest>,
    ) -> Answer<Self::IdentitiesStream> {
        let asked = convert::identities_request_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.identities(asked).await, chunks::cut_identities)
    }

    async fn holding(&self, _: Request<proto::HoldingRequest>) -> Answer<proto::HoldingResponse> {
        let Holding { name, oldest_stamp } = self.0.holding().await.map_err(to_status)?;
        Ok(Response::new(proto::HoldingResponse { name, oldest_stamp }))
    }

    async fn count_pattern_streams(
        &self,
        request: Request<proto::PatternsRequest>,
    ) -> Answer<Self::CountPatternStreamsStream> {
        let asked = patterns::request_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.pattern_streams(asked).await, patterns::cut_streams)
    }

    async fn patterns(&self, request: Request<proto::PatternsRequest>) -> Answer<Self::PatternsStream> {
        let asked = patterns::request_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.patterns(asked).await, patterns::cut)
    }

    async fn tail(&self, request: Request<proto::TailTask>) -> Answer<Self::TailStream> {
        let task = tail::task_from(request.into_inner()).map_err(to_status)?;
        tail::send(self.0.tail(task).await)
    }

    async fn volumes(&self, request: Request<proto::IngesterVolumesRequest>) -> Answer<Self::VolumesStream> {
        let volumes = volumes::ingester_volumes_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.volumes(volumes).await, chunks::cut_volumes)
    }

    async fn flush(&self, request: Request<proto::FlushRequest>) -> Answer<proto::FlushResponse> {
        let proto::FlushRequest { tenant } = request.into_inner();
        let flushed = async {
            let tenant = if tenant.is_empty() { None } else { Some(convert::tenant(&tenant)?) };
            self.0.flush(tenant).await
        };
        flushed.await.map(|()| Response::new(proto::FlushResponse {})).map_err(to_status)
    }
}

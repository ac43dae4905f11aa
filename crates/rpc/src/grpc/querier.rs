//! The querier across the wire.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{EntryHash, GroupVolume, Result, StreamId};
use skald_runtime::grpc::MessageLimits;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::chunks::{self, Chunks};
use super::error::to_status;
use super::proto::querier_client::QuerierClient as Generated;
use super::proto::querier_server::{self, QuerierServer};
use super::{Connection, convert, proto, request, volumes};
use crate::Querier;
use crate::ingester::StreamInfo;
use crate::querier::{
    BlockIdentitiesRequest, BlockStreamsRequest, BlockVolumesRequest, LogResult, LogTask, MetricResult,
    MetricTask,
};

/// A querier in another process.
#[derive(Clone, Debug)]
pub struct QuerierClient {
    connection: Connection,
    client: Generated<Channel>,
}

impl QuerierClient {
    /// Calls the querier at the other end of `connection`.
    pub fn new(connection: Connection) -> Self {
        let client = Generated::new(connection.channel.clone())
            .max_decoding_message_size(connection.limits.receive)
            .max_encoding_message_size(connection.limits.send);
        Self { connection, client }
    }
}

#[async_trait]
impl Querier for QuerierClient {
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::log_task_to(task), deadline);
        let answer = async { chunks::receive_logs(client.query_logs(message).await?.into_inner()).await };
        self.connection.call("log task", deadline, answer).await
    }

    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::metric_task_to(task), deadline);
        let answer = async { chunks::receive_metric(client.query_metric(message).await?.into_inner()).await };
        self.connection.call("metric task", deadline, answer).await
    }

    async fn streams(&self, streams: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::block_streams_to(streams), deadline);
        let answer = async { chunks::receive_streams(client.streams(message).await?.into_inner()).await };
        self.connection.call("streams of blocks", deadline, answer).await
    }

    async fn identities(&self, asked: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::block_identities_to(asked), deadline);
        let answer =
            async { chunks::receive_identities(client.identities(message).await?.into_inner()).await };
        self.connection.call("identities of blocks", deadline, answer).await
    }

    async fn volumes(&self, volumes: BlockVolumesRequest) -> Result<Vec<GroupVolume>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(volumes::block_volumes_to(volumes), deadline);
        let answer = async { chunks::receive_volumes(client.volumes(message).await?.into_inner()).await };
        self.connection.call("volumes of blocks", deadline, answer).await
    }
}

pub(super) fn server(service: Arc<dyn Querier>, limits: MessageLimits) -> QuerierServer<Adapter> {
    QuerierServer::new(Adapter(service))
        .max_decoding_message_size(limits.receive)
        .max_encoding_message_size(limits.send)
}

pub(super) struct Adapter(Arc<dyn Querier>);

type Answer<T> = std::result::Result<Response<T>, Status>;

#[async_trait]
impl querier_server::Querier for Adapter {
    type QueryLogsStream = Chunks<proto::LogChunk>;
    type QueryMetricStream = Chunks<proto::MetricChunk>;
    type StreamsStream = Chunks<proto::StreamChunk>;
    type IdentitiesStream = Chunks<proto::IdentityChunk>;
    type VolumesStream = Chunks<proto::VolumeChunk>;

    async fn query_logs(&self, request: Request<proto::LogTask>) -> Answer<Self::QueryLogsStream> {
        let task = convert::log_task_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.query_logs(task).await, chunks::cut_logs)
    }

    async fn query_metric(&self, request: Request<proto::MetricTask>) -> Answer<Self::QueryMetricStream> {
        let task = convert::metric_task_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.query_metric(task).await, chunks::cut_metric)
    }

    async fn streams(&self, request: Request<proto::BlockStreamsRequest>) -> Answer<Self::StreamsStream> {
        let streams = convert::block_streams_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.streams(streams).await, chunks::cut_streams)
    }

    async fn identities(
        &self,
        request: Request<proto::BlockIdentitiesRequest>,
    ) -> Answer<Self::IdentitiesStream> {
        let asked = convert::block_identities_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.identities(asked).await, chunks::cut_identities)
    }

    async fn volumes(&self, request: Request<proto::BlockVolumesRequest>) -> Answer<Self::VolumesStream> {
        let volumes = volumes::block_volumes_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.volumes(volumes).await, chunks::cut_volumes)
    }
}

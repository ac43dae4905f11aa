//! The query frontend across the wire.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{Error, Result};
use skald_runtime::grpc::MessageLimits;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::chunks::{self, Chunks};
use super::error::to_status;
use super::proto::query_frontend_client::QueryFrontendClient as Generated;
use super::proto::query_frontend_server::{self, QueryFrontendServer};
use super::{Connection, convert, patterns, proto, request, tail, volumes};
use crate::QueryFrontend;
use crate::frontend::{
    DetectedField, DetectedFieldsQuery, DetectedLabel, IndexStats, InstantQuery, MetadataRequest,
    QueryResponse, RangeQuery, VolumeQuery,
};
use crate::ingester::StreamInfo;
use crate::patterns::{PatternSeries, PatternsQuery};
use crate::tail::{TailQuery, TailStream};

/// A query frontend in another process.
#[derive(Clone, Debug)]
pub struct QueryFrontendClient {
    connection: Connection,
    client: Generated<Channel>,
}

impl QueryFrontendClient {
    /// Calls the query frontend at the other end of `connection`.
    pub fn new(connection: Connection) -> Self {
        let client = Generated::new(connection.channel.clone())
            .max_decoding_message_size(connection.limits.receive)
            .max_encoding_message_size(connection.limits.send);
        Self { connection, client }
    }
}

#[async_trait]
impl QueryFrontend for QueryFrontendClient {
    async fn query_range(&self, query: RangeQuery) -> Result<QueryResponse> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::range_query_to(query), deadline);
        let answer = async { chunks::receive_answer(client.query_range(message).await?.into_inner()).await };
        self.connection.call("range query", deadline, answer).await
    }

    async fn query(&self, query: InstantQuery) -> Result<QueryResponse> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::instant_query_to(query), deadline);
        let answer = async { chunks::receive_answer(client.query(message).await?.into_inner()).await };
        self.connection.call("instant query", deadline, answer).await
    }

    async fn label_names(&self, metadata: MetadataRequest) -> Result<Vec<String>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::metadata_to(metadata), deadline);
        let answer = async { chunks::receive_texts(client.label_names(message).await?.into_inner()).await };
        self.connection.call("label names", deadline, answer).await
    }

    async fn label_values(&self, metadata: MetadataRequest, name: &str) -> Result<Vec<String>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = proto::LabelValuesRequest {
            request: Some(convert::metadata_to(metadata)),
            name: name.to_owned(),
        };
        let message = request(message, deadline);
        let answer = async { chunks::receive_texts(client.label_values(message).await?.into_inner()).await };
        self.connection.call("label values", deadline, answer).await
    }

    async fn series(&self, metadata: MetadataRequest) -> Result<Vec<StreamInfo>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::metadata_to(metadata), deadline);
        let answer = async { chunks::receive_streams(client.series(message).await?.into_inner()).await };
        self.connection.call("series", deadline, answer).await
    }

    async fn patterns(&self, query: PatternsQuery) -> Result<Vec<PatternSeries>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(patterns::query_to(query), deadline);
        let answer = async { patterns::receive_patterns(client.patterns(message).await?.into_inner()).await };
        self.connection.call("patterns", deadline, answer).await
    }

    async fn tail(&self, query: TailQuery) -> Result<TailStream> {
        let mut client = self.client.clone();
        let message = tail::request(tail::query_to(query));
        tail::open(&self.connection, client.tail(message)).await
    }

    async fn index_stats(&self, metadata: MetadataRequest) -> Result<IndexStats> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::metadata_to(metadata), deadline);
        let stats = self.connection.call("index statistics", deadline, client.index_stats(message)).await?;
        Ok(volumes::stats_from(stats.get_ref()))
    }

    async fn volume(&self, query: VolumeQuery) -> Result<QueryResponse> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(volumes::volume_to(query), deadline);
        let answer = async { chunks::receive_answer(client.volume(message).await?.into_inner()).await };
        self.connection.call("volume", deadline, answer).await
    }

    async fn detected_labels(&self, metadata: MetadataRequest) -> Result<Vec<DetectedLabel>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(convert::metadata_to(metadata), deadline);
        let answer =
            async { chunks::receive_labels(client.detected_labels(message).await?.into_inner()).await };
        self.connection.call("detected labels", deadline, answer).await
    }

    async fn detected_fields(&self, query: DetectedFieldsQuery) -> Result<Vec<DetectedField>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(volumes::fields_query_to(query, ""), deadline);
        let answer =
            async { chunks::receive_fields(client.detected_fields(message).await?.into_inner()).await };
        self.connection.call("detected fields", deadline, answer).await
    }

    async fn detected_field_values(&self, query: DetectedFieldsQuery, name: &str) -> Result<Vec<String>> {
        let deadline = self.connection.config.query_timeout;
        let mut client = self.client.clone();
        let message = request(volumes::fields_query_to(query, name), deadline);
        let answer =
            async { chunks::receive_texts(client.detected_field_values(message).await?.into_inner()).await };
        self.connection.call("values of a detected field", deadline, answer).await
    }
}

pub(super) fn server(service: Arc<dyn QueryFrontend>, limits: MessageLimits) -> QueryFrontendServer<Adapter> {
    QueryFrontendServer::new(Adapter(service))
        .max_decoding_message_size(limits.receive)
        .max_encoding_message_size(limits.send)
}

pub(super) struct Adapter(Arc<dyn QueryFrontend>);

type Answer<T> = std::result::Result<Response<T>, Status>;

#[async_trait]
impl query_frontend_server::QueryFrontend for Adapter {
    type QueryRangeStream = Chunks<proto::QueryChunk>;
    type QueryStream = Chunks<proto::QueryChunk>;
    type LabelNamesStream = Chunks<proto::TextChunk>;
    type LabelValuesStream = Chunks<proto::TextChunk>;
    type SeriesStream = Chunks<proto::StreamChunk>;
    type PatternsStream = Chunks<proto::PatternChunk>;
    type TailStream = tail::Chunks;
    type VolumeStream = Chunks<proto::QueryChunk>;
    type DetectedLabelsStream = Chunks<proto::DetectedLabelChunk>;
    type DetectedFieldsStream = Chunks<proto::DetectedFieldChunk>;
    type DetectedFieldValuesStream = Chunks<proto::TextChunk>;

    async fn query_range(
        &self,
        request: Request<proto::RangeQueryRequest>,
    ) -> Answer<Self::QueryRangeStream> {
        let query = convert::range_query_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.query_range(query).await, chunks::cut_answer)
    }

    async fn query(&self, request: Request<proto::InstantQueryRequest>) -> Answer<Self::QueryStream> {
        let query = convert::instant_query_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.query(query).await, chunks::cut_answer)
    }

    async fn label_names(&self, request: Request<proto::MetadataRequest>) -> Answer<Self::LabelNamesStream> {
        let metadata = convert::metadata_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.label_names(metadata).await, chunks::cut_texts)
    }

    async fn label_values(
        &self,
        request: Request<proto::LabelValuesRequest>,
    ) -> Answer<Self::LabelValuesStream> {
        let proto::LabelValuesRequest { request, name } = request.into_inner();
        let metadata = request
            .ok_or_else(|| Error::invalid("the request has no time range"))
            .and_then(convert::metadata_from)
            .map_err(to_status)?;
        chunks::send(self.0.label_values(metadata, &name).await, chunks::cut_texts)
    }

    async fn series(&self, request: Request<proto::MetadataRequest>) -> Answer<Self::SeriesStream> {
        let metadata = convert::metadata_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.series(metadata).await, chunks::cut_streams)
    }

    async fn patterns(&self, request: Request<proto::PatternsQuery>) -> Answer<Self::PatternsStream> {
        let query = patterns::query_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.patterns(query).await, patterns::cut)
    }

    async fn tail(&self, request: Request<proto::TailRequest>) -> Answer<Self::TailStream> {
        let query = tail::query_from(request.into_inner()).map_err(to_status)?;
        tail::send(self.0.tail(query).await)
    }

    async fn index_stats(
        &self,
        request: Request<proto::MetadataRequest>,
    ) -> Answer<proto::IndexStatsResponse> {
        let metadata = convert::metadata_from(request.into_inner()).map_err(to_status)?;
        let stats = self.0.index_stats(metadata).await.map_err(to_status)?;
        Ok(Response::new(volumes::stats_to(stats)))
    }

    async fn volume(&self, request: Request<proto::VolumeRequest>) -> Answer<Self::VolumeStream> {
        let query = volumes::volume_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.volume(query).await, chunks::cut_answer)
    }

    async fn detected_labels(
        &self,
        request: Request<proto::MetadataRequest>,
    ) -> Answer<Self::DetectedLabelsStream> {
        let metadata = convert::metadata_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.detected_labels(metadata).await, chunks::cut_labels)
    }

    async fn detected_fields(
        &self,
        request: Request<proto::DetectedFieldsRequest>,
    ) -> Answer<Self::DetectedFieldsStream> {
        let (query, _) = volumes::fields_query_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.detected_fields(query).await, chunks::cut_fields)
    }

    async fn detected_field_values(
        &self,
        request: Request<proto::DetectedFieldsRequest>,
    ) -> Answer<Self::DetectedFieldValuesStream> {
        let (query, name) = volumes::fields_query_from(request.into_inner()).map_err(to_status)?;
        chunks::send(self.0.detected_field_values(query, &name).await, chunks::cut_texts)
    }
}

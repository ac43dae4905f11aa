//! The distributor across the wire.

use std::sync::Arc;

use async_trait::async_trait;
use skald_model::{Error, Push, Result, TenantId};
use skald_runtime::grpc::MessageLimits;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::error::to_status;
use super::proto::distributor_client::DistributorClient as Generated;
use super::proto::distributor_server::{self, DistributorServer};
use super::proto::{PushRequest, PushResponse};
use super::{Connection, EncodedBatch, convert, request};
use crate::Distributor;

/// A distributor in another process.
#[derive(Clone, Debug)]
pub struct DistributorClient {
    connection: Connection,
    client: Generated<Channel>,
}

impl DistributorClient {
    /// Calls the distributor at the other end of `connection`.
    pub fn new(connection: Connection) -> Self {
        let client = Generated::new(connection.channel.clone())
            .max_decoding_message_size(connection.limits.receive)
            .max_encoding_message_size(connection.limits.send);
        Self { connection, client }
    }
}

#[async_trait]
impl Distributor for DistributorClient {
    async fn push(&self, tenant: &TenantId, push: Push) -> Result<()> {
        let deadline = self.connection.config.remote_timeout;
        let push = Some(EncodedBatch::of_push(&push));
        let message = PushRequest { tenant: tenant.as_str().to_owned(), push };
        let mut client = self.client.clone();
        self.connection.call("push", deadline, client.push(request(message, deadline))).await?;
        Ok(())
    }
}

pub(super) fn server(service: Arc<dyn Distributor>, limits: MessageLimits) -> DistributorServer<Adapter> {
    DistributorServer::new(Adapter(service))
        .max_decoding_message_size(limits.receive)
        .max_encoding_message_size(limits.send)
}

pub(super) struct Adapter(Arc<dyn Distributor>);

#[async_trait]
impl distributor_server::Distributor for Adapter {
    async fn push(
        &self,
        request: Request<PushRequest>,
    ) -> std::result::Result<Response<PushResponse>, Status> {
        let PushRequest { tenant, push } = request.into_inner();
        let stored = async {
            let tenant = convert::tenant(&tenant)?;
            let push = push.ok_or_else(|| Error::invalid("the request has no push"))?.into_push()?;
            self.0.push(&tenant, push).await
        };
        stored.await.map(|()| Response::new(PushResponse {})).map_err(to_status)
    }
}

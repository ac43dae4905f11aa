//! Delete requests: taken, listed, cancelled.
//!
//! They lie in the object store, so any process can do this by itself; nothing of it crosses the wire.

use async_trait::async_trait;
use skald_model::{Result, TenantId, Timestamp};

/// What is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelete {
    /// Whose entries.
    pub tenant: TenantId,
    /// Which, as a log query.
    pub query: String,
    /// The first nanosecond.
    pub start: Timestamp,
    /// The last nanosecond, inclusive.
    pub end: Timestamp,
}

/// How far a delete request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteProgress {
    /// Nothing of it has been carried out.
    Received,
    /// Some of it has, in percent below 100.
    Percent(u8),
    /// All of it has.
    Processed,
}

/// A delete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteStatus {
    /// Its name.
    pub id: String,
    /// The first nanosecond.
    pub start: Timestamp,
    /// The last nanosecond, inclusive.
    pub end: Timestamp,
    /// Which entries, as it was given.
    pub query: String,
    /// How far it has come.
    pub progress: DeleteProgress,
    /// When it was accepted.
    pub created: Timestamp,
}

/// The delete requests of tenants.
#[async_trait]
pub trait DeleteRequests: Send + Sync + 'static {
    /// Accepts a request, which every query from then on obeys, and returns its name. `Kind::InvalidArgument` for a query
    /// that selects nothing that could be deleted, `Kind::LimitExceeded` when too many are open.
    async fn add(&self, request: NewDelete) -> Result<String>;

    /// The requests of a tenant, oldest first.
    async fn list(&self, tenant: &TenantId) -> Result<Vec<DeleteStatus>>;

    /// Takes a request back. `Kind::NotFound` if there is none of this name, `Kind::InvalidArgument` if it has been carried
    /// out, or in part without `force`.
    async fn cancel(&self, tenant: &TenantId, id: &str, force: bool) -> Result<()>;

    /// A number that grows when the requests of the tenant change.
    async fn generation(&self, tenant: &TenantId) -> Result<u64>;
}

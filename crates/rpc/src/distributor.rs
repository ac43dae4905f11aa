//! The service that takes pushes in.

use async_trait::async_trait;
use skald_model::{Push, Result, TenantId};

/// Validates pushes and hands them to the ingesters.
#[async_trait]
pub trait Distributor: Send + Sync + 'static {
    /// Stores a push. `Ok` means: on the write-ahead log of a quorum of ingesters.
    ///
    /// When some entries were refused and the others stored, the error is the refusal (Loki answers 400 or 429 then,
    /// too). `Kind::Unavailable`, `Kind::LimitExceeded` and `Kind::Internal` may be retried: a repeated entry is one entry.
    async fn push(&self, tenant: &TenantId, push: Push) -> Result<()>;
}

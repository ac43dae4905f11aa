//! Takes, lists and cancels delete requests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use skald_model::{Error, Result, TenantId};
use skald_rpc::deletes::{DeleteProgress, DeleteRequests, DeleteStatus, NewDelete};
use skald_runtime::Clock;
use skald_storage::table::Snapshot;

use crate::lists::DeleteLists;
use crate::metrics::Metrics;
use crate::removals::Delete;
use crate::requests::{DeleteRequest, QUERY_BYTES_MAX, nanos};

/// The service over the lists in the store.
pub struct Service {
    lists: Arc<DeleteLists>,
    clock: Arc<dyn Clock>,
    cancel_period: Duration,
    metrics: Metrics,
}

impl Service {
    /// A service over `lists`; requests can be taken back for `cancel_period`.
    ///
    /// # Errors
    /// When the registry holds metrics of the same names already.
    pub fn new(
        lists: Arc<DeleteLists>,
        clock: Arc<dyn Clock>,
        cancel_period: Duration,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        Ok(Self { lists, clock, cancel_period, metrics: Metrics::new(registry)? })
    }
}

#[async_trait]
impl DeleteRequests for Service {
    async fn add(&self, request: NewDelete) -> Result<String> {
        let NewDelete { tenant, query, start, end } = request;
        if query.len() > QUERY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the query of a delete request has {} bytes; the limit is {QUERY_BYTES_MAX}",
                query.len()
            )));
        }
        if start > end {
            return Err(Error::invalid("start time can't be greater than end time"));
        }
        let id = format!("{:016x}", skald_runtime::random());
        let created = self.clock.now();
        let request =
            DeleteRequest { id: id.clone(), query, start, end, created, generation: 0, processed: None };
        // Says what is wrong with the query before anything is written.
        Delete::compile(request.rule())?;
        self.lists.update(&tenant, |loaded, _| Ok((loaded.list.with(request.clone(), created)?, ()))).await?;
        self.metrics.received.with_label_values(&[tenant.as_str()]).inc();
        tracing::info!(%tenant, delete_request_id = id, query = request.query, start, end, "delete request added");
        Ok(id)
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<DeleteStatus>> {
        let snapshot = self.lists.catalog().snapshot(tenant).await?;
        let loaded = self.lists.at(tenant, &snapshot).await?.unwrap_or_default();
        let now = self.clock.now();
        let status = |(request, delete): (&DeleteRequest, &Arc<Delete>)| DeleteStatus {
            id: request.id.clone(),
            start: request.start,
            end: request.end,
            query: request.query.clone(),
            progress: progress(request, delete, &snapshot, now, self.cancel_period),
            created: request.created,
        };
        let mut all: Vec<_> = loaded.list.requests.iter().zip(&loaded.deletes).map(status).collect();
        all.sort_by_key(|s| s.created);
        Ok(all)
    }

    async fn cancel(&self, tenant: &TenantId, id: &str, force: bool) -> Result<()> {
        let now = self.clock.now();
        let mut tried = false;
        let change = |loaded: &crate::Loaded, snapshot: &Snapshot| {
            // Gone after a try of ours that may have happened: it has.
            if std::mem::replace(&mut tried, true) && loaded.list.find(id).is_none() {
                return Ok((None, ()));
            }
            let is_begun = |request: &DeleteRequest| {
                let delete = loaded.deletes.iter().find(|d| d.rule().generation == request.generation);
                delete.is_some_and(|d| {
                    progress(request, d, snapshot, now, self.cancel_period) != DeleteProgress::Received
                })
            };
            Ok((Some(loaded.list.without(id, force, now, is_begun)?), ()))
        };
        self.lists.update(tenant, change).await?;
        self.metrics.cancelled.with_label_values(&[tenant.as_str()]).inc();
        tracing::info!(%tenant, delete_request_id = id, "delete request cancelled");
        Ok(())
    }

    async fn generation(&self, tenant: &TenantId) -> Result<u64> {
        Ok(self.lists.catalog().snapshot(tenant).await?.deletes())
    }
}

/// How far a request has come, in stored bytes of the blocks that it is about. Once no block is due it shows as processed.
/// It is obeyed further until it is marked so: what is in memory is left out when it is flushed, and a flush under way that
/// did not know of the request may still bring some, which is then taken out as well.
pub(crate) fn progress(
    request: &DeleteRequest,
    delete: &Delete,
    snapshot: &Snapshot,
    now: i64,
    cancel_period: Duration,
) -> DeleteProgress {
    if request.processed.is_some() {
        return DeleteProgress::Processed;
    }
    if !request.is_final(now, cancel_period) {
        return DeleteProgress::Received;
    }
    let (mut done, mut all) = (0u128, 0u128);
    for block in snapshot.blocks.iter().filter(|b| delete.is_about(b)) {
        let size = u128::from(block.size().max(1));
        all += size;
        done += if delete.is_due(block) { 0 } else { size };
    }
    match (done * 100).checked_div(all) {
        Some(0) => DeleteProgress::Received,
        None | Some(100) => DeleteProgress::Processed,
        Some(percent) => DeleteProgress::Percent(percent as u8),
    }
}

/// The requests that have been carried out for good at `now`: they can no longer be taken back, no block of the table is
/// due, and whatever was being committed when they became final has been for `settle`.
///
/// `snapshot` must have been taken at `now` or later.
pub fn finished(
    loaded: &crate::Loaded,
    snapshot: &Snapshot,
    now: i64,
    cancel_period: Duration,
    settle: Duration,
) -> Vec<String> {
    let (ready, _) = loaded.list.ready(now, cancel_period);
    let done = |(request, delete): &(&DeleteRequest, &Arc<Delete>)| {
        request.processed.is_none()
            && now >= request.final_at(cancel_period).saturating_add(nanos(settle))
            && !snapshot.blocks.iter().any(|b| delete.is_due(b))
    };
    ready.iter().zip(&loaded.deletes).filter(done).map(|(request, _)| request.id.clone()).collect()
}

#[cfg(test)]
mod tests;

//! Where the requests of tenants lie: `<tenant>/_skald/deletes/<generation>.json`, each the whole list.
//!
//! A list is created under the next number, which only one can do, and then the tenant's table is told that number, in a
//! commit of its own. So a query finds out with the snapshot that it takes anyway whether anything has changed, and reads
//! a list only once per process. Who dies between the two steps leaves a list that nobody was promised; whoever comes
//! next tells the table for it, and goes on from there.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use skald_model::{Error, Result, TenantId, Timestamp};
use skald_storage::store::delete_if_there;
use skald_storage::table::{Catalog, Snapshot};

use crate::removals::Delete;
use crate::requests::{DeleteList, DeleteRequest};

/// Lists of so many tenants are kept in memory.
const LISTS_MAX: u64 = 1024;
/// How often a change is tried while others change the list, too.
const TRIES: usize = 16;
/// Older lists that stay, for those who still read an older version of the table.
const KEPT: u64 = 64;

/// The lists of all tenants.
#[derive(Debug)]
pub struct DeleteLists {
    catalog: Arc<Catalog>,
    known: moka::sync::Cache<(TenantId, u64), Arc<Loaded>>,
    /// The newest list that this process has read of each tenant.
    newest: moka::sync::Cache<TenantId, Arc<Loaded>>,
}

/// A list, and its requests compiled.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The list.
    pub list: DeleteList,
    /// Its requests, in the same order.
    pub deletes: Vec<Arc<Delete>>,
    /// The seconds in which they were accepted, sorted.
    pub accepted: Vec<i64>,
}

/// A change of a list: the next one, or `None` to leave it, and what to return.
pub type Change<T> = (Option<DeleteList>, T);

impl Loaded {
    fn new(list: DeleteList) -> Result<Self> {
        let deletes = list.requests.iter().map(|r| Delete::compile(r.rule()).map(Arc::new));
        let mut accepted: Vec<i64> = list.requests.iter().map(DeleteRequest::accepted).collect();
        accepted.sort_unstable();
        accepted.dedup();
        Ok(Self { deletes: deletes.collect::<Result<_>>()?, list, accepted })
    }
}

impl DeleteLists {
    /// The lists beside the tables of `catalog`.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        let (known, newest) = (moka::sync::Cache::new(LISTS_MAX), moka::sync::Cache::new(LISTS_MAX));
        Self { catalog, known, newest }
    }

    /// The tables.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The requests that count at `snapshot`; `None` when there never were any. Costs a request if they have changed.
    pub async fn at(&self, tenant: &TenantId, snapshot: &Snapshot) -> Result<Option<Arc<Loaded>>> {
        match snapshot.deletes() {
            0 => Ok(None),
            generation => self.load(tenant, generation).await.map(Some),
        }
    }

    /// The newest requests of a tenant that this process has seen lately, without a look at the store.
    pub fn newest(&self, tenant: &TenantId) -> Option<Arc<Loaded>> {
        self.newest.get(tenant)
    }

    /// Changes the requests of a tenant. `change` gets the newest list and the snapshot that it belongs to, and may be
    /// asked again when somebody else was faster; when it is, its own change may be in the list already.
    pub async fn update<T>(
        &self,
        tenant: &TenantId,
        mut change: impl FnMut(&Loaded, &Snapshot) -> Result<Change<T>>,
    ) -> Result<T> {
        for _ in 0..TRIES {
            let snapshot = self.catalog.snapshot(tenant).await?;
            let loaded = self.at(tenant, &snapshot).await?.unwrap_or_default();
            let (next, value) = change(&loaded, &snapshot)?;
            let Some(next) = next else { return Ok(value) };
            let generation = next.generation;
            let is_ours = self.create(tenant, &next).await?;
            // Another's list is made to count, too: it may have died before it could do that.
            self.catalog.commit_deletes(tenant, generation).await?;
            if is_ours {
                self.keep(tenant, Arc::new(Loaded::new(next)?));
                self.forget(tenant, generation).await;
                return Ok(value);
            }
        }
        Err(Error::unavailable(format!(
            "the delete requests of tenant {tenant} are changed by others all the time; nothing was changed, try again"
        )))
    }

    /// Notes that requests have been carried out.
    pub async fn mark_processed(&self, tenant: &TenantId, ids: &[String], now: Timestamp) -> Result<()> {
        self.update(tenant, |loaded, _| Ok((loaded.list.with_processed(ids, now), ()))).await
    }

    async fn load(&self, tenant: &TenantId, generation: u64) -> Result<Arc<Loaded>> {
        let key = (tenant.clone(), generation);
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let location = self.location(tenant, generation);
        let bytes = self.read(&location).await.map_err(|e| {
            Error::unavailable(format!(
                "failed to read the delete requests of tenant {tenant} at {location}: {e}"
            ))
        })?;
        let damaged = |e: &dyn std::fmt::Display| {
            Error::internal(format!(
                "the delete requests of tenant {tenant} at {location} cannot be used: {e}"
            ))
        };
        let list = DeleteList::parse(&bytes).map_err(|e| damaged(&e))?;
        let loaded = Arc::new(Loaded::new(list).map_err(|e| damaged(&e))?);
        self.keep(tenant, loaded.clone());
        Ok(loaded)
    }

    fn keep(&self, tenant: &TenantId, loaded: Arc<Loaded>) {
        let generation = loaded.list.generation;
        self.known.insert((tenant.clone(), generation), loaded.clone());
        if self.newest.get(tenant).is_none_or(|known| known.list.generation < generation) {
            self.newest.insert(tenant.clone(), loaded);
        }
    }

    /// Whether the list that lies under its number now is this one.
    async fn create(&self, tenant: &TenantId, list: &DeleteList) -> Result<bool> {
        let location = self.location(tenant, list.generation);
        let failed = |e: &dyn std::fmt::Display| {
            Error::unavailable(format!(
                "failed to write the delete requests of tenant {tenant} to {location}: {e}"
            ))
        };
        let bytes = Bytes::from(serde_json::to_vec(list).map_err(|e| failed(&e))?);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.catalog.store().put_opts(&location, bytes.clone().into(), options).await {
            Ok(_) => Ok(true),
            // Perhaps our own, whose answer was lost.
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(self.read(&location).await.map_err(|e| failed(&e))? == bytes)
            }
            Err(e) => Err(failed(&e)),
        }
    }

    async fn read(&self, location: &Path) -> object_store::Result<Bytes> {
        self.catalog.store().get(location).await?.bytes().await
    }

    /// Deletes the list that nobody can need any more, now that there is one more.
    async fn forget(&self, tenant: &TenantId, generation: u64) {
        let Some(old) = generation.checked_sub(KEPT).filter(|g| *g > 0) else { return };
        let location = self.location(tenant, old);
        if let Err(error) = delete_if_there(self.catalog.store(), &location).await {
            tracing::warn!(%tenant, %location, %error, "failed to remove old delete requests");
        }
    }

    fn location(&self, tenant: &TenantId, generation: u64) -> Path {
        self.catalog.location(tenant, &format!("_skald/deletes/{generation:010}.json"))
    }
}

#[cfg(test)]
mod tests;

//! What a tenant's queries must not see at one version of its table.

use std::sync::Arc;
use std::time::Duration;

use skald_model::limits::DeletionMode;
use skald_model::{Error, Limits, Result, Retention, TenantId, TenantLimits, Timestamp};
use skald_storage::table::{Catalog, Snapshot};

use crate::flush::AtFlush;
use crate::lists::{DeleteLists, Loaded};
use crate::removals::Removals;

/// Puts rules of retention and delete requests together.
pub struct Resolver {
    lists: Arc<DeleteLists>,
    pub(crate) limits: Arc<dyn TenantLimits>,
    pub(crate) retention_enabled: bool,
    compiled: moka::sync::Cache<TenantId, Compiled>,
}

/// Rules as they were compiled last.
#[derive(Clone)]
struct Compiled {
    /// The limits that they are of.
    of: Arc<Limits>,
    rules: Arc<Retention>,
}

/// Tenants whose rules are kept compiled.
const COMPILED_MAX: u64 = 1024;

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("retention_enabled", &self.retention_enabled).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver of the requests beside the tables of `catalog` and the rules in `limits`.
    pub fn new(catalog: Arc<Catalog>, limits: Arc<dyn TenantLimits>, retention_enabled: bool) -> Self {
        let lists = Arc::new(DeleteLists::new(catalog));
        Self { lists, limits, retention_enabled, compiled: moka::sync::Cache::new(COMPILED_MAX) }
    }

    /// The requests.
    pub fn lists(&self) -> &Arc<DeleteLists> {
        &self.lists
    }

    /// What is deleted and has expired at `snapshot` and `now`; `None` when everything stays.
    pub async fn at(
        &self,
        tenant: &TenantId,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<Option<Arc<Removals>>> {
        let limits = self.limits.of(tenant);
        let loaded = match limits.deletion_mode {
            DeletionMode::Disabled => None,
            DeletionMode::FilterOnly | DeletionMode::FilterAndDelete => {
                self.lists.at(tenant, snapshot).await?
            }
        };
        let retention = self.retention(tenant, &limits)?;
        let sized = self.retention_enabled && limits.retention_bytes > 0;
        if loaded.is_none() && retention.is_empty() && !sized {
            return Ok(None);
        }
        let Loaded { list, deletes, accepted: _ } = &*loaded.unwrap_or_default();
        let mut removals = Removals::new(list.generation, deletes.clone(), &retention, now);
        if sized {
            removals = removals.with_size(snapshot.blocks.iter().map(|b| &**b), limits.retention_bytes);
        }
        Ok((!removals.is_empty()).then(|| Arc::new(removals)))
    }

    /// What whoever rewrites blocks has to do at `snapshot` and `now`: what expires, and the requests that can no longer be
    /// taken back; its [`generation`](Removals::generation) is that up to which these are all there are. Beside it all
    /// requests, by which [`Removals::merged`] tells what may be merged.
    pub async fn to_carry_out(
        &self,
        tenant: &TenantId,
        snapshot: &Snapshot,
        now: Timestamp,
        cancel_period: Duration,
    ) -> Result<(Removals, Removals)> {
        let limits = self.limits.of(tenant);
        let loaded = self.lists.at(tenant, snapshot).await?.unwrap_or_default();
        let AtFlush { generation, done, .. } = AtFlush::new(&loaded, &limits, now, cancel_period);
        let retention = self.retention(tenant, &limits)?;
        let mut work = Removals::new(done.generation(), done.deletes.clone(), &retention, now);
        if self.retention_enabled {
            work = work.with_size(snapshot.blocks.iter().map(|b| &**b), limits.retention_bytes);
        }
        let all = Removals { generation, deletes: loaded.deletes.clone(), ..Removals::default() };
        Ok((work, all))
    }

    /// What has expired by age at `now`, without a look at the table; `None` when nothing does.
    pub fn expired(&self, tenant: &TenantId, now: Timestamp) -> Result<Option<Removals>> {
        let retention = self.retention(tenant, &self.limits.of(tenant))?;
        Ok((!retention.is_empty()).then(|| Removals::new(0, Vec::new(), &retention, now)))
    }

    /// The tenant's rules.
    pub fn retention(&self, tenant: &TenantId, limits: &Arc<Limits>) -> Result<Arc<Retention>> {
        if !self.retention_enabled || (limits.retention_period == 0 && limits.retention_stream.is_empty()) {
            return Ok(Arc::default());
        }
        if let Some(known) = self.compiled.get(tenant)
            && Arc::ptr_eq(&known.of, limits)
        {
            return Ok(known.rules);
        }
        let rules = Retention::of(limits)
            .map_err(|e| Error::internal(format!("the limits of tenant {tenant} cannot be used: {e}")))?;
        let rules = Arc::new(rules);
        self.compiled.insert(tenant.clone(), Compiled { of: limits.clone(), rules: rules.clone() });
        Ok(rules)
    }
}

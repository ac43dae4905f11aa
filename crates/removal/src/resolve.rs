//! What a tenant's queries must not see at one version of its table.

use std::sync::Arc;

use skald_model::limits::DeletionMode;
use skald_model::{Error, Limits, Result, Retention, TenantId, TenantLimits, Timestamp};
use skald_storage::table::{Catalog, Snapshot};

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

//! What the compactor knows of the tables that are its own, for people.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use skald_model::TenantId;
use skald_rpc::compaction::TableStatus;
use skald_storage::table::Snapshot;

/// Takes in what a snapshot tells.
pub(crate) fn look_at(status: &mut TableStatus, snapshot: &Snapshot) {
    let blocks = || snapshot.blocks.iter();
    status.version = snapshot.version;
    status.blocks = blocks().count() as u64;
    status.blocks_flushed = blocks().filter(|b| b.origin.level == 0).count() as u64;
    status.bytes = blocks().map(|b| b.size()).sum();
    status.raw_bytes = blocks().map(|b| b.summary.raw_bytes).sum();
    status.rows = blocks().map(|b| b.summary.rows).sum();
    status.oldest_entry = blocks().map(|b| b.summary.min_ts).min();
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Status(Mutex<BTreeMap<TenantId, TableStatus>>);

impl Status {
    pub(crate) fn all(&self) -> Vec<TableStatus> {
        self.0.lock().values().cloned().collect()
    }

    /// A tenant's.
    pub(crate) fn of(&self, tenant: &TenantId) -> TableStatus {
        self.0.lock().get(tenant).cloned().unwrap_or_default()
    }

    /// Changes what is known of a tenant.
    pub(crate) fn change(&self, tenant: &TenantId, change: impl FnOnce(&mut TableStatus)) {
        let mut all = self.0.lock();
        let status = all
            .entry(tenant.clone())
            .or_insert_with(|| TableStatus { tenant: tenant.to_string(), ..TableStatus::default() });
        change(status);
    }

    /// Forgets tenants that are another's now.
    pub(crate) fn retain(&self, keep: impl Fn(&TenantId) -> bool) {
        self.0.lock().retain(|tenant, _| keep(tenant));
    }
}

//! What the compactor knows of the tables that are its own, for people.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;
use skald_model::{TenantId, Timestamp};
use skald_storage::table::Snapshot;

/// A tenant's table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TenantStatus {
    /// The tenant.
    pub tenant: String,
    /// Version of its table.
    pub version: i64,
    /// Blocks, flushed ones among them.
    pub blocks: u64,
    /// Blocks as they were flushed.
    pub blocks_flushed: u64,
    /// Bytes of all blocks.
    pub bytes: u64,
    /// Bytes of all lines.
    pub raw_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Time of the oldest entry, nanoseconds; absent without any.
    pub oldest_entry: Option<Timestamp>,
    /// Merges that are due.
    pub pending_merges: u64,
    /// Bytes that they read.
    pub pending_bytes: u64,
    /// Blocks that go, or are rewritten because something in them has to.
    pub pending_removals: u64,
    /// When it was looked at last, nanoseconds.
    pub last_run: Option<Timestamp>,
    /// What went wrong then, if something did.
    pub last_error: Option<String>,
    /// Bytes that were read by rewrites since the start of the process.
    pub rewritten_bytes_read: u64,
    /// Bytes that were written by them.
    pub rewritten_bytes_written: u64,
    /// Files that were removed since then.
    pub files_removed: u64,
}

impl TenantStatus {
    /// Takes in what a snapshot tells.
    pub(crate) fn look_at(&mut self, snapshot: &Snapshot) {
        let blocks = || snapshot.blocks.iter();
        self.version = snapshot.version;
        self.blocks = blocks().count() as u64;
        self.blocks_flushed = blocks().filter(|b| b.origin.level == 0).count() as u64;
        self.bytes = blocks().map(|b| b.size()).sum();
        self.raw_bytes = blocks().map(|b| b.summary.raw_bytes).sum();
        self.rows = blocks().map(|b| b.summary.rows).sum();
        self.oldest_entry = blocks().map(|b| b.summary.min_ts).min();
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Status(Mutex<BTreeMap<TenantId, TenantStatus>>);

impl Status {
    pub(crate) fn all(&self) -> Vec<TenantStatus> {
        self.0.lock().values().cloned().collect()
    }

    /// Changes what is known of a tenant.
    pub(crate) fn change(&self, tenant: &TenantId, change: impl FnOnce(&mut TenantStatus)) {
        let mut all = self.0.lock();
        let status = all
            .entry(tenant.clone())
            .or_insert_with(|| TenantStatus { tenant: tenant.to_string(), ..TenantStatus::default() });
        change(status);
    }

    /// Forgets tenants that are another's now.
    pub(crate) fn retain(&self, keep: impl Fn(&TenantId) -> bool) {
        self.0.lock().retain(|tenant, _| keep(tenant));
    }
}

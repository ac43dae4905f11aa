//! The compactor: keeps tables small, sorted and clean.
//!
//! It merges the small blocks that ingesters flush into large ones ([`plan`] says which), takes out what has to go when a
//! [`KeepProvider`] says so, checkpoints tables and cleans their logs, and removes files that no table names any more
//! ([`vacuum`]). Any number of compactors may run: tenants are spread over those that are alive ([`ownership`]), and when
//! two believe that a tenant is theirs, the table lets one of their rewrites win.
//!
//! It never holds a block in memory, never deletes a file that a table names or that a commit under way may name, and
//! never changes what a query answers, unless a provider says what goes.

pub mod archive;
mod config;
pub mod keep;
mod metrics;
mod outbox;
pub mod ownership;
pub mod plan;
mod restore;
mod rules;
mod run;
mod status;
pub mod vacuum;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Registry;
use skald_model::TenantId;
use skald_rpc::Compaction;
use skald_rpc::compaction::TableStatus;
use skald_runtime::{Clock, Tasks};
use skald_storage::table::Catalog;
use tokio::time::Instant;

pub use config::Config;
pub use keep::{KeepEverything, KeepProvider, Removals};
use metrics::Metrics;
use ownership::Ownership;
pub use restore::{Restored, restore};
pub use rules::Rules;
use status::Status;

/// What a compactor works with.
pub struct Parts {
    /// Its name, unique among compactors, `0-9A-Za-z._-`.
    pub name: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The tables.
    pub catalog: Arc<Catalog>,
    /// Which tenants are its own.
    pub ownership: Arc<dyn Ownership>,
    /// What has to go.
    pub keep: Arc<dyn KeepProvider>,
    /// Where entries go before they expire; nowhere if there is none.
    pub archive: Option<Arc<Catalog>>,
    /// How long after the last entry of a block was received its list of pushes is needed; see [`settle_after`].
    pub settle_after: Duration,
}

/// The service. See the crate's documentation.
pub struct Compactor {
    pub(crate) config: Config,
    pub(crate) parts: Parts,
    pub(crate) metrics: Metrics,
    pub(crate) status: Status,
    /// The number of the last list of each tenant that is known to be in the archive.
    pub(crate) delivered: Mutex<HashMap<TenantId, i64>>,
    /// When each table was vacuumed last.
    pub(crate) vacuumed: Mutex<HashMap<TenantId, Instant>>,
}

impl Compactor {
    /// A compactor that does nothing yet.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(config: &Config, parts: Parts, registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let metrics = Metrics::new(registry)?;
        Ok(Arc::new(Self {
            config: config.clone(),
            parts,
            metrics,
            status: Status::default(),
            delivered: Mutex::default(),
            vacuumed: Mutex::default(),
        }))
    }

    /// Starts to work, as a task that ends with the others.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) {
        let compactor = self.clone();
        tasks.spawn("compactor", move |token| async move { compactor.run(token).await });
    }
}

impl Compaction for Compactor {
    fn tables(&self) -> Vec<TableStatus> {
        self.status.all()
    }
}

/// How long a block's list of pushes has to stay: until every replica that holds the same pushes has sealed them, waited
/// for its turn, and looked. One that comes later than that writes its copies again, and the next merge erases them.
pub fn settle_after(
    flush_interval: Duration,
    max_flush_delay: Duration,
    flush_grace: Duration,
    takeover_after: Duration,
) -> Duration {
    // A stamp may lie an epoch off, and an epoch begins at an offset by tenant; of the replicas the last waits twice.
    max_flush_delay + flush_interval * 2 + flush_grace + takeover_after * 4
}

//! Compactors: processes that come, work on the tables for a while, and may be killed at anything.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use skald_compactor::ownership::OwnsAll;
use skald_compactor::{Compactor, Config, Parts, Rules};
use skald_rpc::Compaction as _;
use skald_runtime::Clock;

use crate::cluster::{CANCEL_PERIOD, Cluster};
use crate::trace::note;

/// How long a compactor waits before it takes blocks that have lists of pushes, by the settings of the ingesters.
pub fn settle_after() -> Duration {
    let of = crate::cluster::ingester_times();
    skald_compactor::settle_after(of.flush_interval, of.max_flush_delay, of.flush_grace, of.takeover_after)
}

/// Length of slices.
pub const SLICE: Duration = Duration::from_secs(600);

impl Cluster {
    /// Runs a compactor that believes that every table is its own, for one round, and kills it when that has not ended after
    /// `patience`. Whether it ended, and without an error.
    pub async fn compact(&self, name: &str, settle_after: Duration, patience: Duration) -> bool {
        note!(self.0.trace, "{name} compacts for at most {patience:?}");
        let registry = Registry::new();
        let catalog = self.catalog_of(name, &registry);
        let clock: Arc<dyn Clock> = Arc::new(self.0.clock.beside());
        let removal = skald_removal::Config {
            delete_request_cancel_period: CANCEL_PERIOD,
            retention_enabled: !self.0.setup.retention.is_zero(),
            ..skald_removal::Config::default()
        };
        let limits = Arc::new(self.0.limits.clone());
        let rules = Rules::new(catalog.clone(), limits, clock.clone(), &removal, settle_after);
        let parts = Parts {
            name: name.to_owned(),
            clock,
            catalog,
            ownership: Arc::new(OwnsAll),
            keep: Arc::new(rules),
            archive: None,
            settle_after,
        };
        let config = Config {
            min_blocks: 2,
            memory_budget: 32 << 20,
            target_block_bytes: 8 << 10,
            slice_duration: SLICE,
            close_after: Duration::from_secs(20),
            late_after: Duration::from_secs(60),
            ..Config::default()
        };
        let compactor = Compactor::new(&config, parts, &registry).expect("a new registry");
        let ended = tokio::time::timeout(patience, compactor.round()).await.is_ok();
        let failed = compactor.tables().iter().any(|s| s.last_error.is_some());
        note!(self.0.trace, "{name} has ended: {ended}, failed: {failed}");
        ended && !failed
    }
}

//! Settings of the query frontend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the query frontend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most bytes of remembered answers to label, series and volume requests. More makes dashboards' variables and label
    /// browsers cheaper, less saves memory. Answers are remembered per table version, so they are never stale.
    pub metadata_cache_bytes: u64,
    /// How long a live tail may last. Its reader then has to ask again, which moves it to the members of that time.
    #[serde(with = "skald_runtime::units::duration")]
    pub tail_max_duration: Duration,
    /// Most bytes of entries that a live tail with `delay_for` holds back; beyond it they are sent early.
    #[serde(with = "skald_runtime::units::bytes")]
    pub tail_buffer_bytes: u64,
    /// How long an ingester may take to answer while the query can go on without it. More rides out slow moments, less
    /// answers sooner while an ingester hangs.
    #[serde(with = "skald_runtime::units::duration")]
    pub ingester_timeout: Duration,
    /// Tasks that may wait for their turn, per tenant; beyond it queries are refused with 429.
    pub max_outstanding_per_tenant: usize,
    /// Tasks that a querier gets from this frontend at a time. Beyond it they go to the next querier; when all have so
    /// many, tasks wait, and tenants take turns. More keeps queriers busy while the store is slow, less is fairer.
    pub max_tasks_per_querier: usize,
    /// Whether anything expires by age or size.
    pub retention_enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metadata_cache_bytes: 16 << 20,
            tail_max_duration: Duration::from_secs(3600),
            tail_buffer_bytes: 4 << 20,
            ingester_timeout: Duration::from_secs(10),
            max_outstanding_per_tenant: 2048,
            max_tasks_per_querier: 32,
            retention_enabled: false,
        }
    }
}

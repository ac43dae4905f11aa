//! Settings of removals; they stand in Loki's section `compactor`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of removals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whether anything expires by age or size. Off, `retention_period` and the like have no effect.
    pub retention_enabled: bool,
    /// How long a delete request can be cancelled. Queries obey it at once; what it names is removed afterwards.
    #[serde(with = "skald_runtime::units::duration")]
    pub delete_request_cancel_period: Duration,
    /// The longest `max_interval` of a delete request; 0 is no limit. Loki cuts requests with filters into such pieces;
    /// here it only decides which requests are refused.
    #[serde(with = "skald_runtime::units::duration")]
    pub delete_max_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { retention_enabled: false, delete_request_cancel_period: day, delete_max_interval: day }
    }
}

//! Settings of the HTTP surface.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the HTTP surface. The names are Loki's where Loki has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether requests must name their tenant in `X-Scope-OrgID`. Off, the header is ignored and all data belongs
    /// to `no_auth_tenant`.
    pub auth_enabled: bool,
    /// The tenant of all requests when `auth_enabled` is off.
    pub no_auth_tenant: String,
    /// Longest body of a push as it comes over the wire, in bytes. Larger ones are refused with 413; more lets one
    /// request take more memory.
    pub max_recv_msg_size: usize,
    /// Longest body of a push after decompression, in bytes, below 4 GiB. A push takes this much memory and some
    /// more while it is decoded and until it is flushed.
    pub max_decompressed_size: usize,
    /// Most memory of pushes on their way over all requests, in bytes, decoded bodies included. Further ones wait for
    /// `inflight_wait` and are then refused with 429. Less may refuse bursts that memory had room for.
    pub inflight_bytes_max: usize,
    /// How long a push waits for that memory.
    pub inflight_wait: Duration,
    /// Whether a query may be for several tenants, named as `a|b`.
    pub multi_tenant_queries_enabled: bool,
    /// Whether a request may tighten the limits of its query by the header `X-Loki-Query-Limits`.
    pub per_request_limits_enabled: bool,
    /// Whether answers are compressed with gzip when the client accepts that and they are worth it.
    pub compress_responses: bool,
    /// Whether patterns of lines are found, as Logs Drilldown is told.
    pub patterns_enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            auth_enabled: true,
            no_auth_tenant: "fake".to_owned(),
            max_recv_msg_size: 100 << 20,
            max_decompressed_size: 256 << 20,
            inflight_bytes_max: 192 << 20,
            inflight_wait: Duration::from_secs(2),
            multi_tenant_queries_enabled: false,
            per_request_limits_enabled: false,
            compress_responses: true,
            patterns_enabled: true,
        }
    }
}

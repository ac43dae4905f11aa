//! Settings of the HTTP surface.

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
    /// Whether answers are compressed with gzip when the client accepts that and they are worth it.
    pub compress_responses: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            auth_enabled: true,
            no_auth_tenant: "fake".to_owned(),
            max_recv_msg_size: 100 << 20,
            max_decompressed_size: 256 << 20,
            compress_responses: true,
        }
    }
}

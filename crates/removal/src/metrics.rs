//! The instruments of this crate.

use prometheus::{IntCounterVec, Registry};
use skald_runtime::Instruments;

/// See the module's page.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) received: IntCounterVec,
    pub(crate) cancelled: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = Instruments(registry);
        Ok(Self {
            received: r.counters(
                "loki_compactor_delete_requests_received_total",
                "Delete requests that were accepted, by tenant.",
                &["user"],
            )?,
            cancelled: r.counters(
                "skald_delete_requests_cancelled_total",
                "Delete requests that were taken back, by tenant.",
                &["user"],
            )?,
        })
    }
}

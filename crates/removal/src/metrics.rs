//! The instruments of this crate.

use prometheus::{IntCounterVec, Opts, Registry};

/// See the module's page.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) received: IntCounterVec,
    pub(crate) cancelled: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["user"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            received: counter(
                "loki_compactor_delete_requests_received_total",
                "Delete requests that were accepted, by tenant.",
            )?,
            cancelled: counter(
                "skald_delete_requests_cancelled_total",
                "Delete requests that were taken back, by tenant.",
            )?,
        })
    }
}

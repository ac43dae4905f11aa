//! The instruments of the distributor, with Loki's names.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use skald_model::TenantId;

use crate::validate::Refused;

pub(crate) struct Metrics {
    bytes_received: IntCounterVec,
    lines_received: IntCounterVec,
    discarded_samples: IntCounterVec,
    discarded_bytes: IntCounterVec,
    pub(crate) append_failures: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let vec = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let v = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(v.clone()))?;
            Ok(v)
        };
        let append_failures = IntCounter::new(
            "loki_distributor_ingester_append_failures_total",
            "Pushes that could not be handed to enough ingesters.",
        )?;
        registry.register(Box::new(append_failures.clone()))?;
        Ok(Self {
            bytes_received: vec(
                "loki_distributor_bytes_received_total",
                "Bytes of lines and structured metadata received, per tenant.",
                &["tenant", "retention_hours", "is_internal_stream", "policy", "format"],
            )?,
            lines_received: vec(
                "loki_distributor_lines_received_total",
                "Lines received, per tenant.",
                &["tenant", "is_internal_stream", "policy"],
            )?,
            discarded_samples: vec(
                "loki_discarded_samples_total",
                "Entries refused, by reason.",
                &["reason", "tenant"],
            )?,
            discarded_bytes: vec(
                "loki_discarded_bytes_total",
                "Bytes of refused entries, by reason.",
                &["reason", "tenant"],
            )?,
            append_failures,
        })
    }

    pub(crate) fn received(&self, tenant: &TenantId, lines: u64, bytes: u64) {
        let tenant = tenant.as_str();
        self.bytes_received.with_label_values(&[tenant, "", "false", "", "loki"]).inc_by(bytes);
        self.lines_received.with_label_values(&[tenant, "false", ""]).inc_by(lines);
    }

    pub(crate) fn rate_limited(&self, tenant: &TenantId, lines: u64, bytes: u64) {
        self.discard("rate_limited", tenant, lines, bytes);
    }

    pub(crate) fn discarded(&self, tenant: &TenantId, refused: &Refused) {
        for (reason, lines, bytes) in &refused.counts {
            self.discard(reason.as_str(), tenant, *lines, *bytes);
        }
    }

    fn discard(&self, reason: &str, tenant: &TenantId, lines: u64, bytes: u64) {
        self.discarded_samples.with_label_values(&[reason, tenant.as_str()]).inc_by(lines);
        self.discarded_bytes.with_label_values(&[reason, tenant.as_str()]).inc_by(bytes);
    }
}

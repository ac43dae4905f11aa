//! The instruments of the distributor, with Loki's names.

use prometheus::{IntCounter, IntCounterVec, Registry};
use skald_model::{Push, TenantId};
use skald_runtime::Instruments;

use crate::validate::Refused;

pub(crate) struct Metrics {
    bytes_received: IntCounterVec,
    lines_received: IntCounterVec,
    discarded_samples: IntCounterVec,
    discarded_bytes: IntCounterVec,
    mutated_samples: IntCounterVec,
    mutated_bytes: IntCounterVec,
    pub(crate) append_failures: IntCounter,
    pub(crate) spares: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let r = Instruments(registry);
        // Ingesters count under the same name in the same process.
        let discarded = |name, help| r.counters_of("distributor", name, help, &["reason", "tenant"]);
        Ok(Self {
            bytes_received: r.counters(
                "loki_distributor_bytes_received_total",
                "Bytes of lines and structured metadata received, per tenant.",
                &["tenant", "retention_hours", "is_internal_stream", "policy", "format"],
            )?,
            lines_received: r.counters(
                "loki_distributor_lines_received_total",
                "Lines received, per tenant.",
                &["tenant", "is_internal_stream", "policy"],
            )?,
            discarded_samples: discarded("loki_discarded_samples_total", "Entries refused, by reason.")?,
            discarded_bytes: discarded("loki_discarded_bytes_total", "Bytes of refused entries, by reason.")?,
            mutated_samples: r.counters(
                "loki_mutated_samples_total",
                "Entries that were changed to be accepted, by reason.",
                &["reason", "tenant"],
            )?,
            mutated_bytes: r.counters(
                "loki_mutated_bytes_total",
                "Bytes that such entries lost, by reason.",
                &["reason", "tenant"],
            )?,
            append_failures: r.counter(
                "loki_distributor_ingester_append_failures_total",
                "Pushes that could not be handed to enough ingesters.",
            )?,
            spares: r.counter(
                "skald_distributor_spares_total",
                "Parts of pushes that were sent to another ingester, or again, because a replica failed or was slow.",
            )?,
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

    /// All of a push is refused because the tenant's pushes are blocked.
    pub(crate) fn blocked(&self, tenant: &TenantId, push: &Push) {
        let refs = &push.entries.refs;
        let bytes = refs.iter().map(|e| u64::from(e.line_len) + u64::from(e.metadata_len)).sum();
        self.discard("blocked_ingestion", tenant, refs.len() as u64, bytes);
    }

    /// Lines were cut, by so many bytes together.
    pub(crate) fn truncated(&self, tenant: &TenantId, (lines, bytes): (u64, u64)) {
        if lines > 0 {
            let labels = ["line_too_long", tenant.as_str()];
            self.mutated_samples.with_label_values(&labels).inc_by(lines);
            self.mutated_bytes.with_label_values(&labels).inc_by(bytes);
        }
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

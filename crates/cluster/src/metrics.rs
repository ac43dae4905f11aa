//! Metrics of membership, with Loki's names where it has them.

use prometheus::{IntGauge, IntGaugeVec, Registry};
use skald_runtime::Instruments;

use crate::node::{Role, State};
use crate::watcher::Sighting;

/// How a member that is not heard is called on a ring.
const UNHEALTHY: &str = "Unhealthy";

pub(crate) struct Metrics {
    members: IntGauge,
    ring_members: IntGaugeVec,
    ring_tokens: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = Instruments(registry);
        Ok(Self {
            members: r.gauge(
                "loki_memberlist_client_cluster_members_count",
                "Members of the cluster that are there, this one among them.",
            )?,
            ring_members: r.gauges(
                "loki_ring_members",
                "Members of a ring by their state.",
                &["name", "state"],
            )?,
            ring_tokens: r.gauges("loki_ring_tokens_total", "Places on a ring that are taken.", &["name"])?,
        })
    }

    /// Shows who is there.
    pub(crate) fn show(&self, sightings: &[Sighting]) {
        let there = |s: &&Sighting| s.alive && s.node.state.is_present();
        self.members.set(sightings.iter().filter(there).count() as i64);
        let ring: Vec<_> = sightings.iter().filter(|s| s.node.has(Role::Ingester)).collect();
        for state in [State::Joining, State::Active, State::Leaving, State::Left] {
            let count = ring.iter().filter(|s| s.alive && s.node.state == state).count();
            self.ring_members.with_label_values(&["ingester", state.name()]).set(count as i64);
        }
        let unhealthy = ring.iter().filter(|s| !s.alive && s.node.state.is_present()).count();
        self.ring_members.with_label_values(&["ingester", UNHEALTHY]).set(unhealthy as i64);
        let active = ring.iter().filter(|s| s.alive && s.node.state == State::Active);
        self.ring_tokens.with_label_values(&["ingester"]).set(active.map(|s| s.node.tokens as i64).sum());
    }
}

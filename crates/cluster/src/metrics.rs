//! Metrics of membership, with Loki's names where it has them.

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

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
        let members = IntGauge::new(
            "loki_memberlist_client_cluster_members_count",
            "Members of the cluster that are there, this one among them.",
        )?;
        let ring_members = IntGaugeVec::new(
            Opts::new("loki_ring_members", "Members of a ring by their state."),
            &["name", "state"],
        )?;
        let ring_tokens = IntGaugeVec::new(
            Opts::new("loki_ring_tokens_total", "Places on a ring that are taken."),
            &["name"],
        )?;
        registry.register(Box::new(members.clone()))?;
        registry.register(Box::new(ring_members.clone()))?;
        registry.register(Box::new(ring_tokens.clone()))?;
        Ok(Self { members, ring_members, ring_tokens })
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

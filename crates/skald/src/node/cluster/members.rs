//! The members for people to look at, and the end of those that are dead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use skald_api::cluster::{MemberRow, Members};
use skald_cluster::{Role, View};
use skald_model::time::SECOND;
use skald_model::{Error, Kind, Result};
use skald_rpc::ingester::Holding;
use skald_runtime::CancellationToken;

use super::Cluster;

/// How often it is looked whether somebody can be forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(5);
/// How long an ingester may take to tell what it holds.
const HOLDING_TIMEOUT: Duration = Duration::from_secs(5);

impl Cluster {
    /// Takes dead ingesters out of the register once the others have written everything that they took part in.
    ///
    /// With a replication factor above 1 whatever a dead one acknowledged is also on another. If it is the only one that
    /// is missing, and of the others nobody holds anything that was stamped before it died, then the tables have all of
    /// it. `margin` covers clocks that differ and pushes that were on their way.
    pub(super) async fn forget_covered(self: Arc<Self>, margin: Duration, token: CancellationToken) {
        let mut dead_since: HashMap<String, i64> = HashMap::new();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(FORGET_PERIOD) => {}
            }
            let view = self.topology.view();
            let now = self.clock.now() / SECOND;
            dead_since.retain(|name, _| view.absent().iter().any(|a| a.name == *name));
            for absent in view.absent() {
                dead_since.entry(absent.name.clone()).or_insert(now);
            }
            let [dead] = view.absent() else { continue };
            let horizon = dead_since[&dead.name] + margin.as_secs() as i64;
            if now <= horizon || !self.is_first_of_the_active(&view) {
                continue;
            }
            let answers =
                view.ingesters().iter().map(|m| tokio::time::timeout(HOLDING_TIMEOUT, m.service.holding()));
            let holdings = join_all(answers).await.into_iter().map(|a| a.ok().and_then(|h| h.ok()));
            if !is_covered(&view, &holdings.collect::<Vec<_>>(), horizon) {
                continue;
            }
            match self.register.remove(&dead.name).await {
                Ok(()) => tracing::info!(
                    name = dead.name,
                    "forgot a dead ingester: the tables have all that it took part in"
                ),
                Err(error) => tracing::warn!(name = dead.name, %error, "failed to forget a dead ingester"),
            }
        }
    }

    /// One of the ingesters looks after the dead; it does no harm if two believe that it is theirs.
    fn is_first_of_the_active(&self, view: &View) -> bool {
        let first = view.ring().members().iter().find(|m| !m.tokens.is_empty());
        first.is_some_and(|m| m.name == self.membership.name())
    }

    fn row(&self, sighting: &skald_cluster::Sighting) -> MemberRow {
        let node = &sighting.node;
        let gone = !sighting.alive && node.state.is_present();
        MemberRow {
            name: node.name.clone(),
            roles: node.roles.iter().map(|r| r.name().to_owned()).collect(),
            state: if gone { UNHEALTHY.to_owned() } else { node.state.name().to_owned() },
            is_alive: sighting.alive && node.state.is_present(),
            zone: node.zone.clone(),
            grpc: node.grpc.clone(),
            http: node.http.clone(),
            last_heartbeat: sighting.last_heartbeat,
            ..MemberRow::default()
        }
    }
}

/// How a member that should be there and is not heard is called.
const UNHEALTHY: &str = "Unhealthy";

/// Whether the tables have all that was stamped up to `horizon` (in seconds), as far as others than the one that is
/// absent took part in it. `None` stands for an ingester that did not answer.
pub(super) fn is_covered(view: &View, holdings: &[Option<Holding>], horizon: i64) -> bool {
    view.write_quorum() > 1
        && !holdings.is_empty()
        && holdings.len() == view.ingesters().len()
        && holdings.iter().zip(view.ingesters()).all(|(holding, member)| {
            holding.as_ref().is_some_and(|h| {
                h.name == member.name && h.oldest_stamp.is_none_or(|oldest| oldest > horizon)
            })
        })
}

#[async_trait]
impl Members for Cluster {
    fn members(&self) -> Vec<MemberRow> {
        let view = self.topology.view();
        let places: HashMap<&str, (&Vec<u32>, f64)> = view
            .ring()
            .members()
            .iter()
            .zip(view.ring().shares())
            .map(|(m, share)| (m.name.as_str(), (&m.tokens, share)))
            .collect();
        let entries = self.register.entries();
        let entries = entries.borrow();
        let mut rows: Vec<_> = self.membership.sightings().iter().map(|s| self.row(s)).collect();
        for entry in entries.all().filter(|e| !self.membership_knows(&e.name)) {
            rows.push(MemberRow {
                name: entry.name.clone(),
                roles: vec![Role::Ingester.name().to_owned()],
                state: UNHEALTHY.to_owned(),
                zone: entry.zone.clone(),
                grpc: entry.address.clone(),
                ..MemberRow::default()
            });
        }
        for row in &mut rows {
            if let Some((tokens, share)) = places.get(row.name.as_str()) {
                row.tokens = (*tokens).clone();
                row.ownership = *share;
            }
            row.registered_at = entries.get(&row.name).map_or(0, |e| e.started_at.max(1));
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    async fn forget(&self, name: &str) -> Result<()> {
        if !self.register.entries().borrow().all().any(|r| r.name == name) {
            return Err(Error::new(Kind::NotFound, format!("no ingester called {name:?} is registered")));
        }
        let alive = |n: &skald_cluster::Node| n.name == name && n.state.is_present();
        if self.membership.nodes().borrow().iter().any(alive) {
            return Err(Error::invalid(format!(
                "ingester {name:?} is alive; shut it down, and it leaves with nothing lost"
            )));
        }
        self.register
            .remove(name)
            .await
            .map_err(|e| Error::unavailable(format!("failed to take {name:?} out of the register: {e}")))?;
        tracing::warn!(name, "an ingester was forgotten by request; what only it held is given up");
        Ok(())
    }
}

impl Cluster {
    fn membership_knows(&self, name: &str) -> bool {
        self.membership.sightings().iter().any(|s| s.node.name == name)
    }
}

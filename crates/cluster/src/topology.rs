//! The current view of members.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use skald_model::rendezvous::{choose, rank};
use skald_model::ring::{Ring, RingMember, Subset};
use skald_model::{StreamId, TenantId};
use skald_rpc::{Ingester, Querier};
use tokio::sync::watch;

/// A member that serves `S`.
pub struct Member<S: ?Sized> {
    /// Node name, unique among members of the role.
    pub name: String,
    /// How to call it: the service itself in this process, or a client.
    pub service: Arc<S>,
}

impl<S: ?Sized> Clone for Member<S> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), service: self.service.clone() }
    }
}

/// An ingester that may hold what the table does not, and that cannot be reached now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Node name.
    pub name: String,
    /// Its availability zone, empty when zones are not used.
    pub zone: String,
}

/// The members at one moment.
pub struct View {
    ring: Ring,
    /// In the order of `ring.members()`.
    ingesters: Vec<Member<dyn Ingester>>,
    /// The zone of each of `ingesters`, empty when zones are not used.
    zones: Vec<String>,
    absent: Vec<Absent>,
    queriers: Vec<Member<dyn Querier>>,
    replication_factor: usize,
    distributors: usize,
    compactors: Vec<String>,
}

impl View {
    /// A view of these members, in any order. Ingesters come with their places on the ring; one without tokens takes no
    /// new streams but is still asked what it holds.
    pub fn new(
        mut ingesters: Vec<(RingMember, Arc<dyn Ingester>)>,
        queriers: Vec<Member<dyn Querier>>,
        replication_factor: usize,
    ) -> Self {
        ingesters.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        ingesters.dedup_by(|a, b| a.0.name == b.0.name);
        let ring = Ring::new(ingesters.iter().map(|(m, _)| m.clone()).collect());
        let zones = ingesters.iter().map(|(m, _)| m.zone.clone()).collect();
        let ingesters = ingesters.into_iter().map(|(m, service)| Member { name: m.name, service }).collect();
        Self {
            ring,
            ingesters,
            zones,
            absent: Vec::new(),
            queriers,
            replication_factor: replication_factor.max(1),
            distributors: 1,
            compactors: Vec::new(),
        }
    }

    /// The same view with ingesters that cannot be reached but may hold what the table does not.
    #[must_use]
    pub fn with_absent(mut self, absent: Vec<Absent>) -> Self {
        self.absent = absent;
        self
    }

    /// The same view with so many live distributors; without this call there is one.
    #[must_use]
    pub fn with_distributors(mut self, distributors: usize) -> Self {
        self.distributors = distributors.max(1);
        self
    }

    /// The same view with the compactors of these names.
    #[must_use]
    pub fn with_compactors(mut self, mut compactors: Vec<String>) -> Self {
        compactors.sort();
        compactors.dedup();
        self.compactors = compactors;
        self
    }

    /// The names of the compactors that are alive, in order.
    pub fn compactors(&self) -> &[String] {
        &self.compactors
    }

    /// Live distributors, this one among them: they share the tenants' ingestion rates.
    pub fn distributors(&self) -> usize {
        self.distributors
    }

    /// The ring of the ingesters.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// All ingesters that can be reached; reads ask every one of them.
    pub fn ingesters(&self) -> &[Member<dyn Ingester>] {
        &self.ingesters
    }

    /// The availability zone of the ingester at `position` in [`View::ingesters`], empty when zones are not used.
    pub fn zone(&self, position: usize) -> &str {
        &self.zones[position]
    }

    /// Ingesters that cannot be reached but may hold what the table does not.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }

    /// On how many ingesters each entry is to be.
    pub fn replication_factor(&self) -> usize {
        self.replication_factor
    }

    /// Whether a read that lacks the answers of these ingesters still sees every acknowledged entry: fewer of them than
    /// a write needs, where those of one zone count once, because replicas lie in different zones.
    pub fn is_sure_without<'a>(&self, lacking: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let by_zone = self.is_zoned();
        let lacking: HashSet<&str> = lacking
            .into_iter()
            .map(|(name, zone)| if by_zone && !zone.is_empty() { zone } else { name })
            .collect();
        lacking.len() < self.write_quorum()
    }

    /// Whether replicas of a stream lie in different zones: every ingester has one, and there are enough of them.
    pub fn is_zoned(&self) -> bool {
        let zones: HashSet<&String> = self.zones.iter().collect();
        zones.len() >= self.replication_factor && self.zones.iter().all(|z| !z.is_empty())
    }

    /// The ingesters that take a tenant's entries, `size` of them or some more; `None` if all do, as with size 0. Never
    /// fewer than the replicas of a stream.
    pub fn subset(&self, tenant: &TenantId, size: usize) -> Option<Subset> {
        let size = if size == 0 { 0 } else { size.max(self.replication_factor) };
        self.ring.subset(tenant, size)
    }

    /// Positions in [`View::ingesters`] of the replicas of `stream`, first the one that comes first on the ring; among
    /// those of `subset` if there is one.
    pub fn replicas(&self, stream: StreamId, subset: Option<&Subset>) -> Vec<usize> {
        if self.ingesters.len() == 1 {
            return vec![0];
        }
        // Members of the ring and ingesters have the same order.
        self.ring.places(stream, self.replication_factor, subset)
    }

    /// Positions in [`View::ingesters`] of those that may take a replica's place, in the order in which they should. Its
    /// replicas are among them.
    pub fn spares(&self, stream: StreamId) -> Vec<usize> {
        self.ring.order(stream)
    }

    /// How many replicas must have a write before it is acknowledged.
    pub fn write_quorum(&self) -> usize {
        self.replication_factor / 2 + 1
    }

    /// All queriers, in no order.
    pub fn queriers(&self) -> &[Member<dyn Querier>] {
        &self.queriers
    }

    /// The queriers for a piece of work with this key, the best first: the others are for when it is busy or gone.
    pub fn queriers_for(&self, key: &str) -> Vec<&Member<dyn Querier>> {
        rank(key, self.queriers.iter().map(|m| m.name.as_str())).map(|i| &self.queriers[i]).collect()
    }

    /// The querier for a piece of work with this key: rendezvous hashing, so that a block is cached at one place.
    pub fn querier(&self, key: &str) -> Option<&Member<dyn Querier>> {
        match &self.queriers[..] {
            [] => None,
            [one] => Some(one),
            many => choose(key, many.iter().map(|m| m.name.as_str())).map(|i| &many[i]),
        }
    }
}

/// The current view; cheap to load, swapped whole.
pub struct Topology {
    view: ArcSwap<View>,
    changes: watch::Sender<()>,
}

impl Topology {
    /// A topology that starts with `view`.
    pub fn new(view: View) -> Arc<Self> {
        Arc::new(Self { view: ArcSwap::from_pointee(view), changes: watch::Sender::new(()) })
    }

    /// The topology of one process: one ingester, one querier, no replication.
    pub fn single(ingester: Arc<dyn Ingester>, querier: Arc<dyn Querier>) -> Arc<Self> {
        let place = RingMember { name: "local".into(), zone: String::new(), tokens: vec![0] };
        Self::new(View::new(
            vec![(place, ingester)],
            vec![Member { name: "local".into(), service: querier }],
            1,
        ))
    }

    /// The members now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Publishes a new view.
    pub fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changes.send_replace(());
    }

    /// Tells of each new view after it was published.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

//! The current view of members.

use std::sync::Arc;

use arc_swap::ArcSwap;
use skald_model::StreamId;
use skald_model::rendezvous::choose;
use skald_model::ring::{Ring, RingMember};
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

/// The members at one moment.
pub struct View {
    ring: Ring,
    /// In the order of `ring.members()`.
    ingesters: Vec<Member<dyn Ingester>>,
    queriers: Vec<Member<dyn Querier>>,
    replication_factor: usize,
    distributors: usize,
}

impl View {
    /// A view of these members. Ingesters come with their places on the ring, members in any order.
    pub fn new(
        mut ingesters: Vec<(RingMember, Arc<dyn Ingester>)>,
        queriers: Vec<Member<dyn Querier>>,
        replication_factor: usize,
    ) -> Self {
        ingesters.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        ingesters.dedup_by(|a, b| a.0.name == b.0.name);
        let ring = Ring::new(ingesters.iter().map(|(m, _)| m.clone()).collect());
        let ingesters = ingesters.into_iter().map(|(m, service)| Member { name: m.name, service }).collect();
        Self { ring, ingesters, queriers, replication_factor: replication_factor.max(1), distributors: 1 }
    }

    /// The same view with so many live distributors; without this call there is one.
    #[must_use]
    pub fn with_distributors(mut self, distributors: usize) -> Self {
        self.distributors = distributors.max(1);
        self
    }

    /// Live distributors, this one among them: they share the tenants' ingestion rates.
    pub fn distributors(&self) -> usize {
        self.distributors
    }

    /// All ingesters; reads ask every one of them.
    pub fn ingesters(&self) -> &[Member<dyn Ingester>] {
        &self.ingesters
    }

    /// Positions in [`View::ingesters`] of the replicas of `stream`, first the one that comes first on the ring.
    pub fn replicas(&self, stream: StreamId) -> Vec<usize> {
        if self.ingesters.len() == 1 {
            return vec![0];
        }
        let members = self.ring.members();
        let position = |name: &str| members.iter().position(|m| m.name == name);
        self.ring.replicas(stream, self.replication_factor).iter().filter_map(|m| position(&m.name)).collect()
    }

    /// How many replicas must have a write before it is acknowledged.
    pub fn write_quorum(&self) -> usize {
        self.replication_factor / 2 + 1
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

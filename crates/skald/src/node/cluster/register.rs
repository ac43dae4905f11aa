//! The register of ingesters as this process knows it: what the store says, and who was seen since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skald_cluster::{Absent, Node, Role, State};
use skald_runtime::CancellationToken;
use skald_storage::registry::{self, Registration, Registry};
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the store is asked while an ingester is missing or something has changed, and otherwise.
const PERIOD_BUSY: Duration = Duration::from_secs(2);
const PERIOD_QUIET: Duration = Duration::from_secs(10);
/// How long after a change the store is asked often.
const BUSY_FOR: Duration = Duration::from_secs(30);

/// Ingesters that may hold what no table has, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entries {
    by_name: BTreeMap<String, Registration>,
    is_complete: bool,
}

impl Entries {
    /// Whether the store has been asked.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn get(&self, name: &str) -> Option<&Registration> {
        self.by_name.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Registration> {
        self.by_name.values()
    }

    /// All of them, as a view counts those that it cannot call.
    pub(super) fn absent(&self) -> Vec<Absent> {
        self.all().map(|r| Absent { name: r.name.clone(), zone: r.zone.clone() }).collect()
    }

    /// What the store said, with those that are there now: they may have registered since.
    pub(super) fn listed(listed: Vec<Registration>, nodes: &[Node]) -> Self {
        let by_name = listed.into_iter().map(|r| (r.name.clone(), r)).collect();
        let mut entries = Self { by_name, is_complete: true };
        entries.take_in(nodes);
        entries
    }

    /// Adds the ingesters that are there, so that one that dies before the store is asked again is missed; takes out
    /// those that say that they left.
    pub(super) fn take_in(&mut self, nodes: &[Node]) {
        for node in nodes.iter().filter(|n| n.has(Role::Ingester)) {
            if node.state == State::Left {
                self.by_name.remove(&node.name);
            } else if !node.grpc.is_empty() {
                self.by_name.entry(node.name.clone()).or_insert_with(|| Registration {
                    name: node.name.clone(),
                    zone: node.zone.clone(),
                    started_at: 0,
                    address: node.grpc.clone(),
                });
            }
        }
    }
}

/// Keeps [`Entries`] current.
pub(super) struct Register {
    pub(super) store: Registry,
    nodes: watch::Receiver<Arc<Vec<Node>>>,
    entries: watch::Sender<Entries>,
    /// The entry of this process, as long as it must be in the store.
    own: parking_lot::Mutex<Option<Registration>>,
    /// Set when this process goes: it is not entered again.
    held: AtomicBool,
}

impl Register {
    pub(super) fn new(store: Registry, nodes: watch::Receiver<Arc<Vec<Node>>>) -> Self {
        Self {
            store,
            nodes,
            entries: watch::Sender::new(Entries::default()),
            own: parking_lot::Mutex::new(None),
            held: AtomicBool::new(false),
        }
    }

    /// What is known, and news of it.
    pub(super) fn entries(&self) -> watch::Receiver<Entries> {
        self.entries.subscribe()
    }

    /// Enters this process.
    pub(super) async fn enter(&self, own: Registration) -> registry::Result<()> {
        self.store.register(&own).await?;
        self.entries.send_modify(|e| drop(e.by_name.insert(own.name.clone(), own.clone())));
        *self.own.lock() = Some(own);
        Ok(())
    }

    /// From now on this process is not entered again if its entry is missing.
    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// Takes `name` out.
    pub(super) async fn remove(&self, name: &str) -> registry::Result<()> {
        self.store.deregister(name).await?;
        self.entries.send_modify(|e| drop(e.by_name.remove(name)));
        Ok(())
    }

    /// Asks the store now and then, and whenever the members change.
    pub(super) async fn keep(self: Arc<Self>, token: CancellationToken) {
        let mut nodes = self.nodes.clone();
        let mut busy_until = Instant::now() + BUSY_FOR;
        loop {
            // Before the list: an entry that is made meanwhile may not be in it.
            let own = self.own.lock().clone();
            match self.store.list().await {
                Ok(listed) => self.take_over(listed, own).await,
                Err(error) => tracing::warn!(%error, "failed to read the register of ingesters"),
            }
            let period = if Instant::now() < busy_until || self.is_somebody_missing() {
                PERIOD_BUSY
            } else {
                PERIOD_QUIET
            };
            let next = Instant::now() + period;
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep_until(next) => break,
                    changed = nodes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let now = nodes.borrow_and_update().clone();
                        self.entries.send_if_modified(|entries| {
                            let before = entries.clone();
                            entries.take_in(&now);
                            *entries != before
                        });
                        busy_until = Instant::now() + BUSY_FOR;
                        if next > Instant::now() + PERIOD_BUSY {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn take_over(&self, listed: Vec<Registration>, own: Option<Registration>) {
        if let Some(own) = own
            && !self.held.load(Ordering::Acquire)
            && !listed.iter().any(|r| r.name == own.name)
        {
            // Somebody took this process for dead.
            tracing::warn!(name = own.name, "this ingester was forgotten by the cluster and registers again");
            if let Err(error) = self.store.register(&own).await {
                tracing::warn!(%error, "failed to register this ingester");
            }
        }
        let new = Entries::listed(listed, &self.nodes.borrow());
        self.entries.send_if_modified(|entries| {
            let differs = *entries != new;
            *entries = new;
            differs
        });
    }

    fn is_somebody_missing(&self) -> bool {
        let nodes = self.nodes.borrow();
        let there = |name: &str| nodes.iter().any(|n| n.name == name && n.state.is_present());
        self.entries.borrow().all().any(|r| !there(&r.name))
    }
}

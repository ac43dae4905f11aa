//! This process in its cluster: it finds the others, keeps the view of them current, and comes and goes in order.
//!
//! Coming: it joins (heard, but without calls), its log is replayed, its services answer, an ingester registers in the
//! store, and only then is it active. Going: it takes no more writes, brings what it holds to the tables, deregisters,
//! and says that it left; see [`super::lifecycle`].

mod members;
mod register;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use prometheus::Registry;
use skald_cluster::assembly::{Assembler, Local, Plan};
use skald_cluster::membership::{Identity, Listening, random_name};
use skald_cluster::{LifecyclerConfig, Membership, Role, State, Topology, View};
use skald_runtime::grpc::MessageLimits;
use skald_runtime::tls::ClientTls;
use skald_runtime::{CancellationToken, Clock, Tasks};
use skald_storage::registry::Registration;
use tokio::sync::watch;

use super::target::Targets;
use crate::config::Config;
use register::Register;

/// Places on the ring of an ingester, as many as Loki's have.
const TOKENS: usize = 128;
/// The longest pause between tries to register.
const REGISTER_PAUSE_MAX: Duration = Duration::from_secs(5);

/// This process in its cluster.
pub(super) struct Cluster {
    membership: Arc<Membership>,
    register: Arc<Register>,
    pub(super) topology: Arc<Topology>,
    clock: Arc<dyn Clock>,
    roles: Vec<Role>,
    lifecycler: LifecyclerConfig,
    replication_factor: usize,
    local: watch::Sender<Local>,
    /// The plan of the current view.
    plan: Mutex<Plan>,
    state: watch::Sender<State>,
    /// Set once it was ready: it does not become unready because others fail.
    was_ready: AtomicBool,
}

impl Cluster {
    /// Starts to look for the others, under the name of the ingester if there is one.
    #[expect(clippy::too_many_arguments, reason = "each comes from another part of the process")]
    pub(super) async fn start(
        config: &Config,
        name: Option<String>,
        http_port: u16,
        register: skald_storage::registry::Registry,
        tls: Option<ClientTls>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
        tasks: &Tasks,
    ) -> Result<Arc<Self>> {
        let roles = Targets::parse(&config.target)?.roles();
        let lifecycler = config.ingester.lifecycler.clone();
        let configured = Some(config.memberlist.node_name.clone()).filter(|n| !n.is_empty());
        let identity = Identity {
            name: name.or(configured).unwrap_or_else(random_name),
            roles: roles.clone(),
            zone: lifecycler.availability_zone.clone(),
            tokens: TOKENS,
        };
        let listening = Listening {
            instance_addr: config.common.instance_addr.clone(),
            grpc_listen_address: config.server.grpc_listen_address.clone(),
            http_port,
        };
        let replication_factor = config.common.replication_factor;
        let local = Local { name: identity.name.clone(), ..Local::default() };
        let membership =
            Membership::start(&config.memberlist, &listening, identity, clock.clone(), registry, tasks)
                .await
                .context("failed to join the cluster")?;
        let register = Arc::new(Register::new(register, membership.nodes()));
        let cluster = Arc::new(Self {
            membership,
            register,
            topology: Topology::new(View::new(Vec::new(), Vec::new(), replication_factor)),
            clock,
            roles,
            lifecycler,
            replication_factor,
            local: watch::Sender::new(local),
            plan: Mutex::new(Plan::default()),
            state: watch::Sender::new(State::Joining),
            was_ready: AtomicBool::new(false),
        });
        let limits = MessageLimits {
            receive: config.server.grpc_server_max_recv_msg_size,
            send: config.server.grpc_server_max_send_msg_size,
        };
        let assembler = Assembler::new(config.ingester_client.calls.clone(), limits, tls, replication_factor);
        let keeper = cluster.clone();
        tasks.spawn("cluster-view", move |token| keeper.keep_view(assembler, token));
        let register = cluster.register.clone();
        tasks.spawn("cluster-register", move |token| register.keep(token));
        if cluster.roles.contains(&Role::Ingester) {
            let margin = config.ingester.flush_interval * 2 + config.ingester_client.calls.remote_timeout * 3;
            let keeper = cluster.clone();
            tasks.spawn("cluster-forget", move |token| keeper.forget_covered(margin, token));
        }
        Ok(cluster)
    }

    /// Takes in the services of this process once they run.
    pub(super) fn set_local(
        &self,
        ingester: Option<Arc<dyn skald_rpc::Ingester>>,
        querier: Option<Arc<dyn skald_rpc::Querier>>,
    ) {
        self.local.send_modify(|local| {
            local.ingester = ingester;
            local.querier = querier;
        });
    }

    /// Takes up work, once the services answer at `grpc_port`.
    pub(super) async fn activate(self: Arc<Self>, grpc_port: u16, token: CancellationToken) {
        self.membership.set_grpc(grpc_port).await;
        if self.roles.contains(&Role::Ingester) {
            let address = std::net::SocketAddr::new(self.membership.advertised_ip(), grpc_port);
            let registering = self.register_self(address.to_string());
            let is_new = tokio::select! {
                is_new = registering => is_new,
                () = token.cancelled() => return,
            };
            if is_new {
                // Who reads must know of an ingester before it has anything of its own.
                tokio::select! {
                    () = tokio::time::sleep(self.lifecycler.join_after) => {}
                    () = token.cancelled() => return,
                }
            }
        }
        let entered = self.state.send_if_modified(|state| {
            let joins = *state == State::Joining;
            if joins {
                *state = State::Active;
            }
            joins
        });
        if entered {
            self.membership.set_state(State::Active).await;
        }
    }

    /// Enters this ingester in the register; whether it was not there. Tried until it works: without it nothing may be
    /// acknowledged.
    async fn register_self(&self, address: String) -> bool {
        let name = self.membership.name();
        let mut pause = Duration::from_millis(100);
        loop {
            let known = self.register.store.find(name).await;
            let done = match known {
                Ok(known) => {
                    let started_at = known.as_ref().map_or_else(|| self.clock.now(), |k| k.started_at);
                    let zone = self.lifecycler.availability_zone.clone();
                    let entry =
                        Registration { name: name.to_owned(), zone, started_at, address: address.clone() };
                    self.register.enter(entry).await.map(|()| known.is_none())
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(is_new) => return is_new,
                Err(error) => tracing::warn!(%error, retry_in = ?pause, "failed to register this ingester"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REGISTER_PAUSE_MAX);
        }
    }

    /// Publishes a view whenever what it is made of has changed.
    async fn keep_view(self: Arc<Self>, mut assembler: Assembler, token: CancellationToken) {
        let (mut nodes, mut registered) = (self.membership.nodes(), self.register.entries());
        let mut local = self.local.subscribe();
        loop {
            let plan = {
                let nodes = nodes.borrow_and_update();
                let registered = registered.borrow_and_update();
                Plan::new(&nodes, &registered.absent())
            };
            let services = local.borrow_and_update().clone();
            tracing::debug!(
                ingesters = plan.ingesters.len(),
                absent = plan.absent.len(),
                queriers = plan.queriers.len(),
                "new view of the cluster"
            );
            self.topology.publish(assembler.view(&plan, &services));
            *self.plan.lock() = plan;
            let changed = tokio::select! {
                changed = nodes.changed() => changed,
                changed = registered.changed() => changed,
                changed = local.changed() => changed,
                () = token.cancelled() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Why this process is not ready, if it is not. Once it was, it stays so whatever happens to others.
    pub(super) fn unready(&self) -> Option<String> {
        match *self.state.borrow() {
            State::Joining => return Some("joining the cluster".into()),
            State::Active => {}
            State::Leaving | State::Stopped | State::Left => return Some("leaving the cluster".into()),
        }
        if self.was_ready.load(Ordering::Acquire) {
            return None;
        }
        let waits = self.waits_for();
        if waits.is_none() {
            self.was_ready.store(true, Ordering::Release);
        }
        waits
    }

    fn waits_for(&self) -> Option<String> {
        let plan = self.plan.lock();
        let takes_writes = plan.ingesters.iter().filter(|(place, _)| !place.tokens.is_empty()).count();
        let quorum = self.replication_factor / 2 + 1;
        if self.roles.contains(&Role::Distributor) && takes_writes < quorum {
            return Some(format!("a write needs {quorum} ingesters, {takes_writes} are active"));
        }
        if self.roles.contains(&Role::QueryFrontend) {
            if plan.queriers.is_empty() {
                return Some("no querier is known yet".into());
            }
            if !self.register.entries().borrow().is_complete() {
                return Some("the register of ingesters has not been read yet".into());
            }
        }
        None
    }

    /// Tells the others that this process goes, and waits until they know.
    pub(super) async fn begin_leaving(&self) {
        self.register.hold();
        self.state.send_replace(State::Leaving);
        self.membership.set_state(State::Leaving).await;
        tokio::time::sleep(self.membership.news_delay()).await;
    }

    /// Takes this ingester, which holds nothing any more, out of the register.
    pub(super) async fn deregister(&self) -> Result<()> {
        self.register.remove(self.membership.name()).await.context("failed to deregister this ingester")
    }

    /// Tells the others that this process has gone, and waits until they know. With `holds` it may still have what no
    /// table has.
    pub(super) async fn end_leaving(&self, holds: bool) {
        let state = if holds { State::Stopped } else { State::Left };
        self.state.send_replace(state);
        self.membership.set_state(state).await;
        tokio::time::sleep(self.membership.news_delay()).await;
    }

    /// The name of this process among the members.
    pub(super) fn name(&self) -> &str {
        self.membership.name()
    }

    /// How an ingester goes.
    pub(super) fn lifecycler(&self) -> &LifecyclerConfig {
        &self.lifecycler
    }

    /// Stops to gossip.
    pub(super) fn stop(&self) {
        self.membership.stop();
    }
}

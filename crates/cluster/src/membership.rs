//! Membership by gossip: this process tells the others what it is, and hears who they are.
//!
//! The protocol is that of the `chitchat` crate (Scuttlebutt over UDP). What is ours: whom to speak to first and again,
//! how long silence may last, and what a member says of itself.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::transport::UdpTransport;
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
};
use parking_lot::Mutex;
use prometheus::Registry;
use skald_runtime::{CancellationToken, Clock, Tasks};
use tokio::sync::watch;

use crate::addresses::{ip_of, outgoing_ip, parse_member, resolve};
use crate::config::MemberlistConfig;
use crate::metrics::Metrics;
use crate::node::{Node, Role, State};
use crate::watcher::{Observed, Sighting, Watcher};

/// As long as nobody answers, members to join are tried this often.
const LONELY_INTERVAL: Duration = Duration::from_secs(1);
/// How long to be alone before the log says so.
const LONELY_PATIENCE: Duration = Duration::from_secs(10);
/// The least time that somebody must be missing after the failure was found.
const CONFIRM_MIN: Duration = Duration::from_millis(500);

/// Who this process is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name, unique in the cluster.
    pub name: String,
    /// What it does.
    pub roles: Vec<Role>,
    /// Its availability zone, empty when zones are not used.
    pub zone: String,
    /// How many places on the ring it takes if it is an ingester.
    pub tokens: usize,
}

/// Where this process listens, for what it does not say about its addresses itself.
#[derive(Clone, Debug)]
pub struct Listening {
    /// `common.instance_addr`
    pub instance_addr: String,
    /// `server.grpc_listen_address`
    pub grpc_listen_address: String,
    /// The port of HTTP.
    pub http_port: u16,
}

/// Why membership cannot start, in words for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// The membership of this process in its cluster.
pub struct Membership {
    handle: ChitchatHandle,
    ip: IpAddr,
    name: String,
    nodes: watch::Receiver<Arc<Vec<Node>>>,
    watcher: Arc<Mutex<Watcher>>,
    leaving_pause: Duration,
}

impl Membership {
    /// Starts to gossip, as a member that joins and does not answer calls yet. Does not wait for anybody.
    ///
    /// # Errors
    /// When the port is taken or an address is not understood.
    pub async fn start(
        config: &MemberlistConfig,
        listening: &Listening,
        identity: Identity,
        clock: Arc<dyn Clock>,
        registry: &Registry,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, StartError> {
        let metrics = Metrics::new(registry).map_err(|e| StartError(e.to_string()))?;
        let members: Vec<String> = config
            .join_members
            .iter()
            .map(|m| parse_member(m, config.bind_port))
            .collect::<Result<_, _>>()
            .map_err(|e| StartError(format!("memberlist.join_members: {e}")))?;
        let bind = bind_address(config, listening).await?;
        let ip = advertised_ip(config, listening, bind.ip(), &members).await?;
        let port = if config.advertise_port == 0 { bind.port() } else { config.advertise_port };
        let own = ChitchatId::new(identity.name.as_str(), clock.now().unsigned_abs(), (ip, port).into());
        let node = Node {
            name: identity.name.clone(),
            generation: own.generation_id,
            gossip: own.gossip_advertise_addr,
            roles: identity.roles,
            state: State::Joining,
            zone: identity.zone,
            grpc: String::new(),
            http: SocketAddr::new(ip, listening.http_port).to_string(),
            tokens: identity.tokens,
        };
        let chitchat = chitchat_config(config, own.clone(), bind);
        let handle = chitchat::spawn_chitchat(chitchat, node.to_pairs(), &UdpTransport)
            .await
            .map_err(|e| StartError(format!("{e:#}; see memberlist.bind_addr and memberlist.bind_port")))?;
        tracing::info!(name = node.name, address = %bind, advertised = %own.gossip_advertise_addr, "gossiping");

        let (publish, nodes) = watch::channel(Arc::new(vec![node]));
        let confirm = (config.gossip_interval * 3).max(CONFIRM_MIN);
        let watcher = Arc::new(Mutex::new(Watcher::new(confirm)));
        let membership = Arc::new(Self {
            handle,
            ip,
            name: identity.name,
            nodes,
            watcher,
            leaving_pause: config.gossip_interval * 5,
        });
        let (watching, period) = (membership.clone(), config.gossip_interval);
        tasks.spawn("memberlist-watch", move |token| watching.watch(period, clock, publish, metrics, token));
        let (joining, rejoin) = (membership.clone(), config.rejoin_interval);
        tasks.spawn("memberlist-join", move |token| joining.join(members, rejoin, token));
        Ok(membership)
    }

    /// The name of this process among the members.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that others reach this process at.
    pub fn advertised_ip(&self) -> IpAddr {
        self.ip
    }

    /// The members that are there, by name, this process among them; those too that have just said that they went.
    pub fn nodes(&self) -> watch::Receiver<Arc<Vec<Node>>> {
        self.nodes.clone()
    }

    /// Everybody that gossip knows, also those that failed or left.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.watcher.lock().sightings()
    }

    /// Tells the members how far this process is.
    pub async fn set_state(&self, state: State) {
        tracing::debug!(state = state.name(), "telling the members");
        self.handle.with_chitchat(|c| c.self_node_state().set("state", state.name())).await;
    }

    /// Tells the members where the services of this process are called.
    pub async fn set_grpc(&self, port: u16) {
        let address = SocketAddr::new(self.ip, port).to_string();
        self.handle.with_chitchat(|c| c.self_node_state().set("grpc", &address)).await;
    }

    /// How long news takes to be known by everybody who is reachable, with some to spare.
    pub fn news_delay(&self) -> Duration {
        self.leaving_pause
    }

    /// Stops to gossip.
    pub fn stop(&self) {
        // It fails when gossip has ended already.
        let _ = self.handle.initiate_shutdown();
    }

    async fn watch(
        self: Arc<Self>,
        period: Duration,
        clock: Arc<dyn Clock>,
        publish: watch::Sender<Arc<Vec<Node>>>,
        metrics: Metrics,
        token: CancellationToken,
    ) {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut doubles = HashSet::new();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = interval.tick() => {}
            }
            let observed = self.handle.with_chitchat(observe).await;
            self.report_double(&observed, &mut doubles);
            let changed = self.watcher.lock().look(observed, Instant::now(), clock.now());
            metrics.show(&self.sightings());
            if let Some(nodes) = changed {
                announce_changes(&publish.borrow(), &nodes);
                publish.send_replace(Arc::new(nodes));
            }
        }
    }

    /// Two processes of one name hide each other: that is a mistake in the configuration.
    fn report_double(&self, observed: &[Observed], reported: &mut HashSet<u64>) {
        let own = self.handle.chitchat_id();
        for o in observed {
            let id = &o.id;
            if o.alive
                && id.node_id == own.node_id
                && id.generation_id > own.generation_id
                && reported.insert(id.generation_id)
            {
                tracing::error!(
                    name = self.name,
                    other = %id.gossip_advertise_addr,
                    "another process has the name of this one and hides it; give each memberlist.node_name or \
                     ingester.instance_id of its own"
                );
            }
        }
    }

    /// Speaks to the members that were named: first of all, and again and again, so that parts of a cluster that lost
    /// each other come together.
    async fn join(self: Arc<Self>, members: Vec<String>, rejoin: Duration, token: CancellationToken) {
        let own = self.handle.chitchat_id().gossip_advertise_addr;
        let started = Instant::now();
        let (mut complained, mut joined) = (false, false);
        loop {
            let (mut addresses, failed) = resolve(&members).await;
            addresses.remove(&own);
            for address in &addresses {
                if let Err(error) = self.handle.gossip(*address) {
                    tracing::debug!(%address, %error, "failed to greet a member");
                }
            }
            let others = self.nodes.borrow().iter().filter(|n| n.name != self.name).count();
            if others > 0 && !joined {
                joined = true;
                tracing::info!(members = others + 1, "joined the cluster");
            }
            if others == 0 && !complained && started.elapsed() > LONELY_PATIENCE {
                complained = true;
                let tried: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    tried = tried.join(", "),
                    failed = failed.join("; "),
                    "no other member answers; see memberlist.join_members"
                );
            }
            let pause = if others == 0 { LONELY_INTERVAL.min(rejoin) } else { rejoin };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// A name for a process that has none of its own to come back to: the host's, with random digits.
pub fn random_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "skald",
        host => host,
    };
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{host}-{:08x}", RandomState::new().build_hasher().finish() as u32)
}

fn chitchat_config(config: &MemberlistConfig, own: ChitchatId, bind: SocketAddr) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: own,
        cluster_id: format!("skald/{}", config.cluster_label),
        gossip_interval: config.gossip_interval,
        listen_addr: bind,
        // `join` speaks to them: names are resolved anew more often than this crate does it.
        seed_nodes: Vec::new(),
        failure_detector_config: failure_detector(config),
        marked_for_deletion_grace_period: Duration::from_secs(3600),
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}

/// A member has failed after `failure_timeout` of silence. The detector multiplies the mean distance of heartbeats, which
/// shrinks as a cluster grows, until a short pause of a loaded machine is a failure. With a window of one distance, its
/// prior (which counts five times) decides: the limit lies between the timeout and seven sixths of it.
fn failure_detector(config: &MemberlistConfig) -> FailureDetectorConfig {
    FailureDetectorConfig {
        phi_threshold: 1.0,
        sampling_window_size: 1,
        max_interval: config.failure_timeout,
        initial_interval: config.failure_timeout * 6 / 5,
        dead_node_grace_period: config.left_ingesters_timeout,
    }
}

fn observe(chitchat: &mut Chitchat) -> Vec<Observed> {
    let alive: HashSet<ChitchatId> = chitchat.live_nodes().cloned().collect();
    let states = chitchat.node_states().iter();
    states
        .map(|(id, state)| Observed {
            id: id.clone(),
            heartbeat: state.heartbeat(),
            alive: alive.contains(id),
            node: Node::of_pairs(id, |key| state.get(key)),
        })
        .collect()
}

fn announce_changes(before: &[Node], after: &[Node]) {
    for node in after {
        match before.iter().find(|n| n.name == node.name) {
            Some(known) if known.state == node.state && known.generation == node.generation => {}
            _ => {
                let roles: Vec<_> = node.roles.iter().map(|r| r.name()).collect();
                tracing::info!(
                    name = node.name,
                    state = node.state.name(),
                    roles = roles.join(","),
                    address = node.grpc,
                    "member"
                );
            }
        }
    }
    for node in before.iter().filter(|b| b.state.is_present() && !after.iter().any(|n| n.name == b.name)) {
        tracing::warn!(name = node.name, address = node.grpc, "member has failed");
    }
}

async fn bind_address(config: &MemberlistConfig, listening: &Listening) -> Result<SocketAddr, StartError> {
    let host = config.bind_addr.first().unwrap_or(&listening.grpc_listen_address);
    let ip = ip_of(host).await.map_err(|e| StartError(format!("memberlist.bind_addr: {e}")))?;
    if config.bind_port != 0 {
        return Ok((ip, config.bind_port).into());
    }
    // Gossip names its port before it listens, so a free one is looked for first.
    let free = tokio::net::UdpSocket::bind((ip, 0)).await.and_then(|s| s.local_addr());
    free.map_err(|e| StartError(format!("failed to find a free UDP port on {ip}: {e}")))
}

async fn advertised_ip(
    config: &MemberlistConfig,
    listening: &Listening,
    bind: IpAddr,
    members: &[String],
) -> Result<IpAddr, StartError> {
    for (setting, host) in [
        ("memberlist.advertise_addr", &config.advertise_addr),
        ("common.instance_addr", &listening.instance_addr),
    ] {
        if !host.is_empty() {
            return ip_of(host).await.map_err(|e| StartError(format!("{setting}: {e}")));
        }
    }
    if !bind.is_unspecified() {
        return Ok(bind);
    }
    let (peers, _) = if members.is_empty() { (BTreeSet::new(), Vec::new()) } else { resolve(members).await };
    outgoing_ip(&peers).await.ok_or_else(|| {
        StartError("no address that others reach this process at; set memberlist.advertise_addr".into())
    })
}

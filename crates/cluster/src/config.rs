//! Settings of membership.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the processes of a cluster find each other (`memberlist`). Names are Loki's where the thing is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberlistConfig {
    /// The name of this process among the members. Empty means the ingester's instance id, or else the host's name with
    /// some random digits.
    pub node_name: String,
    /// Where gossip (UDP) listens; the first address counts. Empty means `server.grpc_listen_address`.
    pub bind_addr: Vec<String>,
    /// The port of it.
    pub bind_port: u16,
    /// The address that others reach this process at. Empty means `common.instance_addr`, or else the address that
    /// gossip listens on, or else the one that packets to the members to join leave from.
    pub advertise_addr: String,
    /// The port that others reach gossip at; 0 means `bind_port`.
    pub advertise_port: u16,
    /// Members to join: `host`, `host:port` or `dns+host:port`, where a host may stand for many addresses. Asked again all
    /// the time, so that parts of a cluster that lost each other come together. This process may be among them.
    pub join_members: Vec<String>,
    /// The name of the cluster. Members of another one are not heard.
    pub cluster_label: String,
    /// From one round of gossip to the next. Less spreads news faster and costs more packets.
    #[serde(with = "skald_runtime::units::duration")]
    pub gossip_interval: Duration,
    /// How often `join_members` are resolved and spoken to again.
    #[serde(with = "skald_runtime::units::duration")]
    pub rejoin_interval: Duration,
    /// How long a member may be silent before it counts as failed. Less takes writes and reads off it sooner; too little
    /// drops members that are only slow.
    #[serde(with = "skald_runtime::units::duration")]
    pub failure_timeout: Duration,
    /// How long a member that left or failed is still shown, and tried again.
    #[serde(with = "skald_runtime::units::duration")]
    pub left_ingesters_timeout: Duration,
}

impl Default for MemberlistConfig {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            bind_addr: Vec::new(),
            bind_port: 7946,
            advertise_addr: String::new(),
            advertise_port: 0,
            join_members: Vec::new(),
            cluster_label: String::new(),
            gossip_interval: Duration::from_millis(200),
            rejoin_interval: Duration::from_secs(15),
            failure_timeout: Duration::from_secs(5),
            left_ingesters_timeout: Duration::from_secs(5 * 60),
        }
    }
}

impl MemberlistConfig {
    /// What is wrong with it, in words for the operator.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<(), String> {
        if self.gossip_interval.is_zero() {
            return Err("memberlist.gossip_interval is 0; it must be longer".into());
        }
        if self.failure_timeout < self.gossip_interval * 4 {
            return Err(format!(
                "memberlist.failure_timeout is {:?}; below four times memberlist.gossip_interval ({:?}) members \
                 would fail by chance",
                self.failure_timeout, self.gossip_interval
            ));
        }
        if self.rejoin_interval.is_zero() {
            return Err("memberlist.rejoin_interval is 0; it must be longer".into());
        }
        for member in &self.join_members {
            crate::addresses::parse_member(member, self.bind_port)
                .map_err(|reason| format!("memberlist.join_members: {reason}"))?;
        }
        Ok(())
    }
}

/// How an ingester comes and goes (`ingester.lifecycler`), with Loki's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifecyclerConfig {
    /// The availability zone of this ingester. The replicas of a stream lie in different zones, if there are enough.
    pub availability_zone: String,
    /// How long a new ingester waits before it takes writes, so that everybody who reads knows it by then. One that comes
    /// back under its name does not wait.
    #[serde(with = "skald_runtime::units::duration")]
    pub join_after: Duration,
    /// Whether SIGTERM is for good: everything is written to the table, and the cluster forgets the ingester. Off, it keeps
    /// what it holds in its log for the next start, which is quicker; until then reads do without it.
    pub unregister_on_shutdown: bool,
    /// How long that may take. What is not written by then stays in the log, and the cluster remembers the ingester.
    #[serde(with = "skald_runtime::units::duration")]
    pub shutdown_timeout: Duration,
}

impl Default for LifecyclerConfig {
    fn default() -> Self {
        Self {
            availability_zone: String::new(),
            join_after: Duration::from_secs(3),
            unregister_on_shutdown: true,
            shutdown_timeout: Duration::from_secs(120),
        }
    }
}

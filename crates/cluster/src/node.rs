//! What a member tells of itself.

use std::net::SocketAddr;

/// A role that a member takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes pushes.
    Distributor,
    /// Keeps what the table does not hold yet.
    Ingester,
    /// Runs tasks over blocks.
    Querier,
    /// Answers queries.
    QueryFrontend,
    /// Merges blocks, and removes what has to go.
    Compactor,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] =
        [Self::Distributor, Self::Ingester, Self::Querier, Self::QueryFrontend, Self::Compactor];

    /// Its name, Loki's target.
    pub fn name(self) -> &'static str {
        match self {
            Self::Distributor => "distributor",
            Self::Ingester => "ingester",
            Self::Querier => "querier",
            Self::QueryFrontend => "query-frontend",
            Self::Compactor => "compactor",
        }
    }

    /// The role of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }
}

/// How far a member is with coming or going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It starts: it may answer already, but takes no writes.
    Joining,
    /// It works.
    Active,
    /// It goes: it takes no more writes and no new work, but still answers for what it holds.
    Leaving,
    /// It has gone, and may hold what the table does not.
    Stopped,
    /// It has gone, and holds nothing.
    Left,
}

impl State {
    const ALL: [Self; 5] = [Self::Joining, Self::Active, Self::Leaving, Self::Stopped, Self::Left];

    /// Its name, as ring pages write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joining => "JOINING",
            Self::Active => "ACTIVE",
            Self::Leaving => "LEAVING",
            Self::Stopped => "STOPPED",
            Self::Left => "LEFT",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Whether the process is there.
    pub fn is_present(self) -> bool {
        matches!(self, Self::Joining | Self::Active | Self::Leaving)
    }
}

/// A member as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique in the cluster and the same over restarts for an ingester with a log.
    pub name: String,
    /// Grows from one start to the next.
    pub generation: u64,
    /// Where gossip reaches it.
    pub gossip: SocketAddr,
    /// What it does.
    pub roles: Vec<Role>,
    /// How far it is.
    pub state: State,
    /// Its availability zone, empty when zones are not used.
    pub zone: String,
    /// Where its services are called; empty as long as they do not answer.
    pub grpc: String,
    /// Where its pages are.
    pub http: String,
    /// How many places on the ring it takes when it is an active ingester.
    pub tokens: usize,
}

impl Node {
    /// Whether it takes on `role`.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// What is gossiped of it. The name, the generation and the gossip address travel by themselves.
    pub(crate) fn to_pairs(&self) -> Vec<(String, String)> {
        let roles: Vec<_> = self.roles.iter().map(|r| r.name()).collect();
        [
            ("roles", roles.join(",")),
            ("state", self.state.name().to_owned()),
            ("zone", self.zone.clone()),
            ("grpc", self.grpc.clone()),
            ("http", self.http.clone()),
            ("tokens", self.tokens.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Reads it. `None` as long as not everything has arrived. Roles that this version does not know are left out.
    pub(crate) fn of_pairs<'a>(
        id: &chitchat::ChitchatId,
        get: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<Self> {
        Some(Self {
            name: id.node_id.to_string(),
            generation: id.generation_id,
            gossip: id.gossip_advertise_addr,
            roles: get("roles")?.split(',').filter_map(Role::of_name).collect(),
            state: State::of_name(get("state")?)?,
            zone: get("zone")?.to_owned(),
            grpc: get("grpc")?.to_owned(),
            http: get("http")?.to_owned(),
            tokens: get("tokens")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_description_survives_gossip() {
        let node = Node {
            name: "a".into(),
            generation: 7,
            gossip: ([10, 0, 0, 1], 7946).into(),
            roles: vec![Role::Ingester, Role::Querier],
            state: State::Leaving,
            zone: "z".into(),
            grpc: "10.0.0.1:9095".into(),
            http: String::new(),
            tokens: 128,
        };
        let id = chitchat::ChitchatId::new("a", 7, node.gossip);
        let mut pairs: BTreeMap<_, _> = node.to_pairs().into_iter().collect();
        let read =
            |pairs: &BTreeMap<String, String>| Node::of_pairs(&id, |key| pairs.get(key).map(String::as_str));
        assert_eq!(read(&pairs), Some(node.clone()));
        pairs.insert("roles".into(), "ingester,oracle,querier".into());
        assert_eq!(read(&pairs), Some(node), "a role of a later version is no obstacle");
        pairs.remove("grpc");
        assert_eq!(read(&pairs), None);
    }
}

//! From members to the view that callers use: a pure plan, and the clients for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skald_model::ring::{RingMember, tokens_of};
use skald_rpc::grpc::{ClientConfig, Connection, IngesterClient, QuerierClient};
use skald_rpc::{Ingester, Querier};
use skald_runtime::grpc::MessageLimits;
use skald_runtime::tls::ClientTls;

use crate::node::{Node, Role, State};
use crate::topology::{Absent, Member, View};

/// A view without the means to call anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ingesters with their places, and where to call them. Those that come or go have no places.
    pub ingesters: Vec<(RingMember, String)>,
    /// Ingesters that may hold what the table does not, and that cannot be called.
    pub absent: Vec<Absent>,
    /// Queriers, and where to call them.
    pub queriers: Vec<(String, String)>,
    /// How many distributors there are.
    pub distributors: usize,
    /// The names of the compactors.
    pub compactors: Vec<String>,
}

impl Plan {
    /// The plan for these members, with the ingesters that are registered as holding what the table may lack.
    pub fn new(nodes: &[Node], registered: &[Absent]) -> Self {
        let mut plan = Self::default();
        for node in nodes.iter().filter(|n| n.state.is_present()) {
            let active = node.state == State::Active;
            if node.has(Role::Ingester) && !node.grpc.is_empty() {
                let tokens = if active { tokens_of(&node.name, node.tokens) } else { Vec::new() };
                let place = RingMember { name: node.name.clone(), zone: node.zone.clone(), tokens };
                plan.ingesters.push((place, node.grpc.clone()));
            }
            if node.has(Role::Querier) && active && !node.grpc.is_empty() {
                plan.queriers.push((node.name.clone(), node.grpc.clone()));
            }
            plan.distributors += usize::from(node.has(Role::Distributor) && active);
            if node.has(Role::Compactor) && active {
                plan.compactors.push(node.name.clone());
            }
        }
        let called = |name: &str| plan.ingesters.iter().any(|(m, _)| m.name == name);
        plan.absent = registered.iter().filter(|r| !called(&r.name)).cloned().collect();
        plan
    }
}

/// The services of this process, which are called without a socket.
#[derive(Clone, Default)]
pub struct Local {
    /// Its name among the members.
    pub name: String,
    /// Its ingester, once it runs.
    pub ingester: Option<Arc<dyn Ingester>>,
    /// Its querier, once it runs.
    pub querier: Option<Arc<dyn Querier>>,
}

/// Makes views, with one connection per address for as long as somebody is called there.
pub struct Assembler {
    config: ClientConfig,
    limits: MessageLimits,
    tls: Option<ClientTls>,
    replication_factor: usize,
    connections: HashMap<String, Clients>,
}

/// Clients that share a connection.
#[derive(Clone)]
struct Clients {
    ingester: Arc<dyn Ingester>,
    querier: Arc<dyn Querier>,
}

impl Assembler {
    /// An assembler whose clients are made so.
    pub fn new(
        config: ClientConfig,
        limits: MessageLimits,
        tls: Option<ClientTls>,
        replication_factor: usize,
    ) -> Self {
        Self { config, limits, tls, replication_factor, connections: HashMap::new() }
    }

    /// The view of `plan`.
    pub fn view(&mut self, plan: &Plan, local: &Local) -> View {
        let used: BTreeMap<&str, ()> = plan
            .ingesters
            .iter()
            .map(|(_, address)| (address.as_str(), ()))
            .chain(plan.queriers.iter().map(|(_, address)| (address.as_str(), ())))
            .collect();
        self.connections.retain(|address, _| used.contains_key(address.as_str()));
        let mut absent = plan.absent.clone();
        let mut ingesters: Vec<(RingMember, Arc<dyn Ingester>)> = Vec::with_capacity(plan.ingesters.len());
        for (place, address) in &plan.ingesters {
            let own = local.ingester.clone().filter(|_| place.name == local.name);
            match own.or_else(|| self.clients(address).map(|c| c.ingester)) {
                Some(service) => ingesters.push((place.clone(), service)),
                None => absent.push(Absent { name: place.name.clone(), zone: place.zone.clone() }),
            }
        }
        let queriers = plan.queriers.iter().filter_map(|(name, address)| {
            let own = local.querier.clone().filter(|_| *name == local.name);
            let service = own.or_else(|| self.clients(address).map(|c| c.querier))?;
            Some(Member { name: name.clone(), service })
        });
        let queriers = queriers.collect();
        View::new(ingesters, queriers, self.replication_factor)
            .with_absent(absent)
            .with_distributors(plan.distributors)
            .with_compactors(plan.compactors.clone())
    }

    fn clients(&mut self, address: &str) -> Option<Clients> {
        if let Some(known) = self.connections.get(address) {
            return Some(known.clone());
        }
        let connection = match Connection::new(address, &self.config, self.limits, self.tls.as_ref()) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::error!(address, %error, "a member names an address that cannot be called");
                return None;
            }
        };
        let clients = Clients {
            ingester: Arc::new(IngesterClient::new(connection.clone())),
            querier: Arc::new(QuerierClient::new(connection)),
        };
        self.connections.insert(address.to_owned(), clients.clone());
        Some(clients)
    }
}

#[cfg(test)]
mod tests;

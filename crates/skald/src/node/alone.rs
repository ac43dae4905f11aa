//! The ring and the members of a process that is alone: itself.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use skald_api::cluster::{MemberRow, Members};
use skald_cluster::{Role, State, Topology};
use skald_model::{Error, Kind, Result};
use skald_runtime::Clock;

/// The only member.
pub(super) struct Alone {
    pub(super) topology: Arc<Topology>,
    pub(super) roles: Vec<Role>,
    pub(super) http: SocketAddr,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Members for Alone {
    fn members(&self) -> Vec<MemberRow> {
        let view = self.topology.view();
        let place = view.ring().members().first();
        vec![MemberRow {
            name: place.map_or_else(|| "local".to_owned(), |p| p.name.clone()),
            roles: self.roles.iter().map(|r| r.name().to_owned()).collect(),
            state: State::Active.name().to_owned(),
            is_alive: true,
            http: self.http.to_string(),
            tokens: place.map(|p| p.tokens.clone()).unwrap_or_default(),
            ownership: view.ring().shares().first().copied().unwrap_or_default(),
            last_heartbeat: self.clock.now(),
            ..MemberRow::default()
        }]
    }

    async fn forget(&self, name: &str) -> Result<()> {
        Err(Error::new(
            Kind::NotFound,
            format!("no ingester called {name:?} is registered: this process is alone"),
        ))
    }
}

//! Which tenants a compactor works on.

use std::sync::Arc;

use skald_cluster::Topology;
use skald_model::TenantId;
use skald_model::rendezvous::choose;

/// Says which tenants are a compactor's own. Asked again before every rewrite; two may believe the same for a while.
pub trait Ownership: Send + Sync + 'static {
    /// Whether the tenant's table is this compactor's to work on.
    fn owns(&self, tenant: &TenantId) -> bool;
}

/// Every tenant is this compactor's: the one of a process that is alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnsAll;

impl Ownership for OwnsAll {
    fn owns(&self, _: &TenantId) -> bool {
        true
    }
}

/// Tenants are spread over the compactors that are alive by rendezvous hashing: when one goes, only its tenants move.
pub struct Spread {
    /// The members.
    pub topology: Arc<Topology>,
    /// This compactor's name among them.
    pub name: String,
}

impl Ownership for Spread {
    fn owns(&self, tenant: &TenantId) -> bool {
        let view = self.topology.view();
        let names = view.compactors();
        choose(tenant.as_str(), names.iter().map(String::as_str)).is_some_and(|i| names[i] == self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_cluster::View;

    fn owners(compactors: &[&str], tenant: &TenantId) -> Vec<String> {
        let names = || compactors.iter().map(|n| (*n).to_owned());
        let topology = Topology::new(View::new(vec![], vec![], 1).with_compactors(names().collect()));
        let owns = |name: &String| Spread { topology: topology.clone(), name: name.clone() }.owns(tenant);
        names().filter(owns).collect()
    }

    #[test]
    fn each_tenant_has_one_owner_and_only_those_of_one_that_goes_move() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..50 {
            let tenant = TenantId::new(&format!("t{n}")).unwrap();
            let of_three = owners(&["a", "b", "c"], &tenant);
            assert_eq!(of_three.len(), 1);
            let of_two = owners(&["a", "b"], &tenant);
            assert!(of_three[0] == "c" || of_two == of_three);
            seen.extend(of_three);
        }
        assert_eq!(seen.len(), 3);
        assert!(owners(&[], &TenantId::new("t").unwrap()).is_empty());
    }
}

//! Which roles a process takes on.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
pub(super) use skald_cluster::Role;

/// Names with the roles they stand for.
const NAMES: [(&str, &[Role]); 8] = [
    ("all", &Role::ALL),
    ("write", &[Role::Distributor, Role::Ingester]),
    ("read", &[Role::Querier, Role::QueryFrontend]),
    ("distributor", &[Role::Distributor]),
    ("ingester", &[Role::Ingester]),
    ("querier", &[Role::Querier]),
    ("query-frontend", &[Role::QueryFrontend]),
    ("compactor", &[Role::Compactor]),
];

/// Roles that pushes and queries need.
const SERVING: [Role; 4] = [Role::Distributor, Role::Ingester, Role::Querier, Role::QueryFrontend];

/// Targets of Loki's that Skald does not have as a role of their own.
const LOKIS_OWN: [&str; 6] =
    ["backend", "query-scheduler", "index-gateway", "ruler", "pattern-ingester", "overrides-exporter"];

/// Roles with those they cannot work without: in the same process, or in others of a cluster.
const NEEDS: [(Role, &[Role]); 2] =
    [(Role::Distributor, &[Role::Ingester]), (Role::QueryFrontend, &[Role::Ingester, Role::Querier])];

/// What a target may be.
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

/// Whether a target leaves no role to other processes. One that is not understood does not.
pub(crate) fn is_all(target: &str) -> bool {
    Targets::parse(target).is_ok_and(|t| t.is_all())
}

/// The roles of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Targets(BTreeSet<Role>);

impl Targets {
    /// Reads a list with commas.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut roles = BTreeSet::new();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match NAMES.iter().find(|(n, _)| *n == name) {
                Some((_, of_name)) => roles.extend(of_name.iter().copied()),
                None if LOKIS_OWN.contains(&name) => {
                    bail!("target {name} is a component of Loki's that this version of Skald does not have")
                }
                None => bail!("unknown target {name:?}; expected {}", names().join(", ")),
            }
        }
        if roles.is_empty() {
            bail!("target is empty; expected {}", names().join(", "));
        }
        Ok(Self(roles))
    }

    /// Checks that the roles can do without others.
    pub(super) fn check_alone(&self, target: &str) -> Result<()> {
        for (role, needs) in NEEDS.iter().filter(|(role, _)| self.has(*role)) {
            if let Some(needed) = needs.iter().find(|n| !self.has(**n)) {
                let (role, needed) = (role.name(), needed.name());
                bail!(
                    "target {target}: {role} needs {needed}, which is not in this process; set \
                     memberlist.join_members to find one in another (the first process may name itself), or run all \
                     roles with --target all"
                );
            }
        }
        Ok(())
    }

    /// The roles, in order.
    pub(super) fn roles(&self) -> Vec<Role> {
        self.0.iter().copied().collect()
    }

    pub(super) fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Whether nothing that pushes and queries need is left to other processes.
    pub(super) fn is_all(&self) -> bool {
        SERVING.iter().all(|r| self.has(*r))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, part: &str) {
        let error = Targets::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn lists_of_roles() {
        assert!(Targets::parse("all").unwrap().is_all());
        assert!(Targets::parse("all").unwrap().has(Role::Compactor));
        let serving = Targets::parse("read, write").unwrap();
        assert!(serving.is_all() && !serving.has(Role::Compactor));
        let write = Targets::parse("write").unwrap();
        assert!(write.has(Role::Ingester) && !write.has(Role::Querier) && !write.is_all());
        check_error("", "target is empty");
        check_error("al", "unknown target \"al\"; expected all, write");
        check_error("all,ruler", "ruler is a component of Loki's");
    }

    #[test]
    fn alone_a_role_needs_those_that_it_calls() {
        let alone = |target: &str| Targets::parse(target).unwrap().check_alone(target);
        assert!(alone("all").is_ok() && alone("write").is_ok() && alone("ingester").is_ok());
        assert!(alone("compactor").is_ok());
        for (target, needed) in
            [("distributor", "ingester"), ("read", "ingester"), ("write,query-frontend", "querier")]
        {
            let error = alone(target).unwrap_err().to_string();
            assert!(error.contains(&format!("needs {needed}")) && error.contains("memberlist.join_members"));
        }
    }
}

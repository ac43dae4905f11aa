//! Dependencies between our crates point one way.

use super::packages::Package;

/// Each crate and the crates that it may use. Pure crates use few; services meet only through the traits of `rpc`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("logql", &["model"]),
    ("runtime", &["model"]),
    ("rpc", &["model", "runtime"]),
    ("storage", &["model", "runtime"]),
    ("removal", &["model", "logql", "rpc", "storage", "runtime"]),
    ("cluster", &["model", "runtime", "rpc"]),
    ("api", &["model", "logql", "rpc", "runtime"]),
    ("distributor", &["model", "rpc", "cluster", "runtime"]),
    ("ingester", &["model", "logql", "rpc", "storage", "removal", "cluster", "runtime"]),
    ("querier", &["model", "logql", "rpc", "storage", "removal", "cluster", "runtime"]),
    ("frontend", &["model", "logql", "rpc", "cluster", "runtime", "storage", "removal"]),
    ("compactor", &["model", "logql", "rpc", "storage", "removal", "cluster", "runtime"]),
    ("ruler", &["model", "logql", "rpc", "cluster", "runtime"]),
    ("collector", &["model", "rpc", "runtime"]),
    ("client", &["model", "logql", "runtime"]),
];

/// Packages that may use every crate, and that no crate may use.
const TOPS: [&str; 3] = ["skald", "skald-sim", "xtask"];

/// Findings: edges that the table does not allow, and crates that it does not know.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    packages.iter().flat_map(edges).collect()
}

fn edges(package: &Package) -> Vec<String> {
    if TOPS.contains(&package.name.as_str()) {
        return Vec::new();
    }
    let name = short(&package.name);
    let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
        return vec![format!("{}: not in the table of xtask/src/tidy/dependencies.rs", package.name)];
    };
    package
        .dependencies
        .iter()
        .filter(|dependency| !allowed.contains(&short(dependency)))
        .map(|dependency| format!("{} may not use {dependency}", package.name))
        .collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix("skald-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, dependencies: &[&str]) -> usize {
        let package = Package {
            name: name.to_owned(),
            manifest: "Cargo.toml".into(),
            license: None,
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        };
        check(&[package]).len()
    }

    #[test]
    fn edges_against_the_table_are_found() {
        assert_eq!(findings("skald-logql", &["skald-model"]), 0);
        assert_eq!(findings("skald-logql", &["skald-model", "skald-storage"]), 1);
        assert_eq!(findings("skald-model", &["skald"]), 1);
        assert_eq!(findings("skald-unheard-of", &[]), 1);
        assert_eq!(findings("skald", &["skald-storage", "skald-api"]), 0);
    }
}

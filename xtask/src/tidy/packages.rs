//! What every package of the workspace has to say of itself.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace;

/// A package of the workspace.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Where its Cargo.toml is.
    pub(crate) manifest: PathBuf,
    /// Its licence expression.
    pub(crate) license: Option<String>,
    /// The packages of the workspace that it depends on, for tests or not.
    pub(crate) dependencies: Vec<String>,
}

/// All packages of the workspace.
pub(crate) fn read() -> Result<Vec<Package>> {
    let mut command = workspace::cargo();
    let metadata =
        workspace::output(command.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata did not print JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    packages.iter().map(package).collect()
}

fn package(value: &Value) -> Result<Package> {
    let name = value["name"].as_str().context("a package has no name")?;
    let dependencies = value["dependencies"].as_array().context("a package has no dependencies")?;
    let mut ours: Vec<String> = dependencies
        .iter()
        .filter(|dependency| dependency["path"].is_string())
        .filter_map(|dependency| dependency["name"].as_str())
        .map(str::to_owned)
        .collect();
    ours.sort();
    ours.dedup();
    Ok(Package {
        name: name.to_owned(),
        manifest: value["manifest_path"].as_str().context("a package has no manifest")?.into(),
        license: value["license"].as_str().map(str::to_owned),
        dependencies: ours,
    })
}

/// Findings: packages without the licence, without the workspace's lints, or libraries without a charter.
pub(crate) fn check(packages: &[Package]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in packages {
        if package.license.as_deref() != Some("Apache-2.0") {
            findings.push(format!("{}: the licence must be `license.workspace = true`", package.name));
        }
        let manifest = std::fs::read_to_string(&package.manifest)
            .with_context(|| format!("failed to read {}", package.manifest.display()))?;
        if !manifest.contains("[lints]\nworkspace = true\n") {
            findings.push(format!("{}: Cargo.toml lacks `[lints] workspace = true`", package.name));
        }
        for root in ["src/lib.rs", "src/main.rs"] {
            let path = package.manifest.with_file_name(root);
            let Ok(source) = std::fs::read_to_string(&path) else { continue };
            if !source.starts_with("//! ") {
                findings.push(format!("{}: {root} does not begin with its charter (`//! …`)", package.name));
            }
        }
    }
    Ok(findings)
}

//! The manifests: rendered, held against the schemas of Kubernetes, and looked at for what schemas do not know.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::Value;

use super::Outcome;
use super::references::Manifests;
use super::settings::Process;
use crate::{python, workspace};

/// The oldest version that the manifests are meant for; `kubernetes-validate` is asked about the newest it knows, too.
const OLDEST_VERSION: &str = "1.30";

pub(super) fn check(outcome: &mut Outcome) -> Result<()> {
    let Some(kustomize) = kustomize() else {
        outcome.skipped.push("kubectl or kustomize: the manifests were not rendered".into());
        return Ok(());
    };
    let validates = python::missing(&["kubernetes_validate"]).is_none();
    if !validates {
        outcome.skipped.push("Python package kubernetes-validate: no schema was asked".into());
    }
    let rendered = tempfile::tempdir().context("failed to create a directory for what is rendered")?;
    for directory in directories()? {
        let name = name(&directory);
        let mut command = Command::new(kustomize[0]);
        let text = match workspace::output(command.args(&kustomize[1..]).arg(&directory)) {
            Ok(text) => text,
            Err(error) => {
                outcome.findings.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        if validates {
            let file = rendered.path().join(format!("{}.yaml", name.replace('/', "-")));
            std::fs::write(&file, &text).with_context(|| format!("failed to write {}", file.display()))?;
            outcome.findings.extend(against_schemas(&name, &file)?);
        }
        let manifests = Manifests::new(parse(&text).with_context(|| name.clone())?);
        println!("deploy-check: {name}: {} objects", manifests.len());
        outcome.findings.extend(manifests.findings().into_iter().map(|finding| format!("{name}: {finding}")));
        outcome.processes.extend(processes(&name, &manifests));
    }
    Ok(())
}

/// The program that renders, and its first arguments.
fn kustomize() -> Option<&'static [&'static str]> {
    let known: [(&[&str], &[&str]); 2] = [
        (&["kubectl", "kustomize", "--help"], &["kubectl", "kustomize"]),
        (&["kustomize", "version"], &["kustomize", "build"]),
    ];
    let there = known.into_iter().find(|(probe, _)| {
        Command::new(probe[0]).args(&probe[1..]).output().is_ok_and(|output| output.status.success())
    });
    there.map(|(_, command)| command)
}

/// The base and every overlay.
fn directories() -> Result<Vec<PathBuf>> {
    let root = workspace::root().join("deploy/kubernetes");
    let overlays = root.join("overlays");
    let mut found = vec![root.join("base")];
    for entry in
        std::fs::read_dir(&overlays).with_context(|| format!("failed to read {}", overlays.display()))?
    {
        found.push(entry.context("failed to read a directory")?.path());
    }
    found.sort();
    Ok(found)
}

fn name(directory: &Path) -> String {
    directory.strip_prefix(workspace::root()).unwrap_or(directory).display().to_string()
}

fn against_schemas(name: &str, file: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for version in [&["-k", OLDEST_VERSION][..], &[]] {
        let mut command = python::command();
        command.args(["-m", "kubernetes_validate", "--strict", "--quiet"]).args(version).arg(file);
        let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if !output.status.success() || !text.trim().is_empty() {
            findings.push(format!("{name}: does not fit the schemas: {}", text.trim()));
        }
    }
    Ok(findings)
}

fn parse(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    documents.map(|document| Value::deserialize(document).context("what was rendered is not YAML")).collect()
}

/// The containers that run Skald, each with the configuration that it mounts.
fn processes(overlay: &str, manifests: &Manifests) -> Vec<Process> {
    let file = manifests.of_kind("ConfigMap").find_map(|map| map.pointer("/data/skald.yaml")?.as_str());
    let overrides =
        manifests.of_kind("ConfigMap").find_map(|map| map.pointer("/data/overrides.yaml")?.as_str());
    let mut found = Vec::new();
    for workload in manifests.workloads() {
        for container in workload.containers().filter(|container| container["name"] == "skald") {
            let environment = container["env"].as_array().into_iter().flatten().filter_map(|variable| {
                // What Kubernetes fills in is an address or a name.
                let value = match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
                    Some("status.podIP") => "192.0.2.1",
                    Some(_) => "pod-0",
                    None => variable["value"].as_str()?,
                };
                Some((variable["name"].as_str()?.to_owned(), value.to_owned()))
            });
            let arguments = container["args"].as_array().into_iter().flatten();
            found.push(Process {
                name: format!("{overlay}: {}", workload.name()),
                environment: environment.collect(),
                arguments: arguments.filter_map(|argument| Some(argument.as_str()?.to_owned())).collect(),
                files: [("skald.yaml", file), ("overrides.yaml", overrides)]
                    .into_iter()
                    .filter_map(|(name, text)| Some((format!("/etc/skald/{name}"), text?.to_owned())))
                    .collect(),
            });
        }
    }
    found
}

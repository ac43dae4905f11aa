//! Developer commands: `cargo xtask COMMAND`.
//!
//! Each command is one module. The commands that need a server start the release binary themselves, on free ports
//! and in a temporary directory, and end only processes that they started.

#![expect(clippy::print_stdout, reason = "a command line tool answers on standard output")]

mod answer;
mod bench;
mod clients;
mod clock;
mod cluster;
mod codegen;
mod config_docs;
mod conformance;
mod crash;
mod deploy;
mod fuzz;
mod load;
mod process;
mod push;
mod python;
mod random;
mod seaweed;
mod server;
mod sim;
mod table_test;
mod tail_test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Skald's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare a server with recorded answers of Loki.
    Conformance(conformance::Args),
    /// Kill a server again and again while entries are pushed, and look for lost, doubled and invented ones.
    CrashTest(crash::Args),
    /// Kill, stop, restart, add and remove members of a cluster, and count all the while.
    ClusterTest(cluster::Args),
    /// Run a simulated cluster with many seeds, and check the promises in it.
    Sim(sim::Args),
    /// Compare LogQL answers with SQL over the table, by DuckDB and by the Python package deltalake.
    TableTest(table_test::Args),
    /// Ship logs with other people's clients, from their registries, and find them by query.
    Clients(clients::Args),
    /// Send malformed requests: each must be refused with a reason, and leave nothing behind.
    FuzzRequests(fuzz::Args),
    /// Push and query at once beyond small budgets: memory stays bounded, nothing acknowledged is lost.
    Load(load::Args),
    /// Follow a steady stream of pushes by live tail: each line once, and within a second.
    TailTest(tail_test::Args),
    /// Run the benchmarks of the hot paths, or with --product the whole-product benchmark.
    Bench(bench::Args),
    /// Check that docs/configuration.md has every key.
    ConfigDocs(config_docs::Args),
    /// Check the manifests for Kubernetes, the files of Docker Compose and the configurations in them.
    DeployCheck(deploy::Args),
    /// Generate the Rust code of proto/ again.
    Codegen,
    /// Check the rules of the house: dependency directions, file sizes, words, lints, licences.
    Tidy,
}

fn main() -> ExitCode {
    let passed = match Cli::parse().command {
        Command::Conformance(args) => conformance::run(&args),
        Command::CrashTest(args) => crash::run(&args),
        Command::ClusterTest(args) => cluster::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::TableTest(args) => table_test::run(&args),
        Command::Clients(args) => clients::run(&args),
        Command::FuzzRequests(args) => fuzz::run(&args),
        Command::Load(args) => load::run(&args),
        Command::TailTest(args) => tail_test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::ConfigDocs(args) => config_docs::run(&args),
        Command::DeployCheck(args) => deploy::run(&args),
        Command::Codegen => codegen::run().map(|()| true),
        Command::Tidy => tidy::run(),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

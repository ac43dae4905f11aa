//! The skald binary: the command line, the configuration, and the composition of roles.

#![expect(clippy::print_stdout, reason = "commands answer on standard output")]

mod allocator;
mod build_info;
mod cli;
mod config;
mod health;
mod inspect;
mod node;
mod retention;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{AuthCommand, BlockCommand, Cli, Command, ConfigCommand, RetentionCommand, ServeArgs};
use config::{Config, Loaded, Sources};

/// Quicker than the system's allocator when many threads work, and it gives freed memory back sooner.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    allocator::give_memory_back_soon();
    let cli = Cli::parse_from(cli::normalise(std::env::args()));
    if let Command::Client(command) = &cli.command {
        return skald_client::run(command);
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the log may not run yet, and people read this")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::Config(ConfigCommand::Check { file, expand_env }) => {
            let environment = std::env::vars().collect();
            let sources = Sources { files: vec![file], expand_env, environment, ..Sources::default() };
            println!("{}", verdict(&Config::load(&sources)?));
            Ok(())
        }
        Command::Config(ConfigCommand::Show(args)) => {
            print!("{}", load(&args)?.config.to_yaml());
            Ok(())
        }
        Command::Block(BlockCommand::Inspect { file }) => {
            print!("{}", inspect::describe(&file)?);
            Ok(())
        }
        Command::Retention(RetentionCommand::Plan { tenants, args }) => {
            print!("{}", runtime()?.block_on(retention::describe(load(&args)?.config, &tenants))?);
            Ok(())
        }
        Command::Table(command) => runtime()?.block_on(table::run(command)),
        Command::Auth(AuthCommand::Hash { token }) => hash(token),
        Command::Health { url, tls } => health::check(&url, &tls),
        Command::Version => {
            println!("{}", build_info::line());
            Ok(())
        }
        // Has exit codes of its own; see above.
        Command::Client(_) => Ok(()),
    }
}

/// Prints the hash of what stands on the first line of standard input.
fn hash(token: bool) -> anyhow::Result<()> {
    let mut secret = String::new();
    std::io::stdin().read_line(&mut secret).map_err(|e| anyhow::anyhow!("failed to read the secret: {e}"))?;
    let secret = secret.trim_end_matches(['\r', '\n']);
    let (name, hash) = match token {
        true => ("sha256", skald_api::auth::hash_token(secret)),
        false => ("password", skald_api::auth::hash_password(secret)),
    };
    println!("{name}: \"{}\"", hash.map_err(anyhow::Error::msg)?);
    Ok(())
}

pub(crate) fn load(args: &ServeArgs) -> anyhow::Result<Loaded> {
    let sources = args.sources().map_err(anyhow::Error::msg)?;
    Ok(Config::load(&sources)?)
}

fn verdict(loaded: &Loaded) -> String {
    match &loaded.unused[..] {
        [] => "the configuration is valid".to_owned(),
        unused => {
            format!("the configuration is valid; these keys have no effect in Skald: {}", unused.join(", "))
        }
    }
}

fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    if args.list_targets {
        println!("{}", node::target_names().join("\n"));
        return Ok(());
    }
    let loaded = load(args)?;
    if args.verify_config {
        println!("{}", verdict(&loaded));
        return Ok(());
    }
    if args.print_config {
        #[expect(clippy::print_stderr, reason = "that is where it was asked for")]
        {
            eprint!("{}", loaded.config.to_yaml());
        }
    }
    runtime()?.block_on(node::run(loaded))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("skald")
        .build()
        .map_err(|e| anyhow::anyhow!("failed to start threads: {e}"))
}

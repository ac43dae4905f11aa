//! The skald binary: the command line, the configuration, and the composition of roles.

#![expect(clippy::print_stdout, reason = "commands answer on standard output")]

mod build_info;
mod cli;
mod config;
mod health;
mod inspect;
mod node;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{BlockCommand, Cli, Command, ConfigCommand, ServeArgs};
use config::{Config, Loaded, Sources};

/// Quicker than the system's allocator when many threads work, and it gives freed memory back sooner.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse_from(cli::normalise(std::env::args()));
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
        Command::Health { url } => health::check(&url),
        Command::Version => {
            println!("{}", build_info::line());
            Ok(())
        }
    }
}

fn load(args: &ServeArgs) -> anyhow::Result<Loaded> {
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
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("skald")
        .build()
        .map_err(|e| anyhow::anyhow!("failed to start threads: {e}"))?
        .block_on(node::run(loaded))
}

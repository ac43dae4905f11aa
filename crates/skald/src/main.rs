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

use cli::{AuthCommand, BlockCommand, Cli, Command, ConfigCommand, ServeArgs};
use config::{Config, Loaded, Sources};

/// Quicker than the system's allocator when many threads work, and it gives freed memory back sooner.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of mimalloc's option for the delay in milliseconds after which freed memory goes back to the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long freed memory is kept. Segments of tens of megabytes come and go all the time: at mimalloc's 10 ms they cost a
/// quarter more resident memory at full ingest, at 0 a query pays for its buffers anew each time.
const PURGE_DELAY_MS: std::ffi::c_long = 3;

/// Number of mimalloc's option that says whether memory is committed as a whole when it is reserved. Then freed parts of
/// it stay resident for long: under many pushes and queries at once twice the memory that is in use.
const ARENA_EAGER_COMMIT: libmimalloc_sys::mi_option_t = 4;

/// Makes the allocator give freed memory back soon.
fn give_memory_back_soon() {
    #[expect(unsafe_code, reason = "mimalloc has no safe way to set an option")]
    // SAFETY: setting options is not thread safe, and this runs before any other thread does.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
        libmimalloc_sys::mi_option_set(ARENA_EAGER_COMMIT, 0);
    }
}

fn main() -> ExitCode {
    give_memory_back_soon();
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

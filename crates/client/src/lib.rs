//! The command line for people: asks a server for logs, follows them, and pushes some.
//!
//! Everything goes over Loki's HTTP API, so that the same commands work against Skald and against Loki. Memory is
//! bounded by one page of a query, or by a few batches of a push. Results go to standard output; notes, progress and
//! statistics go to standard error. This crate never looks into a data directory and knows no service of Skald.

mod answer;
mod common;
mod connection;
mod http;
mod labels;
mod metric;
mod notes;
mod output;
mod paging;
mod push;
mod query;
mod retry;
mod series;
mod session;
mod stats;
mod tail;
mod time;
mod tls;

use std::process::ExitCode;

use clap::Subcommand;

pub use tls::TlsFlags;

use session::{Session, is_broken_pipe};

/// The exit code after an interrupt, as shells have it: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// A command that talks to a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a LogQL query and print what it finds.
    Query(query::Args),
    /// Follow new entries as they arrive.
    Tail(tail::Args),
    /// List label names, or the values of one label.
    Labels(labels::Args),
    /// List streams.
    Series(series::Args),
    /// Tell how much a selector matches.
    Stats(stats::Args),
    /// Push lines from standard input or files.
    Push(push::Args),
}

/// Runs a command to its end and tells the exit code: 0 when it did all of its work (also when the reader of a pipe
/// went away), 1 after an error or a refused entry, 130 after an interrupt.
pub fn run(command: &Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let result = runtime.block_on(dispatch(command));
        // A thread that waits for standard input has no end of its own.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Incomplete) => ExitCode::FAILURE,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            notes::line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How a command ended when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It did what it was asked.
    Done,
    /// It went through, but something was refused.
    Incomplete,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

async fn dispatch(command: &Command) -> anyhow::Result<End> {
    let connection = match command {
        Command::Query(args) => &args.connection,
        Command::Tail(args) => &args.connection,
        Command::Labels(args) => &args.connection,
        Command::Series(args) => &args.connection,
        Command::Stats(args) => &args.connection,
        Command::Push(args) => &args.connection,
    };
    let session = Session::new(connection)?;
    let interrupt = session.interrupt.clone();
    let work = async {
        match command {
            Command::Query(args) => query::run(args, session).await,
            Command::Tail(args) => tail::run(args, session).await,
            Command::Labels(args) => labels::run(args, session).await,
            Command::Series(args) => series::run(args, session).await,
            Command::Stats(args) => stats::run(args, session).await,
            // Sends what it has read before it ends.
            Command::Push(args) => return push::run(args, session).await,
        }
        .map(|()| End::Done)
    };
    if matches!(command, Command::Push(_)) {
        return work.await;
    }
    tokio::select! {
        biased;
        () = interrupt.cancelled() => Ok(End::Interrupted),
        result = work => result,
    }
}

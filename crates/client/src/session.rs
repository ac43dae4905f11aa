//! What every command works with: the server, standard output, notes, the time, and the interrupt.

use std::io::{BufWriter, ErrorKind, IsTerminal as _, Stdout, stdout};
use std::time::Duration;

use skald_model::Timestamp;
use skald_runtime::{CancellationToken, Clock as _, SystemClock};

use crate::connection::Connection;
use crate::http::Client;
use crate::notes::Notes;

/// How long a command may take to end after an interrupt, before the process is ended as it stands.
const GRACE: Duration = Duration::from_secs(5);

/// Handed to each command.
pub(crate) struct Session {
    /// The server.
    pub(crate) client: Client,
    /// Standard output.
    pub(crate) out: BufWriter<Stdout>,
    /// Standard error.
    pub(crate) notes: Notes,
    /// The time at which the command began.
    pub(crate) now: Timestamp,
    /// Cancelled by Ctrl-C.
    pub(crate) interrupt: CancellationToken,
    /// Whether results may have colours.
    pub(crate) colours: bool,
}

impl Session {
    /// Reads the settings of the connection and listens for interrupts.
    pub(crate) fn new(args: &Connection) -> anyhow::Result<Self> {
        let notes = Notes::new(args.quiet);
        let client = Client::new(args.settings(|name| std::env::var(name).ok())?, notes.clone())?;
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let interrupt = CancellationToken::new();
        tokio::spawn(listen(interrupt.clone()));
        Ok(Self {
            client,
            out: BufWriter::with_capacity(64 << 10, stdout()),
            notes,
            now: SystemClock.now(),
            interrupt,
            colours,
        })
    }
}

/// Turns the first interrupt into a cancellation. The second one, or a command that does not end (its output may be
/// stuck in a pipe), ends the process.
async fn listen(interrupt: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    interrupt.cancel();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
    std::process::exit(i32::from(crate::INTERRUPTED));
}

/// Whether the reader of our output went away, as `head` does. Nobody needs to be told.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_broken_pipe_is_recognised_below_its_context() {
        let error = |kind: ErrorKind| Err::<(), _>(std::io::Error::from(kind)).context("failed to write");
        assert!(is_broken_pipe(&error(ErrorKind::BrokenPipe).unwrap_err()));
        assert!(!is_broken_pipe(&error(ErrorKind::NotFound).unwrap_err()));
    }
}

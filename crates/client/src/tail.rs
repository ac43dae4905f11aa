//! `skald tail`: follows new entries over a WebSocket, and goes on where it was after a broken connection.

mod frame;
mod recent;
mod socket;

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use skald_model::Timestamp;
use skald_model::time::{Direction, SECOND};
use skald_runtime::units::parse_nanos;
use skald_runtime::{Clock as _, SystemClock};

use crate::answer::{self, Answer, Data, Entry};
use crate::common::Format;
use crate::connection::Connection;
use crate::http::{Client, Error, Patience};
use crate::notes::{Notes, count};
use crate::output::{Printer, Show};
use crate::paging::Pager;
use crate::query::next_page;
use crate::retry;
use crate::session::Session;

use frame::Frame;
use recent::Recent;
use socket::{End, Socket};

/// Entries per request, when entries that came during an interruption are fetched.
const GAP_BATCH: u64 = 5000;

/// A connection that held for this long was a good one: what happened before it does not count any more.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Arguments of `skald tail`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which entries, for example '{app="checkout"} |= "failed"'
    query: String,
    /// Begin with entries from this long ago
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_nanos)]
    since: i64,
    /// Begin with no more than this many entries
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// Seconds (0 to 5) that the server holds entries back, so that those that come late find their place
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=5))]
    delay_for: u64,
    /// How entries are written
    #[arg(short, long, value_enum, default_value_t = Format::Default)]
    output: Format,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Follows until it is interrupted, or until the server cannot be reached any more.
pub(crate) async fn run(args: &Args, session: Session) -> Result<()> {
    let Session { client, mut out, notes, now, colours, .. } = session;
    // What all entries so far have in common says nothing of those to come.
    let show = Show { include_common_labels: true, ..args.show.clone() };
    let mut printer = Printer::new(args.output, show, colours);
    let follower = Follower {
        client,
        notes,
        query: args.query.clone(),
        limit: args.limit,
        delay_for: args.delay_for,
        start: now.saturating_sub(args.since),
        recent: Recent::default(),
        failures: 0,
    };
    follower.run(|entries: &[Entry]| printer.write(&mut out, entries).and_then(|()| out.flush())).await
}

/// Follows a query over as many connections as it takes.
struct Follower {
    client: Client,
    notes: Notes,
    query: String,
    limit: u64,
    delay_for: u64,
    /// Where the first connection begins.
    start: Timestamp,
    recent: Recent,
    /// Connections in a row that came to nothing.
    failures: u32,
}

impl Follower {
    /// Hands each new entry to `show`, once. Ends with an error only.
    async fn run(mut self, mut show: impl FnMut(&[Entry]) -> io::Result<()>) -> Result<()> {
        loop {
            let ended = self.follow(&mut show).await?;
            self.failures += 1;
            if self.failures > self.client.retries() {
                anyhow::bail!("the connection was lost {} times in a row: {ended}", self.failures);
            }
            let delay = match ended.at_once && self.failures == 1 {
                true => Duration::ZERO,
                false => retry::delay(self.failures, ended.retry_after, retry::random()),
            };
            self.notes.say(&format!("{ended}; connecting again in {:.1} s", delay.as_secs_f64()));
            tokio::time::sleep(delay).await;
        }
    }

    /// One connection, from its beginning to its end. An error is for good.
    async fn follow(&mut self, show: &mut impl FnMut(&[Entry]) -> io::Result<()>) -> Result<End> {
        if let Some(from) = self.recent.resume_from() {
            if let Some(end) = self.fill_gap(from, show).await? {
                return Ok(end);
            }
            self.start = self.recent.resume_from().unwrap_or(from);
        }
        let parameters = [
            ("query", self.query.clone()),
            ("start", self.start.to_string()),
            ("limit", self.limit.to_string()),
            ("delay_for", self.delay_for.to_string()),
        ];
        let mut socket = match Socket::open(&self.client, "/loki/api/v1/tail", &parameters).await? {
            Ok(socket) => socket,
            Err(end) => return Ok(end),
        };
        let opened = Instant::now();
        let end = loop {
            let message = match socket.next().await {
                Ok(message) => message,
                Err(end) => break end,
            };
            self.failures = 0;
            let frame: Frame = serde_json::from_slice(&message)
                .context("the server did not send what Loki sends to a tail")?;
            if let Some(dropped) = frame.dropped() {
                self.notes.warn(&dropped);
            }
            let mut entries = answer::entries(frame.streams);
            entries.sort_by_key(|entry| entry.timestamp);
            show(&self.recent.take_new(entries)).context("failed to write")?;
        };
        if opened.elapsed() > GOOD_AFTER {
            self.failures = 0;
        }
        Ok(end)
    }

    /// Fetches what came while there was no connection. Returns how it ended when it has to be tried again.
    async fn fill_gap(
        &mut self,
        from: Timestamp,
        show: &mut impl FnMut(&[Entry]) -> io::Result<()>,
    ) -> Result<Option<End>> {
        // What a client's clock calls the future may be there already.
        let until = SystemClock.now().saturating_add(60 * SECOND);
        let mut pager = Pager::new(Direction::Forward, from, until, GAP_BATCH, 0);
        let mut fetched = 0;
        loop {
            let next = next_page(&self.client, &mut pager, &self.query, None, Patience::Long).await;
            let (page, body) = match next {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => match error.downcast_ref::<Error>() {
                    Some(cause) if cause.status().is_none_or(retry::is_temporary) => {
                        return Ok(Some(End::new(format!("{error:#}"))));
                    }
                    _ => return Err(error),
                },
            };
            let answer: Answer =
                serde_json::from_slice(&body).context("the server did not answer as Loki answers a query")?;
            let Data::Streams(streams) = answer.data else { break };
            let new = self.recent.take_new(pager.accept(page, answer::entries(streams)));
            fetched += new.len() as u64;
            show(&new).context("failed to write")?;
        }
        if fetched > 0 {
            self.notes.say(&format!("{} entries came in the meantime", count(fetched)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;

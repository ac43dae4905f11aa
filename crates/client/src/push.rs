//! `skald push`: lines from standard input or files to the server.
//!
//! A thread reads, the command batches, and a few requests are under way at a time. Each step has a bound, so a slow
//! server slows the reader down.

mod batch;
mod outcome;
mod record;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::StatusCode;
use skald_model::{Labels, LabelsBuilder, Timestamp};
use skald_runtime::units::{parse_bytes, parse_duration};
use skald_runtime::{Clock as _, SystemClock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::End;
use crate::connection::Connection;
use crate::http::{Client, Error};
use crate::notes::{bar, count};
use crate::session::Session;

use batch::Batch;
use outcome::Outcome;
use record::{Format, Record};
use source::{Chunk, Source};

/// Label of entries for which nobody named one: a stream needs at least one.
const DEFAULT_LABEL: (&str, &str) = ("job", "skald-push");

/// Arguments of `skald push`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Files to push; none or - is standard input
    files: Vec<PathBuf>,
    /// What the input is
    #[arg(short, long, value_enum, default_value_t = Format::Lines)]
    format: Format,
    /// A label of every entry; may be repeated [default: job=skald-push]
    #[arg(short, long = "label", value_name = "NAME=VALUE", value_parser = name_and_value)]
    labels: Vec<(String, String)>,
    /// A piece of structured metadata of every entry; may be repeated
    #[arg(short, long = "metadata", value_name = "NAME=VALUE", value_parser = name_and_value)]
    metadata: Vec<(String, String)>,
    /// No more than this many entries per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// A batch is sent when it has this size
    #[arg(long, value_name = "SIZE", default_value = "1MB", value_parser = parse_bytes)]
    batch_bytes: u64,
    /// A batch is sent when its first entry is this old
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    batch_wait: Duration,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: expected NAME=VALUE"))?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// Pushes everything and tells how it went.
pub(crate) async fn run(args: &Args, session: Session) -> Result<End> {
    let mut source = Source::open(&args.files)?;
    let mut push = Push {
        args,
        labels: labels(&args.labels, args.format),
        batch: Batch::default(),
        requests: Requests::new(session.client.clone(), args.parallel as usize),
        pace: args.rate.map(Pace::new),
        last: 0,
        session,
    };
    let interrupted = match push.feed(&mut source).await {
        Ok(interrupted) => interrupted,
        Err(error) => {
            push.abandon();
            return Err(error);
        }
    };
    let outcome = push.finish().await?;
    Ok(match (interrupted, outcome.is_complete()) {
        (true, _) => End::Interrupted,
        (false, true) => End::Done,
        (false, false) => End::Incomplete,
    })
}

/// Labels of entries that bring none along. Lines always need some; JSON may have its own.
fn labels(given: &[(String, String)], format: Format) -> Labels {
    let mut labels = LabelsBuilder::default();
    for (name, value) in given {
        labels.set(name, value);
    }
    if given.is_empty() && format == Format::Lines {
        labels.set(DEFAULT_LABEL.0, DEFAULT_LABEL.1);
    }
    labels.build()
}

struct Push<'a> {
    args: &'a Args,
    labels: Labels,
    batch: Batch,
    requests: Requests,
    pace: Option<Pace>,
    /// The time that the last line was given.
    last: Timestamp,
    session: Session,
}

impl Push<'_> {
    /// Takes the input to its end, or until an interrupt: then true.
    async fn feed(&mut self, source: &mut Source) -> Result<bool> {
        let interrupt = self.session.interrupt.clone();
        loop {
            let due = self.due();
            let chunk = tokio::select! {
                biased;
                () = interrupt.cancelled() => return Ok(true),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.send().await?;
                    continue;
                }
                chunk = source.next() => chunk,
            };
            let Some(chunk) = chunk else { return Ok(false) };
            self.take(chunk, source).await?;
        }
    }

    /// When the batch has to be sent.
    fn due(&self) -> Option<Instant> {
        self.batch.opened().map(|opened| opened + self.args.batch_wait)
    }

    async fn take(&mut self, chunk: Chunk, source: &Source) -> Result<()> {
        for line in chunk.lines {
            let record = match line.and_then(|line| self.record(&line)) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(reason) => {
                    self.requests.outcome.refuse_here(&self.session.notes, &reason);
                    continue;
                }
            };
            if let Some(pace) = &mut self.pace {
                let turn = pace.turn();
                // Waiting longer than a batch may, it is sent first.
                if self.due().is_some_and(|due| due < turn) {
                    self.send().await?;
                }
                tokio::select! {
                    // What waits for its turn has not been taken.
                    () = self.session.interrupt.cancelled() => return Ok(()),
                    () = sleep_until(turn) => {}
                }
            }
            if !self.batch.is_empty() && self.batch.bytes() + record.bytes() > self.args.batch_bytes as usize
            {
                self.send().await?;
            }
            self.batch.add(&record);
            self.show_progress(source);
        }
        Ok(())
    }

    fn record(&mut self, line: &source::Line) -> Result<Option<Record>, String> {
        // Lines that are read at once still follow each other, and two equal ones are two.
        let now = SystemClock.now().max(self.last.saturating_add(1));
        let record = record::read(self.args.format, &line.text, now, &self.labels, &self.args.metadata)
            .map_err(|reason| format!("{}: {reason}", line.place))?;
        if record.is_some() {
            self.last = now;
        }
        Ok(record)
    }

    async fn send(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.requests.send(batch, &self.session).await
    }

    /// Sends the rest, waits for all answers, and tells how it went.
    async fn finish(mut self) -> Result<Outcome> {
        let sent = match self.send().await {
            Ok(()) => self.requests.finish(&self.session).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            self.abandon();
            return Err(error);
        }
        self.tell();
        Ok(self.requests.outcome)
    }

    /// Tells how far it came. What became of requests that are under way is not known.
    fn abandon(mut self) {
        self.requests.abandon();
        self.requests.outcome.fail(self.batch.entries());
        self.tell();
    }

    fn tell(&self) {
        self.session.notes.clear();
        self.session.notes.say(&self.requests.outcome.to_string());
    }

    fn show_progress(&self, source: &Source) {
        let outcome = &self.requests.outcome;
        self.session.notes.progress(|| {
            let entries = format!("{} entries", count(outcome.acknowledged()));
            match source.size() {
                Some(size) => format!("{} {entries}", bar(source.read(), size, 30)),
                None => entries,
            }
        });
    }
}

/// Requests under way, no more than a number of them.
struct Requests {
    client: Client,
    parallel: usize,
    under_way: JoinSet<(u64, Result<(), Error>)>,
    /// In the requests under way.
    entries_under_way: u64,
    outcome: Outcome,
}

impl Requests {
    fn new(client: Client, parallel: usize) -> Self {
        Self {
            client,
            parallel,
            under_way: JoinSet::new(),
            entries_under_way: 0,
            outcome: Outcome::default(),
        }
    }

    async fn send(&mut self, batch: Batch, session: &Session) -> Result<()> {
        while self.under_way.len() >= self.parallel {
            self.settle(session).await?;
        }
        let client = self.client.clone();
        let entries = batch.entries();
        let body = batch.encode().context("failed to compress a batch")?;
        self.entries_under_way += entries;
        self.under_way.spawn(async move {
            let answer = client.post("/loki/api/v1/push", "application/x-protobuf", &body).await;
            (entries, answer.map(drop))
        });
        Ok(())
    }

    fn abandon(&mut self) {
        self.outcome.fail(std::mem::take(&mut self.entries_under_way));
        self.under_way.abort_all();
    }

    async fn finish(&mut self, session: &Session) -> Result<()> {
        while !self.under_way.is_empty() {
            self.settle(session).await?;
        }
        Ok(())
    }

    /// Waits for one request. An error means that the next one would fare no better.
    async fn settle(&mut self, session: &Session) -> Result<()> {
        let Some(done) = self.under_way.join_next().await else { return Ok(()) };
        let (entries, answer) = done.context("a request was lost")?;
        self.entries_under_way -= entries;
        match answer {
            Ok(()) => self.outcome.acknowledge(entries),
            Err(Error::Status { status, message, .. }) if is_about_entries(status) => {
                self.outcome.refuse(&session.notes, entries, status, &message);
            }
            Err(error) => {
                self.outcome.fail(entries);
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// Whether another batch may be taken although this one was not.
fn is_about_entries(status: StatusCode) -> bool {
    matches!(status.as_u16(), 260 | 400 | 413 | 422)
}

/// Keeps to a rate of entries.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second, next: Instant::now() }
    }

    /// When the next entry may go.
    fn turn(&mut self) -> Instant {
        let turn = self.next.max(Instant::now());
        self.next = turn + self.interval;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_given_or_the_default() {
        let given = |pairs: &[&str], format| {
            let pairs: Vec<_> = pairs.iter().map(|text| name_and_value(text).unwrap()).collect();
            labels(&pairs, format).to_string()
        };
        assert_eq!(given(&["b=x=y", "a=1"], Format::Lines), r#"{a="1", b="x=y"}"#);
        assert_eq!(given(&[], Format::Lines), r#"{job="skald-push"}"#);
        assert_eq!(given(&[], Format::Jsonl), "{}");
        assert!(name_and_value("novalue").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_pauses_are_not_made_up_for() {
        let mut pace = Pace::new(10);
        let start = Instant::now();
        let turns: Vec<_> = (0..3).map(|_| (pace.turn() - start).as_millis()).collect();
        assert_eq!(turns, [0, 100, 200]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((pace.turn() - start).as_millis(), 5000);
    }
}

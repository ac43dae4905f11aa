//! A thread that pushes entries, deletes them, and pushes others to the same streams: what was deleted must not be seen any
//! more by anybody from the moment on that the request was accepted, what came later must.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Shared;
use super::pusher::{patiently, push_patiently};
use crate::push::{Entry, Stream};
use crate::random::Random;
use crate::server::Client;

/// Entries of a round that are deleted.
const DELETED: u64 = 20;
/// Requests are about whole seconds.
const NEXT_SECOND: Duration = Duration::from_millis(1100);
/// Longer than this no request should be open once everything has healed: requests count as carried out when flushes that did
/// not know them have had the time to end.
const CARRIED_OUT: Duration = Duration::from_secs(120);

/// How far a round has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    /// Its entries are being pushed.
    #[default]
    Begun,
    /// The request was accepted.
    Deleted,
    /// A later entry was sent, or may have been.
    LaterSent,
    /// The later entry was acknowledged.
    Later,
}

/// All rounds so far.
#[derive(Debug, Default)]
pub(super) struct Rounds(Mutex<Vec<Round>>);

impl Rounds {
    fn set(&self, number: usize, round: Round) {
        let mut rounds = self.0.lock().expect("no thread panics with the rounds locked");
        let count = rounds.len().max(number + 1);
        rounds.resize(count, Round::Begun);
        rounds[number] = round;
    }

    fn get(&self, number: usize) -> Round {
        self.0.lock().expect("no thread panics with the rounds locked")[number]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().expect("no thread panics with the rounds locked").len()
    }

    /// Entries that must be there in the end.
    pub(super) fn left(&self) -> (u64, u64) {
        let rounds = self.0.lock().expect("no thread panics with the rounds locked");
        let count = |at_least: Round| rounds.iter().filter(|r| **r >= at_least).count() as u64;
        (count(Round::Later), count(Round::LaterSent))
    }
}

/// Goes from round to round until it is told to stop.
pub(super) fn run(shared: &Shared) {
    let mut random = Random::new(shared.seed, 0xde1e7e);
    let mut number = 0;
    while !shared.stopped() {
        if let Err(error) = round(shared, number, &mut random) {
            return shared.find(format!("round {number} of deletes: {error:#}"));
        }
        number += 1;
        sleep(random.millis(100..1500));
    }
}

fn round(shared: &Shared, number: usize, random: &mut Random) -> Result<()> {
    shared.rounds.set(number, Round::Begun);
    push(shared, number, 0..DELETED)?;
    let selector = selector(number);
    // Half of them name lines, so that blocks have to be rewritten row by row.
    let query = if random.percent(50) { selector } else { format!("{selector} |= \"of round\"") };
    // Until now, when it is accepted.
    let start = (shared.start / 1_000_000_000).to_string();
    let parameters = [("query", query.as_str()), ("start", &start)];
    patiently(shared, "a delete request", |door| {
        let answer = door.post_with("/loki/api/v1/delete", &parameters)?;
        if answer.status == 204 { Ok(()) } else { bail!("status {}: {}", answer.status, answer.text()) }
    })?;
    shared.rounds.set(number, Round::Deleted);
    sleep(NEXT_SECOND);
    shared.rounds.set(number, Round::LaterSent);
    push(shared, number, DELETED..DELETED + 1)?;
    shared.rounds.set(number, Round::Later);
    Ok(())
}

fn selector(number: usize) -> String {
    format!("{{job=\"deleted\", round=\"{number}\"}}")
}

fn push(shared: &Shared, number: usize, entries: std::ops::Range<u64>) -> Result<()> {
    let labels = vec![("job".into(), "deleted".into()), ("round".into(), number.to_string())];
    let entry = |n: u64| Entry {
        timestamp: shared.start + n as i64 * 1_000_000,
        line: format!("entry {n} of round {number} in run {}", shared.seed),
        metadata: Vec::new(),
    };
    push_patiently(shared, &[Stream { labels, entries: entries.map(entry).collect() }])
}

/// Counts what is left of a round. An `Err` is an answer that did not come.
pub(super) fn count(shared: &Shared, door: &Client, number: usize) -> Result<Option<String>> {
    let before = shared.rounds.get(number);
    let end = shared.start / 1_000_000_000 + 3600;
    let query = format!("sum(count_over_time({}[3602s]))", selector(number));
    let parameters = [("query", query.as_str()), ("time", &end.to_string())];
    let answer = super::checker::ok(door.get("/loki/api/v1/query", &parameters)?)?.json()?;
    let after = shared.rounds.get(number);
    let counted = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
    let counted: u64 = counted.parse().with_context(|| format!("{counted} is no count"))?;
    let least = u64::from(before == Round::Later);
    let most = match before {
        // The request may be accepted at any moment.
        Round::Begun => DELETED + u64::from(after >= Round::LaterSent),
        _ => u64::from(after >= Round::LaterSent),
    };
    Ok((!(least..=most).contains(&counted)).then(|| {
        format!("{query} is {counted}, {least} to {most} are right ({before:?} before, {after:?} after)")
    }))
}

/// With everything healed: counts all rounds, and waits until compactors have carried the requests out.
pub(super) fn finish(shared: &Shared) -> Result<()> {
    for number in 0..shared.rounds.len() {
        let found = count(shared, &shared.doors[0], number).context("counting what is deleted")?;
        found.into_iter().for_each(|finding| shared.find(finding));
    }
    let begun = Instant::now();
    loop {
        let answer = shared.doors[0].get("/loki/api/v1/delete", &[])?.json()?;
        let requests = answer.as_array().context("no list of delete requests")?;
        let open = requests.iter().filter(|r| r["status"] != "processed").count();
        if open == 0 {
            println!(
                "cluster-test: {} delete requests carried out within {:.0} s",
                requests.len(),
                begun.elapsed().as_secs_f64()
            );
            break;
        }
        if begun.elapsed() > CARRIED_OUT {
            shared.find(format!("{open} delete requests are not carried out after {CARRIED_OUT:?}"));
            break;
        }
        sleep(Duration::from_millis(500));
    }
    for number in 0..shared.rounds.len() {
        let found = count(shared, &shared.doors[0], number).context("counting what is left")?;
        found.into_iter().for_each(|finding| shared.find(finding));
    }
    shared.answered.fetch_add(2 * shared.rounds.len() as u64, Ordering::Relaxed);
    Ok(())
}

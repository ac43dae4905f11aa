//! Threads that count and read what was pushed, all the time.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::pusher::{Pushed, entry, selector};
use super::{Shared, deleter, expirer};
use crate::answer;
use crate::random::Random;
use crate::server::{Answer, Client};

/// Longer than this nobody should wait for an answer while one member at a time is down.
const PATIENCE: Duration = Duration::from_secs(45);

/// Counts and reads until it is told to stop.
pub(super) fn run(shared: &Shared, number: usize) {
    let mut random = Random::new(shared.seed, 0xc4ec + number as u64);
    let mut silent_since = Instant::now();
    while !shared.stopped() {
        let pusher = random.within(0..shared.pushed.len() as u64) as usize;
        let door = &shared.doors[random.within(0..shared.doors.len() as u64) as usize];
        let outcome = match random.within(0..100) {
            0..50 => count(shared, door, pusher),
            50..70 => read_some(shared, door, pusher, &mut random),
            70..85 => expirer::check(shared, door, &mut random),
            _ => match shared.rounds.len() as u64 {
                0 => Ok(None),
                rounds => deleter::count(shared, door, random.within(0..rounds) as usize),
            },
        };
        match outcome {
            Ok(None) => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
                silent_since = Instant::now();
            }
            Ok(Some(finding)) => {
                shared.find(finding);
                silent_since = Instant::now();
            }
            // A refusal is honest, if it does not last.
            Err(error) => {
                shared.unanswered.fetch_add(1, Ordering::Relaxed);
                if silent_since.elapsed() > PATIENCE {
                    shared.find(format!("no query was answered for {PATIENCE:?}: {error:#}"));
                    silent_since = Instant::now();
                }
            }
        }
        sleep(random.millis(20..200));
    }
}

/// Counts everything of one pusher. An `Err` is an answer that did not come.
fn count(shared: &Shared, door: &Client, pusher: usize) -> Result<Option<String>> {
    let pushed = &shared.pushed[pusher];
    let least = pushed.acknowledged();
    if least == 0 {
        return Ok(None);
    }
    // Entries lie a millisecond apart, so those sent meanwhile may lie later; the range has to reach far enough.
    let end = shared.start / 1_000_000_000 + pushed.sent() as i64 / 1000 + 600;
    let length = end - shared.start / 1_000_000_000 + 2;
    let query = format!("sum(count_over_time({}[{length}s]))", selector(pusher));
    let parameters = [("query", query.as_str()), ("time", &end.to_string())];
    let answer = ok(door.get("/loki/api/v1/query", &parameters)?)?.json()?;
    let most = pushed.sent();
    let counted = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
    let counted: u64 = counted.parse().with_context(|| format!("{counted} is no count"))?;
    Ok((!(least..=most).contains(&counted)).then(|| {
        format!("{query} is {counted}; {least} were acknowledged before and {most} sent until then")
    }))
}

/// Reads some entries in the middle of what was acknowledged.
fn read_some(shared: &Shared, door: &Client, pusher: usize, random: &mut Random) -> Result<Option<String>> {
    let acknowledged = shared.pushed[pusher].acknowledged();
    if acknowledged == 0 {
        return Ok(None);
    }
    // Mostly what is new, where the seams are.
    let first = match random.percent(70) {
        true => acknowledged.saturating_sub(random.within(1..1000)),
        false => random.within(0..acknowledged),
    };
    read(shared, door, pusher, first, (first + 500).min(acknowledged))
}

/// Reads the entries from `first` up to but not including `end`, all of which were acknowledged.
fn read(shared: &Shared, door: &Client, pusher: usize, first: u64, end: u64) -> Result<Option<String>> {
    let time = |n: u64| entry(shared.start, shared.seed, pusher, n).timestamp.to_string();
    let query = selector(pusher);
    let direction = if first.is_multiple_of(2) { "forward" } else { "backward" };
    let (from, to) = (time(first), time(end));
    let parameters = [
        ("query", query.as_str()),
        ("start", &from),
        ("end", &to),
        ("limit", "5000"),
        ("direction", direction),
    ];
    let answer = ok(door.get("/loki/api/v1/query_range", &parameters)?)?.json()?;
    let mut found: Vec<(i64, String)> =
        answer::entries(&answer)?.into_iter().map(|(_, e)| (e.timestamp, e.line)).collect();
    found.sort();
    let expected: Vec<(i64, String)> = (first..end)
        .map(|n| entry(shared.start, shared.seed, pusher, n))
        .map(|e| (e.timestamp, e.line))
        .collect();
    if found == expected {
        return Ok(None);
    }
    let missing = expected.iter().filter(|e| !found.contains(e)).count();
    let excess = found.len() + missing - expected.len();
    let first_missing = expected.iter().find(|e| !found.contains(e));
    Ok(Some(format!(
        "{query} from {first} to {end} {direction}: {missing} of {} are missing, {excess} are too many; first missing: \
         {first_missing:?}",
        expected.len()
    )))
}

pub(super) fn ok(answer: Answer) -> Result<Answer> {
    match answer.status {
        200 => Ok(answer),
        status => bail!("status {status}: {}", answer.text()),
    }
}

/// Counts what every pusher has, with no pushes going on, at every door.
pub(super) fn count_all(shared: &Shared, when: &str) -> Result<()> {
    for door in &shared.doors {
        for pusher in 0..shared.pushed.len() {
            let found = count(shared, door, pusher).with_context(|| format!("counting {when}"))?;
            found.into_iter().for_each(|finding| shared.find(format!("{when}: {finding}")));
        }
    }
    println!("cluster-test: counted {when}");
    Ok(())
}

/// Reads everything that was acknowledged.
pub(super) fn read_all(shared: &Shared) -> Result<()> {
    for pusher in 0..shared.pushed.len() {
        let acknowledged = Pushed::acknowledged(&shared.pushed[pusher]);
        for first in (0..acknowledged).step_by(4000) {
            let end = (first + 4000).min(acknowledged);
            let found = read(shared, &shared.doors[0], pusher, first, end).context("reading everything")?;
            found.into_iter().for_each(|finding| shared.find(finding));
        }
    }
    Ok(())
}
